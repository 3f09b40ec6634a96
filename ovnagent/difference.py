"""What is, against what should be: the surroundings that a plan is made in, and the changes that would carry it out.

For the reconciler, which makes the changes, and for the commands, which only show them.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ovnagent.config.file import Config
from ovnagent.core.addresses import Books
from ovnagent.core.networks import Network
from ovnagent.core.placement import ChassisTable
from ovnagent.core.plan import Result, World
from ovnagent.core.ports import PresentPort
from ovnagent.core.routers import router_ports
from ovnagent.core.shared import NO_VM
from ovnagent.core.vm import VmKey
from ovnagent.kube.kubernetes import Kubernetes
from ovnagent.ovn.changes import Change, CreatePort, CreateSwitch, DeletePort, DeleteRows, PutRouterPort, UpdatePort
from ovnagent.ovn.snapshot import NorthboundSnapshot, SouthboundSnapshot


def world_of(config: Config, books: Books, kube: Kubernetes, nb: NorthboundSnapshot, sb: SouthboundSnapshot) -> World:
    """What a plan needs to know of the surroundings, as it is now."""
    own: list[Any] = [nb.ports, nb.virtual]
    return World(
        cluster=config.cluster,
        networks=config.networks,
        books=books,
        chassis=ChassisTable(sb.chassis_by_hostname, kube.node_chassis()),
        foreign=nb.foreign,
        names=nb.names,
        holders=ChainMap(*own),
        nads=kube.nads(),
    )


def vms_of(nb: NorthboundSnapshot) -> set[VmKey]:
    """All VMs that have rows."""
    return {*nb.by_vm, NO_VM} if nb.virtual else set(nb.by_vm)


def rows_of(nb: NorthboundSnapshot, key: VmKey) -> tuple[PresentPort, ...]:
    """A VM's rows, sorted by name."""
    if key == NO_VM:
        return tuple(row for _, row in sorted(nb.virtual.items()))
    return nb.by_vm.get(key, ())


def changes(result: Result, present: Sequence[PresentPort]) -> list[Change]:
    """The difference between the rows wanted and those present; empty where they agree."""
    rows = {row.port.name: row for row in present}
    found: list[Change] = [DeletePort(row) for row in result.obsolete]
    for port in result.wanted:
        row = rows.get(port.name)
        if row is None:
            found.append(CreatePort(port))
        elif row.port != port:
            found.append(UpdatePort(row, port))
    return found


def infrastructure(networks: Sequence[Network], nb: NorthboundSnapshot, results: Sequence[Result]) -> list[Change]:
    """What networks need besides the ports of VMs, and what no port needs any more."""
    names = dict.fromkeys(network.logical_switch for network in networks)
    found: list[Change] = [CreateSwitch(name) for name in names if name not in nb.switches]
    for port in router_ports(networks):
        row_id, present = nb.router_ports.get(port.name, ("", None))
        switch_port = port.switch_port in nb.names
        # A router port of this name that is somebody else's is left as it is.
        right = present == replace(port, router="", switch="") or (row_id and present is None)
        if not (right and switch_port):
            found.append(PutRouterPort(port, row_id, right=bool(right), switch_port=switch_port))
    wanted = {options for result in results for port in result.wanted for options in (port.dhcpv4, port.dhcpv6) if options}
    kept = {nb.dhcp.get(options) for options in wanted}
    for table, unused in nb.unused.items():
        if row_ids := tuple(row_id for row_id in unused if row_id not in kept):
            found.append(DeleteRows(table, row_ids))
    return found

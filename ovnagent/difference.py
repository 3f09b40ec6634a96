"""What is, against what should be: the surroundings that a plan is made in, and the changes that would carry it out.

For the reconciler, which makes the changes, and for the commands, which only show them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ovnagent.config.file import Config
from ovnagent.core.addresses import Books, Foreign
from ovnagent.core.networks import Network
from ovnagent.core.placement import ChassisTable
from ovnagent.core.plan import Result, World
from ovnagent.core.ports import PresentPort
from ovnagent.core.routers import router_ports
from ovnagent.kube.kubernetes import Kubernetes
from ovnagent.ovn.changes import Change, CreatePort, CreateSwitch, DeletePort, PutRouterPort, UpdatePort
from ovnagent.ovn.northbound import Northbound
from ovnagent.ovn.southbound import Southbound


def world_of(config: Config, books: Books, kube: Kubernetes, northbound: Northbound, southbound: Southbound) -> World:
    """What a plan needs to know of the surroundings, as it is now."""
    return World(
        cluster=config.cluster,
        networks=config.networks,
        books=books,
        chassis=ChassisTable(southbound.chassis_by_hostname, kube.node_chassis()),
        foreign={
            switch: Foreign(northbound.taken(switch), northbound.taken_macs(switch))
            for switch in {network.logical_switch for network in config.networks.all}
        },
        names=northbound.foreign_names,
        holders=northbound.ports,
        nads=kube.nads(),
    )


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


def infrastructure(networks: Sequence[Network], northbound: Northbound, results: Sequence[Result]) -> list[Change]:
    """What networks need besides the ports of VMs, and what no port needs any more."""
    names = dict.fromkeys(network.logical_switch for network in networks)
    found: list[Change] = [CreateSwitch(name) for name in names if name not in northbound.switches]
    for port in router_ports(networks):
        row_id, present = northbound.router_port(port.name)
        switch_port = port.switch_port in northbound.foreign_names
        # A router port of this name that is somebody else's is left as it is.
        right = present == replace(port, router="", switch="") or (row_id and present is None)
        if not (right and switch_port):
            found.append(PutRouterPort(port, row_id, right=bool(right), switch_port=switch_port))
    wanted = {options for result in results for port in result.wanted for options in (port.dhcpv4, port.dhcpv6) if options}
    # Not by way of all rows: the connection's thread may add one meanwhile.
    kept = {northbound.dhcp.get(options) for options in wanted}
    for unused in northbound.unused():
        if row_ids := tuple(row_id for row_id in unused.uuids if row_id not in kept):
            found.append(replace(unused, uuids=row_ids))
    return found

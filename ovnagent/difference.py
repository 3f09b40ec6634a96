"""What is, against what should be: the surroundings that a plan is made in, and the changes that would carry it out.

For the reconciler, which makes the changes, and for the commands, which only show them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from ovnagent.config.file import Config
from ovnagent.core import deletion, ports
from ovnagent.core.deletion import NO_BRAKE, Brake
from ovnagent.core.networks import Network, Networks
from ovnagent.core.placement import ChassisTable
from ovnagent.core.plan import Result, World
from ovnagent.core.ports import Port, PresentPort
from ovnagent.core.routers import router_ports
from ovnagent.core.vm import Facts, VmKey
from ovnagent.kube.kubernetes import Kubernetes
from ovnagent.ovn.changes import Change, CreatePort, CreateSwitch, DeletePort, DeleteRows, PutRouterPort, UpdatePort
from ovnagent.ovn.snapshot import NorthboundSnapshot, SouthboundSnapshot


def world_of(
    config: Config, kube: Kubernetes, nb: NorthboundSnapshot, sb: SouthboundSnapshot, brake: Brake = NO_BRAKE
) -> World:
    """What a plan needs to know of the surroundings, as it is now."""
    return World(
        cluster=config.cluster,
        networks=config.networks,
        chassis=ChassisTable(sb.chassis_by_hostname, kube.node_chassis()),
        foreign=nb.foreign,
        names=nb.names,
        holders=nb.ports,
        before=nb.before,
        virtual=nb.virtual,
        nads=kube.nads(),
        namespaces=kube.namespaces(),
        brake=brake,
    )


class Present:
    """The rows of each VM, as they are in a snapshot: those that name it, and those that name none any more, but still its
    UID (somebody took a key away). So they are put right in place, and no guest loses its port for it."""

    def __init__(self, nb: NorthboundSnapshot) -> None:
        self._by_vm, self._names = nb.by_vm, nb.ports
        self._strays: dict[str, list[PresentPort]] = {}
        for row in nb.virtual.values():
            if row.port.type != "virtual" and (uid := row.port.external_id(ports.VM_UID)):
                self._strays.setdefault(uid, []).append(row)

    def of(self, facts: Facts) -> tuple[PresentPort, ...]:
        """A VM's rows, sorted by name."""
        rows = self._by_vm.get(facts.key, ())
        if not self._strays:
            return rows
        uids = {each.uid for each in (facts.vm, facts.vmi) if each is not None}
        strays = [row for uid in uids for row in self._strays.get(uid, ())]
        return tuple(sorted((*rows, *strays), key=lambda row: row.port.name))

    def strays_of(self, everybody: Callable[[], Iterable[Facts]]) -> frozenset[str]:
        """Names of the rows that name no VM any more, of VMs that are there. `everybody()`: all VMs' facts."""
        if not self._strays:
            return frozenset()
        return frozenset(
            row.port.name for facts in everybody() for row in self.of(facts) if row.port.name not in self._names
        )


def brake_of(kube: Kubernetes, nb: NorthboundSnapshot, networks: Networks, cluster: str) -> Brake:
    """What must not be deleted now (core/deletion.py)."""
    store = kube.store
    absent: Collection[VmKey] = [key for key in nb.by_vm if not store.was_deleted(key) and store.facts(key).empty]
    approved = nb.global_ids.get(deletion.APPROVAL) == cluster
    return deletion.brake(absent, nb.by_vm, networks, len(nb.ports), approved, cluster)


def changes(result: Result, present: Sequence[PresentPort]) -> list[Change]:
    """The difference between the rows wanted and those present; empty where they agree."""
    return [*map(DeletePort, result.obsolete), *_puts(result.wanted, {row.port.name: row for row in present})]


def virtual_changes(
    wanted: Iterable[Port], present: Mapping[str, PresentPort], kept: Container[str] = ()
) -> list[tuple[Port, Change]]:
    """The difference between the virtual ports wanted and the agent's rows that belong to no VM: each change, and the port
    that it is about. `kept`: names of rows that a VM's plan has taken on (see Present)."""
    named = {port.name: port for port in wanted}
    gone = [(row.port, DeletePort(row)) for name, row in present.items() if name not in named and name not in kept]
    return [*gone, *((change.port, change) for change in _puts(named.values(), present))]


def _puts(wanted: Iterable[Port], present: Mapping[str, PresentPort]) -> Iterator[CreatePort | UpdatePort]:
    for port in wanted:
        row = present.get(port.name)
        if row is None:
            yield CreatePort(port)
        elif row.port != port:
            yield UpdatePort(row, port)


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

"""The one idea as code: facts of some VMs in, the rows they should have out.

`plan` is computed from nothing each time anything about a VM changes. What it remembers is in the books (who holds which
address), and those follow from rows and records.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ovnagent.core import ports, problems
from ovnagent.core.addresses import Books, Claim, Foreign, Grant, Holder
from ovnagent.core.networks import Network, Networks
from ovnagent.core.owner import Owner, owner
from ovnagent.core.placement import SILENT_BINDINGS, Binding, ChassisTable, Placement, Situation, Whereabouts, place
from ovnagent.core.ports import Port, PresentPort
from ovnagent.core.problems import Problem
from ovnagent.core.records import Lease, Record, parse, render
from ovnagent.core.requests import Request, read
from ovnagent.core.settle import settle
from ovnagent.core.shared import NO_VM, virtual_ports
from ovnagent.core.vm import Facts, Interface, Launcher, VmKey, pod_interface
from ovnagent.core.wanted import Attachment, dhcp_trouble, placed, wanted_port


@dataclass(frozen=True, slots=True)
class World:
    """Everything that a plan needs besides the VM's own facts."""

    cluster: str
    networks: Networks
    books: Books
    chassis: ChassisTable
    foreign: Mapping[str, Foreign] = field(default_factory=dict)
    """Logical switch -> what others use there."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Port name -> phrase naming the owner, of ports that are not the agent's."""
    holders: Mapping[str, PresentPort] = field(default_factory=dict)
    """Port name -> row, of the agent's own ports."""
    nads: Mapping[str, str] = field(default_factory=dict)
    """`namespace/name` of a NAD -> the network that the NAD itself names."""


@dataclass(frozen=True, slots=True)
class Case:
    """One VM: Kubernetes' facts, its rows in NB, and what SB says of its ports."""

    facts: Facts
    where: Whereabouts
    elapsed: float
    """Seconds for which `where` has been what it is."""
    present: tuple[PresentPort, ...] = ()
    bindings: Mapping[str, Binding] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Result:
    """What should be, for one VM."""

    key: VmKey
    owner: Owner | None
    wanted: tuple[Port, ...] = ()
    obsolete: tuple[PresentPort, ...] = ()
    problems: tuple[Problem, ...] = ()
    record: str = ""
    """The text that the owner's record annotation should have; empty where it should have none."""
    look_again: float | None = None
    freed: tuple[str, ...] = ()
    """Addresses, MACs and networks of which something became free: see Problem.waits_for."""


def plan(cases: Sequence[Case], world: World) -> list[Result]:
    """The wanted rows of these VMs. Grants and releases are entered into the world's books."""
    drafts = [_Draft(case, world) for case in cases]
    for draft in drafts:
        draft.release()
    grants = settle([claim for draft in drafts for claim in draft.claims()], world.books, world.foreign, world.holders)
    return [_virtual(draft.case, world) if draft.case.facts.key == NO_VM else draft.result(grants) for draft in drafts]


def _virtual(case: Case, world: World) -> Result:
    """The ports of shared addresses, which follow from what all VMs may use."""
    world.books.shares_changed = False
    wanted = tuple(virtual_ports(world.cluster, world.books))
    names = {port.name for port in wanted}
    return Result(NO_VM, None, wanted, obsolete=tuple(row for row in case.present if row.port.name not in names))


class _Draft:
    """One VM's plan while it is made."""

    def __init__(self, case: Case, world: World) -> None:
        self.case = case
        self.world = world
        self.owner = owner(case.facts)
        self.problems: list[Problem] = []
        self.freed: list[str] = []
        self.attachments = self._attachments() if self.owner else ()
        self.retained = self._retained()

    # -- which interfaces get a port

    def _attachments(self) -> tuple[Attachment, ...]:
        assert self.owner is not None
        found = []
        for interface in self.owner.interfaces:
            if interface.state == "absent":
                continue
            silent = interface.binding in SILENT_BINDINGS
            request = read(replace(interface, mac="") if silent else interface, self.owner.annotations)
            network = self._network(interface, request)
            if network is None:
                continue
            name = self._name(interface, network)
            if trouble := self._name_taken(name):
                self.problems.append(trouble)
                continue
            found.append(Attachment(name, interface, network, request))
        return tuple(found)

    def _name(self, interface: Interface, network: Network) -> str:
        """The port's name; a port that is in use keeps its own, also where a second interface on its NAD was plugged in
        since, which gives both another name at the next start."""
        assert self.owner is not None
        name = ports.port_name(self.owner.key, interface, self.owner.interfaces)
        for row in self.case.present:
            identity = (row.port.external_id(ports.INTERFACE), row.port.external_id(ports.NETWORK))
            if row.port.name != name and identity == (interface.name, network.name) and self._in_use(row.port):
                return row.port.name
        return name

    def _in_use(self, port: Port) -> bool:
        """A launcher that lives has the interface that this port is for."""
        assert self.owner is not None
        pods = [pod for pod in self.case.facts.launchers if pod.alive and pod.vmi_uid == self.owner.vmi_uid]
        return any(_uses(pod, port, self.owner.key) for pod in pods)

    def _network(self, interface: Interface, request: Request) -> Network | None:
        networks = self.world.networks
        if request.network:
            return self._named(request.network, request.network_key)
        if interface.nad in networks.by_nad:
            return networks.by_nad[interface.nad]
        if named := self.world.nads.get(interface.nad, ""):
            return self._named(named, f"NetworkAttachmentDefinition {interface.nad}")
        return networks.pod if not interface.nad and interface.binding != "sriov" else None

    def _named(self, name: str, source: str) -> Network | None:
        """The network that `source` names, or a problem."""
        network = self.world.networks.named(name)
        if network is None:
            known = ", ".join(self.world.networks.names())
            text = f"{source} names {name}, which is not configured; choose one of: {known}"
            self.problems.append(Problem(problems.UNKNOWN_NETWORK, text))
        return network

    def _name_taken(self, name: str) -> Problem | None:
        assert self.owner is not None
        user = self.world.names.get(name)
        row = self.world.holders.get(name)
        if user is None and row is not None and row.port.vm != self.owner.key:
            user = f"VM {row.port.vm}"
        if user is None:
            return None
        return Problem(
            problems.PORT_REFUSED,
            f"logical switch port {name} exists already and belongs to {user}; it is left alone. "
            "Delete it (ovn-nbctl lsp-del) or rename the VM",
            (f"port {name}",),
        )

    def _retained(self) -> frozenset[str]:
        """Ports that no specification asks for any more but a living launcher still uses: an unplugged interface, the
        old switch of a changed NAD, and all ports of a guest whose VM and VMI are gone from view."""
        wanted = {attachment.port for attachment in self.attachments}
        present = [row.port for row in self.case.present if row.port.name not in wanted]
        if self.owner is None:
            return frozenset(port.name for port in present) if not self.case.facts.empty else frozenset()
        return frozenset(port.name for port in present if self._in_use(port))

    # -- addresses

    def release(self) -> None:
        """Free what ports of this VM hold that it no longer has: deleted, re-created, unplugged, moved."""
        keep = {(attachment.network.logical_switch, self._holder(attachment.port)) for attachment in self.attachments}
        for switch, holder in self.world.books.of(self.case.facts.key):
            if (switch, holder) in keep or holder.port in self.retained:
                continue
            self.world.books.shares_changed |= holder in self.world.books[switch].shares
            if self._continues(holder.uid) and any(holder.port == kept.port for _, kept in keep):
                self.world.books[switch].rename(holder, self._holder(holder.port))
                continue
            self.freed += self.world.books[switch].release(holder)

    def _holder(self, port: str) -> Holder:
        assert self.owner is not None
        return Holder(self.owner.key, self.owner.uid, port)

    def _continues(self, uid: str) -> bool:
        """What was held under this UID is held by this owner: the same VM, or the same running guest under a new one."""
        if self.owner is None:
            return True
        if uid in self.owner.uids:
            return True
        return any(
            row.port.external_id(ports.VM_UID) == uid and row.port.external_id(ports.VMI_UID) == self.owner.vmi_uid != ""
            for row in self.case.present
        )

    def claims(self) -> Iterable[Claim]:
        if self.owner is None:
            return
        records = [record for text in self.owner.records if text and (record := parse(text))]
        rows = [(row.port, lease) for row in self.case.present if (lease := _lease_of(row.port))]
        for attachment in self.attachments:
            held: list[Lease] = []
            wishes: list[Lease] = []
            others: list[Lease] = []
            for record in records:
                for lease in record.leases:
                    if lease.network != attachment.network.name:
                        continue
                    if record.vm == self.owner.key and _same(attachment, lease.port, lease.interface):
                        if record.uid in self.owner.uids:
                            held.append(lease)
                        else:
                            wishes.append(lease)
                    elif record.vm != self.owner.key and lease.interface == attachment.interface.name:
                        others.append(lease)
            for port, lease in rows:
                same = _same(attachment, port.name, port.external_id(ports.INTERFACE))
                if same and lease.network == attachment.network.name:
                    if self._continues(port.external_id(ports.VM_UID)):
                        held.append(lease)
                    else:
                        wishes.append(lease)
            yield Claim(
                holder=self._holder(attachment.port),
                interface=attachment.interface.name,
                network=attachment.network,
                request=attachment.request,
                held=_by_request(held, attachment.request),
                wishes=(*wishes, *others),
                reported_mac=self._reported_mac(attachment.interface),
                running=self.owner.running,
                created=self.owner.created,
            )

    def _reported_mac(self, interface: Interface) -> str:
        """The MAC that the running guest has on the wire: VMI status, else network-status of the launcher it runs in.
        With masquerade and passt that is the pod's own, which only network-status tells."""
        vmi = self.case.facts.vmi
        if vmi is None or self.owner is None or not self.owner.running:
            return ""
        if interface.binding not in SILENT_BINDINGS:
            for name, mac in vmi.macs:
                if name == interface.name:
                    return mac.lower()
        where = self.case.where
        node = where.target if where.situation is Situation.SWITCHED else vmi.node or where.node
        return self._pod_macs(interface).get(node, "")

    def _pod_macs(self, interface: Interface) -> dict[str, str]:
        """Node -> MAC that the interface has in the launcher there, from network-status."""
        assert self.owner is not None
        inside = pod_interface(interface)
        return {
            pod.node: mac.lower()
            for pod in self.case.facts.launchers
            for name, _, mac in pod.attached
            if pod.alive and pod.vmi_uid == self.owner.vmi_uid and pod.node and name == inside and mac
        }

    # -- rows

    def result(self, grants: Mapping[Holder, Grant]) -> Result:
        rows = {row.port.name: row.port for row in self.case.present}
        wanted, again = [], []
        leases: list[Lease] = []
        for attachment in self.attachments:
            grant = grants[self._holder(attachment.port)]
            self.problems += grant.problems
            if grant.lease is None or self.owner is None:
                continue
            if trouble := dhcp_trouble(attachment):
                self.problems.append(trouble)
            leases.append(grant.lease)
            placement = self._place(rows.get(attachment.port), attachment.port, attachment.interface.binding)
            again.append(placement.look_again)
            macs = self._pod_macs(attachment.interface).values()
            wanted.append(
                wanted_port(self.world.cluster, self.owner, attachment, grant, placement, rows.get(attachment.port), macs)
            )
        for name in sorted(self.retained):
            placement = self._place(rows[name], name, "")
            again.append(placement.look_again)
            wanted.append(placed(rows[name], placement))
        names = {port.name for port in wanted}
        text = ""
        if self.owner is not None and self.owner.present and leases:
            text = render(Record(self.owner.key, self.owner.uid, tuple(leases)))
        return Result(
            key=self.case.facts.key,
            owner=self.owner,
            wanted=tuple(wanted),
            obsolete=tuple(row for row in self.case.present if row.port.name not in names),
            problems=tuple(dict.fromkeys(self.problems)),
            record=text,
            look_again=min((seconds for seconds in again if seconds is not None), default=None),
            freed=tuple(self.freed),
        )

    def _place(self, present: Port | None, name: str, binding_method: str) -> Placement:
        case = self.case
        placement = place(case.where, present, case.bindings.get(name), self.world.chassis, binding_method, case.elapsed)
        if placement.problem:
            self.problems.append(Problem(problems.CHASSIS_UNKNOWN, placement.problem))
        return placement


def _same(attachment: Attachment, port: str, interface: str) -> bool:
    """What was recorded of this port or interface is this attachment's: either may have been renamed since."""
    return attachment.port == port or attachment.interface.name == interface


def _by_request(held: list[Lease], request: Request) -> tuple[Lease, ...]:
    """Request before record before row: a row with what is asked for is younger than a record without."""
    unique = [lease for index, lease in enumerate(held) if lease.ips not in [other.ips for other in held[:index]]]
    return tuple(sorted(unique, key=lambda lease: not set(request.ips) <= set(lease.ips)))


def _lease_of(port: Port) -> Lease | None:
    """The lease that a row of the agent's stands for; None where somebody emptied or mangled its addresses."""
    try:
        ips = tuple(ipaddress.ip_address(ip) for ip in port.ips)
    except ValueError:
        return None
    if not port.mac or not ips:
        return None
    return Lease(port.name, port.external_id(ports.INTERFACE), port.external_id(ports.NETWORK), ips, port.mac)


def _uses(pod: Launcher, port: Port, key: VmKey) -> bool:
    """The launcher still has the interface that this port is for."""
    interface = port.external_id(ports.INTERFACE)
    for inside, network, _ in pod.attached:
        candidate = Interface(interface, "", nad="" if inside == "eth0" else network)
        if inside == pod_interface(candidate):
            name = ports.port_name(key, candidate, ())
            if port.name in (name, f"{name}.{interface}"):
                return True
    return False

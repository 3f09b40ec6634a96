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
from ovnagent.core.dhcp import DhcpOptions, dhcpv4, dhcpv6
from ovnagent.core.networks import Network, Networks
from ovnagent.core.owner import Owner, owner
from ovnagent.core.placement import SILENT_BINDINGS, Binding, ChassisTable, Placement, Whereabouts, place
from ovnagent.core.ports import Port, PresentPort
from ovnagent.core.problems import Problem
from ovnagent.core.records import Lease, Record, parse, render
from ovnagent.core.requests import Request, read
from ovnagent.core.settle import settle
from ovnagent.core.vm import Facts, Interface, Launcher, VmKey, pod_interface


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


@dataclass(frozen=True, slots=True)
class _Attachment:
    """An interface that gets a port."""

    port: str
    interface: Interface
    network: Network
    request: Request


def plan(cases: Sequence[Case], world: World) -> list[Result]:
    """The wanted rows of these VMs. Grants and releases are entered into the world's books."""
    drafts = [_Draft(case, world) for case in cases]
    for draft in drafts:
        draft.release()
    grants = settle([claim for draft in drafts for claim in draft.claims()], world.books, world.foreign)
    return [draft.result(grants) for draft in drafts]


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

    def _attachments(self) -> tuple[_Attachment, ...]:
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
            name = ports.port_name(self.owner.key, interface, self.owner.interfaces)
            if trouble := self._name_taken(name):
                self.problems.append(trouble)
                continue
            found.append(_Attachment(name, interface, network, request))
        return tuple(found)

    def _network(self, interface: Interface, request: Request) -> Network | None:
        networks = self.world.networks
        if request.network:
            network = networks.named(request.network)
            if network is None:
                self.problems.append(
                    Problem(
                        problems.UNKNOWN_NETWORK,
                        f"{request.network_key} names {request.network}, which is not configured; "
                        f"choose one of: {', '.join(networks.names())}",
                    )
                )
            return network
        if interface.nad:
            return networks.by_nad.get(interface.nad) or networks.named(self.world.nads.get(interface.nad, ""))
        return networks.pod if interface.binding != "sriov" else None

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
        pods = [pod for pod in self.case.facts.launchers if pod.alive and pod.vmi_uid == self.owner.vmi_uid]
        return frozenset(port.name for port in present if any(_uses(pod, port, self.owner.key) for pod in pods))

    # -- addresses

    def release(self) -> None:
        """Free what ports of this VM hold that it no longer has: deleted, re-created, unplugged, moved."""
        keep = {(attachment.network.logical_switch, self._holder(attachment.port)) for attachment in self.attachments}
        for switch, holder in self.world.books.of(self.case.facts.key):
            if (switch, holder) in keep or holder.port in self.retained:
                continue
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
                    if record.vm == self.owner.key and lease.port == attachment.port:
                        if record.uid in self.owner.uids:
                            held.append(lease)
                        else:
                            wishes.append(lease)
                    elif record.vm != self.owner.key and lease.interface == attachment.interface.name:
                        others.append(lease)
            for port, lease in rows:
                if port.name == attachment.port and lease.network == attachment.network.name:
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
        for pod in self.case.facts.launchers:
            if pod.alive and pod.vmi_uid == vmi.uid and pod.node == (vmi.node or self.case.where.node) != "":
                for inside, _, mac in pod.attached:
                    if inside == pod_interface(interface):
                        return mac.lower()
        return ""

    # -- rows

    def result(self, grants: Mapping[Holder, Grant]) -> Result:
        rows = {row.port.name: row.port for row in self.case.present}
        wanted, again = [], []
        leases: list[Lease] = []
        for attachment in self.attachments:
            grant = grants[self._holder(attachment.port)]
            self.problems += grant.problems
            if grant.lease is None:
                continue
            leases.append(grant.lease)
            placement = self._place(rows.get(attachment.port), attachment.port, attachment.interface.binding)
            again.append(placement.look_again)
            wanted.append(self._port(attachment, grant.lease, placement, rows.get(attachment.port)))
        for name in sorted(self.retained):
            placement = self._place(rows[name], name, "")
            again.append(placement.look_again)
            wanted.append(_placed(rows[name], placement))
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

    def _port(self, attachment: _Attachment, lease: Lease, placement: Placement, present: Port | None) -> Port:
        assert self.owner is not None
        request, network = attachment.request, attachment.network
        secure = network.port_security if request.port_security is None else request.port_security
        dhcpv4_options, dhcpv6_options = self._dhcp(attachment)
        hostname = self.owner.hostname or self.owner.key.name
        # OVN puts the text into an action as it is: a string stands in quotes there.
        extra = {"hostname": f'"{hostname}"'} if dhcpv4_options is not None else {}
        if request.egress_rate:
            extra |= {"qos_max_rate": str(request.egress_rate), "qos_burst": str(request.egress_rate)}
        dns = ""
        if network.dns_domain:
            dns = " ".join((f"{self.owner.key.name}.{self.owner.key.namespace}.{network.dns_domain}", *map(str, lease.ips)))
        # Written with the pin, and left there when the VMI goes: a UID of the past does no harm, a write of its own does.
        vmi_uid = self.owner.vmi_uid if placement.requested else ""
        vmi_uid = vmi_uid or (present.external_id(ports.VMI_UID) if present else "")
        external_ids = {
            ports.CLUSTER: self.world.cluster,
            ports.VM: str(self.owner.key),
            ports.VM_UID: self.owner.uid,
            ports.VMI_UID: vmi_uid,
            ports.INTERFACE: attachment.interface.name,
            ports.NETWORK: network.name,
            ports.EXTRA_OPTIONS: ",".join(sorted(extra)),
        }
        port = Port(
            name=attachment.port,
            switch=network.logical_switch,
            addresses=(" ".join((lease.mac, *map(str, lease.ips))),),
            port_security=self._security(attachment, lease) if secure else (),
            enabled=attachment.interface.state != "down",
            options=tuple(sorted(extra.items())),
            dhcpv4=dhcpv4_options,
            dhcpv6=dhcpv6_options,
            dns=dns,
            external_ids=tuple(sorted((key, value) for key, value in external_ids.items() if value)),
        )
        return _placed(port, placement)

    def _dhcp(self, attachment: _Attachment) -> tuple[DhcpOptions | None, DhcpOptions | None]:
        """What OVN's DHCP answers there, by family."""
        subnets = {subnet.version: subnet for subnet in attachment.network.subnets}
        network, request = attachment.network, attachment.request
        found = dhcpv4(network, subnets[4], request.dhcpv4_options) if 4 in subnets else None
        if isinstance(found, str):
            self.problems.append(Problem(problems.INVALID_REQUEST, found))
            found = None
        return found, dhcpv6(network, subnets[6], request.dhcpv6_options) if 6 in subnets else None

    def _security(self, attachment: _Attachment, lease: Lease) -> tuple[str, ...]:
        """What the guest may send from: its own MAC and addresses, and the further ones that it asked for."""
        entries: dict[str, list[str]] = {lease.mac: [str(ip) for ip in lease.ips]}
        for pair in attachment.request.pairs:
            entries.setdefault(pair.mac or lease.mac, []).append(str(pair.ip))
        return tuple(sorted(" ".join((mac, *dict.fromkeys(ips))) for mac, ips in entries.items()))


def _by_request(held: list[Lease], request: Request) -> tuple[Lease, ...]:
    """Request before record before row: a row with what is asked for is younger than a record without."""
    unique = [lease for index, lease in enumerate(held) if lease.ips not in [other.ips for other in held[:index]]]
    return tuple(sorted(unique, key=lambda lease: not set(request.ips) <= set(lease.ips)))


def _placed(port: Port, placement: Placement) -> Port:
    external_ids = {key: value for key, value in port.external_ids if key != ports.MIGRATION}
    if placement.migration:
        external_ids[ports.MIGRATION] = placement.migration
    port = replace(port, external_ids=tuple(sorted(external_ids.items())))
    return ports.with_options(port, requested_chassis=",".join(placement.requested), activation_strategy=placement.strategy)


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

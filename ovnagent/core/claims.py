"""What a VM's interfaces claim: by their rows, by the records on the VM, and by what they would like."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain

from ovnagent.core import ports
from ovnagent.core.addresses import Claim, Holder
from ovnagent.core.attachments import Attachment
from ovnagent.core.identity import continues, guest_may_run, lease_of
from ovnagent.core.networks import Network
from ovnagent.core.owner import Owner
from ovnagent.core.placement import SILENT_BINDINGS, Situation, Whereabouts
from ovnagent.core.ports import PresentPort
from ovnagent.core.records import Lease, Record, parse
from ovnagent.core.vm import Facts, Interface, pod_interface


def claims(
    owner: Owner,
    facts: Facts,
    where: Whereabouts,
    rows: Sequence[PresentPort],
    attachments: Iterable[Attachment],
    switches: Mapping[str, str],
    before: Mapping[str, PresentPort],
) -> list[Claim]:
    """A claim for each attachment. `switches`: name of a configured network -> its logical switch; `before`: port name ->
    its row as it was seen last, of those that were lost since (NorthboundSnapshot.before)."""
    records = [record for text in owner.records if (record := parse(text))]
    running = owner.running or guest_may_run(facts, owner)
    return [
        _claim(owner, facts, where, rows, attachment, records, running, switches, before.get(attachment.port))
        for attachment in attachments
    ]


def _claim(
    owner: Owner,
    facts: Facts,
    where: Whereabouts,
    rows: Sequence[PresentPort],
    attachment: Attachment,
    records: Iterable[Record],
    running: bool,
    switches: Mapping[str, str],
    before: PresentPort | None,
) -> Claim:
    row: Lease | None = None
    own: list[Lease] = []
    wishes: list[Lease] = []
    others: list[Lease] = []
    for record in records:
        for lease in _of_network(record.leases, attachment.network, switches):
            if record.vm == owner.key and _same(attachment, lease.port, lease.interface):
                (own if record.uid in owner.uids else wishes).append(lease)
            elif lease.interface == attachment.interface.name:
                others.append(lease)
    for present in rows:
        port, held = present.port, lease_of(present.port)
        here = port.switch == attachment.network.logical_switch
        if held is None or not here or not _same(attachment, port.name, port.external_id(ports.INTERFACE)):
            continue
        if not continues(owner, rows, port.external_id(ports.VM_UID)):
            wishes.append(held)
        elif row is None or port.name == attachment.port:
            row = held
    last = _last_row(owner, attachment, before)
    confirmed = last is not None and any(set(record.ips) == set(last.ips) for record in own)
    if last is not None and not own:
        wishes.insert(0, last)  # its record was not written yet
    return Claim(
        holder=Holder(owner.key, owner.uid, attachment.port),
        interface=attachment.interface.name,
        network=attachment.network,
        request=attachment.request,
        row=row,
        last_row=last if confirmed else None,
        records=tuple(own),
        wishes=(*wishes, *others),
        reported_mac=_reported_mac(owner, facts, where, attachment.interface),
        running=running,
        created=owner.created,
    )


def _last_row(owner: Owner, attachment: Attachment, before: PresentPort | None) -> Lease | None:
    """What the port's row gave this VM here, when it was seen last."""
    if before is None or before.port.switch != attachment.network.logical_switch:
        return None
    return lease_of(before.port) if before.port.external_id(ports.VM_UID) in owner.uids else None


def unconfigured(
    owner: Owner, retained: Sequence[PresentPort], leases: Sequence[Lease], switches: Mapping[str, str]
) -> list[Lease]:
    """What interfaces hold on networks that the configuration lacks now, besides these leases, by rows in use and by the
    VM's own records. It stays on record: the address is held as long as the VM exists, and the network may come back."""
    interfaces = {interface.name for interface in owner.interfaces if interface.state != "absent"}
    without = interfaces - {lease.interface for lease in leases}
    told: list[Lease] = []
    if without:  # what has a lease keeps no other by a record; where all have one, no record is read a second time
        records = [record for text in owner.records if (record := parse(text))]
        own = [record.leases for record in records if record.vm == owner.key and record.uid in owner.uids]
        told += [lease for lease in chain(*own) if lease.interface in without]
    # A row follows them: nobody puts it right, whatever is done to it, as long as its network is not configured.
    told += [lease for row in retained if (lease := lease_of(row.port)) and lease.interface in interfaces]
    names, found = {lease.port for lease in leases}, []
    for lease in told:
        if lease.port not in names and lease.network not in switches:
            names.add(lease.port)
            found.append(lease)
    return found


def _of_network(leases: Iterable[Lease], network: Network, switches: Mapping[str, str]) -> Iterator[Lease]:
    """Leases that were of this network: an address belongs to a switch and a subnet, whatever the network was called. A
    name that is configured says which switch that is; one that is not may have been this network's before."""
    for lease in leases:
        switch = switches.get(lease.network)
        if switch is None:
            if all(any(ip in subnet for subnet in network.subnets) for ip in lease.ips):
                yield lease
        elif switch == network.logical_switch:
            yield lease


def _same(attachment: Attachment, port: str, interface: str) -> bool:
    """What was recorded of this port or interface is this attachment's: either may have been renamed since."""
    return attachment.port == port or attachment.interface.name == interface


def _reported_mac(owner: Owner, facts: Facts, where: Whereabouts, interface: Interface) -> str:
    """The MAC that the running guest has on the wire: VMI status, else network-status of the launcher it runs in. With
    masquerade and passt that is the pod's own, which only network-status tells."""
    vmi = facts.vmi
    if vmi is None or not owner.running:
        return ""
    if interface.binding not in SILENT_BINDINGS:
        for name, mac in vmi.macs:
            if name == interface.name:
                return mac.lower()
    node = where.target if where.situation is Situation.SWITCHED else where.node
    return pod_macs(owner, facts, interface).get(node, "")


def pod_macs(owner: Owner, facts: Facts, interface: Interface) -> Mapping[str, str]:
    """Node -> MAC that the interface has in the launcher there, from network-status."""
    inside = pod_interface(interface)
    return {
        pod.node: mac.lower()
        for pod in facts.launchers
        for name, _, mac in pod.attached
        if pod.alive and pod.vmi_uid == owner.vmi_uid and pod.node and name == inside and mac
    }

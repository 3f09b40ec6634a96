"""Whose is this port, and is it still used? The one place that answers both."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from ovnagent.core import ports, values
from ovnagent.core.addresses import Holder
from ovnagent.core.networks import Network
from ovnagent.core.owner import Owner, guest_unaccounted
from ovnagent.core.ports import Port, PresentPort
from ovnagent.core.records import Lease
from ovnagent.core.vm import Facts, Interface, Launcher, VmKey, pod_interface


def living_launchers(facts: Facts, owner: Owner | None) -> tuple[Launcher, ...]:
    """The launchers that may hold the owner's guest or its interfaces. Where no VMI says which are its own, all are."""
    uid = owner.vmi_uid if owner is not None else ""
    return tuple(pod for pod in facts.launchers if pod.alive and uid in ("", pod.vmi_uid))


def guest_may_run(facts: Facts, owner: Owner | None) -> bool:
    """A launcher lives; or one should be known and is not, which says that a list was not complete."""
    return bool(living_launchers(facts, owner)) or guest_unaccounted(facts)


def continues(owner: Owner | None, rows: Iterable[PresentPort], uid: str) -> bool:
    """What was held under this UID is held by this owner: the same VM, or the same running guest under a new one (a VM
    adopts an orphaned VMI). Where VM and VMI are gone, whatever is left is theirs."""
    if owner is None or uid in owner.uids:
        return True
    if not owner.vmi_uid:
        return False
    vmis = {row.port.external_id(ports.VMI_UID) for row in rows if row.port.external_id(ports.VM_UID) == uid}
    # A VMI without a VM may be the orphan of the one that is gone, whose rows were not written since it started.
    orphan = owner.uid == owner.vmi_uid and bool(vmis - {uid})
    return orphan or owner.vmi_uid in vmis


def may_be_in_use(facts: Facts, owner: Owner, port: Port, rows: Iterable[PresentPort]) -> bool:
    """A guest of this owner may run and use this port, one of the `rows` under its name. A port that says it is an earlier
    VM's of this name never was this guest's; one that somebody took the UID from may be."""
    uid = port.external_id(ports.VM_UID)
    return guest_may_run(facts, owner) and (not uid or continues(owner, rows, uid))


def name_of(owner: Owner, interface: Interface, network: Network, facts: Facts, rows: Iterable[PresentPort]) -> str:
    """The port's name; a port that is in use keeps its own, also where a second interface on its NAD was plugged in since,
    which gives both another name at the next start."""
    name = ports.port_name(owner.key, interface, owner.interfaces)
    for row in rows:
        same = (row.port.external_id(ports.INTERFACE), row.port.switch) == (interface.name, network.logical_switch)
        if same and row.port.name != name and plugged(facts, owner, row.port):
            return row.port.name
    return name


def retained(
    facts: Facts, owner: Owner | None, rows: Iterable[PresentPort], attached: Collection[tuple[str, str]]
) -> tuple[PresentPort, ...]:
    """Rows that no attachment asks for and that stay as they are, because a guest may use them: all of a guest whose VM
    and VMI are gone from view; an interface that was unplugged, or whose NAD was changed, while a launcher still has it;
    and an interface of the specification to which its network is refused, missing or unknown now.

    `attached`: (port, interface) of the attachments."""
    names, interfaces = {port for port, _ in attached}, {interface for _, interface in attached}
    left = [row for row in rows if row.port.name not in names]
    if not left or not guest_may_run(facts, owner):
        return ()
    if owner is None or not living_launchers(facts, owner):
        return tuple(left)
    asked = {interface.name for interface in owner.interfaces if interface.state != "absent"} - interfaces
    # What a launcher that is only starting will have is not told yet: network-status comes before it is Running.
    unknown = any(pod.node and pod.phase == "Pending" and not pod.attached for pod in living_launchers(facts, owner))
    return tuple(
        row for row in left if unknown or row.port.external_id(ports.INTERFACE) in asked or plugged(facts, owner, row.port)
    )


def plugged(facts: Facts, owner: Owner, port: Port) -> bool:
    """A launcher that lives has the interface that this port is for, by its network-status."""
    return any(_has(pod, port, owner.key) for pod in living_launchers(facts, owner))


def _has(pod: Launcher, port: Port, key: VmKey) -> bool:
    interface = port.external_id(ports.INTERFACE)
    for inside, network, _ in pod.attached:
        candidate = Interface(interface, "", nad="" if inside == "eth0" else network)
        if inside == pod_interface(candidate):
            name = ports.port_name(key, candidate, ())
            if port.name in (name, f"{name}.{interface}"):
                return True
    return False


def holder_of(row: PresentPort, key: VmKey) -> Holder:
    """The identity under which a row's addresses are held."""
    return Holder(key, row.port.external_id(ports.VM_UID), row.port.name)


def lease_of(port: Port) -> Lease | None:
    """The lease that a row of the agent's stands for; None where somebody emptied or mangled its addresses. One address a
    family: what was added to the row is not the agent's word."""
    try:
        mac = values.parse_mac(port.mac)
        found = [values.parse_ip(ip) for ip in port.ips]
    except ValueError:
        return None
    if not found:
        return None
    first = {ip.version: ip for ip in reversed(found)}
    ips = tuple(first[version] for version in sorted(first))
    return Lease(port.name, port.external_id(ports.INTERFACE), port.external_id(ports.NETWORK), ips, mac)

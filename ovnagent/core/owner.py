"""Whose port it is: the identity that holds a name and its addresses.

An address is held while the VM object exists, and while a VMI or a launcher of it is left (`--cascade=orphan` deletes
the VM and leaves the VMI running). A standalone VMI is its own owner.
"""

from __future__ import annotations

from dataclasses import dataclass

from ovnagent.core.vm import Annotations, Facts, Interface, VmKey


@dataclass(frozen=True, slots=True)
class Owner:
    """The holder of a VM's ports, and the copy of the specification that counts for it now."""

    key: VmKey
    uid: str
    """UID of the VM; of the VMI where there is no VM."""
    kind: str
    """`VirtualMachine` or `VirtualMachineInstance`: the object that carries the record and gets the Events."""
    present: bool
    """That object exists. Not so for a VM deleted before its VMI, whose guest is still there."""
    created: str
    running: bool
    vmi_uid: str
    annotations: Annotations
    interfaces: tuple[Interface, ...]
    hostname: str
    records: tuple[str, ...]
    """Texts of the record annotations of VM and VMI, the VM's first."""

    @property
    def uids(self) -> frozenset[str]:
        """The UIDs under which this machine may have been recorded: a VM that adopts an orphaned VMI goes on as it."""
        return frozenset({self.uid, self.vmi_uid} - {""})


def owner(facts: Facts) -> Owner | None:
    """The owner, or None where neither VM nor VMI is left (a launcher may be: its port stays as it is until it ends).

    For a running VM the VMI's copy of interfaces and annotations counts (a template change takes effect at the next
    start, as everywhere in KubeVirt), for a stopped one the VM's template.
    """
    vm, vmi = facts.vm, facts.vmi
    if vmi is None:
        if vm is None:
            return None
        return Owner(
            key=facts.key,
            uid=vm.uid,
            kind="VirtualMachine",
            present=True,
            created=vm.created,
            running=False,
            vmi_uid="",
            annotations=vm.annotations,
            interfaces=vm.interfaces,
            hostname=vm.hostname,
            records=_told(vm.record),
        )
    running = not vmi.final or any(pod.alive and pod.vmi_uid == vmi.uid for pod in facts.launchers)
    if vm is None or (vmi.vm_uid and vmi.vm_uid != vm.uid):
        # Standalone, orphaned, or of a VM that is gone while a new one of its name waits for the VMI to end.
        uid = vmi.vm_uid or vmi.uid
        kind = "VirtualMachine" if vmi.vm_uid else "VirtualMachineInstance"
        return Owner(
            key=facts.key,
            uid=uid,
            kind=kind,
            present=not vmi.vm_uid,
            created=vmi.created,
            running=running,
            vmi_uid=vmi.uid,
            annotations=vmi.annotations,
            interfaces=vmi.interfaces,
            hostname=vmi.hostname,
            records=_told(vmi.record),
        )
    spec = vmi if running else vm
    return Owner(
        key=facts.key,
        uid=vm.uid,
        kind="VirtualMachine",
        present=True,
        created=vm.created,
        running=running,
        vmi_uid=vmi.uid,
        annotations=spec.annotations,
        interfaces=spec.interfaces,
        hostname=spec.hostname or vm.hostname,
        records=_told(vm.record, vmi.record),
    )


def _told(*records: str) -> tuple[str, ...]:
    """Those that are there."""
    return tuple(filter(None, records))


def guest_unaccounted(facts: Facts) -> bool:
    """The VMI says that its guest runs on a node, and no launcher of it is known there, neither living nor ended. KubeVirt
    ends the VMI before its launcher goes: a list of pods was not complete, or the pod was deleted by force a moment ago."""
    vmi = facts.vmi
    if vmi is None or vmi.final or not vmi.node:
        return False
    return not any(pod.vmi_uid == vmi.uid and pod.node == vmi.node for pod in facts.launchers)

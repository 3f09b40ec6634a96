"""Which interface of a node's integration bridge has which port's name (`Interface.external_ids:iface-id`).

Facts of one node in, one decision for each interface out. An interface gets a name only if all of this holds:

* ovs-cni attached it for a pod, and says so on the row: nobody but root on the node writes there;
* that pod is a launcher on this node that lives, and its VMI, looked up by name *in the pod's own namespace*, has the UID
  that the pod says;
* the name is one that this VMI's own namespace, name, networks and interfaces give (core/ports.py has the rule, and nobody
  parses a name back), so what a tenant writes into a record cannot name anybody else's port;
* the agent's record on the VM, under the VM's own UID, grants it;
* nothing else on the node has that name, and no other VM whose name would give the same one has a record of it.

What has a name keeps it while its pod lives: no fact is asked for again, so it needs neither the agent nor the API server.
It loses the name when the pod has ended or is known to be gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ovnagent.core.ports import port_name
from ovnagent.core.records import Lease, parse
from ovnagent.core.vm import Instance, Interface, Launcher, VirtualMachine, VmKey, pod_interface

RIVALS = 64
"""So many other VMs at most are looked at for one VM: a name of w words (between dots) can be read in w-2 ways."""


@dataclass(frozen=True, slots=True)
class Attached:
    """An interface of the integration bridge."""

    row: str
    """UUID of its row in Interface."""
    name: str
    iface_id: str
    """Empty: it is plugged into no logical switch port."""
    written: str = ""
    """The iface-id that `ovnagent plug` set; another one than `iface_id` is somebody else's."""
    pod: str = ""
    """`namespace/name` of the pod, as noted with it."""
    pod_uid: str = ""
    """contPodUid of ovs-cni's Port; empty for interfaces that are not ovs-cni's."""
    inside: str = ""
    """contIface: its name in the pod."""
    broken: bool = False
    """OVS reports an error: as a rule, the device is gone."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What the API server said of the VMI and the VM that a launcher is of; None stands for "there is none"."""

    vmi: Instance | None
    vm: VirtualMachine | None
    rivals: tuple[Machine, ...] | None = ()
    """Other VMs whose names give a port name that was granted to this one (see `rivals`); None: they are too many."""


@dataclass(frozen=True, slots=True)
class Node:
    """All facts of a node. A launcher that is not among `launchers` may be gone, or not known yet."""

    interfaces: tuple[Attached, ...]
    launchers: Mapping[str, Launcher]
    """Pod UID -> launcher bound to this node."""
    machines: Mapping[str, Machine] = field(default_factory=dict)
    """Pod UID -> what was found out about it."""
    gone: frozenset[str] = frozenset()
    """UIDs of pods that the API server was asked for, and that do not exist any more, or are no longer here."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be done with an interface: nothing where `iface_id` is what it has."""

    interface: Attached
    iface_id: str
    reason: str = ""
    """A sentence: why it has no name or loses it, or whose the one is that it has. Empty where all is well."""
    ask: bool = False
    """More knowledge of its pod may help: ask the API server (again)."""

    @property
    def changes(self) -> bool:
        return self.iface_id != self.interface.iface_id


def plan(node: Node) -> tuple[Decision, ...]:
    """A decision for each of ovs-cni's interfaces, in the order of `node.interfaces`."""
    decisions = {each.row: _decide(each, node) for each in node.interfaces if each.pod_uid}
    holders: dict[str, list[Attached]] = {}
    for each in node.interfaces:
        kept = decisions[each.row].iface_id if each.row in decisions else each.iface_id
        if each.iface_id == kept:
            holders.setdefault(kept, []).append(each)
    wishes = [each for each in decisions.values() if each.iface_id and not each.interface.iface_id]
    for wish in sorted(wishes, key=lambda each: _precedence(each, node)):
        others = holders.setdefault(wish.iface_id, [])
        for other in list(others):
            if _replaced(other, wish.interface):
                decisions[other.row] = Decision(other, "", "its pod was given a new interface in its place")
                others.remove(other)
        if others:
            text = f"port {wish.iface_id} is plugged into interface {others[0].name} of this node already; one must go"
            decisions[wish.interface.row] = Decision(wish.interface, "", text)
        else:
            others.append(wish.interface)
    return tuple(decisions.values())


def _precedence(wish: Decision, node: Node) -> tuple[bool, str, str, str]:
    """Of two that want one name: what OVS can use, the older launcher. (KubeVirt never has two launchers of one VMI on a
    node: a migration's target keeps away from the source's.)"""
    pod = node.launchers[wish.interface.pod_uid]
    return wish.interface.broken, pod.created, pod.name, wish.interface.name


def _replaced(old: Attached, new: Attached) -> bool:
    """The same interface of the same pod was attached anew (its sandbox was made again), and the old one is dead."""
    same = (old.pod_uid, old.inside) == (new.pod_uid, new.inside)
    return same and old.broken and not new.broken and old.iface_id == old.written


def _decide(interface: Attached, node: Node) -> Decision:
    pod = node.launchers.get(interface.pod_uid)
    ours = interface.iface_id == interface.written
    if interface.iface_id and not ours:
        return _foreign(interface, pod, node)
    if pod is None:
        return _without_pod(interface, node)
    if not pod.alive:
        ended = f"pod {pod.namespace}/{pod.name} has ended"
        return Decision(interface, "", ended if interface.iface_id else "")
    if interface.iface_id:
        return Decision(interface, interface.iface_id)
    return _grant(interface, pod, node.machines.get(pod.uid))


def _without_pod(interface: Attached, node: Node) -> Decision:
    """Any pod may have interfaces of ovs-cni: one that nothing was written on is nobody's concern here."""
    if not interface.iface_id:
        return Decision(interface, "")
    if interface.pod_uid in node.gone:
        return Decision(interface, "", f"pod {interface.pod} is gone")
    return Decision(interface, interface.iface_id, ask=True)


def _foreign(interface: Attached, pod: Launcher | None, node: Node) -> Decision:
    """Somebody else set the iface-id: a CNI that knows the name, an administrator. It stays."""
    kept = Decision(interface, interface.iface_id)
    if pod is None or not pod.alive:
        return kept
    machine = node.machines.get(pod.uid)
    if machine is None:
        return Decision(interface, interface.iface_id, ask=True)
    right = _grant(interface, pod, machine)
    if right.iface_id == interface.iface_id:
        return kept
    should = f"the one that was granted is {right.iface_id}" if right.iface_id else f"none was granted: {right.reason}"
    text = f"iface-id {interface.iface_id} was set by somebody else and is left alone; {should}"
    return Decision(interface, interface.iface_id, text, ask=True)


def _grant(interface: Attached, pod: Launcher, machine: Machine | None) -> Decision:
    """The name that the agent has granted to this interface of this launcher."""
    if machine is None:
        return Decision(interface, "", f"nothing is known yet of VMI {pod.key}: is the API server there?", ask=True)

    def refuse(text: str) -> Decision:
        return Decision(interface, "", text, ask=True)

    vmi = machine.vmi
    if trouble := _no_launcher(pod, vmi):
        return refuse(trouble)
    assert vmi is not None
    nad = next((network for inside, network, _ in pod.attached if inside == interface.inside), "")
    found = [each for each in vmi.interfaces if pod_interface(each) == interface.inside]
    if not found:
        return refuse(f"VMI {vmi.key} has no interface that is {interface.inside} in its launcher")
    spec = found[0]
    if spec.nad and "/" in nad and nad != spec.nad:
        return refuse(f"{spec.name} is attached to NAD {nad} here, and VMI {vmi.key} wants it on {spec.nad} by now")
    lease = _lease(machine, vmi.key, spec)
    if lease is None:
        return refuse(
            f"the agent has granted no port to interface {spec.name} of VM {vmi.key}: its annotation ovnagent.io/record "
            "names none; see the VM's Events"
        )
    if machine.rivals is None and rivals(vmi.key, lease.port):
        return refuse(
            f"the ports of VM {vmi.key} could be those of more than {RIVALS} others, by their names; use fewer dots"
        )
    if rival := _rival(machine, lease.port):
        return refuse(
            f"port {lease.port} is also on the record of VM {rival}, whose name gives the same; rename one of them"
        )
    return Decision(interface, lease.port)


def _no_launcher(pod: Launcher, vmi: Instance | None) -> str:
    """Why this pod is not what it says; empty if it is.

    Labels and ownerReferences of a pod are whatever its creator writes. They can name a VMI of the pod's own namespace at
    most. (`status.activePods` proves no more: virt-controller counts pods by their ownerReferences there, too. That
    nobody else makes pods with a launcher's labels is for the admission policy to see to: deploy/base/policy.yaml.)"""
    if not pod.vmi or not pod.vmi_uid:
        return f"pod {pod.namespace}/{pod.name} names no VMI as its owner"
    if vmi is None:
        return f"pod {pod.namespace}/{pod.name} says that it is of VMI {pod.key}, which does not exist"
    if vmi.key != pod.key or vmi.uid != pod.vmi_uid:
        return f"pod {pod.namespace}/{pod.name} is of a VMI {pod.key} that is gone; the one of now is another"
    if vmi.final:
        return f"VMI {pod.key} has ended"
    if vmi.node and vmi.node != pod.node and not pod.migration_uid:
        return f"VMI {pod.key} runs on {vmi.node}, and pod {pod.namespace}/{pod.name} is no migration's target"
    return ""


def _lease(machine: Machine, key: VmKey, interface: Interface) -> Lease | None:
    """What the records grant to an interface. A port keeps its name while it is in use, also where a second interface on its
    NAD was plugged in since: so both names that it may have are good."""
    plain = port_name(key, interface, ())
    names = {plain, f"{plain}.{interface.name}"} if interface.nad else {plain}
    return next((each for each in leases(machine) if each.interface == interface.name and each.port in names), None)


def granted(machine: Machine) -> frozenset[str]:
    """The names of all ports that are granted to a VM and that its own names give."""
    vmi = machine.vmi
    found = (_lease(machine, vmi.key, each) for each in vmi.interfaces) if vmi is not None else ()
    return frozenset(lease.port for lease in found if lease is not None)


def leases(machine: Machine) -> Iterable[Lease]:
    """What is granted to a VM by its records. A record under another UID was copied or brought back: it grants nothing."""
    vm, vmi = machine.vm, machine.vmi
    if vm is not None and (vmi is None or vmi.vm_uid == vm.uid):
        yield from _recorded(vm.record, vm.key, vm.uid)
    if vmi is not None and (not vmi.vm_uid or (vm is not None and vmi.vm_uid == vm.uid)):
        yield from _recorded(vmi.record, vmi.key, vmi.uid)


def _recorded(text: str, key: VmKey, uid: str) -> tuple[Lease, ...]:
    record = parse(text)
    return record.leases if record is not None and record.vm == key and record.uid == uid else ()


def _rival(machine: Machine, port: str) -> VmKey | None:
    for other in machine.rivals or ():
        holder = other.vm or other.vmi
        if holder is not None and any(lease.port == port for lease in leases(other)):
            return holder.key
    return None


def rivals(key: VmKey, port: str) -> frozenset[VmKey]:
    """The other VMs that could have a port of this name: all ways to read it.

    `a.b.c` on the pod network of namespace d and VM `a` of namespace b on NAD d/c both give `a.b.c.d`: names of VMs and NADs
    may hold dots, those of namespaces may not. Nobody learns from this whose the port is; it says whom to ask."""
    words = port.split(".")
    found = {VmKey(words[-1], ".".join(words[:-1]))}
    # <vm>.<namespace>.<nad>.<nad namespace>: the namespace may be any word but the first and the last two.
    found |= {VmKey(words[at], ".".join(words[:at])) for at in range(1, len(words) - 2)}
    return frozenset(found - {key})

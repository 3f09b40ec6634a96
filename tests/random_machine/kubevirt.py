"""What KubeVirt's controllers, the scheduler, kubelets and garbage collector may do next with a machine: each entry one
write, or a few that always come together. The orders are those of the recorded streams; whatever could come first, does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from tests.random_machine.cluster import NODES, Cluster, Machine, Move, Nic, Pod, Vmi

Action = tuple[str, Callable[[Random], None]]
"""What happens, as a sentence, and how."""
KEPT_MIGRATIONS = 5
"""So many finalized migrations of a VMI are kept (virt-controller)."""
LOST = 0.25
"""So often a guest's announcement is lost."""


def next_actions(cluster: Cluster, machine: Machine) -> Iterator[Action]:
    """All that the control plane could do now, in whatever order."""
    for text, act in _next(cluster, machine):
        yield f"{machine.name}: {text}", act


def _next(cluster: Cluster, machine: Machine) -> Iterator[Action]:
    yield from _vm(cluster, machine)
    if machine.vmi is not None:
        yield from _vmi(cluster, machine, machine.vmi)
    for move in machine.moves:
        yield from _move(cluster, machine, move)
    yield from _pods(cluster, machine)


# ---- VM -------------------------------------------------------------------------------------------------------------


def _vm(cluster: Cluster, machine: Machine) -> Iterator[Action]:
    vm, vmi = machine.vm, machine.vmi
    if vm is None:
        return
    mine = vmi is not None and vmi.owner == vm.uid

    def create(rng: Random) -> None:
        number = cluster.number()
        machine.vmi = Vmi(f"vmi-{machine.name}-{number}", cluster.stamp(), vm.uid, vm.nics, dict(vm.annotations))
        vm.restart = False
        cluster.begin(machine.vmi.uid, vm.uid)
        machine.announced.clear()
        cluster.put_vmi(machine)

    def end(rng: Random) -> None:
        assert vmi is not None
        vmi.deleting, vm.restart = True, False
        cluster.put_vmi(machine)

    def orphan(rng: Random) -> None:
        assert vmi is not None
        vmi.owner = ""
        cluster.put_vmi(machine)

    def adopt(rng: Random) -> None:
        assert vmi is not None
        vmi.owner = vm.uid
        cluster.put_vmi(machine)

    def plug(rng: Random) -> None:
        assert vmi is not None
        vmi.nics = vm.nics
        cluster.put_vmi(machine)

    if vm.deleting == "orphan" and mine:
        yield "the garbage collector orphans the VMI", orphan
    elif vm.deleting and not mine:
        yield "the VM is gone", lambda _: cluster.remove_vm(machine)
    elif vmi is None:
        if vm.running and not vm.deleting:
            yield "the VM's VMI is created", create
    elif mine and not vmi.deleting:
        if vm.deleting == "background" or not vm.running or vm.restart or vmi.final:
            yield "the VMI is deleted", end
        elif vmi.phase == "Running" and vm.nics != vmi.nics:
            yield "the VMI's interfaces become the VM's", plug
    elif not vmi.owner and not vm.deleting and not vmi.deleting:
        yield "the VM adopts the VMI", adopt


# ---- VMI ------------------------------------------------------------------------------------------------------------


def _vmi(cluster: Cluster, machine: Machine, vmi: Vmi) -> Iterator[Action]:
    pods = [pod for pod in machine.pods if pod.vmi == vmi.uid]
    first = next((pod for pod in pods if not pod.migration), None)

    def phase(name: str) -> Callable[[Random], None]:
        def change(rng: Random) -> None:
            vmi.phase = name
            cluster.put_vmi(machine)

        return change

    def create_pod(rng: Random) -> None:
        number = cluster.number()
        machine.pods.append(Pod(f"launcher-{machine.name}-{number}", vmi.uid, cluster.stamp(), present(vmi)))
        cluster.put_pod(machine, machine.pods[-1])

    def scheduled(rng: Random) -> None:
        assert first is not None
        vmi.phase, vmi.node = "Scheduled", first.node
        cluster.put_vmi(machine)

    def run(rng: Random) -> None:
        assert first is not None
        machine.guest, vmi.phase = first, "Running"
        machine.guest_macs = dict(first.macs)
        vmi.macs = reported(machine)
        cluster.put_vmi(machine)

    def guest_ends(rng: Random) -> None:
        machine.guest = None

    def gone(rng: Random) -> None:
        machine.vmi = None
        cluster.remove("virtualmachineinstances", machine.name)

    if vmi.deleting:
        if machine.guest is not None and machine.guest.deleting:
            yield "the guest shuts down", guest_ends
        if machine.guest is None and not vmi.final:
            yield "the VMI ends", phase("Succeeded" if vmi.phase == "Running" else "Failed")
        if vmi.final and not any(pod.alive or pod.deleting for pod in pods):
            yield "the VMI is gone", gone
        return
    if vmi.final:
        return
    if vmi.phase == "Pending" and first is None:
        yield "the launcher is created", create_pod
    elif vmi.phase == "Pending":
        yield "the VMI is Scheduling", phase("Scheduling")
    elif vmi.phase == "Scheduling" and first is not None and first.phase == "Running":
        yield f"the VMI is Scheduled to {first.node}", scheduled
    elif vmi.phase == "Scheduled" and first is not None and first.alive:
        yield f"the guest runs on {first.node}", run


def present(vmi: Vmi) -> tuple[Nic, ...]:
    """The interfaces that a launcher created now has."""
    return tuple(nic for nic in vmi.nics if nic.state != "absent")


def reported(machine: Machine) -> dict[str, str]:
    """The MACs of which virt-handler tells: the guest's own."""
    assert machine.vmi is not None
    macs = machine.guest_macs
    return {nic.name: macs[nic.name] for nic in machine.vmi.nics if nic.name in macs and nic.binding == "bridge"}


# ---- launchers ------------------------------------------------------------------------------------------------------


def _pods(cluster: Cluster, machine: Machine) -> Iterator[Action]:
    vmi = machine.vmi
    for pod in machine.pods:
        yield from _pod(cluster, machine, pod, vmi)


def _pod(cluster: Cluster, machine: Machine, pod: Pod, vmi: Vmi | None) -> Iterator[Action]:
    mine = vmi is not None and vmi.uid == pod.vmi
    move = next((each for each in machine.moves if each.target is pod), None)

    def bind(rng: Random) -> None:
        taken = {other.node for other in machine.pods if other.alive}
        pod.node = rng.choice([node for node in NODES if node not in taken])
        cluster.put_pod(machine, pod)

    def start(rng: Random) -> None:
        for nic in pod.nics:
            pod.macs[nic.name] = nic.mac or _new_mac(cluster)
        pod.plugged = True
        if rng.random() < 0.5:
            cluster.put_pod(machine, pod)
        pod.phase = "Running"
        cluster.put_pod(machine, pod)

    def delete(rng: Random) -> None:
        pod.deleting = True
        if not pod.node:
            cluster.remove_pod(machine, pod)
        else:
            cluster.put_pod(machine, pod)

    def unplug(rng: Random) -> None:
        pod.plugged = False

    def end(rng: Random) -> None:
        pod.phase = "Failed" if rng.random() < 0.2 else "Succeeded"
        if rng.random() < 0.5:
            pod.plugged = False
        cluster.put_pod(machine, pod)

    def attach(rng: Random) -> None:
        """A dynamic-networks controller is there."""
        assert vmi is not None
        for nic in present(vmi):
            if nic.name not in pod.macs:
                pod.macs[nic.name] = machine.guest_macs[nic.name] = nic.mac or _new_mac(cluster)
        pod.nics = present(vmi)
        pod.macs = {nic.name: pod.macs[nic.name] for nic in pod.nics}
        cluster.put_pod(machine, pod)
        vmi.macs = reported(machine)
        cluster.put_vmi(machine)

    label = f"launcher {pod.name}"
    guest = machine.guest is pod
    ending = not mine or (vmi is not None and (vmi.deleting or vmi.final))
    if pod.alive and not pod.node and not ending and not (move and not move.open):
        yield f"{label} is bound to a node", bind
    if pod.alive and pod.node and pod.phase == "Pending" and not pod.deleting:
        yield f"{label} is plugged and runs on {pod.node}", start
    if pod.alive and not pod.deleting and (ending or (move and not move.open and not move.switched)):
        yield f"{label} is deleted", delete
    if pod.alive and not guest and pod.node and _may_end(machine, pod, move, ending):
        yield f"{label} ends", end
    if not pod.alive and pod.plugged:
        yield f"{label}'s interfaces are unplugged", unplug
    if pod.deleting and not pod.alive and not pod.plugged and (not mine or vmi is None or vmi.final or pod.migration):
        yield f"{label} is gone", lambda _: cluster.remove_pod(machine, pod)
    if not mine and not pod.alive and not pod.plugged and not pod.deleting:
        yield f"{label} is collected", lambda _: cluster.remove_pod(machine, pod)
    if guest and mine and vmi is not None and not ending and machine.move is None and present(vmi) != pod.nics:
        yield f"{label}'s interfaces become the VMI's", attach


def _may_end(machine: Machine, pod: Pod, move: Move | None, ending: bool) -> bool:
    """Its domain has left it, never was in it, or its end is asked for."""
    if pod.deleting:
        return True
    if move is not None and not move.open and not move.switched:
        return True
    moved_on = any(each.switched and each.target is machine.guest for each in machine.moves)
    source = moved_on and pod.phase == "Running" and (move is None or not move.open)
    return source or (ending and machine.guest is None)


def _new_mac(cluster: Cluster) -> str:
    number = cluster.number()
    return f"0a:58:0a:00:{number >> 8 & 255:02x}:{number & 255:02x}"


# ---- migrations -----------------------------------------------------------------------------------------------------


def _move(cluster: Cluster, machine: Machine, move: Move) -> Iterator[Action]:
    steps = Migration(cluster, machine, move)
    if not move.open:
        yield from steps.over()
    elif not steps.possible:
        yield steps.phase("Failed", "for its VMI ends")
    elif move.doomed or (move.deleting and not move.switched):
        yield from steps.failing()
    else:
        yield from steps.next()


class Migration:
    """The steps of one migration."""

    def __init__(self, cluster: Cluster, machine: Machine, move: Move) -> None:
        self.cluster, self.machine, self.move = cluster, machine, move
        self.label = f"migration {move.uid}"
        vmi = machine.vmi if machine.vmi is not None and machine.vmi.uid == move.vmi else None
        self.vmi = vmi
        told = vmi.state if vmi is not None and vmi.state is not None else {}
        self.state: dict[str, Any] = told if told.get("migrationUid") == move.uid else {}
        """What the VMI tells of this migration."""
        self.target = move.target

    @property
    def possible(self) -> bool:
        return (
            self.vmi is not None and self.vmi.phase == "Running" and not self.vmi.deleting and self.machine.guest is not None
        )

    def next(self) -> Iterator[Action]:
        """Of one that goes well."""
        move, pod = self.move, self.target
        assert self.vmi is not None
        match move.phase:
            case "":
                yield self.phase("Pending")
            case "Pending" if pod is None:
                yield f"{self.label}'s launcher is created", self._create_pod
            case "Pending":
                yield self.phase("Scheduling")
            case "Scheduling" if pod is not None and pod.phase == "Running":
                yield self.phase("Scheduled")
            case "Scheduled" if not self.state:
                yield f"{self.label} is handed over to the nodes", self._hand_over
            case "Scheduled":
                yield self.phase("PreparingTarget")
            case "PreparingTarget":
                yield self.phase("TargetReady")
            case "TargetReady":
                yield self.phase("Running")
        if pod is None or move.phase not in ("TargetReady", "Running"):
            return
        if not move.switched:
            if pod.phase == "Running":
                yield f"the guest of {self.machine.name} moves from {self.vmi.node} to {pod.node}", self._switch
            return
        if not self.state.get("targetNodeDomainReadyTimestamp"):
            yield self.tell("the target's domain is ready", targetNodeDomainReadyTimestamp="2026-01-01T00:00:00Z")
        if self.vmi.node != pod.node:
            yield f"{self.label}: the VMI is on {pod.node}", self._flip
        elif not self.state.get("completed"):
            yield self.tell("completed", completed=True)
        elif move.phase == "Running":
            yield self.phase("Succeeded")

    def failing(self) -> Iterator[Action]:
        dead = self.target is not None and not self.target.alive
        if self.state and not self.state.get("failed"):
            yield self.tell("failed", failed=True, completed=True)
        if not self.state or self.state.get("failed") or dead:
            yield self.phase("Failed")

    def over(self) -> Iterator[Action]:
        finalized = [each for each in self.machine.moves if not each.open]
        crowded = len(finalized) > KEPT_MIGRATIONS and finalized[0] is self.move
        ended = self.target is None or not self.target.alive
        if self.move.deleting or self.vmi is None or (crowded and ended):
            yield f"{self.label} is gone", lambda _: self.cluster.remove_move(self.machine, self.move)
        if self.state and self.move.phase == "Failed" and not self.state.get("failed") and self.possible:
            yield self.tell("failed", failed=True, completed=True)

    # -- single writes

    def phase(self, name: str, why: str = "") -> Action:
        def change(_: Random) -> None:
            self.move.phase = name
            self.move.succeeded_at = self.cluster.now() if name == "Succeeded" else 0.0
            self.cluster.put_move(self.machine, self.move)

        return f"{self.label} is {name} {why}".strip(), change

    def tell(self, what: str, **news: object) -> Action:
        def change(_: Random) -> None:
            assert self.vmi is not None
            self.vmi.state = {**self.state, **news}
            self.cluster.put_vmi(self.machine)

        return f"{self.label}: the VMI tells: {what}", change

    def _create_pod(self, _: Random) -> None:
        assert self.vmi is not None
        name = f"launcher-{self.machine.name}-{self.cluster.number()}"
        made = Pod(name, self.vmi.uid, self.cluster.stamp(), present(self.vmi), migration=self.move.uid)
        self.machine.pods.append(made)
        self.move.target = made
        self.cluster.put_pod(self.machine, made)

    def _hand_over(self, _: Random) -> None:
        source, target = self.machine.guest, self.target
        assert self.vmi is not None
        assert source is not None
        assert target is not None
        self.vmi.state = {
            "migrationUid": self.move.uid,
            "sourceNode": source.node,
            "targetNode": target.node,
            "sourcePod": source.name,
            "targetPod": target.name,
        }
        self.cluster.put_vmi(self.machine)

    def _switch(self, rng: Random) -> None:
        pod, machine = self.target, self.machine
        assert pod is not None
        machine.guest, self.move.switched = pod, True
        for nic in pod.nics:
            if nic.name not in machine.guest_macs or nic.binding != "bridge":
                machine.guest_macs[nic.name] = pod.macs[nic.name]
        if rng.random() >= LOST:
            machine.announced.add(pod.name)

    def _flip(self, _: Random) -> None:
        assert self.vmi is not None
        assert self.target is not None
        self.vmi.node = self.target.node
        self.vmi.state = {**self.state, "targetNodeDomainReadyTimestamp": "2026-01-01T00:00:00Z"}
        self.vmi.macs = reported(self.machine)
        self.cluster.put_vmi(self.machine)

"""What users, and bad luck, may do next to a machine. What an API server would refuse is not among it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

from tests.random_machine.cluster import NAMESPACE, Cluster, Machine, Move, Nic, Vm, Vmi
from tests.random_machine.kubevirt import Action, Migration

OVN = "ovn.kubernetes.io"
BLUE, GREEN = f"{NAMESPACE}/blue", f"{NAMESPACE}/green"
"""NADs: one that the configuration names, one that names its network itself."""
ASKED_IPS = [f"10.16.0.{number}" for number in (3, 4, 5, 6, 7, 40)] + ["10.99.0.1", "10.16.0.1", "fd00:10:16::7", "nonsense"]
ASKED_MACS = [f"0a:00:00:00:00:0{number}" for number in range(1, 4)]
OFTEN = 4
"""So many times as often as each other thing a running guest is migrated."""
POOLS = ["10.16.0.3..10.16.0.6", "10.16.0.9,10.16.0.10"]


def next_wishes(cluster: Cluster, machine: Machine) -> Iterator[Action]:
    """All that a user could ask for now."""
    vm, vmi = machine.vm, machine.vmi
    if vm is None and (machine.empty or vmi is not None):
        yield f"create VM {machine.name}", lambda rng: _create(cluster, machine, rng)
    if machine.empty:
        yield f"create VMI {machine.name}, standalone", lambda rng: _create_alone(cluster, machine, rng)
    if vm is not None and not vm.deleting:
        yield from _of_vm(cluster, machine, vm)
    if vmi is not None and not vmi.deleting and vm is None:
        yield f"delete VMI {machine.name}", _set(cluster.put_vmi, machine, vmi, deleting=True)
    if vmi is not None and vmi.phase == "Running" and not vmi.deleting and machine.move is None:
        for _ in range(OFTEN):
            yield f"migrate {machine.name}", lambda rng: _migrate(cluster, machine, vmi)
    for move in machine.moves:
        for _ in range(0 if move.deleting else 1 if move.open else OFTEN):
            yield f"delete migration {move.uid}, which is {move.phase or 'new'}", _cancel(cluster, machine, move)


def next_mishaps(cluster: Cluster, machine: Machine) -> Iterator[Action]:
    """All that could go wrong now."""
    vmi, move = machine.vmi, machine.move
    if machine.guest is not None and vmi is not None and vmi.phase == "Running":
        yield f"the guest of {machine.name} powers off", lambda rng: _power_off(cluster, machine, vmi)
    if move is not None and not move.doomed and not move.switched and Migration(cluster, machine, move).possible:
        yield f"migration {move.uid} goes wrong", lambda rng: _fail(cluster, machine, move, rng)


def _of_vm(cluster: Cluster, machine: Machine, vm: Vm) -> Iterator[Action]:
    name = machine.name
    if vm.running:
        yield f"stop VM {name}", _set(cluster.put_vm, machine, vm, running=False)
        if machine.vmi is not None:
            yield f"restart VM {name}", _set(_nothing, machine, vm, restart=True)
    else:
        yield f"start VM {name}", _set(cluster.put_vm, machine, vm, running=True)
    yield f"delete VM {name}", _set(cluster.put_vm, machine, vm, deleting="background")
    yield f"delete VM {name} with --cascade=orphan", _set(cluster.put_vm, machine, vm, deleting="orphan")
    yield f"change what VM {name} asks for", lambda rng: _ask(cluster, machine, vm, rng)
    if len(vm.nics) > 1:
        yield f"unplug the last interface of VM {name}", lambda rng: _unplug(cluster, machine, vm)
    else:
        yield f"plug an interface into VM {name}", lambda rng: _plug(cluster, machine, vm, rng)


def _nothing(_: Machine) -> None:
    """virt-api writes it into the status, where nothing is that the agent reads."""


def _set(publish: Callable[[Machine], None], machine: Machine, what: object, **values: object) -> Callable[[Random], None]:
    def change(_: Random) -> None:
        for key, value in values.items():
            setattr(what, key, value)
        publish(machine)

    return change


def _create(cluster: Cluster, machine: Machine, rng: Random) -> None:
    number = cluster.number()
    vmi = machine.vmi
    adopts = vmi is not None and not vmi.owner
    nics = vmi.nics if adopts and vmi is not None else _nics(rng)
    annotations = dict(vmi.annotations) if adopts and vmi is not None and rng.random() < 0.7 else _annotations(rng)
    machine.vm = Vm(f"vm-{machine.name}-{number}", cluster.stamp(), rng.random() < 0.8, nics, annotations)
    cluster.begin(machine.vm.uid, vmi.uid if vmi is not None and not vmi.deleting else "")
    record = ""
    if rng.random() < 0.2:  # a backup that is restored, or a clone: with the record of one that is or was
        record = rng.choice(sorted(filter(None, cluster.known_records())) or [""])
    cluster.put_vm(machine, record)


def _create_alone(cluster: Cluster, machine: Machine, rng: Random) -> None:
    machine.vmi = Vmi(f"vmi-{machine.name}-{cluster.number()}", cluster.stamp(), "", _nics(rng), _annotations(rng))
    cluster.begin(machine.vmi.uid)
    machine.announced.clear()
    cluster.put_vmi(machine)


def _nics(rng: Random) -> tuple[Nic, ...]:
    mac = rng.choice(ASKED_MACS) if rng.random() < 0.15 else ""
    first = Nic("default", mac=mac, binding="masquerade" if rng.random() < 0.25 else "bridge")
    return (first, Nic("extra", rng.choice((BLUE, GREEN)))) if rng.random() < 0.3 else (first,)


def _annotations(rng: Random) -> dict[str, str]:
    found = {}
    if rng.random() < 0.25:
        found[f"{OVN}/ip_address"] = rng.choice(ASKED_IPS)
    elif rng.random() < 0.15:
        found[f"{OVN}/ip_pool"] = rng.choice(POOLS)
    if rng.random() < 0.1:
        found[f"{OVN}/mac_address"] = rng.choice(ASKED_MACS)
    return found


def _ask(cluster: Cluster, machine: Machine, vm: Vm, rng: Random) -> None:
    vm.annotations = _annotations(rng)
    cluster.put_vm(machine)


def _plug(cluster: Cluster, machine: Machine, vm: Vm, rng: Random) -> None:
    vm.nics = (*vm.nics, Nic("hot", rng.choice((BLUE, GREEN))))
    cluster.put_vm(machine)


def _unplug(cluster: Cluster, machine: Machine, vm: Vm) -> None:
    *rest, last = vm.nics
    if machine.vmi is not None and last.state != "absent":
        vm.nics = (*rest, Nic(last.name, last.nad, last.mac, last.binding, "absent"))
    else:
        vm.nics = tuple(rest)
    cluster.put_vm(machine)


def _migrate(cluster: Cluster, machine: Machine, vmi: Vmi) -> None:
    machine.moves.append(Move(f"move-{machine.name}-{cluster.number()}", vmi.uid, cluster.stamp()))
    cluster.put_move(machine, machine.moves[-1])


def _cancel(cluster: Cluster, machine: Machine, move: Move) -> Callable[[Random], None]:
    def cancel(_: Random) -> None:
        move.deleting = True
        cluster.put_move(machine, move)

    return cancel


def _power_off(cluster: Cluster, machine: Machine, vmi: Vmi) -> None:
    machine.guest = None
    vmi.phase = "Succeeded"
    cluster.put_vmi(machine)


def _fail(cluster: Cluster, machine: Machine, move: Move, rng: Random) -> None:
    move.doomed = True
    pod = move.target
    if pod is not None and pod.alive and pod.node and rng.random() < 0.4:  # the target pod dies first
        pod.phase = "Failed"
        pod.plugged = pod.plugged and rng.random() < 0.5
        cluster.put_pod(machine, pod)

"""What there is in the cluster, as a model that knows the truth (where each guest runs, which interface is plugged), and the
same as the Kubernetes objects in which the agent sees it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from ovnagent.core.vm import Interface, pod_interface
from tests.desk import migration_object, pod_object, vm_object, vmi_object
from tests.integration.hostile_objects import wire
from tests.object_server import ObjectServer

NAMESPACE = "default"
NODES = tuple(f"node{number}" for number in range(1, 5))
NAMES = tuple(f"vm{number}" for number in range(1, 7))
VMS, VMIS, MIGRATIONS, PODS = (
    "virtualmachines",
    "virtualmachineinstances",
    "virtualmachineinstancemigrations",
    "pods",
)
FINAL = ("Succeeded", "Failed")


def chassis_of(node: str) -> str:
    """Chassis are not called as their nodes are."""
    return node.replace("node", "chassis")


@dataclass
class Nic:
    """An interface of a VM's specification."""

    name: str
    nad: str = ""
    """Empty for the pod network."""
    mac: str = ""
    binding: str = "bridge"
    state: str = ""

    @property
    def inside(self) -> str:
        """Its name in the pod."""
        return pod_interface(Interface(self.name, self.binding, nad=self.nad))

    def spec(self) -> tuple[dict[str, Any], dict[str, Any]]:
        interface: dict[str, Any] = {"name": self.name, self.binding: {}}
        interface |= {"macAddress": self.mac} if self.mac else {}
        interface |= {"state": self.state} if self.state else {}
        network: dict[str, Any] = {"multus": {"networkName": self.nad}} if self.nad else {"pod": {}}
        return interface, {"name": self.name, **network}


@dataclass
class Vm:
    uid: str
    created: str
    running: bool
    """runStrategy Always; else Halted."""
    nics: tuple[Nic, ...]
    annotations: dict[str, str]
    deleting: str = ""
    """`background` or `orphan`."""
    restart: bool = False


@dataclass
class Vmi:
    uid: str
    created: str
    owner: str
    """UID of the VM; empty where it is standalone or orphaned."""
    nics: tuple[Nic, ...]
    annotations: dict[str, str]
    phase: str = "Pending"
    node: str = ""
    deleting: bool = False
    state: dict[str, Any] | None = None
    """status.migrationState."""
    macs: dict[str, str] = field(default_factory=dict)
    """Reported in status.interfaces."""

    @property
    def final(self) -> bool:
        return self.phase in FINAL


@dataclass(eq=False)
class Pod:
    name: str
    vmi: str
    """UID."""
    created: str
    nics: tuple[Nic, ...]
    migration: str = ""
    node: str = ""
    phase: str = "Pending"
    deleting: bool = False
    macs: dict[str, str] = field(default_factory=dict)
    """Of the interfaces that the CNI has made: told in network-status."""
    plugged: bool = False
    """Its interfaces are in the node's OVS, with their iface-ids."""

    @property
    def alive(self) -> bool:
        return self.phase not in FINAL


@dataclass(eq=False)
class Move:
    """A VirtualMachineInstanceMigration."""

    uid: str
    vmi: str
    created: str
    phase: str = ""
    deleting: bool = False
    doomed: bool = False
    """It will fail, or has."""
    target: Pod | None = None
    switched: bool = False
    succeeded_at: float = 0.0
    """Monotonic seconds."""

    @property
    def open(self) -> bool:
        return self.phase not in FINAL


@dataclass
class Machine:
    """All that goes by one VM's name."""

    name: str
    vm: Vm | None = None
    vmi: Vmi | None = None
    pods: list[Pod] = field(default_factory=list)
    moves: list[Move] = field(default_factory=list)
    guest: Pod | None = None
    """The launcher in which the domain runs."""
    guest_macs: dict[str, str] = field(default_factory=dict)
    announced: set[str] = field(default_factory=set)
    """Pods on whose node the guest's RARP was sent."""
    wire: set[str] = field(default_factory=set)
    """All MACs that its launchers ever had."""

    @property
    def empty(self) -> bool:
        return self.vm is None and self.vmi is None and not self.pods and not self.moves

    @property
    def move(self) -> Move | None:
        """The open migration."""
        return next((each for each in self.moves if each.open), None)

    def living(self) -> list[Pod]:
        return [pod for pod in self.pods if pod.alive]


class Cluster:
    """The machines, and the API server that holds their objects."""

    def __init__(self, server: ObjectServer) -> None:
        self.server = server
        self.machines = {name: Machine(name) for name in NAMES}
        self.now: Callable[[], float] = lambda: 0.0
        """Monotonic seconds."""
        self.wall = datetime(2026, 1, 1, tzinfo=UTC)
        """The API server's clock, which may be stepped."""
        self.records: dict[str, str] = {}
        """The agent's record on the last VM of each name that was deleted."""
        self.lives: dict[str, int] = {}
        """UID of a VM or VMI -> the life that it belongs to: addresses are for one. A VM that adopts a VMI goes on as it."""
        self.asked: defaultdict[int, list[tuple[dict[str, str], tuple[Nic, ...]]]] = defaultdict(list)
        """Life -> the annotations and interfaces that it ever had."""
        self._numbers = 0

    def begin(self, uid: str, goes_on_as: str = "") -> None:
        """An object with this UID is created; it continues the life of another."""
        self.lives[uid] = self.lives.get(goes_on_as) or self.number()

    def number(self) -> int:
        self._numbers += 1
        return self._numbers

    def stamp(self) -> str:
        """A creationTimestamp; objects that are made one after the other may have the same."""
        return self.wall.strftime("%Y-%m-%dT%H:%M:%SZ")

    def pass_time(self, seconds: float) -> None:
        self.wall += timedelta(seconds=seconds)

    def machine_of(self, key: str) -> Machine | None:
        """By `namespace/name`."""
        namespace, _, name = key.partition("/")
        return self.machines.get(name) if namespace == NAMESPACE else None

    def known_records(self) -> list[str]:
        """The agent's records on VMs that are there or were."""
        return [*self.records.values(), *(self.server.record(NAMESPACE, name) for name in NAMES)]

    # -- objects

    def put_vm(self, machine: Machine, record: str = "") -> None:
        """`record`: one that the user brings along."""
        vm = machine.vm
        assert vm is not None
        self.asked[self.lives[vm.uid]].append((dict(vm.annotations), vm.nics))
        interfaces, networks = _devices(vm.nics)
        obj = vm_object(machine.name, vm.uid, vm.annotations, interfaces, networks, record, vm.created)
        if vm.deleting:
            obj["metadata"]["deletionTimestamp"] = self.stamp()
        self.put(VMS, obj)

    def put_vmi(self, machine: Machine) -> None:
        vmi = machine.vmi
        assert vmi is not None
        self.asked[self.lives[vmi.uid]].append((dict(vmi.annotations), vmi.nics))
        interfaces, networks = _devices(vmi.nics)
        obj = vmi_object(
            machine.name,
            vmi.uid,
            vmi.owner,
            vmi.node,
            vmi.phase,
            vmi.annotations,
            interfaces,
            networks,
            vmi.state,
            vmi.macs,
        )
        obj["metadata"]["creationTimestamp"] = vmi.created
        if vmi.deleting:
            obj["metadata"]["deletionTimestamp"] = self.stamp()
        self.put(VMIS, obj)

    def put_pod(self, machine: Machine, pod: Pod) -> None:
        machine.wire |= set(pod.macs.values())
        status = [
            {
                "name": nic.nad or "default-network",
                "interface": nic.inside,
                "mac": pod.macs[nic.name],
                "default": not nic.nad,
            }
            for nic in pod.nics
            if nic.name in pod.macs
        ]
        annotations = {"k8s.v1.cni.cncf.io/network-status": json.dumps(status)} if status else {}
        obj = pod_object(pod.name, machine.name, pod.node, pod.phase, pod.migration, pod.vmi, pod.created, annotations)
        if pod.deleting:
            obj["metadata"]["deletionTimestamp"] = self.stamp()
        self.put(PODS, obj)

    def put_move(self, machine: Machine, move: Move) -> None:
        obj = migration_object(move.uid, machine.name, move.phase, move.created)
        if move.deleting:
            obj["metadata"]["deletionTimestamp"] = self.stamp()
        self.put(MIGRATIONS, obj)

    def put(self, kind: str, obj: dict[str, Any]) -> None:
        self.server.put(*wire(kind, obj))

    def remove(self, kind: str, name: str) -> None:
        self.server.delete(kind, NAMESPACE, name)

    def remove_vm(self, machine: Machine) -> None:
        self.records[machine.name] = self.server.record(NAMESPACE, machine.name)
        machine.vm = None
        self.remove(VMS, machine.name)

    def remove_pod(self, machine: Machine, pod: Pod) -> None:
        machine.pods.remove(pod)
        pod.phase = pod.phase if not pod.alive else "Failed"
        self.remove(PODS, pod.name)

    def remove_move(self, machine: Machine, move: Move) -> None:
        machine.moves.remove(move)
        self.remove(MIGRATIONS, move.uid)


def _devices(nics: tuple[Nic, ...]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    specs = [nic.spec() for nic in nics]
    return [interface for interface, _ in specs], [network for _, network in specs]

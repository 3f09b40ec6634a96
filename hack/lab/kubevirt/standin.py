"""`KubeVirt`: the stand-in as tests and the demo use it."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Hashable
from types import TracebackType
from typing import Literal, Self, cast

from hack.lab.guest import BaseGuest, Guest, MigrationReport
from hack.lab.kube import ControlPlane
from hack.lab.kubevirt import objects
from hack.lab.kubevirt.api import MIGRATIONS, NODES, PODS, VMIS, Api, ApiError, Key, Obj, Resource, key_of, uid_of
from hack.lab.kubevirt.context import Context, Kind
from hack.lab.kubevirt.faults import Faults
from hack.lab.kubevirt.handler import Handler
from hack.lab.kubevirt.kubelet import Kubelet
from hack.lab.kubevirt.network import Network
from hack.lab.kubevirt.workqueue import WorkQueue
from hack.lab.ovn import OvnLab
from hack.lab.plug import Plugs
from hack.lab.virt import VirtControlPlane

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 60.0
SECONDS = 30.0
"""How long the helpers wait for what they are asked for."""


class KubeVirt:
    """`with KubeVirt(control_plane, ovn, guests="qemu") as kubevirt:`

    port_seconds: how long the CNI waits for a port's row in NB, whose MAC it then gives the guest. Without one the
    guest gets a MAC of the CNI's own, and no address."""

    def __init__(
        self,
        control_plane: ControlPlane,
        ovn: OvnLab,
        guests: Literal["qemu", "fake"] = "fake",
        port_seconds: float = 5.0,
    ) -> None:
        self.faults = Faults()
        self.control_plane = VirtControlPlane(control_plane)
        """virt-api and virt-controller, to be held back or killed."""
        self.nodes = [chassis.node for chassis in ovn.chassis]
        self.api = Api(control_plane.kubeconfig)
        """The API server and a current copy of its objects, for tests to use as well."""
        self._queue = WorkQueue(self._handle)
        self._context = Context(self.api, self.faults, self._queue)
        self.plugs = Plugs(control_plane, ovn)
        """`ovnagent plug` on each node."""
        network = Network(ovn)
        self._handler = Handler(self._context, network, ovn, qemu=guests == "qemu")
        self._kubelet = Kubelet(self._context, network, self.nodes, port_seconds)
        self._names = itertools.count(1)
        self._stopped = threading.Event()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Start virt-api and virt-controller, register the nodes, and begin to work."""
        self.control_plane.up()
        self.plugs.start(self.nodes)
        for node in self.nodes:
            self.add_node(node)
        self.api.start(self._context.notice)
        self._queue.start()
        threading.Thread(target=self._beat, name="heartbeats", daemon=True).start()

    def stop(self) -> None:
        """Stop working, and end all guests. Interfaces stay plugged: they end with the OVN lab."""
        self._stopped.set()
        self.control_plane.down()
        self._queue.stop()
        self.api.stop()
        self.plugs.stop()
        for sandbox in list(self._context.sandboxes.values()):
            if sandbox.guest is not None and sandbox.guest.end is None:
                sandbox.guest.kill()

    def _handle(self, item: Hashable) -> None:
        kind, key = cast("tuple[Kind, Key]", item)
        match kind:
            case "vmi":
                self._handler.reconcile(key)
            case "migration":
                if (migration := self.api.get(MIGRATIONS, key)) is not None:
                    self._kubelet.fail_target(migration)
            case "pod":
                self._kubelet.reconcile(key)

    # ---- VMs

    def virtctl(self, *arguments: str) -> str:
        """Run virtctl as admin; its output. Raises RuntimeError with what it said."""
        return self.control_plane.virtctl(*arguments)

    def start_vm(self, namespace: str, vm: str) -> None:
        self.virtctl("start", vm, "-n", namespace)

    def stop_vm(self, namespace: str, vm: str) -> None:
        self.virtctl("stop", vm, "-n", namespace)

    def restart_vm(self, namespace: str, vm: str) -> None:
        self.virtctl("restart", vm, "-n", namespace)

    def power_off(self, namespace: str, vm: str) -> None:
        """The guest powers itself off."""
        self.guest(namespace, vm).powerdown()

    def crash(self, namespace: str, vm: str) -> None:
        """The guest's QEMU dies."""
        self.guest(namespace, vm).kill()

    def vmi(self, namespace: str, vm: str) -> Obj | None:
        """The VMI as the API server last reported it, or None; never change it."""
        key = Key(namespace, vm)
        return self.api.get(VMIS, key) or self.api.read(VMIS, key)

    def launchers(self, namespace: str, vm: str) -> list[Obj]:
        """All pods of the VMI, the oldest first."""
        return self._context.launchers(uid_of(self._need(VMIS, namespace, vm)))

    def guest(self, namespace: str, vm: str) -> BaseGuest:
        """The guest where it runs: on a migration's target from the switch on."""
        running = [
            sandbox.guest
            for pod in self.launchers(namespace, vm)
            if (sandbox := self._context.sandbox(pod)) is not None
            and sandbox.guest is not None
            and sandbox.guest.end is None
        ]
        vmi = self._need(VMIS, namespace, vm)
        node = vmi["status"].get("nodeName", "")
        here = [guest for guest in running if (guest.node == node) is not (uid_of(vmi) in self._context.switched)]
        if not here:
            raise LookupError(f"no guest of {namespace}/{vm} runs")
        return here[-1]

    def wait_running(self, namespace: str, vm: str, seconds: float = SECONDS) -> None:
        """Wait until the VMI is Running; with QEMU, until the guest serves."""
        self.wait_phase(namespace, vm, "Running", seconds)
        guest = self.guest(namespace, vm)
        if isinstance(guest, Guest):
            guest.wait_ready()

    def wait_phase(self, namespace: str, vm: str, phase: str, seconds: float = SECONDS) -> None:
        """Wait until the VMI is in a phase; an empty one means that there is no VMI."""
        key = Key(namespace, vm)
        self.wait_for(
            lambda: objects.phase_of(self.api.get(VMIS, key) or {}) == phase, f"VMI {vm} {phase or 'gone'}", seconds
        )

    def wait_for(self, probe: Callable[[], bool], what: str, seconds: float = SECONDS) -> None:
        """Wait until `probe`, asked at each change of any object, is true. Raises TimeoutError."""
        if not self.api.wait_for(probe, seconds):
            raise TimeoutError(f"{what}: not within {seconds:g} s")

    # ---- migrations

    def migrate(self, namespace: str, vm: str) -> str:
        """As `virtctl migrate`, which does not tell the new migration's name."""
        name = f"migrate-{vm}-{next(self._names)}"
        self.api.create(MIGRATIONS, objects.migration(namespace, name, vm))
        return name

    def newest_migration(self, namespace: str, vm: str) -> str:
        """The name of the VM's migration that is not over yet; waits for one."""

        def opened() -> list[Obj]:
            found = [each for each in self.api.all(MIGRATIONS) if each["spec"]["vmiName"] == vm]
            of_namespace = [each for each in found if key_of(each).namespace == namespace]
            return [each for each in of_namespace if objects.phase_of(each) not in objects.FINAL]

        self.wait_for(lambda: bool(opened()), f"a migration of {vm}")
        return key_of(opened()[-1]).name

    def cancel_migration(self, namespace: str, migration: str) -> None:
        """As `virtctl migrate-cancel`: the object is deleted."""
        self.api.delete(MIGRATIONS, self._need(MIGRATIONS, namespace, migration))

    def wait_migration(self, namespace: str, migration: str, *phases: str, seconds: float = SECONDS) -> str:
        """Wait until a migration is in one of these phases (`Succeeded` or `Failed`, if none is given), or gone; the
        phase, empty if it is gone."""
        key, wanted = Key(namespace, migration), phases or objects.FINAL

        def reached() -> bool:
            found = self.api.get(MIGRATIONS, key)
            return found is None or objects.phase_of(found) in wanted

        self.wait_for(reached, f"migration {migration} {' or '.join(wanted)}", seconds)
        return objects.phase_of(self.api.get(MIGRATIONS, key) or {})

    def report(self, namespace: str, migration: str) -> MigrationReport:
        """What a migration's move took."""
        report = self._handler.report(self._need(MIGRATIONS, namespace, migration))
        if report is None:
            raise LookupError(f"migration {migration} has not switched")
        return report

    # ---- nodes

    def add_node(self, node: str) -> None:
        """Register a Node that is ready; its chassis must be in the OVN lab."""
        if node not in self.nodes:
            self.nodes.append(node)
            self.plugs.start([node])
        try:
            self.api.request("POST", NODES.group + "/nodes", objects.node(node, self.nodes.index(node) + 1))
        except ApiError as error:
            if error.status != 409:
                raise
        else:
            # The API server taints every new node as not ready, and waits for a node controller to take that back.
            self._node(node, lambda new: new["spec"].pop("taints", None))
        self.set_node_ready(node, "True")

    def cordon(self, *nodes: str) -> None:
        """As `kubectl cordon`."""
        for node in nodes:
            self._node(node, lambda new: new["spec"].update(unschedulable=True))

    def uncordon(self, *nodes: str) -> None:
        for node in nodes:
            self._node(node, lambda new: new["spec"].pop("unschedulable", None))

    def node_dies(self, node: str, guests_survive: bool = False) -> None:
        """The node's kubelet and virt-handler fall silent, the node is cordoned and not ready, and so are its pods, as a
        node controller would have it after a minute. Interfaces stay plugged; what happens to OVN is the caller's."""
        self._context.dead.add(node)
        self.cordon(node)
        self.set_node_ready(node, "Unknown")
        for sandbox in list(self._context.sandboxes.values()):
            if sandbox.node == node and sandbox.guest is not None and not guests_survive:
                sandbox.guest.kill()
        for pod in self.api.all(PODS):
            if objects.node_of(pod) == node and objects.phase_of(pod) == "Running":
                self.api.update(PODS, pod, lambda new: objects.set_condition(new, "Ready", False, "NodeNotReady"), True)

    def node_returns(self, node: str) -> None:
        """The node's kubelet works again, and ends what is left of pods that are gone."""
        self._context.dead.discard(node)
        self._heartbeat(node)
        self.set_node_ready(node, "True")
        self.uncordon(node)
        for sandbox in list(self._context.sandboxes.values()):
            self._context.look("pod", sandbox.pod)
        for vmi in self.api.all(VMIS):
            self._context.look("vmi", key_of(vmi))
        self.api.nudge()

    def force_delete_launchers(self, namespace: str, vm: str) -> None:
        """As `kubectl delete pod --force --grace-period=0`."""
        for pod in self.launchers(namespace, vm):
            self.api.delete(PODS, pod, grace=0)

    def set_node_ready(self, node: str, status: str) -> None:
        def change(new: Obj) -> None:
            ready = {"type": "Ready", "status": status, "reason": "KubeletReady", "lastTransitionTime": objects.now()}
            new["status"]["conditions"] = [ready | {"lastHeartbeatTime": objects.now()}]

        self._node(node, change, status=True)

    # ---- pods that only look like launchers

    def ephemeral_launcher(self, namespace: str, vm: str) -> str:
        """Create an ephemeral provisioning pod of a VMI; its name."""
        return key_of(self.api.create(PODS, objects.ephemeral_launcher_of(self._launcher(namespace, vm)))).name

    def attachment_pod(self, namespace: str, vm: str, migration: str = "") -> str:
        """Create a pod that attaches a hot-plugged volume, with a migration's label if one is named; its name."""
        of_migration = self._need(MIGRATIONS, namespace, migration) if migration else None
        return key_of(self.api.create(PODS, objects.attachment_pod_of(self._launcher(namespace, vm), of_migration))).name

    # ---- inside

    def _launcher(self, namespace: str, vm: str) -> Obj:
        """The launcher on the VMI's node."""
        node = self._need(VMIS, namespace, vm)["status"]["nodeName"]
        pods = [pod for pod in self.launchers(namespace, vm) if objects.is_launcher(pod) and objects.node_of(pod) == node]
        return pods[-1]

    def _beat(self) -> None:
        """What virt-handler tells of itself every minute; after five without, KubeVirt schedules nothing there any more."""
        while True:
            for node in set(self.nodes) - self._context.dead:
                self._heartbeat(node)
            if self._stopped.wait(HEARTBEAT_SECONDS):
                return

    def _heartbeat(self, node: str) -> None:
        beat = {"labels": {"kubevirt.io/schedulable": "true"}, "annotations": {"kubevirt.io/heartbeat": objects.now()}}
        try:
            self.api.request("PATCH", f"{NODES.group}/nodes/{node}", {"metadata": beat})
        except ApiError as error:
            log.warning("the heartbeat of %s: %s", node, error)

    def _need(self, resource: Resource, namespace: str, name: str) -> Obj:
        """An object from the copy, or from the API server where the copy does not have it yet."""
        key = Key(namespace, name)
        found = self.api.get(resource, key) or self.api.read(resource, key)
        if found is None:
            raise LookupError(f"there is no {namespace}/{name} among the {resource.plural}")
        return found

    def _node(self, name: str, change: Callable[[Obj], None], status: bool = False) -> None:
        """Change a Node."""
        node = self.api.read(NODES, Key("", name))
        if node is None:
            raise LookupError(f"there is no node {name}")
        self.api.update(NODES, node, change, status)

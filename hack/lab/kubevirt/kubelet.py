"""The kubelet's part: a pod on its node, from its binding to its removal. What the scheduler has not bound is not seen."""

from __future__ import annotations

import hashlib
import itertools

from hack.lab.guest import End
from hack.lab.kubevirt import objects
from hack.lab.kubevirt.api import PODS, VMIS, Key, Obj, key_of, uid_of
from hack.lab.kubevirt.context import Context, Sandbox
from hack.lab.kubevirt.network import Network

TARGET_PHASES = ("Scheduling", "Scheduled", "PreparingTarget", "TargetReady", "Running")
"""Of a migration while it has a target, in their order. One that is short may never be seen."""


class Kubelet:
    """Looks at one pod and does the next things that are to be done on its node."""

    def __init__(self, context: Context, network: Network, nodes: list[str], port_seconds: float) -> None:
        self._context = context
        self._api = context.api
        self._network = network
        self._nodes = nodes
        self._port_seconds = port_seconds
        self._addresses = itertools.count(5)

    def reconcile(self, key: Key) -> None:
        pod = self._api.get(PODS, key)
        for sandbox in list(self._context.sandboxes.values()):
            if sandbox.pod == key and (pod is None or uid_of(pod) != sandbox.uid):
                self._tear_down(sandbox)
        if pod is None or objects.node_of(pod) not in self._nodes or objects.node_of(pod) in self._context.dead:
            return
        if objects.phase_of(pod) == "Pending":
            self._start(pod)
        elif objects.phase_of(pod) == "Running":
            self._run(pod)
        else:
            self._clean_up(pod)

    def fail_target(self, migration: Obj) -> None:
        """The migration's target launcher dies, if it is to after the phase that the migration has reached."""
        wanted, phase = self._context.faults.target_dies, objects.phase_of(migration)
        if wanted not in TARGET_PHASES or phase not in TARGET_PHASES[TARGET_PHASES.index(wanted) :]:
            return
        for pod in self._api.all(PODS):
            if objects.labels_of(pod).get(objects.MIGRATION_UID) == uid_of(migration) and objects.is_launcher(pod):
                self._fail(pod)

    def _fail(self, pod: Obj) -> None:
        sandbox = self._context.sandbox(pod)
        if sandbox is not None and sandbox.guest is not None:
            sandbox.guest.kill()
        self._complete(pod, "Failed")

    def _start(self, pod: Obj) -> None:
        delays = self._context.faults.delays
        if objects.deleting(pod):
            self._complete(pod, "Failed")
            return
        if not self._context.due("pod", pod, "pending", delays.pod_pending):
            return
        if "startTime" not in pod["status"]:
            self._api.update(PODS, pod, self._starting, status=True)
        if not self._context.due("pod", pod, "network", delays.network) or not self._attach(pod):
            return
        if not self._context.due("pod", pod, "running", delays.pod_running) or self._dies_early(pod):
            return
        address = self._context.sandboxes[uid_of(pod)].address
        self._api.update(PODS, pod, lambda new: _running(new, address), status=True)

    def _dies_early(self, pod: Obj) -> bool:
        """It is a target that is to die in Scheduling: with it, that phase would be over before it is seen."""
        uid = objects.labels_of(pod).get(objects.MIGRATION_UID)
        if self._context.faults.target_dies != "Scheduling" or uid is None:
            return False
        if (migration := self._context.migration(uid)) is not None:
            self.fail_target(migration)
        return True

    def _attach(self, pod: Obj) -> bool:
        """Have the CNI plug a launcher in; whether that is done."""
        if objects.NETWORK_STATUS in objects.annotations_of(pod):
            return True
        sandbox = self._context.sandbox(pod)
        if sandbox is None:
            node = objects.node_of(pod)
            sandbox = Sandbox(key_of(pod), uid_of(pod), node, address=self._address(node))
            self._context.sandboxes[uid_of(pod)] = sandbox
        if not sandbox.plugged and objects.is_launcher(pod):
            sandbox.incoming = objects.MIGRATION_UID in objects.labels_of(pod)
            vmi = self._vmi(pod)
            if vmi is None:
                return False
            sandbox.attachments = self._network.attachments(vmi, pod)
            missing = [each for each in sandbox.attachments if self._network.port(each.iface_id) is None]
            if missing and not self._context.due("pod", pod, "ports", self._port_seconds):
                self._context.look("pod", key_of(pod), 0.05)
                return False
            self._network.plug(sandbox)
        status = self._network.status(sandbox)
        self._api.update(
            PODS, pod, lambda new: new["metadata"].setdefault("annotations", {}).update({objects.NETWORK_STATUS: status})
        )
        return True

    def _run(self, pod: Obj) -> None:
        sandbox = self._context.sandbox(pod)
        if sandbox is None:
            return
        guest = sandbox.guest
        if objects.deleting(pod) and guest is None:
            sandbox.finished = True
        if objects.deleting(pod) and guest is not None and (self._abandoned(pod) or self._is_idle(pod, sandbox)):
            guest.kill()
        if sandbox.ended:
            killed = guest is not None and guest.end is End.KILLED and not sandbox.incoming
            if self._reported(pod, sandbox) and self._context.due(
                "pod", pod, "completed", self._context.faults.delays.pod_completed
            ):
                self._complete(pod, "Failed" if killed else "Succeeded")
            return
        self._api.update(PODS, pod, _set_ready, status=True)

    def _complete(self, pod: Obj, phase: str) -> None:
        done = self._api.update(PODS, pod, lambda new: _completed(new, phase), status=True)
        if done is not None:
            self._clean_up(done)

    def _clean_up(self, pod: Obj) -> None:
        """A pod that has ended gives its interfaces back, and goes if it is to."""
        delays = self._context.faults.delays
        sandbox = self._context.sandbox(pod)
        if sandbox is not None and sandbox.plugged:
            if not self._context.due("pod", pod, "unplug", delays.unplug):
                return
            self._network.unplug(sandbox)
        if objects.deleting(pod) and self._context.due("pod", pod, "removed", delays.pod_removed):
            self._context.sandboxes.pop(uid_of(pod), None)
            self._api.delete(PODS, pod, grace=0)

    def _tear_down(self, sandbox: Sandbox) -> None:
        """The pod's object is gone: a kubelet that lives ends what is left of it."""
        if sandbox.node in self._context.dead:
            return
        if sandbox.guest is not None and sandbox.guest.end is None:
            sandbox.guest.kill()
        if sandbox.plugged:
            self._network.unplug(sandbox)
        self._context.sandboxes.pop(sandbox.uid, None)

    def _reported(self, pod: Obj, sandbox: Sandbox) -> bool:
        """A launcher waits until virt-handler has heard of its guest's end."""
        vmi = self._vmi(pod)
        if vmi is None or sandbox.guest is None or (sandbox.incoming and self._guest_is_elsewhere(pod)):
            return True
        if sandbox.guest.end is End.MIGRATED or objects.phase_of(vmi) in objects.FINAL:
            return True
        self._context.look("vmi", key_of(vmi))
        return bool(vmi["status"].get("nodeName") != sandbox.node)

    def _abandoned(self, pod: Obj) -> bool:
        """Nobody will shut the guest down: its VMI is over. The launcher does it when it is told to end."""
        vmi = self._vmi(pod)
        return vmi is None or objects.phase_of(vmi) in objects.FINAL

    def _is_idle(self, pod: Obj, sandbox: Sandbox) -> bool:
        """The guest is to come here, and has not."""
        return sandbox.incoming and self._guest_is_elsewhere(pod)

    def _guest_is_elsewhere(self, pod: Obj) -> bool:
        vmi = self._vmi(pod)
        return vmi is None or vmi["status"].get("nodeName") != objects.node_of(pod)

    def _vmi(self, pod: Obj) -> Obj | None:
        """The VMI of a launcher, if it is still that one."""
        owners = pod["metadata"].get("ownerReferences") or [{"name": ""}]
        vmi = self._api.get(VMIS, Key(pod["metadata"]["namespace"], owners[0]["name"]))
        created_by = objects.labels_of(pod).get(objects.CREATED_BY)
        return vmi if vmi is not None and uid_of(vmi) == created_by else None

    def _address(self, node: str) -> str:
        number = next(self._addresses)
        return f"10.244.{self._nodes.index(node) + 1 + 4 * (number // 250)}.{number % 250 + 1}"

    def _starting(self, pod: Obj) -> None:
        status = pod["status"]
        host = f"192.168.10.{self._nodes.index(objects.node_of(pod)) + 1}"
        status |= {"startTime": objects.now(), "hostIP": host, "hostIPs": [{"ip": host}]}
        names = [container["name"] for container in pod["spec"]["containers"]]
        message = f"containers with unready status: [{' '.join(names)}]"
        objects.set_condition(pod, "PodReadyToStartContainers", False)
        objects.set_condition(pod, "Initialized", True)
        objects.set_condition(pod, "Ready", False, "ContainersNotReady", message)
        objects.set_condition(pod, "ContainersReady", False, "ContainersNotReady", message)
        status["containerStatuses"] = [
            _container(pod, container, {"waiting": {"reason": "PodInitializing"}}, ready=False)
            for container in pod["spec"]["containers"]
        ]


def _running(pod: Obj, address: str) -> None:
    status = pod["status"]
    status |= {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}
    objects.set_condition(pod, "PodReadyToStartContainers", True)
    objects.set_condition(pod, "ContainersReady", True)
    status["containerStatuses"] = [
        _container(pod, container, {"running": {"startedAt": objects.now()}}, ready=True)
        for container in pod["spec"]["containers"]
    ]
    _set_ready(pod)


def _set_ready(pod: Obj) -> None:
    """Ready once the readiness gates are open; a migration's target is not before the guest is its own."""
    for gate in pod["spec"].get("readinessGates") or ():
        kind = gate["conditionType"]
        found = objects.condition(pod, kind)
        if found is None or found["status"] != "True":
            message = f'corresponding condition of pod readiness gate "{kind}" does not exist.'
            objects.set_condition(pod, "Ready", False, "ReadinessGatesNotReady", message)
            return
    objects.set_condition(pod, "Ready", True)


def _completed(pod: Obj, phase: str) -> None:
    pod["status"]["phase"] = phase
    objects.set_condition(pod, "PodReadyToStartContainers", False)
    for kind in ("Ready", "ContainersReady"):
        objects.set_condition(pod, kind, False, "PodCompleted" if phase == "Succeeded" else "PodFailed")
    code = 0 if phase == "Succeeded" else 1
    state = {"terminated": {"exitCode": code, "reason": "Completed" if code == 0 else "Error", "finishedAt": objects.now()}}
    pod["status"]["containerStatuses"] = [
        _container(pod, container, state, ready=False) for container in pod["spec"]["containers"]
    ]


def _container(pod: Obj, container: Obj, state: Obj, ready: bool) -> Obj:
    return {
        "name": container["name"],
        "image": container["image"],
        # virt-controller reads the digest: a migration's target is to have the very same disk.
        "imageID": f"{container['image']}@sha256:{hashlib.sha256(container['image'].encode()).hexdigest()}",
        "containerID": f"cri-o://{uid_of(pod).replace('-', '')}",
        "lastState": {},
        "ready": ready,
        "started": ready,
        "restartCount": 0,
        "state": state,
    }

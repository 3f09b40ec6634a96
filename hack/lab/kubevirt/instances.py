"""virt-controller's part for VirtualMachineInstances: the launcher pod, the phases until Scheduled, the end."""

from __future__ import annotations

from hack.lab.guest import End
from hack.lab.kubevirt import objects
from hack.lab.kubevirt.api import MIGRATIONS, PODS, VMIS, Key, Obj, key_of, uid_of
from hack.lab.kubevirt.context import Context


class Instances:
    """Looks at one VMI and does the next things that are to be done, as far as no node is involved."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._api = context.api

    def reconcile(self, key: Key) -> None:
        vmi = self._api.get(VMIS, key)
        if vmi is None:
            self._forget_migrations(key)
            return
        pods = self._context.launchers(uid_of(vmi))
        if objects.deleting(vmi) or objects.phase_of(vmi) in objects.FINAL:
            self._end(vmi, pods)
            return
        if not objects.phase_of(vmi):
            vmi = self._api.update(VMIS, vmi, objects.admit_instance) or vmi
        self._api.update(
            VMIS, vmi, lambda new: new["metadata"].setdefault("annotations", {}).update(objects.OBSERVED_VERSIONS)
        )
        match objects.phase_of(vmi):
            case "Pending":
                self._schedule(vmi, pods)
            case "Scheduling":
                self._hand_over(vmi, pods)
            case "Scheduled" | "Running":
                self._follow(vmi)
        self._api.update(VMIS, vmi, lambda new: _count_pods(new, self._context.launchers(uid_of(vmi))))

    def _schedule(self, vmi: Obj, pods: list[Obj]) -> None:
        launchers = [pod for pod in pods if objects.is_launcher(pod)]
        pod = launchers[0] if launchers else self._api.create(PODS, objects.launcher_of(vmi))
        self._unpause(pod)

        def change(new: Obj) -> None:
            objects.set_phase(new, "Scheduling")
            new["status"]["launcherContainerImageVersion"] = objects.LAUNCHER_IMAGE
            message = "Guest VM is not reported as running"
            objects.set_condition(new, "Ready", False, "GuestNotRunning", message, probed=True)

        self._api.update(VMIS, vmi, change)

    def _hand_over(self, vmi: Obj, pods: list[Obj]) -> None:
        """Scheduled once the launcher runs: from then on virt-handler on that node is in charge."""
        pod = next((each for each in pods if objects.is_launcher(each)), None)
        if pod is None or objects.phase_of(pod) in objects.FINAL:
            self._api.update(VMIS, vmi, lambda new: objects.set_phase(new, "Failed"))
            return
        ready = objects.condition(pod, "ContainersReady")
        if objects.phase_of(pod) != "Running" or ready is None or ready["status"] != "True":
            return
        node = objects.node_of(pod)

        def change(new: Obj) -> None:
            if objects.phase_of(new) != "Scheduling":
                return
            objects.set_phase(new, "Scheduled")
            new["metadata"].setdefault("labels", {})[objects.NODE_NAME] = node
            status = new["status"]
            status["nodeName"] = node
            status["migrationTransport"] = "Unix"
            status["interfaces"] = []
            for interface, network in objects.interfaces_of(new):
                entry = {"name": interface["name"], "podInterfaceName": objects.pod_interface(network)}
                secondary = "multus" in network and not network["multus"].get("default")
                status["interfaces"].append(entry | ({"infoSource": "multus-status"} if secondary else {}))

        self._api.update(VMIS, vmi, change)

    def _follow(self, vmi: Obj) -> None:
        """Keep the launcher's label and gate, and the VMI's readiness, as they should be on the node of the guest."""
        node = vmi["status"]["nodeName"]
        pod = self._context.launcher_on(vmi, node)
        if pod is None:
            guest_elsewhere = uid_of(vmi) in self._context.switched
            ended = any(
                sandbox.node == node and sandbox.guest is not None and sandbox.guest.end not in (None, End.MIGRATED)
                for each in self._context.launchers(uid_of(vmi))
                if (sandbox := self._context.sandbox(each)) is not None
            )
            if not guest_elsewhere and not ended:  # an ended guest is virt-handler's to report
                self._api.update(VMIS, vmi, lambda new: objects.set_phase(new, "Failed"))
            return
        self._unpause(pod)
        self._api.update(PODS, pod, lambda new: new["metadata"]["labels"].update({objects.NODE_NAME: node}))
        ready = objects.condition(pod, "Ready")

        def change(new: Obj) -> None:
            new["status"].setdefault("launcherContainerImageVersion", objects.LAUNCHER_IMAGE)
            if objects.deleting(pod):
                message = "virt-launcher pod is terminating"
                objects.set_condition(new, "Ready", False, "PodTerminating", message, probed=True)
            elif objects.phase_of(new) == "Running" and ready is not None:
                true = ready["status"] == "True"
                objects.set_condition(new, "Ready", true, ready.get("reason", ""), ready.get("message", ""))

        self._api.update(VMIS, vmi, change)

    def _unpause(self, pod: Obj) -> None:
        message = "the virtual machine is not paused"
        self._api.update(
            PODS,
            pod,
            lambda new: objects.set_condition(new, objects.UNPAUSED, True, "NotPaused", message, probed=True),
            True,
        )

    def _end(self, vmi: Obj, pods: list[Obj]) -> None:
        """A VMI that is deleted takes its pods with it; one that has just ended keeps them."""
        if not objects.deleting(vmi):
            return
        for pod in pods:
            if not objects.deleting(pod):
                self._api.delete(PODS, pod)
        if objects.phase_of(vmi) not in objects.FINAL:
            if not pods:
                self._api.update(VMIS, vmi, lambda new: objects.set_phase(new, "Failed"))
            elif objects.phase_of(vmi) == "Running":
                message = "virt-launcher pod is terminating"
                self._api.update(
                    VMIS, vmi, lambda new: objects.set_condition(new, "Ready", False, "PodTerminating", message, probed=True)
                )
            return
        if not pods:
            self._forget_migrations(key_of(vmi))
        done = (objects.VM_FINALIZER,) if pods else (objects.VM_FINALIZER, objects.VMI_FINALIZER)
        self._api.update(VMIS, vmi, lambda new: objects.unfinalize(new, *done))

    def _forget_migrations(self, vmi: Key) -> None:
        """Finished migrations go with their VMI."""
        for migration in self._context.migrations(vmi):
            if objects.phase_of(migration) in objects.FINAL:
                self._api.delete(MIGRATIONS, migration)


def _count_pods(vmi: Obj, pods: list[Obj]) -> None:
    active = {uid_of(pod): objects.node_of(pod) for pod in pods if objects.phase_of(pod) not in objects.FINAL}
    if active and objects.phase_of(vmi) not in ("", "Pending"):
        vmi["status"]["activePods"] = active

"""virt-controller's part for VirtualMachines: start, stop and restart, adoption, deletion, status."""

from __future__ import annotations

import copy

from hack.lab.kubevirt import objects
from hack.lab.kubevirt.api import VMIS, VMS, Key, Obj, key_of, uid_of
from hack.lab.kubevirt.context import Context

NOT_STARTED = ("Pending", "Scheduling", "Scheduled")


class Machines:
    """Looks at one VirtualMachine and does the next things that are to be done."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._api = context.api
        self._rerun: set[str] = set()
        """UIDs of VMs with RerunOnFailure whose guest has failed and is to start again."""

    def reconcile(self, key: Key) -> None:
        vm = self._api.get(VMS, key)
        if vm is None:
            return
        vmi = self._api.get(VMIS, key)
        mine = vmi if vmi is not None and objects.owned_by(vmi, uid_of(vm)) else None
        if objects.deleting(vm):
            self._delete(vm, mine)
            return
        if "printableStatus" not in vm.get("status", {}):
            self._api.update(VMS, vm, lambda new: new.setdefault("status", {}).update(printableStatus="Stopped"), True)
        self._api.update(VMS, vm, _observe)
        self._api.update(VMS, vm, _finalize)
        if vmi is not None and mine is None:
            if not vmi["metadata"].get("ownerReferences") and not objects.deleting(vmi) and self._stays(vm):
                self._api.update(VMIS, vmi, lambda new: _adopt(new, vm))
            return
        started = self._run(vm, mine)
        self._status(vm, mine, "Starting" if started else "")

    def _run(self, vm: Obj, vmi: Obj | None) -> bool:
        """Start or stop the VMI as the run strategy and the requests of the subresource API want it; whether it was
        started just now."""
        strategy = strategy_of(vm)
        requests = vm.get("status", {}).get("stateChangeRequests") or []
        if vmi is not None:
            asked = any(each["action"] == "Stop" and each.get("uid") == uid_of(vmi) for each in requests)
            ended = objects.phase_of(vmi) in objects.FINAL
            if strategy == "Halted" or asked or (ended and strategy in ("Always", "RerunOnFailure")):
                if strategy == "RerunOnFailure" and objects.phase_of(vmi) == "Failed":
                    self._rerun.add(uid_of(vm))
                if not objects.deleting(vmi):
                    self._api.delete(VMIS, vmi)
            return False
        asked = any(each["action"] == "Start" for each in requests)
        first = vm.get("status", {}).get("runStrategy") != strategy
        rerun = strategy == "RerunOnFailure" and (first or uid_of(vm) in self._rerun)
        start = strategy == "Always" or (strategy != "Halted" and (asked or rerun))
        if start:
            self._rerun.discard(uid_of(vm))
            self._api.create(VMIS, objects.instance_of(vm))
        if requests:
            self._api.update(VMS, vm, lambda new: new["status"].pop("stateChangeRequests", None), True)
        return start

    def _stays(self, vm: Obj) -> bool:
        """Whether a VM is really not being deleted: an orphaned VMI may be seen before its VM's deletion is."""
        latest = self._api.read(VMS, key_of(vm))
        return latest is not None and uid_of(latest) == uid_of(vm) and not objects.deleting(latest)

    def _delete(self, vm: Obj, vmi: Obj | None) -> None:
        finalizers = vm["metadata"].get("finalizers") or []
        if vmi is not None and "orphan" not in finalizers:
            if not objects.deleting(vmi):
                self._api.delete(VMIS, vmi)
            self._status(vm, vmi)
            return
        self._status(vm, None)
        self._api.update(VMS, vm, lambda new: objects.unfinalize(new, objects.VM_FINALIZER))

    def _status(self, vm: Obj, vmi: Obj | None, printable: str = "") -> None:
        def change(new: Obj) -> None:
            status = new.setdefault("status", {})
            status["printableStatus"] = printable or self._printable(new, vmi)
            if vmi is None:
                status.pop("created", None)
                status.pop("ready", None)
                objects.set_condition(new, "Ready", False, "VMINotExists", "VMI does not exist", probed=True)
                return
            status["created"] = True
            status["desiredGeneration"] = new["metadata"]["generation"]
            generation = objects.annotations_of(vmi).get("kubevirt.io/vm-generation", "")
            if generation.isdigit():
                status["observedGeneration"] = int(generation)
            status["runStrategy"] = strategy_of(new)
            ready = objects.condition(vmi, "Ready")
            status["conditions"] = copy.deepcopy(vmi.get("status", {}).get("conditions") or [])
            if ready is None:
                message = "VMI is missing the Ready condition"
                objects.set_condition(new, "Ready", False, "VMIConditionMissing", message, probed=True)
            if ready is not None and ready["status"] == "True":
                status["ready"] = True
            else:
                status.pop("ready", None)

        self._api.update(VMS, vm, change, status=True)

    def _printable(self, vm: Obj, vmi: Obj | None) -> str:
        """What `kubectl get vm` shows as STATUS."""
        if objects.deleting(vm):
            return "Terminating"
        if vmi is None or objects.phase_of(vmi) in objects.FINAL:
            return "Stopped"
        if objects.deleting(vmi):
            return "Stopping"
        if objects.phase_of(vmi) in NOT_STARTED:
            pods = self._context.launchers(uid_of(vmi))
            scheduled = objects.condition(pods[0], "PodScheduled") if pods else None
            unschedulable = scheduled is not None and scheduled["status"] == "False"
            return "ErrorUnschedulable" if unschedulable else "Starting"
        migration = vmi["status"].get("migrationState") or {}
        return "Migrating" if "startTimestamp" in migration and "endTimestamp" not in migration else "Running"


def strategy_of(vm: Obj) -> str:
    """The run strategy; `spec.running` is its older form."""
    strategy: str = vm["spec"].get("runStrategy") or ("Always" if vm["spec"].get("running") else "Halted")
    return strategy


def _observe(vm: Obj) -> None:
    vm["metadata"].setdefault("annotations", {}).update(objects.OBSERVED_VERSIONS)


def _finalize(vm: Obj) -> None:
    finalizers = vm["metadata"].setdefault("finalizers", [])
    if objects.VM_FINALIZER not in finalizers:
        finalizers.append(objects.VM_FINALIZER)


def _adopt(vmi: Obj, vm: Obj) -> None:
    vmi["metadata"]["ownerReferences"] = [objects.owner(vm, "kubevirt.io/v1", "VirtualMachine")]

"""One live migration, from the VirtualMachineInstanceMigration's creation to its end: virt-controller's and both
virt-handlers' writes in the order in which the real ones were recorded, with the guest's move in the middle.

A script, in a thread of its own: it reads from top to bottom as a recording does.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

from hack.lab.guest import BaseGuest, GuestError, MigrationReport, Nic
from hack.lab.kubevirt import objects
from hack.lab.kubevirt.api import MIGRATIONS, PODS, VMIS, Key, Obj, key_of, uid_of
from hack.lab.kubevirt.context import Context, Sandbox
from hack.lab.kubevirt.handler import Handler, set_address
from hack.lab.kubevirt.kubelet import Kubelet
from hack.lab.qmp import QmpError

FAILURE = "virError(Code=9, Domain=10, Message='operation failed: migration failed')"
ABORTED = "Live migration has been aborted"
TARGET_DOWN = "Target pod is down"
CONFIGURATION = {
    "allowAutoConverge": False,
    "allowPostCopy": False,
    "allowWorkloadDisruption": False,
    "bandwidthPerMigration": "0",
    "completionTimeoutPerGiB": 150,
    "maxDowntimeMs": 900,
    "nodeDrainTaintKey": "kubevirt.io/drain",
    "parallelMigrationsPerCluster": 5,
    "parallelOutboundMigrationsPerNode": 2,
    "progressTimeout": 150,
    "unsafeMigrationOverride": False,
}


class _StoppedError(Exception):
    """The migration does not go on; the message is the failure reason."""


class _CancelledError(_StoppedError):
    """Its object was deleted."""


class _TargetDownError(_StoppedError):
    """Its target launcher has ended."""


class MigrationRun(threading.Thread):
    """Runs one migration."""

    def __init__(self, context: Context, handler: Handler, kubelet: Kubelet, migration: Obj) -> None:
        super().__init__(name=f"migration {migration['metadata']['name']}", daemon=True)
        self._context = context
        self._api = context.api
        self._handler = handler
        self._kubelet = kubelet
        self._faults = copy.deepcopy(context.faults)
        self._key = key_of(migration)
        self._uid = uid_of(migration)
        self.report: MigrationReport | None = None
        """What the guest's move took, once it has switched."""
        self._vmi_key = Key(self._key.namespace, migration["spec"]["vmiName"])
        self._vmi_uid = ""
        self._source: Sandbox | None = None
        self._pod: Obj | None = None
        self._handed_off = False
        self._switched = False
        self._cancel = threading.Event()

    def check(self) -> None:
        """Something has changed: if the migration cannot go on, QEMU is told."""
        try:
            self._go_on()
        except _StoppedError:
            self._cancel.set()

    def run(self) -> None:
        try:
            self._migrate()
        except (_StoppedError, GuestError, QmpError) as error:
            if self._switched:  # the VMI was deleted meanwhile, and with it all that would be written
                self._conclude("Failed")
            else:
                self._fail(error)
        finally:
            self._context.switched.discard(self._vmi_uid)

    # ---- the script

    def _migrate(self) -> None:
        self._migration_metadata(_admit)
        vmi = self._wait_for_turn()
        self._vmi_uid = uid_of(vmi)
        source_node = vmi["status"]["nodeName"]
        source_pod = self._context.launcher_on(vmi, source_node)
        if source_pod is None or (source := self._context.sandbox(source_pod)) is None or source.guest is None:
            raise _StoppedError("VMI has no running launcher")
        self._source = source
        name = source_pod["metadata"]["name"]
        self._phase("Pending", {"migrationState": {"sourcePod": name}})
        self._vmi(lambda new: new["metadata"].setdefault("annotations", {}).update({"kubevirt.io/nonroot": "true"}))

        migration, vmi = self._current(), self._vmi_now()
        self._pod = pod = self._api.create(PODS, objects.target_launcher_of(vmi, migration))
        self._phase("Scheduling")
        self._wait(lambda: objects.node_of(self._pod_now()) != "")
        target_node = objects.node_of(self._pod_now())
        self._wait(lambda: objects.phase_of(self._pod_now()) == "Running")
        self._phase("Scheduled")

        state = {
            "migrationUid": self._uid,
            "sourceNode": source_node,
            "targetNode": target_node,
            "sourcePod": name,
            "targetPod": pod["metadata"]["name"],
            "migrationConfiguration": CONFIGURATION,
            "targetMemoryOverhead": "268Mi",
        }
        self._step()
        self._vmi(lambda new: _hand_off(new, state))
        self._handed_off = True
        self._phase("PreparingTarget")

        self._step(target_node)
        target = self._receive(target_node)
        ports = {"targetNodeAddress": self._host(target_node), "targetDirectMigrationNodePorts": {"49152": 0}}
        self._state(**ports)
        self._phase("TargetReady")

        self._step(source_node)
        self._state(startTimestamp=objects.now(), mode="PreCopy")
        self._phase("Running")
        self._step(target_node)
        self._state(targetNodeDomainDetected=True)
        self._step(target_node)
        guest = source.guest
        guest.announces = guest.announces and not self._faults.suppress_announce
        self.report = guest.migrate_to(target, stall=self._faults.stalls, cancel=self._cancel)
        self._switched = True
        self._context.switched.add(self._vmi_uid)
        self._finish(source_node, target_node)

    def _finish(self, source_node: str, target_node: str) -> None:
        """The guest runs on the target. What is written in which order, a fault decides."""
        delays = self._faults.delays
        actions: dict[str, Callable[[], None]] = {
            "domain ready": lambda: self._domain_ready(delays.domain_ready, target_node),
            "node name": lambda: self._node_name(target_node),
            "succeeded": self._succeed,
            "source completed": lambda: self._release_source(source_node, delays.source_lingers),
        }
        for name in self._faults.end_order:
            actions[name]()
        self._vmi(lambda new: new["metadata"]["labels"].pop(objects.TARGET_NODE_NAME, None))

    def _domain_ready(self, seconds: float, node: str) -> None:
        self._pause(seconds, node)
        self._state(targetNodeDomainReadyTimestamp=objects.now())
        # A Go time string and no RFC 3339, as virt-controller writes it.
        stamp = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S +0000 UTC")
        self._target_annotation("kubevirt.io/migration-target-ready-timestamp", stamp)

    def _node_name(self, node: str) -> None:
        pod = self._pod_now()

        def change(new: Obj) -> None:
            new["status"]["migrationState"]["endTimestamp"] = objects.now()
            new["status"]["nodeName"] = node
            new["metadata"]["labels"][objects.NODE_NAME] = node
            new["status"].pop("launcherContainerImageVersion", None)
            for entry in new["status"].get("interfaces") or ():
                set_address(entry, pod)

        self._pause(self._faults.delays.migration_step, node)
        self._vmi(change)
        self._context.switched.discard(self._vmi_uid)

    def _succeed(self) -> None:
        self._pause(self._faults.delays.migration_step)
        self._state(completed=True)
        self._conclude("Succeeded")

    def _release_source(self, node: str, lingers: float) -> None:
        self._pause(lingers, node)
        if self._source is not None and self._source.guest is not None:
            self._source.guest.release()

    def _fail(self, error: Exception) -> None:
        """Write what KubeVirt writes when a migration does not succeed; the target launcher ends."""
        pod = self._pod
        if isinstance(error, (GuestError, QmpError)):
            try:
                self._go_on()  # the guest's error may only be the consequence of a deletion
            except _StoppedError as reason:
                error = reason
        if isinstance(error, _TargetDownError):
            self._conclude("Failed")
            if self._handed_off:
                self._failed_state(TARGET_DOWN)
        elif self._handed_off:
            extra = {}
            if isinstance(error, _CancelledError):
                self._state(abortRequested=True)
                extra = {"abortStatus": "Succeeded"}
            self._failed_state(str(error) if isinstance(error, _StoppedError) else FAILURE, **extra)
            self._conclude("Failed")
        else:
            if pod is not None:
                self._api.delete(PODS, pod)
            self._conclude("Failed")
        self._vmi(lambda new: new["metadata"].setdefault("labels", {}).pop(objects.TARGET_NODE_NAME, None))
        sandbox = self._context.sandbox(pod)
        if pod is not None and sandbox is not None:
            if sandbox.guest is not None:
                sandbox.guest.kill()
            sandbox.finished = True
            self._context.look("pod", key_of(pod))

    # ---- its parts

    def _wait_for_turn(self) -> Obj:
        """One migration of a VMI at a time; the VMI must run."""

        def free() -> bool:
            older = [each for each in self._context.migrations(self._vmi_key) if objects.phase_of(each) not in objects.FINAL]
            vmi = self._api.get(VMIS, self._vmi_key)
            running = vmi is not None and objects.phase_of(vmi) == "Running"
            return running and uid_of(older[0] if older else self._current()) == self._uid

        self._wait(free)
        return self._vmi_now()

    def _receive(self, node: str) -> BaseGuest:
        """Start the guest that waits for the migration in the target launcher."""
        sandbox = self._context.sandbox(self._pod)
        if sandbox is None or self._source is None or self._source.guest is None:
            raise _TargetDownError(TARGET_DOWN)
        macs = {each.name: each.mac for each in self._source.attachments}
        nics = [Nic(each.tap, macs.get(each.name, each.mac)) for each in sandbox.attachments]
        guest = self._handler.guest(sandbox, self._vmi_now(), nics)
        guest.start(incoming=True)
        sandbox.guest = guest
        if node in self._context.dead:
            raise _TargetDownError(TARGET_DOWN)
        return guest

    def _phase(self, phase: str, more: Obj | None = None) -> None:
        """Set the migration's phase; then whatever is to go wrong after it, does."""

        def change(new: Obj) -> None:
            objects.set_phase(new, phase)
            new["status"] |= more or {}

        self._api.update(MIGRATIONS, self._current(), change, status=True)
        faults = self._faults
        if faults.target_dies == phase:
            self._kubelet.fail(self._pod_now())
            self._go_on()
        if faults.fails == phase:
            raise _StoppedError(FAILURE)

    def _conclude(self, phase: str) -> None:
        """The final phase, in the next write a copy of the VMI's migration state, in the next the finalizer."""
        migration = self._api.get(MIGRATIONS, self._key)
        if migration is None:
            return
        self._api.update(MIGRATIONS, migration, lambda new: objects.set_phase(new, phase), status=True)
        vmi = self._api.get(VMIS, self._vmi_key)
        state = copy.deepcopy((vmi or {}).get("status", {}).get("migrationState") or {})
        if state.get("migrationUid") == self._uid:
            self._api.update(MIGRATIONS, migration, lambda new: new["status"].update(migrationState=state), status=True)
        self._migration_metadata(lambda new: objects.unfinalize(new, objects.MIGRATION_FINALIZER))

    def _failed_state(self, reason: str, **extra: str) -> None:
        self._state(completed=True, failed=True, failureReason=reason, endTimestamp=objects.now(), **extra)

    def _state(self, **fields: object) -> None:
        """Set fields of the VMI's migration state, as long as it is this migration's."""

        def change(new: Obj) -> None:
            state = new["status"].get("migrationState") or {}
            if state.get("migrationUid") == self._uid:
                state.update(fields)

        self._vmi(change)

    def _vmi(self, change: Callable[[Obj], None]) -> None:
        vmi = self._api.get(VMIS, self._vmi_key)
        if vmi is not None and uid_of(vmi) == self._vmi_uid:
            self._api.update(VMIS, vmi, change)

    def _migration_metadata(self, change: Callable[[Obj], None]) -> None:
        migration = self._api.get(MIGRATIONS, self._key)
        if migration is not None and uid_of(migration) == self._uid:
            self._api.update(MIGRATIONS, migration, change)

    def _target_annotation(self, key: str, value: str) -> None:
        self._api.update(PODS, self._pod_now(), lambda new: new["metadata"]["annotations"].update({key: value}))

    def _host(self, node: str) -> str:
        pod = self._pod_now()
        address: str = pod["status"].get("hostIP", node)
        return address

    # ---- waiting, and being stopped

    def _step(self, node: str = "") -> None:
        self._pause(self._faults.delays.migration_step, node)

    def _pause(self, seconds: float, node: str = "") -> None:
        """Wait, and as long as the node that is to act is dead."""
        time.sleep(seconds)
        self._wait(lambda: node not in self._context.dead)

    def _wait(self, probe: Callable[[], bool]) -> None:
        def stopped() -> bool:
            try:
                self._go_on()
            except _StoppedError:
                return True
            return False

        self._api.wait_for(lambda: stopped() or probe())
        self._go_on()

    def _go_on(self) -> None:
        """Raise what stops the migration; nothing does once the guest has switched."""
        if self._switched:
            return
        migration = self._api.get(MIGRATIONS, self._key)
        if migration is None or objects.deleting(migration):
            raise _CancelledError(ABORTED)
        vmi = self._api.get(VMIS, self._vmi_key)
        if self._vmi_uid and (
            vmi is None or uid_of(vmi) != self._vmi_uid or objects.deleting(vmi) or objects.phase_of(vmi) in objects.FINAL
        ):
            raise _StoppedError("VMI is gone")
        if self._pod is not None:
            pod = self._api.get(PODS, key_of(self._pod))
            if pod is None or objects.phase_of(pod) in objects.FINAL or objects.deleting(pod):
                raise _TargetDownError(TARGET_DOWN)

    def _current(self) -> Obj:
        migration = self._api.get(MIGRATIONS, self._key)
        if migration is None:
            raise _CancelledError(ABORTED)
        return migration

    def _vmi_now(self) -> Obj:
        vmi = self._api.get(VMIS, self._vmi_key)
        if vmi is None:
            raise _StoppedError("VMI is gone")
        return vmi

    def _pod_now(self) -> Obj:
        pod = self._api.get(PODS, key_of(self._pod)) if self._pod is not None else None
        if pod is None:
            raise _TargetDownError(TARGET_DOWN)
        return pod


def _admit(migration: Obj) -> None:
    """What the webhook adds, where the migration did not come through `KubeVirt.migrate`, and virt-controller's first
    write."""
    if not objects.deleting(migration):
        objects.admit_migration(migration)
    migration["metadata"].setdefault("annotations", {}).update(objects.OBSERVED_VERSIONS)


def _hand_off(vmi: Obj, state: Obj) -> None:
    """The previous migration's state is replaced as a whole."""
    vmi["status"]["migrationState"] = copy.deepcopy(state)
    vmi["metadata"].setdefault("labels", {})[objects.TARGET_NODE_NAME] = state["targetNode"]

"""One live migration as both nodes' virt-handlers do it: from the hand-off that virt-controller writes into the VMI, over
the guest's move, to the state with which virt-controller ends it.

A script, in a thread of its own: it reads from top to bottom as a recording does.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from hack.lab.guest import BaseGuest, GuestError, MigrationReport, Nic
from hack.lab.kubevirt import objects
from hack.lab.kubevirt.api import PODS, VMIS, Key, Obj, key_of, uid_of
from hack.lab.kubevirt.context import Context, Sandbox
from hack.lab.qmp import QmpError

FAILURE = "virError(Code=9, Domain=10, Message='operation failed: migration failed')"
ABORTED = "Live migration has been aborted"
TARGET_DOWN = "Target pod is down"


class Guests(Protocol):
    """Makes guests."""

    def guest(self, sandbox: Sandbox, vmi: Obj, nics: Sequence[Nic]) -> BaseGuest:
        """A guest for a pod, not started yet."""


class _StoppedError(Exception):
    """The migration does not go on; the message is the failure reason."""


class _CancelledError(_StoppedError):
    """virt-controller has asked for its end."""


class _TargetDownError(_StoppedError):
    """Its target launcher has ended."""


class MigrationRun(threading.Thread):
    """Runs one migration: the one that is in the VMI's migration state now."""

    def __init__(self, context: Context, guests: Guests, vmi: Obj) -> None:
        state = vmi["status"]["migrationState"]
        super().__init__(name=f"migration {state['migrationUid']}", daemon=True)
        self._context = context
        self._api = context.api
        self._guests = guests
        self._faults = copy.deepcopy(context.faults)
        self._key, self._vmi_uid = key_of(vmi), uid_of(vmi)
        self._uid = state["migrationUid"]
        self._source_node, self._target_node = state["sourceNode"], state["targetNode"]
        self._source_pod = Key(self._key.namespace, state["sourcePod"])
        self._target_pod = Key(self._key.namespace, state["targetPod"])
        self.report: MigrationReport | None = None
        """What the guest's move took, once it has switched."""
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
            if not self._switched:  # else the VMI was deleted meanwhile, and with it all that would be written
                self._fail(error)
        finally:
            self._context.switched.discard(self._vmi_uid)

    # ---- the script

    def _migrate(self) -> None:
        source = self._context.sandbox(self._api.get(PODS, self._source_pod))
        if source is None or source.guest is None:
            raise _StoppedError("VMI has no running launcher")
        self._fault("Scheduled")  # virt-controller is past that by now, or will be without anybody's help
        self._fault("PreparingTarget")
        self._step(self._target_node)
        target = self._receive(source)
        address = self._pod_now()["status"].get("hostIP", self._target_node)
        self._target_state(targetNodeAddress=address, targetDirectMigrationNodePorts={"49152": 0})
        self._fault("TargetReady")

        self._step(self._source_node)
        self._state(self._source_node, startTimestamp=objects.now(), mode="PreCopy")
        self._fault("Running")
        self._step(self._target_node)
        self._target_state(targetNodeDomainDetected=True)
        self._step(self._target_node)
        guest = source.guest
        guest.announces = guest.announces and not self._faults.suppress_announce
        self.report = guest.migrate_to(target, stall=self._faults.stalls, cancel=self._cancel)
        self._switched = True
        self._context.switched.add(self._vmi_uid)
        self._finish(guest)

    def _finish(self, source: BaseGuest) -> None:
        """The guest runs on the target. What is written in which order, a fault decides."""
        delays = self._faults.delays
        actions: dict[str, Callable[[], None]] = {
            "domain ready": lambda: self._domain_ready(delays.domain_ready),
            "node name": self._node_name,
            "succeeded": self._complete,
            "source completed": lambda: self._release(source, delays.source_lingers),
        }
        for name in self._faults.end_order:
            actions[name]()
        self._clean_up()

    def _domain_ready(self, seconds: float) -> None:
        self._pause(seconds, self._target_node)
        self._target_state(targetNodeDomainReadyTimestamp=objects.now())

    def _node_name(self) -> None:
        def change(new: Obj) -> None:
            new["status"]["migrationState"]["endTimestamp"] = objects.now()
            new["status"]["nodeName"] = self._target_node
            new["metadata"]["labels"][objects.NODE_NAME] = self._target_node
            new["status"].pop("launcherContainerImageVersion", None)
            new["status"].pop("evacuationNodeName", None)

        self._step(self._target_node)
        self._vmi(change, self._target_node)
        self._context.switched.discard(self._vmi_uid)

    def _complete(self) -> None:
        self._step(self._target_node)
        self._state(self._target_node, completed=True)

    def _release(self, source: BaseGuest, lingers: float) -> None:
        self._pause(lingers, self._source_node)
        source.release()

    def _clean_up(self) -> None:
        """The target's virt-handler is done with the migration."""
        self._vmi(lambda new: new["metadata"]["labels"].pop(objects.TARGET_NODE_NAME, None), self._target_node)

    def _fail(self, error: Exception) -> None:
        """Write what the source's virt-handler writes when a migration does not succeed; the target launcher ends."""
        if isinstance(error, (GuestError, QmpError)):
            try:
                self._go_on()  # the guest's error may only be the consequence of a deletion
            except _StoppedError as reason:
                error = reason
        if isinstance(error, _CancelledError):
            self._failed_state(ABORTED, abortStatus="Succeeded")
        elif not isinstance(error, _TargetDownError):  # of a launcher that has ended virt-controller knows by itself
            self._failed_state(str(error) if isinstance(error, _StoppedError) else FAILURE)
        self._api.wait_for(self._over)
        self._clean_up()
        pod = self._api.get(PODS, self._target_pod)
        sandbox = self._context.sandbox(pod)
        if sandbox is not None:
            if sandbox.guest is not None:
                sandbox.guest.kill()
            sandbox.finished = True
            self._context.look("pod", self._target_pod)

    # ---- its parts

    def _receive(self, source: Sandbox) -> BaseGuest:
        """Start the guest that waits for the migration in the target launcher."""
        sandbox = self._context.sandbox(self._pod_now())
        if sandbox is None:
            raise _TargetDownError(TARGET_DOWN)
        macs = {each.name: each.mac for each in source.attachments}
        nics = [Nic(each.tap, macs.get(each.name, each.mac)) for each in sandbox.attachments]
        guest = self._guests.guest(sandbox, self._vmi_now(), nics)
        guest.start(incoming=True)
        sandbox.guest = guest
        return guest

    def _fault(self, phase: str) -> None:
        """Fail if the migration is to fail in this phase, once it is in it; wait for the target's end if that is to come."""
        if self._faults.target_dies == phase:
            self._wait(lambda: False)
        if self._faults.fails == phase:
            self._wait(lambda: objects.phase_of(self._context.migration(self._uid) or {}) == phase)
            raise _StoppedError(FAILURE)

    def _failed_state(self, reason: str, **extra: str) -> None:
        end = {"completed": True, "failed": True, "failureReason": reason, "endTimestamp": objects.now()}
        self._state(self._source_node, **end, **extra)

    def _target_state(self, **fields: object) -> None:
        self._state(self._target_node, **fields)

    def _state(self, node: str, **fields: object) -> None:
        """Set fields of the VMI's migration state, as long as it is this migration's."""

        def change(new: Obj) -> None:
            state = new["status"].get("migrationState") or {}
            if state.get("migrationUid") == self._uid:
                state.update(fields)

        self._vmi(change, node)

    def _vmi(self, change: Callable[[Obj], None], node: str) -> None:
        """Write the VMI as this node's virt-handler, which does nothing while its node is dead."""
        self._api.wait_for(lambda: node not in self._context.dead)
        vmi = self._api.get(VMIS, self._key)
        if vmi is not None and uid_of(vmi) == self._vmi_uid:
            self._api.update(VMIS, vmi, change, node=node)

    # ---- waiting, and being stopped

    def _step(self, node: str) -> None:
        self._pause(self._faults.delays.migration_step, node)

    def _pause(self, seconds: float, node: str) -> None:
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
        vmi = self._vmi_now()
        if objects.deleting(vmi) or objects.phase_of(vmi) in objects.FINAL:
            raise _StoppedError("VMI is gone")
        state = vmi["status"].get("migrationState") or {}
        if state.get("abortRequested") and state.get("migrationUid") == self._uid:
            raise _CancelledError(ABORTED)
        self._pod_now()

    def _over(self) -> bool:
        """Whether the migration's end is written, or nobody is left who could."""
        vmi = self._api.get(VMIS, self._key)
        state = vmi["status"].get("migrationState") or {} if vmi is not None and uid_of(vmi) == self._vmi_uid else {}
        return state.get("migrationUid") != self._uid or "endTimestamp" in state

    def _vmi_now(self) -> Obj:
        vmi = self._api.get(VMIS, self._key)
        if vmi is None or uid_of(vmi) != self._vmi_uid:
            raise _StoppedError("VMI is gone")
        return vmi

    def _pod_now(self) -> Obj:
        pod = self._api.get(PODS, self._target_pod)
        if pod is None or objects.phase_of(pod) in objects.FINAL or objects.deleting(pod):
            raise _TargetDownError(TARGET_DOWN)
        return pod

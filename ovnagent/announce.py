"""Tells people what was done: one log line an action, Events on the VM, metrics."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

from ovnagent.core.plan import Case, Result
from ovnagent.core.ports import MIGRATION, Port
from ovnagent.core.problems import Problem
from ovnagent.core.timeline import Timeline, summary
from ovnagent.core.vm import VmKey
from ovnagent.kube.events import Events, ObjectRef
from ovnagent.ovn.changes import Change, CreatePort, DeletePort, UpdatePort
from ovnagent.serve.metrics import Metrics

LOG = logging.getLogger(__name__)


class Announcer:
    """Says what a committed result means."""

    def __init__(self, events: Events, metrics: Metrics) -> None:
        self._events = events
        self._metrics = metrics

    def sweep_held(self, message: str) -> None:
        """On the agent's own pod where it is told which that is, else on its namespace."""
        LOG.error("sweep held", extra={"reason": message})
        namespace = os.environ.get("POD_NAMESPACE", "default")
        pod, uid = os.environ.get("POD_NAME", ""), os.environ.get("POD_UID", "")
        ref = ObjectRef("Pod", namespace, pod, uid) if pod else ObjectRef("Namespace", namespace, namespace, "")
        self._events.warn(ref, "SweepHeld", message)

    def drift(self, key: VmKey, rows: int) -> None:
        LOG.warning("drift repaired", extra={"vm": key, "rows": rows, "reason": "NB was changed by others"})

    def tell(
        self,
        result: Result,
        case: Case,
        changes: Sequence[Change],
        problems: Sequence[Problem],
        before: Sequence[Problem],
        seconds: float,
        timeline: Timeline | None = None,
    ) -> None:
        """`seconds`: from the first news of the VM to the commit; `timeline`: of the migration that is under way, or over
        with this."""
        ref = object_ref(result, case)
        for change in changes:
            match change:
                case CreatePort(port):
                    self._created(result, port, ref, seconds)
                case UpdatePort(present, port):
                    self._updated(case, present.port, port, ref, seconds, timeline)
                case DeletePort(present):
                    LOG.info("port deleted", extra={"vm": result.key, "port": present.port.name, "reason": "no VM uses it"})
        for problem in problems:
            if problem not in before:
                LOG.warning("refused", extra={"vm": result.key, "why": problem.reason, "reason": problem.message})
            if ref is not None:
                self._events.warn(ref, problem.reason, problem.message)

    def _created(self, result: Result, port: Port, ref: ObjectRef | None, seconds: float) -> None:
        self._metrics.create_seconds.observe(seconds)
        addresses = ", ".join(port.ips)
        LOG.info(
            "port created",
            extra={
                "vm": result.key,
                "port": port.name,
                "switch": port.switch,
                "addresses": addresses,
                "mac": port.mac,
                "chassis": port.option("requested-chassis"),
            },
        )
        if ref is not None:
            text = f"{addresses} (MAC {port.mac}) on logical switch {port.switch}, port {port.name}"
            self._events.normal(ref, "AddressAssigned", text)

    def _updated(
        self, case: Case, old: Port, new: Port, ref: ObjectRef | None, seconds: float, timeline: Timeline | None
    ) -> None:
        before, after = old.requested_chassis, new.requested_chassis
        fields = {"vm": case.facts.key, "port": new.name}
        if before != after:
            LOG.info("port placed", extra={**fields, "chassis": ",".join(after) or "none", "before": ",".join(before)})
        if old.addresses != new.addresses:
            LOG.info("port readdressed", extra={**fields, "addresses": " ".join(new.addresses)})
            if ref is not None:
                self._events.normal(ref, "AddressAssigned", f"{', '.join(new.ips)} (MAC {new.mac}), port {new.name}")
        if len(after) == 2 and len(before) < 2:
            self._metrics.target_seconds.observe(seconds)
            text = f"port {new.name} may be bound on {after[0]} and, announced, on {after[1]}"
            self._say(ref, "MigrationPrepared", _of_migration(case, new.external_id(MIGRATION)) + text)
        if len(before) == 2 and len(after) == 1:
            migration = old.external_id(MIGRATION)
            reason = "MigrationDone" if migration and migration == case.where.migration else "MigrationRolledBack"
            text = f"port {new.name} is bound on {after[0]} alone"
            if timeline is not None and timeline.uid == migration and (times := summary(timeline, new.name)):
                text += f"; {times}"
            self._say(ref, reason, _of_migration(case, migration) + text)

    def _say(self, ref: ObjectRef | None, reason: str, message: str) -> None:
        if ref is not None:
            self._events.normal(ref, reason, message)


def _of_migration(case: Case, uid: str) -> str:
    """The migration by its name, so that each tells its own; by its UID where the object is gone."""
    name = next((migration.name for migration in case.facts.migrations if migration.uid == uid), uid)
    return f"migration {name}: " if name else ""


def object_ref(result: Result, case: Case) -> ObjectRef | None:
    """The VM, or the VMI where there is no VM; None where neither is left."""
    vm, vmi = case.facts.vm, case.facts.vmi
    owner = result.owner
    if owner is not None and owner.kind == "VirtualMachine" and vm is not None and vm.uid == owner.uid:
        return ObjectRef("VirtualMachine", vm.namespace, vm.name, vm.uid)
    if owner is None and vm is not None:  # its plan has failed, or waits
        return ObjectRef("VirtualMachine", vm.namespace, vm.name, vm.uid)
    if vmi is not None:
        return ObjectRef("VirtualMachineInstance", vmi.namespace, vmi.name, vmi.uid)
    return None

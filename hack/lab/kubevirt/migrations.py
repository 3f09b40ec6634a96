"""Starts a run for each migration, tells it when something has changed, and keeps the last five finished ones."""

from __future__ import annotations

import threading

from hack.lab.guest import MigrationReport
from hack.lab.kubevirt import objects
from hack.lab.kubevirt.api import MIGRATIONS, PODS, Key, Obj, uid_of
from hack.lab.kubevirt.context import Context
from hack.lab.kubevirt.handler import Handler
from hack.lab.kubevirt.kubelet import Kubelet
from hack.lab.kubevirt.migration import MigrationRun

KEPT = 5


class Migrations:
    """Looks at one VirtualMachineInstanceMigration."""

    def __init__(self, context: Context, handler: Handler, kubelet: Kubelet) -> None:
        self._context = context
        self._handler = handler
        self._kubelet = kubelet
        self._lock = threading.Lock()
        self._runs: dict[str, MigrationRun] = {}

    def reconcile(self, key: Key) -> None:
        migration = self._context.api.get(MIGRATIONS, key)
        if migration is None:
            return
        with self._lock:
            run = self._runs.get(uid_of(migration))
            if run is None and objects.phase_of(migration) not in objects.FINAL and not objects.deleting(migration):
                run = MigrationRun(self._context, self._handler, self._kubelet, migration)
                self._runs[uid_of(migration)] = run
                run.start()
                return
        if run is not None:
            run.check()
        if objects.phase_of(migration) in objects.FINAL:
            self._forget_old(Key(key.namespace, migration["spec"]["vmiName"]))

    def report(self, migration: Obj) -> MigrationReport | None:
        """What the guest's move took."""
        run = self._runs.get(uid_of(migration))
        return run.report if run is not None else None

    def _forget_old(self, vmi: Key) -> None:
        """More than five finished migrations: the oldest go, and their completed pods."""
        finished = [each for each in self._context.migrations(vmi) if objects.phase_of(each) in objects.FINAL]
        for migration in finished[:-KEPT]:
            self._context.api.delete(MIGRATIONS, migration)
            name = (migration["status"].get("migrationState") or {}).get("sourcePod")
            pod = self._context.api.get(PODS, Key(vmi.namespace, name)) if name else None
            if pod is not None and objects.phase_of(pod) in objects.FINAL:
                self._context.api.delete(PODS, pod)

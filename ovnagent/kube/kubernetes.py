"""The Kubernetes side as the reconciler sees it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ovnagent.core.vm import Facts, VmKey
from ovnagent.kube.client import Client, KubeConfig
from ovnagent.kube.events import Events, ObjectRef
from ovnagent.kube.kinds import KINDS
from ovnagent.kube.records import Records
from ovnagent.kube.store import Changed, Labels, Store
from ovnagent.kube.watch import Watcher
from ovnagent.kube.writer import ALWAYS, Writer
from ovnagent.process import memory
from ovnagent.process.supervision import Loop, Supervisor

RECORD_WORKERS, RECORDS_PER_SECOND = 12, 250.0
EVENT_WORKERS, EVENTS_PER_SECOND = 4, 100.0
SYNC_SECONDS, TIDY_SECONDS = 0.02, 1.0


def _nobody(*_: str) -> None:
    """Who only looks counts nothing."""


@dataclass(frozen=True, slots=True)
class Counters:
    """Who is told of what goes wrong, by words for metrics."""

    watch_error: Callable[[str, str], None] = _nobody
    """(kind, reason)."""
    write_dropped: Callable[[str, str], None] = _nobody
    """(queue, reason)."""
    event_suppressed: Callable[[str], None] = _nobody
    """(reason)."""


class Kubernetes:
    """All watches, the facts they keep, and the writers of records and Events."""

    def __init__(
        self,
        config: KubeConfig,
        changed: Changed,
        everything: Callable[[], None],
        supervisor: Supervisor,
        counters: Counters = Counters(),
        tell: bool = True,
        calm: threading.Event = ALWAYS,
    ) -> None:
        """`tell`: say in Events which objects cannot be read; `calm`: set while no VM is looked at."""
        client = Client(config)
        self.store = Store(changed)

        def writer(name: str, workers: int, per_second: float) -> Writer:
            return Writer(name, workers, per_second, supervisor, lambda why: counters.write_dropped(name, why), calm)

        self.record_writer = writer("records", RECORD_WORKERS, RECORDS_PER_SECOND)
        self.event_writer = writer("events", EVENT_WORKERS, EVENTS_PER_SECOND)
        self.records = Records(client, self.record_writer, lambda keys: changed(keys, False))
        self.events = Events(client, self.event_writer, counters.event_suppressed)
        self._everything = everything
        self._tell = tell
        self._watchers = [
            Watcher(client, kind, self.store, counters.watch_error, self._unreadable, supervisor) for kind in KINDS
        ]
        self._announced = False
        self._tidier = supervisor.loop("tidy-kubernetes", self._tidy)

    def start(self) -> None:
        self.record_writer.start()
        self.event_writer.start()
        for watcher in self._watchers:
            watcher.start()
        self._tidier.start()

    def stop(self, seconds: float = 0.7) -> None:
        """Ends all threads; what is still to be written gets so many seconds."""
        self._tidier.stop()
        for watcher in self._watchers:
            watcher.stop()
        self.record_writer.flush(seconds)
        self.record_writer.stop()
        self.event_writer.stop()

    def hold_writes(self, seconds: float) -> None:
        """No record and no Event is written before `release_writes`, or for so long at most: all wait."""
        self.record_writer.hold(seconds)
        self.event_writer.hold(seconds)

    def release_writes(self) -> None:
        self.record_writer.release()
        self.event_writer.release()

    @property
    def synced(self) -> bool:
        """Every kind has been listed completely."""
        return all(watcher.synced for watcher in self._watchers)

    @property
    def read(self) -> int:
        """Objects that lists have brought so far."""
        return sum(watcher.read for watcher in self._watchers)

    @property
    def stale(self) -> Mapping[str, float]:
        """Kind -> seconds for which it has not been heard of longer than a quiet watch explains."""
        return {watcher.kind.name: watcher.age for watcher in self._watchers if not watcher.kind.optional}

    @property
    def quarantined(self) -> Mapping[str, int]:
        """Kind -> how many of its objects cannot be read."""
        return {kind.name: self.store.quarantined(kind.fact) for kind in KINDS}

    def facts(self, key: VmKey) -> Facts:
        return self.store.facts(key)

    def keys(self) -> set[VmKey]:
        return self.store.keys()

    def node_chassis(self) -> Mapping[str, str]:
        return self.store.node_chassis()

    def nads(self) -> Mapping[str, str]:
        return self.store.nads()

    def namespaces(self) -> Mapping[str, Labels]:
        return self.store.namespaces()

    def _unreadable(self, ref: ObjectRef, why: str) -> None:
        if self._tell:
            self.events.warn(ref, "Unreadable", f"{why}; what was known of it before counts until it can be read")

    def _tidy(self, loop: Loop) -> None:
        """Wake the reconciler once all is there; what has been loaded need never be walked by the collector again (pauses
        of 400-500 ms with 10,000 VMs). Then look after records that were not heard of again."""
        if self._announced:
            self.records.tidy()
            loop.pause(TIDY_SECONDS)
        elif self.synced:
            memory.keep()
            self._announced = True
            self._everything()
        else:
            loop.pause(SYNC_SECONDS)

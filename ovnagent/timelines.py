"""The last migrations as this agent saw them (core/timeline.py), kept in memory and served as /migrations."""

from __future__ import annotations

import os
import platform
import threading
import time
from collections import OrderedDict
from datetime import UTC, datetime
from typing import Any

import orjson

from ovnagent.core.plan import Case, Result
from ovnagent.core.timeline import Timeline, late, observe
from ovnagent.core.vm import VmKey

KEPT = 200
"""So many of those that are over; the oldest beyond it are forgotten. Those under way are kept: a VM has one at a time."""


class Timelines:
    """Changed by the reconciler's thread; `document` may be asked from any."""

    def __init__(self) -> None:
        self._open: dict[VmKey, Timeline] = {}
        self._over: OrderedDict[tuple[VmKey, str], Timeline] = OrderedDict()
        self._lock = threading.Lock()
        """Of the two maps, while they change or are shown."""
        self._leads = ""

    def lead(self) -> None:
        """The agent has begun to lead."""
        self._leads = _text(time.monotonic())

    def look(self, case: Case, result: Result, news: float, done: float, first: bool) -> Timeline | None:
        """A look at a VM whose rows are written: see `observe`. The timeline, if a migration is under way or just over."""
        key = result.key
        before = self._open.get(key)
        timeline = observe(before, case, result, news, done, first)
        if timeline is None or timeline is before:
            return timeline
        with self._lock:
            if not timeline.over:
                self._open[key] = timeline
                return timeline
            self._open.pop(key, None)
            self._over[key, timeline.uid] = timeline
            while len(self._over) > KEPT:
                self._over.popitem(last=False)
            following = observe(None, case, result, news, done, first)
            if following is not None and following.uid != timeline.uid:  # the next one has begun already
                self._open[key] = following
        return timeline

    def document(self) -> bytes:
        """All of them as JSON, the oldest first."""
        with self._lock:
            shown = [*self._over.values(), *self._open.values()]
        found = sorted(shown, key=lambda each: each.began)
        agent = os.environ.get("POD_NAME") or f"{platform.node()}/{os.getpid()}"
        return orjson.dumps({"agent": agent, "leads_since": self._leads, "migrations": [_plain(each) for each in found]})


def _plain(timeline: Timeline) -> dict[str, Any]:
    return {
        "namespace": timeline.vm.namespace,
        "vm": timeline.vm.name,
        "migration": timeline.name,
        "uid": timeline.uid,
        "source": timeline.source,
        "target": timeline.target,
        "chassis": {port: list(pair) for port, pair in sorted(timeline.chassis.items())},
        "outcome": timeline.outcome.value,
        "began": _text(timeline.began),
        "seconds": round(timeline.seconds, 3),
        "steps": [{"step": step.value, "port": port, "seconds": round(at, 3)} for (step, port), at in timeline.marks],
        "unseen": sorted({step.value for step, _ in timeline.unseen}),
        "late": late(timeline),
    }


def _text(monotonic: float) -> str:
    """A time of this process' clock as a date."""
    at = datetime.fromtimestamp(time.time() - (time.monotonic() - monotonic), UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")

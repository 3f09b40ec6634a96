"""Object streams reduced to what kubelet, CNI and virt-handler make happen in them, so that a recording and the lab's
imitation compare: for each launcher and VMI the list of its marks, without names, UIDs and times."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hack.lab.kubevirt.api import Api, Resource

Obj = Mapping[str, Any]

STATE = (
    "targetNodeAddress",
    "targetDirectMigrationNodePorts",
    "startTimestamp",
    "mode",
    "targetNodeDomainDetected",
    "targetNodeDomainReadyTimestamp",
    "endTimestamp",
    "completed",
    "failed",
    "failureReason",
    "abortRequested",
    "abortStatus",
)
"""Fields of a VMI's migration state: those of virt-handlers, and virt-controller's wish for an end, to which they answer."""


@dataclass(frozen=True)
class Event:
    """One line of a recording; `type` is LISTED, ADDED, MODIFIED or DELETED."""

    type: str
    resource: str
    object: Obj


@dataclass(frozen=True, order=True)
class Story:
    """What happened to one object: marks in order."""

    resource: str
    marks: tuple[str, ...]


class Recorder:
    """Records what an API server sends to watchers."""

    def __init__(self, kubeconfig: Path) -> None:
        self._api = Api(kubeconfig)
        self._events: list[Event] = []
        self._last = time.monotonic()
        self._lock = threading.Lock()
        self._api.start(self._note)
        self._events.clear()

    def stop(self) -> None:
        self._api.stop()

    def cut(self, quiet_seconds: float = 0.5) -> list[Event]:
        """Wait until nothing has happened for a while; all events since the last cut."""
        called = time.monotonic()
        while (left := max(self._last, called) + quiet_seconds - time.monotonic()) > 0:
            time.sleep(left)
        with self._lock:
            events, self._events = self._events, []
        return events

    def _note(self, kind: str, resource: Resource, obj: Obj) -> None:
        with self._lock:
            self._events.append(Event(kind, resource.plural, obj))
            self._last = time.monotonic()


def load(path: Path) -> list[Event]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [Event(line["type"], line["resource"], line["object"]) for line in lines]


def stories(events: Iterable[Event], before: Iterable[Event] = ()) -> list[Story]:
    """What happened to each object, in an order that does not depend on names. `before`: events that came earlier, and
    tell only from what state the objects start."""
    states: dict[str, set[str]] = {}
    for event in before:
        states[event.object["metadata"]["uid"]] = _facts(event)
    told: dict[tuple[str, str], list[str]] = {}
    for event in events:
        uid = event.object["metadata"]["uid"]
        present, known = _facts(event), states.get(uid, set())
        states[uid] = present
        if event.type == "LISTED" or event.resource not in ("pods", "virtualmachineinstances"):
            continue
        marks = told.setdefault((event.resource, uid), [])
        marks += sorted(present - known)
        marks += [f"no {fact}" for fact in sorted(known - present) if fact.startswith("label")]
        marks += ["deleted"] if event.type == "DELETED" else []
    return sorted(Story(resource, tuple(marks)) for (resource, _), marks in told.items() if marks)


def _facts(event: Event) -> set[str]:
    """What is true of an object, as short sentences."""
    metadata, status = event.object["metadata"], event.object.get("status") or {}
    facts = {f"phase {status.get('phase')}"}
    if event.resource == "pods":
        facts |= {"has an address"} if status.get("podIP") else set()
        facts |= {f"annotation {key}" for key in metadata.get("annotations") or {} if key.endswith("/network-status")}
        facts |= {f"Ready is {each['status']}" for each in status.get("conditions") or () if each["type"] == "Ready"}
    else:
        facts |= {f"label {key}" for key in metadata.get("labels") or {} if key == "kubevirt.io/migrationTargetNodeName"}
        facts |= {"has a node"} if status.get("nodeName") else set()
        facts |= {f"migration {key}" for key in status.get("migrationState") or {} if key in STATE}
    return facts

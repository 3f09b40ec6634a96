"""Object streams reduced to what happens in them, so that a recording of the real KubeVirt and one of the stand-in
compare: for each object the list of its marks, without names, UIDs and times."""

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

RACING = (
    "kubevirt.io/virtual-machine-unpaused is True",
    "bound",
    "label topology.kubernetes.io/zone",
    "ready",
    "created",
    "finalizer foregroundDeletion",
    "is Terminating",
)
"""Marks of writers that race with others in a real cluster too: their place among an object's marks means nothing."""

LAST = {
    "virtualmachines": ("foregroundDeletion", "orphan", "kubevirt.io/virtualMachineControllerFinalize"),
    "virtualmachineinstances": ("foregroundDeletion", "kubevirt.io/foregroundDeleteVirtualMachine"),
}
"""Finalizers of which one goes last, and with it the object: which one, and so whose removal is seen, is a race."""


@dataclass(frozen=True)
class Event:
    """One line of a recording; `type` is LISTED, ADDED, MODIFIED or DELETED."""

    type: str
    resource: str
    object: Obj


@dataclass(frozen=True, order=True)
class Story:
    """What happened to one object: marks in order, and those of which only the presence counts."""

    resource: str
    marks: tuple[str, ...]
    racing: tuple[str, ...]


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
        if event.type == "LISTED":
            continue
        marks = told.setdefault((event.resource, uid), [])
        marks += ["added"] if event.type == "ADDED" else []
        marks += sorted(present - known)
        gone = {fact for fact in known - present if fact.startswith(("finalizer", "label", "owner"))}
        marks += sorted(f"no {fact}" for fact in gone if not _is_last(event.resource, fact))
        marks += ["deleted"] if event.type == "DELETED" else []
    return sorted(
        Story(
            resource,
            tuple(mark for mark in marks if mark not in RACING),
            tuple(sorted({mark for mark in marks if mark in RACING})),
        )
        for (resource, _), marks in told.items()
        if marks
    )


def _is_last(resource: str, fact: str) -> bool:
    return fact.removeprefix("finalizer ") in LAST.get(resource, ())


def _facts(event: Event) -> set[str]:
    """What is true of an object, as short sentences."""
    metadata, status = event.object["metadata"], event.object.get("status") or {}
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    facts = {f"finalizer {each}" for each in metadata.get("finalizers") or ()}
    facts |= {f"owner {each['kind']}" for each in metadata.get("ownerReferences") or ()}
    facts |= {f"annotation {key}" for key in annotations if not key.startswith("fake.")}
    if "deletionTimestamp" in metadata:
        facts.add(f"deleting, grace {metadata['deletionGracePeriodSeconds']}")
    if event.resource != "virtualmachines":
        facts |= {f"label {key}" for key in labels}
        facts.add(f"phase {status.get('phase')}")
    match event.resource:
        case "virtualmachines":
            facts.add(f"is {status.get('printableStatus')}")
            facts |= {key for key in ("created", "ready") if status.get(key)}
            facts |= {f"asked to {each['action']}" for each in status.get("stateChangeRequests") or ()}
        case "pods":
            facts |= {"bound"} if event.object["spec"].get("nodeName") else set()
            facts |= {"has an address"} if status.get("podIP") else set()
            for each in status.get("conditions") or ():
                if each["type"] in ("Ready", "kubevirt.io/virtual-machine-unpaused"):
                    facts.add(f"{each['type']} is {each['status']}")
        case _:
            facts |= {"has a node"} if status.get("nodeName") else set()
            facts |= {f"migration {key}" for key in status.get("migrationState") or {}}
    return facts

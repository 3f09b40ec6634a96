"""The recorded streams of the real KubeVirt control plane, played to the agent's core."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.desk import Desk, network


class Event(NamedTuple):
    type: str
    resource: str
    object: dict[str, Any]


@functools.cache
def events(path: Path) -> list[Event]:
    lines = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    return [Event(line["type"], line["resource"], line["object"]) for line in lines]


def desk() -> Desk:
    """The traces' VMs have an interface on the pod network and one on the NAD demo/tenant-net; nodes are node01..node09."""
    made = Desk(
        network(), network("192.168.0.0/24", name="tenant", switch="tenant", pod_network=False, nads=("demo/tenant-net",))
    )
    made.chassis = {f"node{number:02d}": (f"chassis{number}",) for number in range(1, 10)}
    return made


def replay(path: Path, made: Desk) -> Iterator[Event]:
    """Feed the state at the start, then event by event, reconciling after each."""
    listed = [event for event in events(path) if event.type == "LISTED"]
    for event in listed:
        made.feed("ADDED", event.resource, event.object)
    made.look()
    for event in events(path):
        if event.type != "LISTED":
            made.feed(event.type, event.resource, event.object)
            made.look()
            yield event

"""Watches of different kinds are not ordered with each other: every interleaving of a recorded stream is possible.

Within a kind the order is the API server's. Whatever the interleaving, the rows at the end are the same, and at no point
does the list lack the chassis on which the guest may run by what has been seen.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ovnagent.core.vm import VmKey
from tests.desk import Desk
from tests.scenarios.traces import Event, desk, events

KEY = VmKey("demo", "vm1")
PORTS = ("vm1.demo", "vm1.demo.tenant-net.demo")
NAMES = (
    "create-and-start",
    "stop",
    "start",
    "restart",
    "delete",
    "migration-succeeds",
    "migration-fails",
    "migration-cancelled-while-running",
    "migration-pending-then-cancelled",
)


def begin(listed: list[Event]) -> Desk:
    made = desk()
    for event in listed:
        made.feed("ADDED", event.resource, event.object)
    made.look()
    return made


def end(made: Desk) -> dict[str, tuple[str, tuple[str, ...]]]:
    """The rows when all has been seen and every grace period is over."""
    made.look()
    made.now += 40
    made.look()
    return {name: (made.placed(name), row.port.addresses) for name, row in made.rows.items()}


def interleave(data: st.DataObject, later: list[Event]) -> list[Event]:
    queues: dict[str, list[Event]] = defaultdict(list)
    for event in later:
        queues[event.resource].append(event)
    order: list[Event] = []
    while queues:
        resource = data.draw(st.sampled_from(sorted(queues)))
        # a stream that is behind catches up by some events at once
        count = data.draw(st.integers(1, len(queues[resource])))
        order += queues[resource][:count]
        del queues[resource][:count]
        if not queues[resource]:
            del queues[resource]
    return order


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_interleaving_ends_in_the_same_rows(name: str, traces: Path, data: st.DataObject) -> None:
    recorded = events(traces / f"{name}.jsonl")
    listed = [event for event in recorded if event.type == "LISTED"]
    later = [event for event in recorded if event.type != "LISTED"]
    straight = begin(listed)
    for event in later:
        straight.feed(event.type, event.resource, event.object)
        straight.look()
    shuffled = begin(listed)
    both_written = False
    for event in interleave(data, later):
        shuffled.feed(event.type, event.resource, event.object)
        if data.draw(st.booleans()):
            continue  # a batch takes what has come since the last
        shuffled.look()
        if name.startswith("migration"):
            both_written = check(shuffled, name, both_written)
    assert end(shuffled) == end(straight)


def check(made: Desk, name: str, both_written: bool) -> bool:
    """The source stands in the list until the VMI is seen on the target, the target from the moment it was written."""
    vmi = made.store.facts(KEY).vmi
    assert vmi is not None
    source, target = ("chassis2", "chassis1") if name == "migration-succeeds" else ("chassis1", "chassis2")
    for port in PORTS:
        requested = made.port(port).requested_chassis
        if vmi.node == {"chassis1": "node01", "chassis2": "node02"}[source]:
            assert source in requested, f"{port} lacks the source: {requested}"
        if name == "migration-succeeds" and both_written:
            assert target in requested, f"{port} lost the target: {requested}"
    return both_written or len(made.port(PORTS[0]).requested_chassis) == 2

"""What is said of a migration's times: what was late, its essence, and when its last write was due."""

from __future__ import annotations

from dataclasses import replace

import pytest
from immutables import Map

from ovnagent.core.placement import GRACE_SECONDS, RESCUE_SECONDS
from ovnagent.core.timeline import PROMPT_SECONDS, Outcome, Step, Timeline, last_write_due, late, summary
from ovnagent.core.vm import VmKey

WEB = VmKey("default", "web")
PORT = "web.default"
BOUND, COMMITTED, BOTH, ACTIVATED, DOMAIN_READY = (
    Step.TARGET_BOUND,
    Step.COMMITTED,
    Step.BOUND,
    Step.ACTIVATED,
    Step.READY,
)
OPENED, MOVED, OVER, LET_GO, LAST = Step.OPENED, Step.MOVED, Step.OVER, Step.LET_GO, Step.LAST
OF_THE_VM = {BOUND, DOMAIN_READY, MOVED, OVER}


def seen(times: dict[Step, float], outcome: Outcome = Outcome.RUNNING) -> Timeline:
    steps = Map({(step, "" if step in OF_THE_VM else PORT): at for step, at in times.items()})
    return Timeline(WEB, "m1", "m1", "node1", "node2", 0.0, steps, chassis=Map({PORT: ("A", "B")}), outcome=outcome)


@pytest.mark.parametrize(
    ("times", "outcome", "expected"),
    [
        ({}, Outcome.RUNNING, []),
        ({BOUND: 0, COMMITTED: PROMPT_SECONDS}, Outcome.RUNNING, []),
        ({BOUND: 7, COMMITTED: 7.0625}, Outcome.RUNNING, []),
        ({BOUND: 1, COMMITTED: 1.5}, Outcome.RUNNING, ["the target was named 0.50 s after its launcher had a node"]),
        ({COMMITTED: 5}, Outcome.RUNNING, []),
        ({BOUND: 5}, Outcome.RUNNING, []),
        # one reason why the guest was cut off, and the first one
        ({DOMAIN_READY: 1, BOTH: 1}, Outcome.RUNNING, []),
        (
            {DOMAIN_READY: 1, BOTH: 3, OPENED: 4, ACTIVATED: 5},
            Outcome.RUNNING,
            ["the target was plugged 2.00 s after the target's domain was ready; so long the guest was cut off"],
        ),
        (
            {DOMAIN_READY: 1, BOTH: 0.5, OPENED: 1.5, ACTIVATED: 3},
            Outcome.RUNNING,
            ["no announcement was seen, and the target was opened 0.50 s after the target's domain was ready"],
        ),
        (
            {DOMAIN_READY: 1, BOTH: 0.5, ACTIVATED: 1.5},
            Outcome.RUNNING,
            ["the guest was announced 0.50 s after the target's domain was ready"],
        ),
        ({DOMAIN_READY: 0, ACTIVATED: RESCUE_SECONDS}, Outcome.RUNNING, []),
        ({DOMAIN_READY: 1, ACTIVATED: 1.25}, Outcome.RUNNING, []),
        ({BOTH: 9, OPENED: 9, ACTIVATED: 9}, Outcome.RUNNING, []),
        # the end
        (
            {MOVED: 1, LAST: 1 + GRACE_SECONDS},
            Outcome.DONE,
            ["the source had not let go 30.0 s after the VMI moved; the last write waited no longer"],
        ),
        ({MOVED: 1, LAST: GRACE_SECONDS}, Outcome.DONE, []),
        ({MOVED: 1, LET_GO: 31, LAST: 1 + GRACE_SECONDS}, Outcome.DONE, []),
        ({MOVED: 1}, Outcome.DONE, []),
        ({LAST: 99}, Outcome.DONE, []),
        ({OVER: 0, MOVED: 0, LET_GO: 0, LAST: PROMPT_SECONDS}, Outcome.DONE, []),
        (
            {OVER: 1, MOVED: 2, LET_GO: 3, LAST: 3.5},
            Outcome.DONE,
            ["the last write came 0.50 s after the source had let go and the migration was over"],
        ),
        (
            {OVER: 1, LAST: 2},
            Outcome.ROLLED_BACK,
            ["the last write came 1.00 s after the source had let go and the migration was over"],
        ),
    ],
)
def test_what_was_late(times: dict[Step, float], outcome: Outcome, expected: list[str]) -> None:
    timeline = seen(times, outcome)
    assert late(timeline) == [f"{PORT}: {sentence}" for sentence in expected]
    assert summary(timeline, PORT).endswith("; ".join(f"late: {sentence}" for sentence in expected))


@pytest.mark.parametrize(
    ("times", "outcome", "due"),
    [
        ({OVER: 1, MOVED: 2, LET_GO: 3}, Outcome.DONE, 3),
        ({OVER: 3, MOVED: 2, LET_GO: 1}, Outcome.DONE, 3),
        ({OVER: 1, MOVED: 2}, Outcome.DONE, None),
        ({OVER: 1, LET_GO: 3}, Outcome.DONE, None),
        ({MOVED: 2, LET_GO: 3}, Outcome.DONE, None),
        ({OVER: 1, LET_GO: 3}, Outcome.ROLLED_BACK, 1),
        ({}, Outcome.ROLLED_BACK, None),
    ],
)
def test_when_the_last_write_is_due(times: dict[Step, float], outcome: Outcome, due: float | None) -> None:
    assert last_write_due(seen(times, outcome), PORT) == due


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ({}, ""),
        ({BOUND: 1, COMMITTED: 1.01}, "the target was named 10 ms after its launcher had a node"),
        ({BOUND: 1, COMMITTED: 0.5}, "the target was named 0 ms after its launcher had a node"),  # as the clocks say
        ({COMMITTED: 1, ACTIVATED: 2}, ""),
        ({BOUND: 1, ACTIVATED: 3}, "opened after 2.00 s"),
        ({LAST: 3.5}, "last write after 3.50 s"),
        ({OVER: 3.45, LAST: 3.5}, "last write after 3.50 s, 50 ms after it was due"),
        ({OVER: 3.45}, ""),
    ],
)
def test_the_essence(times: dict[Step, float], expected: str) -> None:
    timeline = seen(times)
    assert summary(timeline, PORT) == expected
    begun = replace(timeline, unseen=frozenset({(Step.BOUND, PORT)}))
    assert summary(begun, PORT) == "; ".join(filter(None, (expected, "this agent did not see the beginning")))


def test_what_was_late_is_told_port_by_port() -> None:
    names = [f"web.{number}" for number in range(9)]
    timeline = seen({BOUND: 0.0})
    for name in names[::-1]:
        steps, chassis = timeline.steps.set((COMMITTED, name), 1.0), timeline.chassis.set(name, ("A", "B"))
        timeline = replace(timeline, steps=steps, chassis=chassis)
    assert [sentence.partition(":")[0] for sentence in late(timeline)] == names


def test_the_order_of_what_was_seen() -> None:
    timeline = seen({LAST: 2.0, OVER: 1.0, ACTIVATED: 1.0, BOUND: 0.0})
    assert [step for (step, _), _ in timeline.marks] == [BOUND, ACTIVATED, OVER, LAST]
    assert (timeline.seconds, seen({}).seconds) == (2.0, 0.0)
    assert (timeline.over, seen({}, Outcome.DONE).over) == (False, True)

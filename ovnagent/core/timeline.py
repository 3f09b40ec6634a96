"""A live migration as it went: when each of its steps was seen or done, by one agent and its own clock.

    target bound       the target's launcher has a node                              Kubernetes
    options committed  requested-chassis names both                                  the agent's own write
    bound on both      the Port_Binding is claimed by both chassis                   Southbound
    activated          the guest announced itself on the target, which is open       Southbound
    domain ready       targetNodeDomainReadyTimestamp is set                         Kubernetes
    opened             no announcement was seen: the target was put first            the agent's own write
    VMI moved          VMI.status.nodeName is the target's                           Kubernetes
    migration over     its phase is Succeeded or Failed                              Kubernetes
    source let go      the Port_Binding is not the source's any more                 Southbound
    last write         requested-chassis names one chassis again                     the agent's own write

`observe` is a function of what one look at a VM found and wrote, and of the timeline so far. What was true already when an
agent looked for the first time is `unseen`: another agent may have been there, and no time is made up for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from immutables import Map

from ovnagent.core.placement import GRACE_SECONDS, RESCUE_SECONDS, Binding, Line, Situation
from ovnagent.core.plan import Case, Result
from ovnagent.core.ports import MIGRATION, Port, PresentPort
from ovnagent.core.vm import VmKey

PROMPT_SECONDS = 0.1
"""So long the agent may take for a write, from the news that asks for it."""
MOVING = frozenset({Situation.MIGRATING, Situation.SWITCHED})


class Step(Enum):
    """In the order of a migration in which all goes well."""

    TARGET_BOUND = "target bound"
    COMMITTED = "options committed"
    BOUND = "bound on both"
    ACTIVATED = "activated"
    READY = "domain ready"
    OPENED = "opened"
    MOVED = "VMI moved"
    OVER = "migration over"
    LET_GO = "source let go"
    LAST = "last write"


NOTHING: Map[Any, Any] = Map()
Mark = tuple[Step, str]
"""(step, port name). It is empty for what happens to the VM and not to each of its ports."""
Chassis = tuple[str, str]
"""The names of the source's chassis and of the target's."""


class Outcome(Enum):
    RUNNING = "running"
    DONE = "done"
    ROLLED_BACK = "rolled back"
    """Failed, cancelled, or its target is gone: the guest is where it was."""
    UNKNOWN = "end not seen"
    """It was over when this agent looked again."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """One migration of one VM."""

    vm: VmKey
    uid: str
    name: str
    """The migration object's; its UID where the object is gone."""
    source: str
    """Node; empty where it is not known any more."""
    target: str
    began: float
    """Seconds of the agent's clock when the first step was seen: all times below count from here."""
    steps: Map[Mark, float] = NOTHING
    unseen: frozenset[Mark] = frozenset()
    """What was so already when this agent looked for the first time."""
    chassis: Map[str, Chassis] = NOTHING
    """By port name."""
    outcome: Outcome = Outcome.RUNNING

    def at(self, step: Step, port: str = "") -> float | None:
        """Seconds from the beginning; None where it was not seen."""
        return self.steps.get((step, port))

    @property
    def over(self) -> bool:
        return self.outcome is not Outcome.RUNNING

    @property
    def seconds(self) -> float:
        """From the first step to the last that was seen."""
        return max(self.steps.values(), default=0.0)

    @property
    def marks(self) -> list[tuple[Mark, float]]:
        """What was seen, in the order of time."""
        order = list(Step)
        return sorted(self.steps.items(), key=lambda item: (item[1], order.index(item[0][0]), item[0][1]))


def observe(before: Timeline | None, case: Case, result: Result, news: float, done: float, first: bool) -> Timeline | None:
    """The timeline after a look at a VM whose rows are written as the result says; None where no migration is under way.

    `before`: the VM's timeline that is not over, if there is one. `news`, `done`: seconds of one clock, when the look was
    asked for, and when its rows were committed. `first`: this agent has not looked at this VM before, since it leads."""
    uid = _migration(case, result)
    if before is not None and before.uid != uid:
        return replace(before, outcome=_outcome(before, case, first))
    if not uid:
        return None
    timeline = _without_return(_with_chassis(before or _begun(case, result, uid, news), result), case)
    for mark, time in _steps(timeline, case, result, None if first else news, done):
        if mark in timeline.steps or mark in timeline.unseen:
            continue
        if time is None:
            timeline = replace(timeline, unseen=timeline.unseen | {mark})
        else:
            timeline = replace(timeline, steps=timeline.steps.set(mark, max(0.0, time - timeline.began)))
    moving = case.where.situation in MOVING or any(port.external_id(MIGRATION) for port in result.wanted)
    return timeline if moving else replace(timeline, outcome=_outcome(timeline, case, False))


def _migration(case: Case, result: Result) -> str:
    """The migration that a look is about: under way, or the one for which two chassis still stand in a row."""
    if case.where.situation in MOVING:
        return case.where.migration
    rows = [*(row.port for row in case.present), *result.wanted]
    return next((uid for port in rows if (uid := port.external_id(MIGRATION))), "")


def _begun(case: Case, result: Result, uid: str, news: float) -> Timeline:
    where, state = case.where, case.facts.vmi.migration if case.facts.vmi is not None else None
    source, target = where.node, where.target
    if where.situation not in MOVING:  # it is about to be over
        source, target = (state.source_node, state.target_node) if state is not None and state.uid == uid else ("", "")
    name = next((each.name for each in case.facts.migrations if each.uid == uid), uid)
    return Timeline(result.key, uid, name, source, target, news)


def _with_chassis(timeline: Timeline, result: Result) -> Timeline:
    for port in result.wanted:
        if len(port.requested_chassis) == 2 and port.name not in timeline.chassis:
            first, second = port.requested_chassis
            placement = result.placements.get(port.name)
            swapped = placement is not None and placement.line is Line.ANNOUNCEMENT_LOST
            pair = (second, first) if swapped else (first, second)
            timeline = replace(timeline, chassis=timeline.chassis.set(port.name, pair))
    return timeline


def _without_return(timeline: Timeline, case: Case) -> Timeline:
    """A source that is bound again had not let go: where the order of the two is changed, it is away for a moment."""
    for port, (source, _) in timeline.chassis.items():
        binding, mark = case.bindings.get(port), (Step.LET_GO, port)
        if mark in timeline.steps and binding is not None and source in (binding.chassis, *binding.additional):
            timeline = replace(timeline, steps=timeline.steps.delete(mark))
    return timeline


def _outcome(timeline: Timeline, case: Case, first: bool) -> Outcome:
    if case.where.migration == timeline.uid:
        return Outcome.DONE
    return Outcome.UNKNOWN if first else Outcome.ROLLED_BACK


def _steps(
    timeline: Timeline, case: Case, result: Result, news: float | None, done: float
) -> Iterator[tuple[Mark, float | None]]:
    """What is so now, and since when: None where that was before the look."""
    vmi, migrations = case.facts.vmi, case.facts.migrations
    state = vmi.migration if vmi is not None else None
    if case.where.situation in MOVING:
        yield (Step.TARGET_BOUND, ""), news
    if state is not None and state.uid == timeline.uid and state.target_ready:
        yield (Step.READY, ""), news
    if vmi is not None and timeline.target and vmi.node == timeline.target:
        yield (Step.MOVED, ""), news
    if any(each.uid == timeline.uid and not each.open for each in migrations):
        yield (Step.OVER, ""), news
    rows = {row.port.name: row for row in case.present}
    for port in result.wanted:
        yield from _written(timeline, port, rows.get(port.name), done)
        if (binding := case.bindings.get(port.name)) is not None and port.name in timeline.chassis:
            for step in _bound(timeline.chassis[port.name], binding):
                yield (step, port.name), news


def _written(timeline: Timeline, port: Port, row: PresentPort | None, done: float) -> Iterator[tuple[Mark, float | None]]:
    before = row.port.requested_chassis if row is not None else ()
    now = port.requested_chassis
    if len(now) == 2:
        yield (Step.COMMITTED, port.name), done if len(before) < 2 else None
        if now[0] == timeline.chassis[port.name][1]:
            yield (Step.OPENED, port.name), done if before != now else None
    elif len(before) == 2:
        yield (Step.LAST, port.name), done


def _bound(chassis: Chassis, binding: Binding) -> Iterator[Step]:
    source, target = chassis
    here = {binding.chassis, *binding.additional}
    if {source, target} <= here:
        yield Step.BOUND
    if target in binding.activated or target == binding.chassis:
        yield Step.ACTIVATED
    if target in here and source not in here:  # `chassis` may be empty for a moment
        yield Step.LET_GO


# ---- what was late --------------------------------------------------------------------------------------------------


def late(timeline: Timeline) -> list[str]:
    """What took longer than it should, and by how much; of what was not seen nothing is said."""
    return [sentence for port in sorted(timeline.chassis) for sentence in _late(timeline, port)]


def _late(timeline: Timeline, port: str) -> Iterator[str]:
    bound, committed = timeline.at(Step.TARGET_BOUND), timeline.at(Step.COMMITTED, port)
    if bound is not None and committed is not None and committed - bound > PROMPT_SECONDS:
        yield f"{port}: the target was named {committed - bound:.2f} s after its launcher had a node"
    ready, both = timeline.at(Step.READY), timeline.at(Step.BOUND, port)
    activated, opened = timeline.at(Step.ACTIVATED, port), timeline.at(Step.OPENED, port)
    if ready is not None:
        after = "after the target's domain was ready"
        if both is not None and both > ready:
            yield f"{port}: the target was plugged {both - ready:.2f} s {after}; so long the guest was cut off"
        elif opened is not None:
            yield f"{port}: no announcement was seen, and the target was opened {opened - ready:.2f} s {after}"
        elif activated is not None and activated - ready > RESCUE_SECONDS:
            yield f"{port}: the guest was announced {activated - ready:.2f} s {after}"
    moved, gone, last = timeline.at(Step.MOVED), timeline.at(Step.LET_GO, port), timeline.at(Step.LAST, port)
    if moved is not None and last is not None and gone is None and last - moved >= GRACE_SECONDS:
        yield f"{port}: the source had not let go {last - moved:.1f} s after the VMI moved; the last write waited no longer"
    due = last_write_due(timeline, port)
    if last is not None and due is not None and last - due > PROMPT_SECONDS:
        yield f"{port}: the last write came {last - due:.2f} s after the source had let go and the migration was over"


def last_write_due(timeline: Timeline, port: str) -> float | None:
    """When all was so that the last write waits for; None where not all of it was seen."""
    needs = [timeline.at(Step.OVER)]
    if timeline.outcome is Outcome.DONE:
        needs += [timeline.at(Step.MOVED), timeline.at(Step.LET_GO, port)]
    seen = [each for each in needs if each is not None]
    return max(seen) if len(seen) == len(needs) else None


def summary(timeline: Timeline, port: str) -> str:
    """The essence of what one of its ports went through, as the rest of a sentence."""
    bound, committed, activated = (
        timeline.at(Step.TARGET_BOUND),
        timeline.at(Step.COMMITTED, port),
        timeline.at(Step.ACTIVATED, port),
    )
    last, due = timeline.at(Step.LAST, port), last_write_due(timeline, port)
    parts = []
    if bound is not None and committed is not None:
        parts.append(f"the target was named {_milliseconds(committed - bound)} after its launcher had a node")
    if activated is not None and bound is not None:
        parts.append(f"opened after {activated - bound:.2f} s")
    if last is not None:
        after = f", {_milliseconds(last - due)} after it was due" if due is not None else ""
        parts.append(f"last write after {last:.2f} s{after}")
    if timeline.unseen:
        parts.append("this agent did not see the beginning")
    parts += (f"late: {sentence.removeprefix(f'{port}: ')}" for sentence in _late(timeline, port))
    return "; ".join(parts)


def _milliseconds(seconds: float) -> str:
    return f"{max(0.0, seconds) * 1000:.0f} ms"

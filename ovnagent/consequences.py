"""What follows from a VM's rows being written, or refused: what is remembered and scheduled at once, and what people are
told, which waits while others' rows are urgent."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from ovnagent.announce import Announcer, object_ref
from ovnagent.core.plan import Case, Result
from ovnagent.core.problems import PORT_REFUSED, Problem
from ovnagent.core.vm import VmKey
from ovnagent.dirty import Dirty
from ovnagent.kube.kubernetes import Kubernetes
from ovnagent.notes import Notes
from ovnagent.ovn.changes import Change
from ovnagent.serve.metrics import Metrics
from ovnagent.timelines import Timelines

REFUSED_RETRY_SECONDS = 30.0
"""When a row that the database refused is tried again without any news of it."""
UNTOLD = 500
"""So many VMs wait at most until people are told of them."""


class Consequences:
    """For the reconciler, in its thread."""

    def __init__(
        self,
        notes: Notes,
        timelines: Timelines,
        dirty: Dirty,
        kube: Kubernetes,
        announcer: Announcer,
        metrics: Metrics,
    ) -> None:
        self._notes, self._timelines, self._dirty, self._kube = notes, timelines, dirty, kube
        self._announcer, self._metrics = announcer, metrics
        self._untold: deque[tuple[VmKey, Callable[[], None]]] = deque()

    def draw(
        self,
        result: Result,
        case: Case,
        group: Sequence[Change],
        error: str | None,
        drifted: bool,
        news: float,
        done: float,
        first: bool,
    ) -> None:
        """`error`: why the database refused the rows; `drifted`: somebody changed them in NB since the last look; `news`,
        `done`: the first news of the VM, and the commit (monotonic seconds); `first`: the agent has just begun to lead.
        What people are told of it waits for `tell`."""
        problems = result.problems
        if error:
            problems = (*problems, refusal(result, error))
            self._metrics.refused_rows.inc()
        gone = result.owner is None and not result.wanted and not error
        before = self._notes.settle(result, case.facts, problems, gone)
        self._dirty.add(self._notes.waiting_for(result.freed))
        if result.owner is None and case.facts.empty and not result.wanted:
            self._kube.store.forget(result.key)
        self._dirty.later(result.key, REFUSED_RETRY_SECONDS if error else result.look_again)
        if error:
            told = partial(self._announcer.tell, result, case, (), problems, before.problems, done - news)
        else:
            repaired = len(group) if drifted and before.facts == case.facts and not before.watched else 0
            told = partial(self._written, result, case, group, problems, before.problems, repaired, news, done, first)
        self._untold.append((result.key, told))

    def tell(self, failed: Callable[[VmKey, Exception], None]) -> None:
        """Tell people what `draw` left, until something is urgent again and not too much waits. `failed(VM, error)`."""
        while self._untold and (len(self._untold) > UNTOLD or not self._dirty.hurried):
            key, told = self._untold.popleft()
            try:
                told()
            except Exception as failure:
                failed(key, failure)

    def _written(
        self,
        result: Result,
        case: Case,
        group: Sequence[Change],
        problems: Sequence[Problem],
        before: Sequence[Problem],
        repaired: int,
        news: float,
        done: float,
        first: bool,
    ) -> None:
        """`repaired`: rows of the group that others had changed."""
        if repaired:
            self._metrics.drift.inc(repaired)
            self._announcer.drift(result.key, repaired)
        self._record(result, case)
        timeline = self._timelines.look(case, result, news, done, first)
        self._announcer.tell(result, case, group, problems, before, done - news, timeline)

    def _record(self, result: Result, case: Case) -> None:
        """The record on the VM follows behind the port."""
        ref = object_ref(result, case)
        if ref is None or not result.record:
            return
        holder = case.facts.vm if ref.kind == "VirtualMachine" else case.facts.vmi
        if holder is not None:
            self._kube.records.keep(ref, holder.record, result.record)


def refusal(result: Result, error: str) -> Problem:
    """The database refused the VM's rows, most often because somebody else's port has the name on another switch."""
    names = [port.name for port in result.wanted]
    return Problem(
        PORT_REFUSED,
        f"OVN refused logical switch port {', '.join(names)}: {error}",
        tuple(f"port {name}" for name in names),
    )

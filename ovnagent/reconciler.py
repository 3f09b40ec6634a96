"""Dirty VMs -> batch -> one transaction. The only place where Kubernetes and OVN meet.

One thread (where there is more than one transaction, a second writes the next while this one draws what follows from the
last). What happens elsewhere only says which VM to look at again (dirty.py); here all its facts are read, the rows that it
should have are computed (core/plan.py) and compared with those present, the difference is committed, and what follows from
that is drawn (consequences.py).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Container, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ovnagent.announce import Announcer
from ovnagent.config.file import Config
from ovnagent.consequences import REFUSED_RETRY_SECONDS, Consequences
from ovnagent.core.books import NO_BOOKS, Books
from ovnagent.core.deletion import APPROVAL, NO_BRAKE, Brake
from ovnagent.core.placement import Binding, Situation, Whereabouts, locate
from ovnagent.core.plan import FAILED_SECONDS, Case, Result, plan
from ovnagent.core.ports import PresentPort
from ovnagent.core.problems import INTERNAL_ERROR, Problem
from ovnagent.core.virtual_ports import virtual_ports
from ovnagent.core.vm import Facts, VmKey
from ovnagent.difference import Present, brake_of, changes, infrastructure, virtual_changes, world_of
from ovnagent.dirty import BOUND, Dirty
from ovnagent.kube.kubernetes import Kubernetes
from ovnagent.leadership import Leadership
from ovnagent.notes import Notes
from ovnagent.ovn.changes import Change, SetGlobal
from ovnagent.ovn.northbound import Group, Northbound, NotCommittedError
from ovnagent.ovn.snapshot import NorthboundSnapshot, SouthboundSnapshot
from ovnagent.ovn.southbound import Southbound
from ovnagent.process import memory
from ovnagent.process.logs import together
from ovnagent.serve.metrics import Metrics
from ovnagent.standby import StandbyWatch
from ovnagent.timelines import Timelines

LOG = logging.getLogger(__name__)

IDLE_SECONDS = 1.0
"""How often the reconciler looks round when nothing happens (lock, staleness, metrics)."""
CHUNK = 1000
"""VMs in one transaction at most: 10,000 rows at once would hold up a migration that starts meanwhile."""
RETRY_SECONDS = (0.05, 5.0)
"""First and longest pause after a transaction that could not be committed."""
UNREAD_SECONDS, UNREAD_RETRY_SECONDS = 2.0, 0.02
"""For how long a VM that has nothing yet waits for rows of foreign ports, and how often it looks whether they are here."""
HOLD_SECONDS = 15.0
"""For how long at most no record and no Event is written while a first look writes ports: they would take turns with it."""


@dataclass(frozen=True, slots=True)
class Status:
    """What others may know of the reconciler's work; replaced as a whole."""

    in_sync: bool = False
    """The first look at every VM is done."""
    books: Books = NO_BOOKS
    brake: Brake = NO_BRAKE


@dataclass(frozen=True, slots=True)
class _Written:
    """One transaction."""

    vms: Sequence[tuple[Result, Case, Sequence[Change], str | None]]
    """What was written of each VM, or why it was refused."""
    left: set[VmKey]
    """VMs of which it is not known that all was written."""
    done: float
    """Monotonic seconds."""


class Reconciler:
    """Computes and commits. `turn` is for its thread; what changes elsewhere is told from any thread."""

    def __init__(
        self,
        config: Config,
        dirty: Dirty,
        kube: Kubernetes,
        northbound: Northbound,
        southbound: Southbound,
        announcer: Announcer,
        metrics: Metrics,
    ) -> None:
        self.status = Status()
        self.notes = Notes()
        self.timelines = Timelines()
        self._config, self._next = config, config
        self._dirty, self._kube = dirty, kube
        self._northbound, self._southbound = northbound, southbound
        self._announcer, self._metrics = announcer, metrics
        self._consequences = Consequences(self.notes, self.timelines, dirty, kube, announcer, metrics)
        self._leadership = Leadership(kube, northbound, southbound, self._lead)
        self._standby = StandbyWatch(kube, northbound, southbound)
        self._touched: set[VmKey] = set()
        """VMs whose rows changed in NB, by whomever, since the last look at them."""
        self._others: NorthboundSnapshot = NorthboundSnapshot()
        """What others used at the last look."""
        self._virtual: Mapping[str, PresentPort] | None = None
        """The rows of shared addresses at the last look; None: they are to be looked at."""
        self._retry_virtual = 0.0
        self._newcomers: dict[VmKey, float] = {}
        """VMs that wait (_without_newcomers), and since when they are known: monotonic seconds."""
        self._failures = 0
        self._stopping = False

    # -- from other threads

    def changed(self, keys: Iterable[VmKey], urgent: bool) -> None:
        """Facts of these VMs have changed, or where their ports are bound. A standby remembers none of it."""
        if self._leadership.leading:
            self._dirty.add(keys, urgent)
        else:
            self._standby.stir()

    def touch(self, keys: set[VmKey]) -> None:
        """Rows of these VMs have changed in NB."""
        if self._leadership.leading:
            self._touched |= keys
            self._dirty.add(keys)

    def reconfigure(self, config: Config) -> None:
        """Work by other networks from the next batch on."""
        networks = config.networks.all
        self._northbound.watch((each.logical_switch for each in networks), (each.router for each in networks if each.router))
        self._next = config
        self._dirty.add_everything()

    def stop(self) -> None:
        """End after the transaction under way."""
        self._stopping = True
        self._dirty.close()

    # -- the loop

    def turn(self) -> None:
        """Once: take what is dirty, and carry it out. Returns after IDLE_SECONDS at the latest where nothing is."""
        self._tell()
        may_write = self._leadership.look()
        if not self._leadership.leading:
            self._dirty.collapse()
        if not may_write:
            self._standby.look(self._next, self._leadership.sure)
            memory.walk(nobody_waits=True)
            self._dirty.wait(IDLE_SECONDS)
            return
        self._leadership.answer()
        if self._next is not self._config:
            self._config = self._next
            self._begin_anew()
        batch, everything = self._dirty.take(IDLE_SECONDS)
        if self._stopping:
            self._tell()
            return
        nb, now, brake = self._northbound.snapshot, time.monotonic(), self.status.brake
        if everything or not self.status.in_sync:
            keys = {*self._kube.keys(), *nb.by_vm, *self.notes.seen} - batch.keys()
            if self.status.in_sync and len(keys) < BOUND:
                self._dirty.add(keys)  # in turns, behind what is urgent
            else:  # who holds which address is known only when all have been looked at together
                batch |= dict.fromkeys(keys, now)
        elif brake.held_ports and nb.global_ids.get(APPROVAL) == self._config.cluster:
            # All that an operator's word is about goes at once: after that the word is used up.
            held = {*brake.vms, *(row.port.vm for name in brake.ports if (row := nb.ports.get(name)) is not None)}
            batch |= dict.fromkeys(held - batch.keys(), now)
        self._look_at_others(nb)
        virtual = nb.virtual is not self._virtual and now >= self._retry_virtual
        if not self.status.in_sync:
            with memory.loading():
                self._reconcile(batch)
        elif batch or virtual or nb.unused or brake.held_ports:
            self._reconcile(batch)
        memory.walk(nobody_waits=not batch and not self.notes.watched)

    def _lead(self) -> None:
        self._begin_anew()
        self.timelines.lead()

    def _begin_anew(self) -> None:
        """What is remembered of addresses may be wrong: the books follow from rows and records once more."""
        self.status = Status(brake=self.status.brake)
        self._touched.clear()
        self._newcomers.clear()
        self._kube.hold_writes(HOLD_SECONDS)
        self._dirty.add_everything()

    def _look_at_others(self, nb: NorthboundSnapshot) -> None:
        """What others do not use any more, VMs that wait for it may get now."""
        before, self._others = self._others, nb
        if before.foreign is not nb.foreign or before.names is not nb.names:
            networks = self._config.networks.all
            freed = self.notes.freed_by_others(networks, (before.foreign, before.names), (nb.foreign, nb.names))
            self._dirty.add(self.notes.waiting_for(freed))

    # -- one batch

    def _reconcile(self, batch: Mapping[VmKey, float]) -> None:
        """A batch on which something fails that is nobody's in particular is halved until it is."""
        try:
            self._carry_out(batch)
        except Exception as error:
            if len(batch) <= 1:
                for key in batch:
                    self._set_aside(key, error)
                if not batch:
                    raise
                return
            LOG.exception("a batch has failed; it is tried in halves", extra={"vms": len(batch)})
            keys = sorted(batch)
            for half in (keys[: len(keys) // 2], keys[len(keys) // 2 :]):
                self._reconcile({key: batch[key] for key in half})

    def _without_newcomers(self, batch: Mapping[VmKey, float], nb: NorthboundSnapshot, now: float) -> Mapping[VmKey, float]:
        """Without VMs that have nothing yet, while it is not known what ports of others use that are there already: those
        wait, for so long at most. (The rows of foreign ports have to be asked for first.)"""
        since = {key: min(news, self._newcomers.pop(key, news)) for key, news in batch.items()}
        if not nb.unread or not self.status.in_sync:
            return since
        for key, news in list(since.items()):
            if now - news < UNREAD_SECONDS and key not in nb.by_vm and not self.status.books.of(key):
                self._newcomers[key] = since.pop(key)
                self._dirty.later(key, UNREAD_RETRY_SECONDS)
        return since

    def _set_aside(self, key: VmKey, error: Exception) -> None:
        LOG.error("VM set aside", extra={"vm": key, "reason": repr(error), "retry_seconds": FAILED_SECONDS}, exc_info=error)
        self.notes.set_aside(key, Problem(INTERNAL_ERROR, repr(error)))
        self._dirty.later(key, FAILED_SECONDS)

    def _carry_out(self, batch: Mapping[VmKey, float]) -> None:
        started = time.monotonic()
        nb, sb = self._northbound.snapshot, self._southbound.snapshot
        batch = self._without_newcomers(batch, nb, started)
        drifted = self._touched & batch.keys()
        self._touched -= drifted
        facts = [self._kube.facts(key) for key in batch]
        brake = self._brake(facts, nb)
        world = world_of(self._config, self._kube, nb, sb, brake)
        present = Present(nb)
        cases = [self._case(each, present.of(each), sb, started) for each in facts]
        planned = plan(cases, self.status.books, world)
        self._metrics.reconcile.observe(time.monotonic() - started)
        now = self._northbound.snapshot
        if nb.generation != now.generation or not now.complete:
            # The copy was thrown away under our hands: none of this may be true.
            self._dirty.add_everything()
            return
        shared, books = self._shared(planned.books, nb, present), planned.books
        # What is written is let go of: at a start, the copy's rows take the place of the plan's.
        rest = list(zip(planned.results, cases, strict=True))
        del facts, cases, planned, nb, world, present
        # The word is used up by the transaction that carries it out.
        word = [Group("approval", (SetGlobal(APPROVAL, ""),))] if brake.approved else []
        left = self._commit(rest, [*shared, *word], batch, drifted)
        if left:
            self._dirty.add(left)
            self._virtual = None
        if len(left) < len(batch) or not batch:
            # Rows that were written hold what they say, so the books are those of the plan; of a plan of which nothing was
            # committed nothing is remembered.
            first = not self.status.in_sync
            self.status = Status(not first or not left, books, brake)
            if first and self.status.in_sync:
                memory.keep()
                self._kube.release_writes()

    def _brake(self, facts: Iterable[Facts], nb: NorthboundSnapshot) -> Brake:
        """What must not be deleted. Only where something may go without evidence is there anything to count."""
        before = self.status.brake
        store = self._kube.store
        unseen = any(each.empty and each.key in nb.by_vm and not store.was_deleted(each.key) for each in facts)
        if self.status.in_sync and not unseen and not before.held_ports:
            return before if not before.approved else NO_BRAKE
        found = brake_of(self._kube, nb, self._config.networks, self._config.cluster)
        if found.message and found.message != before.message:
            self._announcer.sweep_held(found.message)
        if found.approved:
            LOG.warning("sweep approved", extra={"reason": "an operator has given his word", "of": len(nb.ports)})
        return found

    def _case(self, facts: Facts, present: tuple[PresentPort, ...], sb: SouthboundSnapshot, now: float) -> Case:
        try:
            where = locate(facts)
        except Exception:
            LOG.exception("facts that say nothing of where a VM is", extra={"vm": facts.key})
            where = Whereabouts(Situation.UNCLEAR)
        seen = self.notes.look(facts, where, now)
        bindings: dict[str, Binding] = {}
        if sb.complete and sb.bindings:
            names = {*seen.watched, *(row.port.name for row in present)}
            bindings = {name: binding for name in names if (binding := sb.bindings.get(name))}
        unsure = self._kube.store.unsure(facts)
        return Case(facts, where, now - seen.since, present, bindings, unsure)

    def _shared(self, books: Books, nb: NorthboundSnapshot, present: Present) -> list[Group]:
        """The virtual ports of shared addresses, each a group of its own; they follow from what all VMs may use."""
        if self.status.in_sync and books.same_shares(self.status.books) and nb.virtual is self._virtual:
            return []
        self._virtual = nb.virtual
        taken = {*nb.ports, *nb.names} if any(True for _ in books.shared()) else ()
        strays = present.strays_of(lambda: map(self._kube.facts, self._kube.keys()))
        found = virtual_changes(virtual_ports(self._config.cluster, books, taken), nb.virtual, strays)
        return [Group(f"virtual port {port.name}", (change,)) for port, change in found]

    def _commit(
        self,
        rest: list[tuple[Result, Case]],
        extra: Sequence[Group],
        batch: Mapping[VmKey, float],
        drifted: set[VmKey],
    ) -> set[VmKey]:
        """Write the difference, CHUNK VMs at a time and `extra` with the last of them, until something is not written; what
        follows from one transaction is drawn while the database works on the next. The VMs of which it is not known that all
        was written. `rest` is emptied as it is written."""

        def write_some() -> _Written:
            part = rest[:CHUNK]
            del rest[:CHUNK]
            return self._write(part, () if rest else extra)

        written = write_some()
        with ThreadPoolExecutor(1, "reconciler-writes") as beside:
            while rest and not written.left:
                writing = beside.submit(write_some)
                self._follow(written, batch, drifted)
                written = writing.result()
        self._follow(written, batch, drifted)
        return written.left | {result.key for result, _ in rest}

    def _write(self, part: Sequence[tuple[Result, Case]], extra: Sequence[Group]) -> _Written:
        """Write the difference. Nothing is remembered of it yet."""
        results = [result for result, _ in part]
        groups = [
            Group("infrastructure", tuple(infrastructure(self._config.networks.all, self._northbound.snapshot, results)))
        ]
        groups += [Group(result.key, tuple(changes(result, case.present))) for result, case in part]
        groups += extra
        errors: Sequence[str | None] = [None] * len(groups)
        written: Container[int] = range(len(groups))
        if any(group.changes for group in groups):
            started = time.monotonic()
            try:
                errors = self._northbound.commit(groups, self._leadership.term)
            except NotCommittedError as failure:
                self._not_committed(failure)
                written = failure.committed
            else:
                self._failures = 0
                self._metrics.transaction.observe(time.monotonic() - started)
                self._metrics.transactions.inc()
            self._metrics.changes.inc(sum(len(group.changes) for index, group in enumerate(groups) if index in written))
        done = time.monotonic()
        for refused in filter(None, (errors[0], *errors[len(part) + 1 :])):
            LOG.error("switches, routers, virtual ports or DHCP options not written", extra={"reason": refused})
            self._virtual, self._retry_virtual = None, done + REFUSED_RETRY_SECONDS
        return _Written(
            [
                (result, case, groups[index].changes, errors[index])
                for index, (result, case) in enumerate(part, 1)
                if index in written
            ],
            {result.key for index, (result, _) in enumerate(part, 1) if index not in written},
            done,
        )

    def _follow(self, written: _Written, batch: Mapping[VmKey, float], drifted: set[VmKey]) -> None:
        """What follows from what was written, or refused."""
        first = not self.status.in_sync
        for result, case, changed, error in written.vms:
            try:
                drift, news = result.key in drifted, batch[result.key]
                self._consequences.draw(result, case, changed, error, drift, news, written.done, first)
            except Exception as failure:
                self._set_aside(result.key, failure)
        self._tell()
        self._southbound.watch(self.notes.watched_ports)
        self._northbound.watch_names(self.notes.names_waited_for())

    def _tell(self) -> None:
        with together():
            self._consequences.tell(self._set_aside)

    def _not_committed(self, error: NotCommittedError) -> None:
        first, longest = RETRY_SECONDS
        pause = min(longest, first * 2**self._failures)
        self._failures += 1
        LOG.warning("not committed", extra={"reason": str(error), "retry_seconds": pause})
        self._metrics.not_committed_total.inc()
        self._dirty.pause(pause)

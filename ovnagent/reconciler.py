"""Dirty VMs -> batch -> one transaction. The only place where Kubernetes and OVN meet.

One thread. What happens elsewhere only says which VM to look at again (dirty.py); here all its facts are read, the rows
that it should have are computed (core/plan.py) and compared with those present, and the difference is committed.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ovnagent.announce import Announcer, object_ref
from ovnagent.config.file import Config
from ovnagent.core.addresses import Books
from ovnagent.core.placement import Binding, Situation, Whereabouts, locate
from ovnagent.core.plan import Case, Result, plan
from ovnagent.core.problems import PORT_REFUSED, Problem
from ovnagent.core.shared import NO_VM
from ovnagent.core.vm import Facts, VmKey
from ovnagent.difference import changes, infrastructure, rows_of, vms_of, world_of
from ovnagent.dirty import Dirty
from ovnagent.kube.kubernetes import Kubernetes
from ovnagent.ovn.changes import Change
from ovnagent.ovn.northbound import Group, Northbound, NotCommittedError
from ovnagent.ovn.snapshot import NorthboundSnapshot, SouthboundSnapshot
from ovnagent.ovn.southbound import Southbound
from ovnagent.serve.metrics import Metrics
from ovnagent.sweep import SweepGuard

LOG = logging.getLogger(__name__)

IDLE_SECONDS = 1.0
"""How often the reconciler looks round when nothing happens (lock, staleness, metrics)."""
CHUNK = 2000
"""VMs in one transaction at most: 10,000 rows at once would hold up a migration that starts meanwhile."""
RETRY_SECONDS = (0.05, 5.0)
"""First and longest pause after a transaction that could not be committed."""
REFUSED_RETRY_SECONDS = 30.0
"""When a row that the database refused is tried again without any news of it."""
STALE_SECONDS = 60.0
"""An agent whose view of Kubernetes is older than this gives up the lock."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What is remembered of a VM between two looks. No row depends on it but for the grace periods."""

    facts: Facts | None
    """Those of the last look that ended well."""
    where: Whereabouts
    since: float
    """Monotonic seconds."""
    problems: tuple[Problem, ...] = ()
    watched: frozenset[str] = frozenset()
    """Its ports whose Port_Binding is watched: those of a VM in migration."""


class Reconciler:
    """Computes and commits. `run` is its thread; everything else may be called from any thread."""

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
        self.config = config
        self.dirty = dirty
        self.kube = kube
        self.northbound = northbound
        self.southbound = southbound
        self.announcer = announcer
        self.metrics = metrics
        self.guard = SweepGuard(announcer.sweep_held)
        self.books = Books(network.logical_switch for network in config.networks.all)
        self.seen: dict[VmKey, Seen] = {}
        self.waiting: defaultdict[str, set[VmKey]] = defaultdict(set)
        """What would have to become free (Problem.waits_for) -> the VMs that wait for it."""
        self.touched: set[VmKey] = set()
        """VMs whose rows changed in NB, by whomever, since the last look at them."""
        self.drifted: set[VmKey] = set()
        """Those of them that are in this batch."""
        self._next: Config | None = None
        self.leading = False
        self.failures = 0
        self.stopping = False
        self.in_sync = False
        """The first look at every VM is done."""

    # -- the loop

    def run(self) -> None:
        """Until `stop`. An error in here is a bug: it ends the agent, and a standby or a restart takes over."""
        while not self.stopping:
            if not self._may_write():
                self.dirty.pause(IDLE_SECONDS)
                continue
            if self._next is not None:
                self.config, self._next = self._next, None
                self._begin_anew()
            batch, everything = self.dirty.take(IDLE_SECONDS)
            if self.stopping:
                return
            if everything:
                now = time.monotonic()
                for key in self.kube.keys() | vms_of(self.northbound.snapshot) | self.seen.keys():
                    batch.setdefault(key, now)
            if batch or not self.in_sync or self.northbound.snapshot.unused:
                self._reconcile(batch)

    def reconfigure(self, config: Config) -> None:
        """Work by other networks from the next batch on. From any thread."""
        networks = config.networks.all
        self.northbound.watch((each.logical_switch for each in networks), (each.router for each in networks if each.router))
        self._next = config
        self.dirty.add_everything()

    def stop(self) -> None:
        """End `run` after the transaction under way."""
        self.stopping = True
        self.dirty.close()

    def troubled(self) -> list[VmKey]:
        """VMs with an unsolved problem."""
        return [key for key, seen in list(self.seen.items()) if seen.problems]

    def _may_write(self) -> bool:
        """Nothing is written, and so nothing deleted, before both sides are complete and the lock is ours."""
        if not self.kube.synced:
            return False
        if max(self.kube.stale.values(), default=0.0) > STALE_SECONDS:
            if self.northbound.has_lock:
                LOG.warning("lock released", extra={"reason": "the view of Kubernetes is stale; a standby may do better"})
            self.northbound.release_lock()
            return False
        self.northbound.acquire_lock()
        ready = self.northbound.snapshot.complete and self.northbound.has_lock
        ready = ready and self.southbound.snapshot.ever_complete
        if ready and not self.leading:
            # Another agent may have granted addresses meanwhile.
            LOG.info("leading", extra={"reason": "holding the Northbound lock, all views complete"})
            self._begin_anew()
        elif self.leading and not self.northbound.has_lock:
            LOG.warning("not leading any more", extra={"reason": "the Northbound lock is lost"})
        self.leading = ready or (self.leading and self.northbound.has_lock)
        return ready

    def _begin_anew(self) -> None:
        """What is remembered of addresses may be wrong: the books follow from rows and records once more."""
        self.books = Books(network.logical_switch for network in self.config.networks.all)
        self.in_sync = False
        self.dirty.add_everything()

    # -- one batch

    def _reconcile(self, batch: Mapping[VmKey, float]) -> None:
        started = time.monotonic()
        nb, sb = self.northbound.snapshot, self.southbound.snapshot
        self.drifted = self.touched & batch.keys()
        self.touched -= self.drifted
        facts = {key: self.kube.facts(key) for key in batch}
        gone = {key for key in batch if facts[key].empty}
        held = self.guard.held(gone, self.kube, self.northbound)
        cases = [self._case(facts[key], nb, sb) for key in batch if key not in held]
        if not self.in_sync or self.guard.orphaned:
            self.guard.look_at_networks(set(self.config.networks.names()), self.northbound)
        world = world_of(self.config, self.books, self.kube, nb, sb)
        results = [self.guard.spare(result) for result in plan(cases, world)]
        self.metrics.reconcile.observe(time.monotonic() - started)
        if self.books.shares_changed:
            self.dirty.add((NO_VM,))
        now = self.northbound.snapshot
        if nb.generation != now.generation or not now.complete:
            self.dirty.add_everything()  # the copy was thrown away under our hands: none of this may be true
            return
        for start in range(0, max(len(results), 1), CHUNK):
            part = slice(start, start + CHUNK)
            if not self._commit(results[part], cases[part], batch):
                self.dirty.add(result.key for result in results[start:])
                return
        self.in_sync = True

    def _case(self, facts: Facts, nb: NorthboundSnapshot, sb: SouthboundSnapshot) -> Case:
        where = locate(facts)
        now = time.monotonic()
        seen = self.seen.get(facts.key)
        if seen is None:
            seen = Seen(None, where, now)
        elif seen.where != where:
            seen = replace(seen, where=where, since=now)
        self.seen[facts.key] = seen
        present = rows_of(nb, facts.key)
        bindings: dict[str, Binding] = {}
        if sb.complete:
            bindings = {name: binding for name in seen.watched if (binding := sb.bindings.get(name))}
        return Case(facts, where, now - seen.since, present, bindings)

    def _commit(self, results: Sequence[Result], cases: Sequence[Case], batch: Mapping[VmKey, float]) -> bool:
        """Write the difference. False: nothing could be written, and all of it stays dirty."""
        found: list[list[Change]] = [infrastructure(self.config.networks.all, self.northbound.snapshot, results)]
        found += [changes(result, case.present) for result, case in zip(results, cases, strict=True)]
        labels: list[VmKey | str] = ["infrastructure", *(result.key for result in results)]
        groups = [Group(label, tuple(group)) for label, group in zip(labels, found, strict=True)]
        errors: Sequence[str | None] = [None] * len(groups)
        if any(found):
            started = time.monotonic()
            try:
                errors = self.northbound.commit(groups)
            except NotCommittedError as failure:
                self._not_committed(failure)
                return False
            self.metrics.transaction.observe(time.monotonic() - started)
            self.metrics.transactions.inc()
            self.metrics.changes.inc(sum(map(len, found)))
        self.failures = 0
        done = time.monotonic()
        if errors[0]:
            LOG.error("switches, routers or DHCP options not written", extra={"reason": errors[0]})
        for result, case, group, error in zip(results, cases, found[1:], errors[1:], strict=True):
            self._settled(result, case, group, error, done - batch[result.key])
        self.southbound.watch({name for seen in self.seen.values() for name in seen.watched})
        self.northbound.watch_names({wait.removeprefix("port ") for wait in self.waiting if wait.startswith("port ")})
        return True

    def _not_committed(self, error: NotCommittedError) -> None:
        first, longest = RETRY_SECONDS
        pause = min(longest, first * 2**self.failures)
        self.failures += 1
        LOG.warning("not committed", extra={"reason": str(error), "retry_seconds": pause})
        self.metrics.not_committed_total.inc()
        self.dirty.pause(pause)

    def _settled(self, result: Result, case: Case, group: Sequence[Change], error: str | None, seconds: float) -> None:
        """Remember, tell and schedule what follows from one VM's result."""
        troubles = result.problems
        if error:
            troubles = (*troubles, refusal(result, error))
            self.metrics.refused_rows.inc()
        before = self.seen[result.key]
        for problem in before.problems:
            for what in problem.waits_for:
                self.waiting[what].discard(result.key)
                if not self.waiting[what]:
                    del self.waiting[what]
        for problem in troubles:
            for what in problem.waits_for:
                self.waiting[what].add(result.key)
        for what in result.freed:
            self.dirty.add(self.waiting.get(what, ()))
        if result.owner is None and not result.wanted and not error:
            del self.seen[result.key]
        else:
            self.seen[result.key] = replace(
                before, facts=case.facts, problems=troubles, watched=watched(before.where, result)
            )
            if self.seen[result.key].watched - before.watched:
                self.dirty.add((result.key,))  # once more, with what SB says
        unchanged = before.facts == case.facts and not before.watched and result.key != NO_VM
        if group and result.key in self.drifted and unchanged:
            self.metrics.drift.inc(len(group))
            LOG.warning("drift repaired", extra={"vm": result.key, "rows": len(group), "reason": "NB was changed by others"})
        if result.owner is None and case.facts.empty:
            self.kube.store.forget(result.key)
        self._record(result, case)
        self.dirty.later(result.key, REFUSED_RETRY_SECONDS if error else result.look_again)
        self.announcer.tell(result, case, () if error else group, troubles, before.problems, seconds)

    def _record(self, result: Result, case: Case) -> None:
        """The record on the VM follows behind the port."""
        ref = object_ref(result, case)
        if ref is None or not result.record:
            return
        holder = case.facts.vm if ref.kind == "VirtualMachine" else case.facts.vmi
        if holder is not None and holder.record != result.record:
            self.kube.records.put(ref, result.record)


def watched(where: Whereabouts, result: Result) -> frozenset[str]:
    """The ports whose Port_Binding decides something: all of a VM in migration, and those that name two chassis still."""
    moving = where.situation in (Situation.MIGRATING, Situation.SWITCHED)
    return frozenset(port.name for port in result.wanted if moving or len(port.requested_chassis) > 1)


def refusal(result: Result, error: str) -> Problem:
    """The database refused the VM's rows, most often because somebody else's port has the name on another switch."""
    names = ", ".join(port.name for port in result.wanted)
    return Problem(
        PORT_REFUSED, f"OVN refused logical switch port {names}: {error}", tuple(f"port {p.name}" for p in result.wanted)
    )

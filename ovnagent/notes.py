"""What is remembered of VMs between two looks. No row depends on it but for the grace periods.

Changed by the reconciler's thread only; the maps are persistent and replaced as a whole, so any thread may read them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from immutables import Map

from ovnagent.core.addresses import NO_FOREIGN, Foreign
from ovnagent.core.networks import Network
from ovnagent.core.placement import Situation, Whereabouts
from ovnagent.core.plan import Result
from ovnagent.core.problems import Problem
from ovnagent.core.vm import Facts, VmKey

T = TypeVar("T")
MOVING = (Situation.MIGRATING, Situation.SWITCHED)


@dataclass(frozen=True, slots=True)
class Seen:
    """One VM, as it was at the last look."""

    facts: Facts | None
    """Those of the last look that ended well."""
    where: Whereabouts
    since: float
    """Monotonic seconds: since when `where` has been what it is."""
    problems: tuple[Problem, ...] = ()
    watched: frozenset[str] = frozenset()
    """Its ports whose Port_Binding is watched: those of a VM in migration."""


class Notes:
    """All VMs that are known, and who of them waits for what."""

    def __init__(self) -> None:
        self.seen: Map[VmKey, Seen] = Map()
        self.problems: Map[VmKey, tuple[Problem, ...]] = Map()
        """Those of VMs that have any."""
        self.watched: Map[VmKey, frozenset[str]] = Map()
        """VM in migration -> its ports."""
        self.watched_ports: Map[str, VmKey] = Map()
        """Each of those ports -> its VM."""
        self._waiting: defaultdict[str, set[VmKey]] = defaultdict(set)
        """What would have to become free (Problem.waits_for) -> the VMs that wait for it."""

    @property
    def migrations(self) -> int:
        """VMs in live migration."""
        return sum(self.seen[key].where.situation in MOVING for key in self.watched if key in self.seen)

    def look(self, facts: Facts, where: Whereabouts, now: float) -> Seen:
        """The VM is looked at, at this (monotonic) time."""
        seen = self.seen.get(facts.key)
        if seen is None:
            seen = Seen(None, where, now)
        elif seen.where != where:
            seen = replace(seen, where=where, since=now)
        self.seen = self.seen.set(facts.key, seen)
        return seen

    def settle(self, result: Result, facts: Facts, problems: tuple[Problem, ...], gone: bool) -> Seen:
        """Remember what came of the look; the VM as it was before. `gone`: nothing is left of it."""
        key = result.key
        before = self.seen[key]
        for problem in before.problems:
            for what in problem.waits_for:
                self._waiting[what].discard(key)
                if not self._waiting[what]:
                    del self._waiting[what]
        for problem in problems:
            for what in problem.waits_for:
                self._waiting[what].add(key)
        now = replace(before, facts=facts, problems=problems, watched=watched(before.where, result))
        self.seen = self.seen.delete(key) if gone else self.seen.set(key, now)
        self.problems = _put(self.problems, key, problems if not gone else ())
        self._watch(key, now.watched if not gone else frozenset())
        return before

    def _watch(self, key: VmKey, ports: frozenset[str]) -> None:
        before = self.watched.get(key, frozenset())
        if before == ports:
            return
        self.watched = _put(self.watched, key, ports)
        for port in before - ports:
            if self.watched_ports.get(port) == key:
                self.watched_ports = self.watched_ports.delete(port)
        for port in ports - before:
            self.watched_ports = self.watched_ports.set(port, key)

    def set_aside(self, key: VmKey, problem: Problem) -> None:
        """The agent's own error on this VM: its rows are as they were."""
        self.problems = _put(self.problems, key, (problem,))

    # -- who waits

    def waiting_for(self, freed: Iterable[str]) -> set[VmKey]:
        """VMs that wait for one of these."""
        return {key for what in freed for key in self._waiting.get(what, ())}

    def names_waited_for(self) -> set[str]:
        """Names of ports that would have to go."""
        return {what.removeprefix("port ") for what in self._waiting if what.startswith("port ")}

    def freed_by_others(
        self,
        networks: Iterable[Network],
        before: tuple[Mapping[str, Foreign], Mapping[str, str]],
        now: tuple[Mapping[str, Foreign], Mapping[str, str]],
    ) -> Iterator[str]:
        """What VMs wait for and others used before and do not use now: (what others use by switch, their ports' names)."""
        (used, names), (uses, left) = before, now
        changed = [
            (used.get(network.logical_switch, NO_FOREIGN), uses.get(network.logical_switch, NO_FOREIGN), network.name)
            for network in networks
        ]
        changed = [(old, new, name) for old, new, name in changed if old is not new]
        for what in list(self._waiting):
            port = what.removeprefix("port ")
            if (port != what and port in names and port not in left) or any(
                what == name or _freed(what, old.ips, new.ips) or _freed(what, old.macs, new.macs)
                for old, new, name in changed
            ):
                yield what


def watched(where: Whereabouts, result: Result) -> frozenset[str]:
    """The ports whose Port_Binding decides something: all of a VM in migration, and those that name two chassis still."""
    moving = where.situation in MOVING
    return frozenset(port.name for port in result.wanted if moving or len(port.requested_chassis) > 1)


def _freed(what: str, old: Mapping[str, str], new: Mapping[str, str]) -> bool:
    return what in old and what not in new


def _put(values: Map[VmKey, T], key: VmKey, value: T) -> Map[VmKey, T]:
    if value:
        return values if values.get(key) == value else values.set(key, value)
    return values.delete(key) if key in values else values

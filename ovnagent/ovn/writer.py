"""Groups of changes -> transactions: whom the database will not have is found and left out, and all others are written.

A group is refused where a value in it must not be written, where the database refuses it, and where the database hangs up on
it. The last looks like an outage. So when an answer has been lost, what is to be written next is first shown to the server
on a connection of its own (aside.py), which costs neither the copy nor the lock.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ovnagent.core.vm import VmKey
from ovnagent.ovn import aside
from ovnagent.ovn.changes import Change, CreatePort, CreateSwitch, DeletePort, Known, Operation, UpdatePort, operations
from ovnagent.ovn.connection import Connection
from ovnagent.ovn.transaction import AnswerLostError, NotCommittedError, RefusedError, transact

LOG = logging.getLogger(__name__)

HANGS_UP = "the database ends the connection when it is asked to write this"
SET_ASIDE_SECONDS = 300.0
"""So long a group on which the database hung up is not shown to it again, unless it has changed."""
REMEMBERED = 10_000
"""So many of those are remembered."""
ALONE, ALONE_SECONDS = 3, 30.0
"""A group is set aside, too, and for so long, when so many answers in a row were lost with it alone."""


@dataclass(frozen=True, slots=True)
class Group:
    """Changes that are written together or not at all, and whose they are."""

    label: VmKey | str
    changes: tuple[Change, ...]


Numbered = list[tuple[int, Group]]
"""Groups, each with its place among all that are to be committed."""


class Writer:
    """Commits groups; for one thread. What it remembers of hang-ups is this process' own: the next one loses a connection
    once, and knows then as well."""

    def __init__(self, connection: Connection, cluster: str, known: Callable[[], Known]) -> None:
        """`known()`: the UUIDs in the present copy."""
        self.transactions = 0
        """How many have been attempted."""
        self._connection, self._cluster, self._known = connection, cluster, known
        self._lost = 0
        """Answers lost since all was written for the last time."""
        self._at_once: int | None = None
        """Groups in one transaction: fewer and fewer from the second lost answer on."""
        self._alone: tuple[VmKey | str, int] = "", 0
        """The group with which alone the last answers were lost, and how many."""
        self._set_aside: dict[VmKey | str, tuple[Group, float]] = {}
        """Label -> (the group on which the database hung up, until when it is left alone)."""

    def commit(self, groups: Sequence[Group], term: int | None = None) -> list[str | None]:
        """One transaction for all groups. For each of them None, or why it was refused. `term`: of the lock, in which they
        are true.

        Raises NotCommittedError, with the groups that are known to be written, where that is not known of all."""
        batch = _Batch(groups, term)
        try:
            left = [(index, group) for index, group in enumerate(groups) if group.changes]
            left = self._without_hangups(batch, left)
            left.sort(key=lambda each: (each[1].label == self._alone[0], each[0]))  # who is suspected comes last
            while left:
                size = self._at_once or len(left)
                self._write(batch, left[:size])
                left = left[size:]
        except NotCommittedError as error:
            error.committed = frozenset(batch.committed)
            raise
        self._lost, self._at_once, self._alone = 0, None, ("", 0)
        return batch.errors

    # -- whom to leave out beforehand

    def _compose(self, batch: _Batch, groups: Numbered) -> tuple[Numbered, list[Operation]]:
        """The operations of those of which they can be made."""
        known = self._known()
        while True:
            try:
                return groups, self._operations(groups, known)
            except Exception:
                writable = self._writable(batch, groups, _with_created(known, groups))
                if len(writable) == len(groups):  # only together do they fail, which none of them can help
                    raise
                groups = writable

    def _writable(self, batch: _Batch, groups: Numbered, known: Known) -> Numbered:
        """Those whose operations can be made, each by itself."""
        for each in groups:
            try:
                self._operations([each], known)
            except KeyError as error:
                batch.errors[each[0]] = f"logical switch {error} does not exist"
            except ValueError as error:
                batch.errors[each[0]] = str(error)
            except Exception as error:
                LOG.exception("left out", extra={"group": str(each[1].label), "reason": "its operations cannot be made"})
                batch.errors[each[0]] = f"{type(error).__name__}: {error}"
        return [each for each in groups if batch.errors[each[0]] is None]

    def _without_hangups(self, batch: _Batch, groups: Numbered) -> Numbered:
        now = time.monotonic()
        left: Numbered = []
        doubtful: Numbered = []
        for index, group in groups:
            before, until = self._set_aside.get(group.label, (None, 0.0))
            if before == group and now < until:
                batch.errors[index] = HANGS_UP
            elif before is not None or self._lost:
                doubtful.append((index, group))
            else:
                left.append((index, group))
        known = _with_created(self._known(), groups)
        doubtful = self._writable(batch, doubtful, known)
        try:
            bad = self._hung_up_on(doubtful, known) if doubtful else set()
        except aside.NoAnswerError as error:
            raise NotCommittedError(str(error)) from error
        for index, group in doubtful:
            self._set_aside.pop(group.label, None)
            if index in bad:
                self._put_aside(batch, index, group, SET_ASIDE_SECONDS)
            else:
                left.append((index, group))
        return left

    def _hung_up_on(self, groups: Numbered, known: Known) -> set[int]:
        """Those on which the server hangs up."""
        idl = self._connection.idl
        if idl is None or not idl.monitoring:
            raise NotCommittedError("not connected to the database")
        if not aside.hangs_up(idl.session_name(), self._connection.database, self._operations(groups, known)):
            return set()
        if len(groups) == 1:
            return {groups[0][0]}
        half = len(groups) // 2
        return self._hung_up_on(groups[:half], known) | self._hung_up_on(groups[half:], known)

    def _put_aside(self, batch: _Batch, index: int, group: Group, seconds: float) -> None:
        LOG.error("left out", extra={"group": str(group.label), "reason": HANGS_UP})
        batch.errors[index] = HANGS_UP
        self._set_aside[group.label] = group, time.monotonic() + seconds
        if len(self._set_aside) > REMEMBERED:
            del self._set_aside[next(iter(self._set_aside))]

    # -- writing

    def _write(self, batch: _Batch, groups: Numbered) -> None:
        """One transaction; where it is refused, its halves, until the group that is to blame is alone. Groups that hand on
        an address to each other stay together: in another half, its old holder's row would have it for a while longer."""
        groups, asked = self._compose(batch, groups)
        if not groups:
            return
        try:
            self.transact(asked, batch.term)
        except RefusedError as error:
            refusal = str(error)
        except AnswerLostError:
            self._note_lost_answer(batch, groups)
            raise
        else:
            batch.committed.update(index for index, _ in groups)
            return
        units = _units(groups)
        if len(units) == 1:
            batch.errors = [refusal if at in dict(groups) else error for at, error in enumerate(batch.errors)]
            return
        half = len(units) // 2
        self._write(batch, [each for unit in units[:half] for each in unit])
        self._write(batch, [each for unit in units[half:] for each in unit])

    def _note_lost_answer(self, batch: _Batch, groups: Numbered) -> None:
        """Whatever it was: the next transactions are smaller, until the one with which it happens is alone."""
        self._lost += 1
        if self._lost > 1:
            self._at_once = max(1, len(groups) // 2)
        if len(groups) > 1:
            return
        index, group = groups[0]
        label, times = self._alone
        self._alone = group.label, times + 1 if label == group.label else 1
        if self._alone[1] >= ALONE:
            self._put_aside(batch, index, group, ALONE_SECONDS)

    def transact(self, asked: list[Operation], term: int | None = None) -> None:
        """One transaction as it is; `term`: see `commit`, None where it is true in any. Raises NotCommittedError or
        RefusedError."""
        self.transactions += 1
        transact(self._connection, asked, term=term)

    def _operations(self, groups: Numbered, known: Known) -> list[Operation]:
        return operations([change for _, group in groups for change in group.changes], known, self._cluster)


class _Batch:
    """What becomes of the groups of one call."""

    def __init__(self, groups: Sequence[Group], term: int | None) -> None:
        self.term = term
        self.errors: list[str | None] = [None] * len(groups)
        self.committed: set[int] = set()


def _units(groups: Numbered) -> list[Numbered]:
    """The groups, those together of which one takes an address or a MAC that another's rows have now."""
    had = [_words(group, before=True) for _, group in groups]
    has = [_words(group, before=False) for _, group in groups]
    givers = {word: place for place in range(len(groups)) for word in had[place] - has[place]}
    first = list(range(len(groups)))

    def found(place: int) -> int:
        while first[place] != place:
            place = first[place]
        return place

    for place in range(len(groups)):
        for giver in {givers[word] for word in has[place] - had[place] if word in givers}:
            first[found(place)] = found(giver)
    units: dict[int, Numbered] = {}
    for place, each in enumerate(groups):
        units.setdefault(found(place), []).append(each)
    return list(units.values())


def _words(group: Group, before: bool) -> set[tuple[str, str]]:
    """(switch, address or MAC) of a group's ports, before or after its changes."""
    found: set[tuple[str, str]] = set()
    for change in group.changes:
        match change:
            case CreatePort(port):
                ports = [] if before else [port]
            case UpdatePort(present, port):
                ports = [present.port if before else port]
            case DeletePort(present):
                ports = [present.port] if before else []
            case _:
                ports = []
        found |= {(port.switch, word) for port in ports for entry in port.addresses for word in entry.split()}
    return found


def _with_created(known: Known, groups: Numbered) -> Known:
    """As if the switches were there that the groups create: to look at each of them by itself."""
    created = {change.name: "" for _, group in groups for change in group.changes if isinstance(change, CreateSwitch)}
    return replace(known, switches={**created, **known.switches})

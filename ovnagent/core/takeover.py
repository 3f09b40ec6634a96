"""When a standby may take the lock from an agent that holds it and does nothing.

The database ends the connection of an agent that has died, and on TCP and TLS of one that is frozen (its inactivity probe);
the lock goes over by itself then. On a Unix socket nothing is probed: a frozen agent would hold the lock for ever. OVSDB
lets a client take it (`steal`, RFC 7047, 4.1.9), and that is safe: every transaction asserts the lock, so that whoever wakes
up without it writes nothing. What is left is the question when it is right:

* Only where something has waited to be written for a while, and nothing was written meanwhile. A frozen agent that has
  nothing to do harms nobody.
* Only after the holder has been asked and has not answered. One that answers is alive and has decided otherwise, most
  likely by another configuration: two such agents must not take the lock from each other in turn.
* Not again and again: each time it takes twice as long until the next. The same for one from which it was taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

IDLE_SECONDS = 5.0
"""So long something has waited, and no row of the agent's has changed."""
ANSWER_SECONDS = 5.0
"""So long the holder has for its answer. A holder at work answers within a transaction's time."""
BELIEVED_SECONDS, LONGEST_BELIEVED_SECONDS = 60.0, 600.0
"""So long an answer counts; each further one, while the same still waits, twice as long, up to the longest. (Each question
has northd look at NB_Global.)"""
PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 60.0, 3600.0
"""Between two times that the lock is taken: the first pause, doubled each time, and the longest."""
FORGOTTEN_SECONDS = 86_400.0
"""So long ago, it does not count any more."""


class Verdict(Enum):
    WAIT = auto()
    ASK = auto()
    """Ask the holder whether it is alive."""
    TAKE = auto()


@dataclass(frozen=True, slots=True)
class Standby:
    """What a standby knows. Times are monotonic seconds; None: never, or not now."""

    now: float
    contended: bool
    """Another agent holds the lock."""
    sure: bool
    """All of the standby's views are complete and fresh."""
    differs_since: float | None
    """Since when, without a break, rows have not been as this agent would write them. Not counted: what it could not write
    itself (refused, set aside, held back)."""
    changed: float | None = None
    """When a row of the agent's changed in NB for the last time, by whomever."""
    asked: float | None = None
    """When the holder was asked, if it has not answered since."""
    answered: float | None = None
    """When it last did."""
    answers: int = 0
    """How often it did since `differs_since`."""
    taken: tuple[float, ...] = ()
    """When the lock was taken, by this agent or from it."""


def verdict(standby: Standby) -> Verdict:
    """What to do now; to be asked again every second or so."""
    now = standby.now
    if not standby.contended or not standby.sure or standby.differs_since is None:
        return Verdict.WAIT
    if now < max(standby.differs_since, standby.changed or 0.0) + IDLE_SECONDS:
        return Verdict.WAIT
    believed = min(LONGEST_BELIEVED_SECONDS, BELIEVED_SECONDS * 2 ** max(0, min(standby.answers, 10) - 1))
    if standby.answered is not None and now < standby.answered + believed:
        return Verdict.WAIT
    taken = [when for when in standby.taken if now < when + FORGOTTEN_SECONDS]
    if taken and now < max(taken) + pause(len(taken)):
        return Verdict.WAIT
    if standby.asked is None:
        return Verdict.ASK
    return Verdict.TAKE if now >= standby.asked + ANSWER_SECONDS else Verdict.WAIT


def pause(times: int) -> float:
    """Seconds until the lock may be taken again, after so many times."""
    return float(min(LONGEST_PAUSE_SECONDS, PAUSE_SECONDS * 2 ** min(times - 1, 10)))

"""What a standby does about a holder of the lock that does nothing: core/takeover.py decides, here it is done."""

from __future__ import annotations

import logging
import time

from ovnagent.core.takeover import Standby, Verdict, verdict
from ovnagent.ovn.northbound import Northbound
from ovnagent.ovn.transaction import NotCommittedError

LOG = logging.getLogger(__name__)

ARRIVAL_SECONDS = 0.5
"""So long after it was asked, the question is in the copy; if it is not, it has been answered."""


class Takeover:
    """For one thread, which calls `look` every second or so while it stands by."""

    def __init__(self, northbound: Northbound) -> None:
        self._northbound = northbound
        self._asked: float | None = None
        self._answered: float | None = None
        self._answers = 0
        self._taken: tuple[float, ...] = ()

    @property
    def times(self) -> int:
        """How often this agent has taken the lock, or has lost it so."""
        return len(self._taken)  # so rarely that they may be kept

    def look(self, sure: bool, differs_since: float | None) -> Verdict:
        """Ask the holder, or take the lock, if it is time to. See core.takeover.Standby."""
        northbound, now = self._northbound, time.monotonic()
        if northbound.robbed is not None and northbound.robbed not in self._taken:
            self._taken = (*self._taken, northbound.robbed)
        if not northbound.contended:
            self._asked = None
        elif self._asked is not None and now > self._asked + ARRIVAL_SECONDS and not northbound.holder_asked:
            self._asked, self._answered = None, now
            self._answers += 1
            if differs_since is not None:
                reason = (
                    "it answers, but does not write what this agent would: are their versions and configurations the same?"
                )
                LOG.warning("the holder of the Northbound lock is alive", extra={"reason": reason})
        if differs_since is None:
            self._answers = 0
        facts = Standby(
            now=now,
            contended=northbound.contended,
            sure=sure,
            differs_since=differs_since,
            changed=northbound.rows_changed,
            asked=self._asked,
            answered=self._answered,
            answers=self._answers,
            taken=self._taken,
        )
        found = verdict(facts)
        if found is Verdict.ASK:
            try:
                northbound.ask_holder()
            except NotCommittedError as error:
                LOG.warning("the holder of the lock could not be asked", extra={"reason": str(error)})
            else:
                self._asked = time.monotonic()
        elif found is Verdict.TAKE:
            waited = round(now - (differs_since or now), 1)
            reason = f"for {waited} s something has waited to be written, and its holder does not answer"
            LOG.error("taking the Northbound lock", extra={"reason": reason})
            northbound.steal_lock()
            self._taken, self._asked = (*self._taken, now), None
        return found

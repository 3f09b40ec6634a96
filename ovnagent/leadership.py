"""Whether this agent may write: it holds the Northbound lock, and its views of both sides are complete and fresh."""

from __future__ import annotations

import logging
from collections.abc import Callable

from ovnagent.kube.kubernetes import Kubernetes
from ovnagent.ovn.northbound import Northbound, NotCommittedError, RefusedError
from ovnagent.ovn.southbound import Southbound

LOG = logging.getLogger(__name__)

BLIND_SECONDS = 60.0
"""An agent whose view of Kubernetes is older than this gives up the lock."""


class Leadership:
    """For the reconciler's thread; `leading` may be read by any. `began()`: a term begins, and what is remembered of an
    earlier one may be wrong, because another agent may have granted addresses meanwhile."""

    def __init__(self, kube: Kubernetes, northbound: Northbound, southbound: Southbound, began: Callable[[], None]) -> None:
        self.leading = False
        """It holds the lock and works; a standby remembers nothing of what changes."""
        self.term = 0
        """Of the lock (Northbound.lock_term), by which what is remembered is true."""
        self._kube, self._northbound, self._southbound, self._began = kube, northbound, southbound, began

    @property
    def sure(self) -> bool:
        """All views are complete and fresh."""
        fresh = self._kube.synced and self._age <= BLIND_SECONDS
        return fresh and self._northbound.snapshot.complete and self._southbound.snapshot.complete

    @property
    def _age(self) -> float:
        return max(self._kube.stale.values(), default=0.0)

    def look(self) -> bool:
        """Whether it may write now. Nothing is written, and so nothing deleted, before both sides are complete and the lock
        is ours."""
        if not self._kube.synced:
            return False
        if self._age > BLIND_SECONDS:
            if self._northbound.has_lock:
                LOG.warning("lock released", extra={"reason": "the view of Kubernetes is stale; a standby may do better"})
            self._northbound.release_lock()
            self.leading = False
            return False
        self._northbound.acquire_lock()
        has_lock, term = self._northbound.has_lock, self._northbound.lock_term
        ready = has_lock and self._northbound.snapshot.complete and self._southbound.snapshot.ever_complete
        if ready and (not self.leading or term != self.term):
            LOG.info("leading", extra={"reason": "holding the Northbound lock, all views complete"})
            self._began()
            self.leading, self.term = True, term
        elif self.leading and not has_lock:
            LOG.warning("not leading any more", extra={"reason": "the Northbound lock is lost"})
            self.leading = False
        return ready

    def answer(self) -> None:
        """A standby may have asked whether this agent is alive: one that writes is."""
        try:
            self._northbound.answer()
        except (NotCommittedError, RefusedError) as error:
            LOG.warning("a standby's question was not answered", extra={"reason": str(error)})

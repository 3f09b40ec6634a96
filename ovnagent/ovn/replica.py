"""The IDL as the agent needs it: it notices a database that hangs, spares a database that is busy, and trusts no copy that
it is not sure of."""

from __future__ import annotations

import logging
import time
import uuid
from collections import deque
from collections.abc import Callable
from typing import Any

from ovs.db import idl as ovs_idl
from ovsdbapp.backend.ovs_idl.connection import OvsdbIdl

from ovnagent.ovn import session
from ovnagent.ovn.session import Session
from ovnagent.process import memory

LOG = logging.getLogger(__name__)

COPY_PROBE_MILLISECONDS = 30_000
"""The same while the server puts rows together for us: with 100,000 ports and little CPU it says nothing for seconds, and
would begin anew if we gave up."""
CONDITION_SECONDS, CONDITION_SHARE = 0.5, 9
"""How often the rows asked for may change: each time ovsdb-server looks at all rows of the table (1 us each, and 13 ns more
for each clause where not all of them are `==`: half a second with 100,000 ports and 300 foreign ones). So the next change
waits nine times as long as the answer to the last one took, a tenth of the server's time at most, but never longer than
this. (With half a second always, the ends of 500 migrations that began together waited for their bindings.)"""
QUICK_RETURN_SECONDS = 5.0
"""A connection that has lasted for so long, and is lost, is made again at once; another one after the usual pause."""
COPYING = (
    ovs_idl.Idl.IDL_S_DATA_MONITOR_REQUESTED,
    ovs_idl.Idl.IDL_S_DATA_MONITOR_COND_REQUESTED,
    ovs_idl.Idl.IDL_S_DATA_MONITOR_COND_SINCE_REQUESTED,
)


class Replica(OvsdbIdl):  # type: ignore[misc]
    """An IDL that says when its content is thrown away, when a batch of updates has been taken in, and that copies all
    anew where it cannot be sure to have understood an update. Its thread is the only one that may touch it, but for
    `request`, `monitoring` and plain attributes."""

    _holds = False
    lock_terms = 0
    """How often the lock was had."""

    def __init__(self, remote: str, helper: Any, leader_only: bool) -> None:
        super().__init__(remote, helper, leader_only=leader_only)
        self._session = Session(remote)
        self.last_turn = time.monotonic()
        """Monotonic seconds; also while a large copy is taken in."""
        self.robbed: float | None = None
        """When the lock was last taken from here by another client: monotonic seconds."""
        self.failures = 0
        """How often an update was not understood."""
        self.generation = 0
        """Counts how often the content was thrown away (a reconnect that could not go on where it was)."""
        self.last_contact = time.monotonic()
        self._seen_bytes = -1
        self._requests: deque[Callable[[], None]] = deque()
        self._conditions_due = 0.0
        self._conditions_sent: float | None = None
        """When the change that has not been answered yet was sent."""
        self._failed = False
        self._trusted = True
        self._was_monitoring = False
        self._quick_return_due = 0.0

    @property
    def has_lock(self) -> bool:
        """The server has said that the lock is ours."""
        return self._holds

    @has_lock.setter
    def has_lock(self, held: bool) -> None:
        self.lock_terms += held and not self._holds
        self._holds = held

    def request(self, function: Callable[[], None]) -> None:
        """Have something done in the connection's thread, at its next turn. From any thread."""
        self._requests.append(function)

    def run(self) -> bool:
        if not self._copying:
            return self._turn()
        with memory.loading():
            return self._turn()

    def _turn(self) -> bool:
        # Not between a transaction and its answer: the IDL forbids set_lock there.
        while self._requests and not self._outstanding_txns:
            self._requests.popleft()()
        changed = False
        self.last_turn = time.monotonic()
        try:
            changed = bool(super().run())
            self._pace_conditions()
            self._note_contact()
            self.updated()
        except Exception:
            LOG.exception("an update was not understood", extra={"reason": "the database is copied anew"})
            self._failed = True
        if self._failed:
            self._failed = False
            self.failures += 1
            self.distrust("an update was not understood")
        refused, error = self._session.refused
        self._session.refused = None, ""
        if refused is not None and refused == self._monitor_request_id:
            # The library would wait for an answer for ever.
            self._session.drop(f"the database refuses to be copied: {error}")
        return changed

    def distrust(self, reason: str) -> None:
        """Throw the connection away and copy all anew, after a pause."""
        self._trusted = False
        self.last_id = str(uuid.UUID(int=0))
        self._session.drop(reason)

    def wait(self, poller: Any) -> None:
        """The IDL's own spins while a change of conditions waits for the answer to another one, or for a connection."""
        if self._requests and not self._outstanding_txns:
            poller.immediate_wake()
        if self.cond_changed and self._request_id is None and self._session.is_connected():
            poller.timer_wait(max(0, int((self._conditions_due - time.monotonic()) * 1000) + 1))
        self._session.wait(poller)
        self._session.recv_wait(poller)

    def send_cond_change(self) -> None:
        now = time.monotonic()
        if self.cond_changed and now >= self._conditions_due:
            super().send_cond_change()
            if not self.cond_changed:
                self._conditions_sent = now

    def _pace_conditions(self) -> None:
        """Once a change of conditions is answered."""
        if self._conditions_sent is not None and self._request_id is None:
            now = time.monotonic()
            self._conditions_due = now + min(CONDITION_SECONDS, CONDITION_SHARE * (now - self._conditions_sent))
            self._conditions_sent = None

    def cooperative_yield(self) -> None:
        """Not here: a `sleep(0)` for every row is a third of the time of a large load, and this is a thread."""
        self.last_turn = time.monotonic()

    @property
    def monitoring(self) -> bool:
        """Connected, and the copy is being kept up to date."""
        return bool(self.state == self.IDL_S_MONITORING and self._session.is_connected() and self._trusted)

    @property
    def reason(self) -> str:
        """Why there is no connection; empty where there is one."""
        return self._session.reason if not self._session.is_connected() else ""

    @property
    def _copying(self) -> bool:
        """The server owes us rows, perhaps very many."""
        return not self.conditions_met if self.monitoring else self.state in COPYING

    @property
    def age(self) -> float:
        """Seconds since the database was last known to answer."""
        silent = time.monotonic() - self.last_contact
        # Nothing need be said for a probe's length; after that the probe has an answer, or the connection ends.
        return 0.0 if self.monitoring and silent < 2 * session.PROBE_MILLISECONDS / 1000 else silent

    @property
    def conditions_met(self) -> bool:
        """All rows that have been asked for are here."""
        states = (table.condition_state for table in self.tables.values())
        return all(state.acked == state.latest for state in states)

    def updated(self) -> None:
        """Hook: a batch of updates has been taken in, or the connection changed."""

    def cleared(self) -> None:
        """Hook: all rows are gone; those that still exist will be notified again."""

    def _note_contact(self) -> None:
        received = self._session.rpc.get_received_bytes() if self._session.rpc else -1
        if self.monitoring and received != self._seen_bytes:
            self.last_contact = time.monotonic()
        self._seen_bytes = received
        self._session.reconnect.set_probe_interval(COPY_PROBE_MILLISECONDS if self._copying else session.PROBE_MILLISECONDS)
        if self.monitoring != self._was_monitoring:
            self._was_monitoring = self.monitoring
            where = {"database": self._db.name, "endpoint": self.session_name()}
            if self.monitoring:
                LOG.info("connected", extra=where)
                self._session.pace.forget()
                if time.monotonic() >= self._quick_return_due:
                    self._session.reset_backoff()
                self._quick_return_due = time.monotonic() + QUICK_RETURN_SECONDS
            else:
                self._session.unheeded.clear()
                LOG.warning("connection lost", extra={**where, "reason": self._session.reason})

    def _Idl__clear(self) -> None:  # noqa: N802 - the IDL's own name: it throws rows away without a notification
        self.generation += 1
        self._trusted = True
        self._conditions_due, self._conditions_sent = 0.0, None
        self.cleared()
        super()._Idl__clear()

    def steal_lock(self, name: str) -> None:
        """Take the lock from whoever holds it (RFC 7047, 4.1.9). In the connection's thread."""
        if self.has_lock:
            return
        if self.lock_name:
            self._Idl__send_unlock_request()  # the request of before, which waits: the server takes no second one
        self.lock_name: str | None = name
        self._lock_request_id = self._Idl__do_send_lock_request("steal")

    def _Idl__do_send_lock_request(self, method: str) -> Any:  # noqa: N802
        request = super()._Idl__do_send_lock_request(method)
        if method == "unlock" and request is not None:
            # The IDL would take the answer for one to a change of conditions: rows for granted that are still to come.
            self._session.unheeded.add(request)
        return request

    def _Idl__parse_lock_notify(self, params: Any, new_has_lock: bool) -> None:  # noqa: N802
        had = self.has_lock
        super()._Idl__parse_lock_notify(params, new_has_lock)
        if had and not self.has_lock:
            self.robbed = time.monotonic()

    def _Idl__check_server_db(self) -> bool:  # noqa: N802
        fine = bool(super()._Idl__check_server_db())
        if not fine:
            self._session.pace.note("a member that does not lead its cluster, or has lost it")
        return fine

    def _Idl__do_parse_update(self, updates: Any, version: Any, tables: Any) -> None:  # noqa: N802
        """The IDL logs an update that it cannot apply, and goes on with a copy that is not true any more."""
        try:
            super()._Idl__do_parse_update(updates, version, tables)
        except Exception:
            self._failed = True
            raise


for _hook in (
    "_Idl__check_server_db",
    "_Idl__clear",
    "_Idl__do_parse_update",
    "_Idl__do_send_lock_request",
    "_Idl__parse_lock_notify",
    "_Idl__send_unlock_request",
):
    assert hasattr(ovs_idl.Idl, _hook), f"ovs' IDL has changed: {_hook} is gone"

"""One attempt at one transaction, in the connection's thread."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

import ovs.poller
from ovs.db import idl as ovs_idl
from ovsdbapp import exceptions
from ovsdbapp.backend.ovs_idl import command, transaction

from ovnagent.ovn.changes import Operation
from ovnagent.ovn.connection import Connection

COMMIT_SECONDS = 15.0
"""How long an answer is waited for; longer than a dead connection takes to be noticed (session.PROBE_MILLISECONDS)."""
STOP_MILLISECONDS = 200
"""How soon it is noticed, while an answer is waited for, that the connection is to end."""
NOBODYS_FAULT = frozenset({"cluster error", "I/O error", "resources exhausted", "timed out", "canceled"})
"""Errors (RFC 7047, 3.1 and 4.1.3; `cluster error` is ovsdb-server's own, where a member ceases to lead) that say nothing
about what was to be written."""


class NotCommittedError(Exception):
    """It is not known that all was written: no lock, no connection, no answer. The same facts will tell again."""

    def __init__(self, reason: str, committed: Collection[int] = frozenset()) -> None:
        super().__init__(reason)
        self.committed = frozenset(committed)
        """Indexes of those groups that are known to be written."""


class AnswerLostError(NotCommittedError):
    """It was sent, and no answer came: the connection ended first, or it took too long."""


class RefusedError(Exception):
    """The database understood the transaction and will not have it: nothing of it was written."""


def transact(connection: Connection, operations: list[Operation], locked: bool = True, term: int | None = None) -> None:
    """Commit; `locked`: that the lock is held is asserted in the same transaction, by the database; `term`: and it has not
    been lost meanwhile (Replica.lock_terms), so that nobody else has written.

    Raises NotCommittedError or RefusedError."""
    if connection.idl is None or not connection.idl.monitoring:
        raise NotCommittedError("not connected to the database")
    attempt = Attempt(connection, operations, locked, term)
    try:
        status, error = attempt.commit()
    except exceptions.TimeoutException as timeout:
        attempt.abandoned = True
        raise AnswerLostError(f"no answer from the database within {COMMIT_SECONDS:g} s") from timeout
    except Exception as failure:  # it could not even be put into words
        raise RefusedError(f"{type(failure).__name__}: {failure}") from failure
    if status in (ovs_idl.Transaction.SUCCESS, ovs_idl.Transaction.UNCHANGED):
        return
    if status == ovs_idl.Transaction.ERROR:
        raise _error(error)
    if status == ovs_idl.Transaction.NOT_LOCKED:
        raise NotCommittedError("the Northbound lock is not held, or was not all the time")
    if status == ovs_idl.Transaction.INCOMPLETE:
        raise AnswerLostError("the connection was lost before the answer came")
    raise NotCommittedError("the database was lost, or has changed, meanwhile")


def _error(text: str) -> NotCommittedError | RefusedError:
    """What an error of the database's means: `{"error": ..., "details": ...}`, or a text of the library's where the whole
    transaction was answered with an error."""
    try:
        answer = json.loads(text)
        kind, details = str(answer["error"]), str(answer.get("details") or answer["error"])
    except (ValueError, TypeError, KeyError, AttributeError):
        return NotCommittedError(text)
    return NotCommittedError(f"{kind}: {details}") if kind in NOBODYS_FAULT else RefusedError(text)


class Operations(command.BaseCommand):  # type: ignore[misc]
    """Raw operations as ovsdbapp's command."""

    def __init__(self, operations: list[Operation]) -> None:
        super().__init__(api=None)
        self.operations = operations

    def run_idl(self, txn: Any) -> None:
        for operation in self.operations:
            txn.add_op(operation)


class Attempt(transaction.Transaction):  # type: ignore[misc]
    """ovsdbapp's own transaction tries again by itself, with rows computed from facts that may have changed since, and waits
    for an answer as long as the connection takes to come back."""

    def __init__(self, connection: Connection, operations: list[Operation], locked: bool, term: int | None) -> None:
        super().__init__(api=None, ovsdb_connection=connection, timeout=COMMIT_SECONDS, check_error=True, log_errors=False)
        self.add(Operations(operations))
        self.locked, self.term = locked, term
        self.abandoned = False
        """Whoever asked for it has given up: it must not be written later."""

    def commit(self) -> tuple[str, str]:
        outcome: tuple[str, str] = super().commit()
        return outcome

    def do_commit(self) -> tuple[str, str]:
        connection = self.ovsdb_connection
        idl = connection.idl
        if self.abandoned:
            return ovs_idl.Transaction.ABORTED, ""
        if self.locked and idl.lock_name is None:  # the IDL would write without asserting any
            return ovs_idl.Transaction.NOT_LOCKED, ""
        if self.term is not None and self.term != idl.lock_terms:  # the server asserts no more than that it is held now
            return ovs_idl.Transaction.NOT_LOCKED, ""
        txn = ovs_idl.Transaction(idl)
        try:
            for each in self.commands:
                each.run_idl(txn)
            session, ready = idl._session.get_seqno(), idl.state == ovs_idl.Idl.IDL_S_MONITORING
            if (status := txn.commit()) == ovs_idl.Transaction.TRY_AGAIN and ready:
                return ovs_idl.Transaction.INCOMPLETE, ""  # the connection ended while it was being sent
            while status == ovs_idl.Transaction.INCOMPLETE:
                if idl._session.get_seqno() != session or not connection.is_running:
                    break
                poller = ovs.poller.Poller()
                idl.wait(poller)
                poller.timer_wait(STOP_MILLISECONDS)
                poller.block()
                idl.run()
                status = txn.commit()
            return status, txn.get_error() or ""
        except BaseException:
            txn.abort()  # else the IDL would take this one for under way, and never do anything again
            raise

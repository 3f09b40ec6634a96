"""One attempt at one transaction, in the connection's thread."""

from __future__ import annotations

from typing import Any

import ovs.poller
from ovs.db import idl as ovs_idl
from ovsdbapp import exceptions
from ovsdbapp.backend.ovs_idl import command, transaction

from ovnagent.ovn.changes import Operation
from ovnagent.ovn.connection import Connection

COMMIT_SECONDS = 15.0
"""How long an answer is waited for; longer than a dead connection takes to be noticed (replica.PROBE_MILLISECONDS)."""
STOP_MILLISECONDS = 200
"""How soon it is noticed, while an answer is waited for, that the connection is to end."""


class NotCommittedError(Exception):
    """Nobody knows that it was written: no lock, no connection, no answer. The same facts will tell again."""


class RefusedError(Exception):
    """The database understood the transaction and will not have it: nothing of it was written."""


def transact(connection: Connection, operations: list[Operation], locked: bool = True) -> None:
    """Commit; `locked`: that the lock is held is asserted in the same transaction, by the database.

    Raises NotCommittedError or RefusedError."""
    if connection.idl is None or not connection.idl.monitoring:
        raise NotCommittedError("not connected to the database")
    attempt = Attempt(connection, operations, locked)
    try:
        status, error = attempt.commit()
    except exceptions.TimeoutException as timeout:
        attempt.abandoned = True
        raise NotCommittedError(f"no answer from the database within {COMMIT_SECONDS:g} s") from timeout
    if status in (ovs_idl.Transaction.SUCCESS, ovs_idl.Transaction.UNCHANGED):
        return
    if status == ovs_idl.Transaction.ERROR:
        raise RefusedError(error)
    if status == ovs_idl.Transaction.NOT_LOCKED:
        raise NotCommittedError("the Northbound lock is not held")
    if status == ovs_idl.Transaction.INCOMPLETE:
        raise NotCommittedError("the connection was lost before the answer came")
    raise NotCommittedError("the database was lost, or has changed, meanwhile")


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

    def __init__(self, connection: Connection, operations: list[Operation], locked: bool) -> None:
        super().__init__(api=None, ovsdb_connection=connection, timeout=COMMIT_SECONDS, check_error=True)
        self.add(Operations(operations))
        self.locked = locked
        self.abandoned = False
        """Whoever asked for it has given up: it must not be written later."""

    def commit(self) -> tuple[str, str]:
        outcome: tuple[str, str] = super().commit()
        return outcome

    def do_commit(self) -> tuple[str, str]:
        idl = self.ovsdb_connection.idl
        if self.abandoned:
            return ovs_idl.Transaction.ABORTED, ""
        if self.locked and idl.lock_name is None:  # the IDL would write without asserting any
            return ovs_idl.Transaction.NOT_LOCKED, ""
        txn = ovs_idl.Transaction(idl)
        for each in self.commands:
            each.run_idl(txn)
        session = idl._session.get_seqno()
        while (status := txn.commit()) == ovs_idl.Transaction.INCOMPLETE:
            if idl._session.get_seqno() != session or not self.ovsdb_connection.is_running:
                break
            poller = ovs.poller.Poller()
            idl.wait(poller)
            poller.timer_wait(STOP_MILLISECONDS)
            poller.block()
            idl.run()
        return status, txn.get_error() or ""

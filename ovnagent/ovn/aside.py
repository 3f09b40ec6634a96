"""One transaction on a connection of its own, so that the one with the copy and the lock is not at stake.

For rows of which no copy is kept; for the one thing that an agent without the lock may write; and for what may end the
connection: ovsdb-server hangs up on a client whose words it cannot parse (a NUL character or half a surrogate pair in a
string, a number that is none; other control characters are fine as the library sends them, escaped).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import ovs.jsonrpc
import ovs.poller
import ovs.stream

from ovnagent.ovn.changes import Operation

SECONDS = 5.0


class NoAnswerError(Exception):
    """There is no connection, or no answer within some seconds; the message says which."""


class HungUpError(NoAnswerError):
    """The server ends the connection instead of answering."""


class QueryError(Exception):
    """No server answered, or it refused; the message says why."""


def transact(endpoint: str, database: str, operations: Sequence[Operation]) -> list[Any]:
    """The server's answer (RFC 7047, 4.1.3), errors among it not even looked at; empty where the request is refused whole.
    For `ssl:` the process has been given its files already (Connection).

    Raises NoAnswerError, of which a HungUpError is one."""
    deadline = time.monotonic() + SECONDS
    error, stream = ovs.stream.Stream.open_block(ovs.stream.Stream.open(endpoint), int(SECONDS * 1000))
    if error:
        raise NoAnswerError(f"{endpoint} does not answer")
    connection = ovs.jsonrpc.Connection(stream)
    try:
        request = ovs.jsonrpc.Message.create_request("transact", [database, *operations])
        connection.send(request)
        while time.monotonic() < deadline:
            connection.run()
            _, message = connection.recv()
            if message is not None and message.id == request.id:
                return message.result if isinstance(message.result, list) else []
            if connection.get_status():
                raise HungUpError(f"{endpoint} ended the connection")
            poller = ovs.poller.Poller()
            connection.wait(poller)
            connection.recv_wait(poller)
            poller.timer_wait(int((deadline - time.monotonic()) * 1000) + 1)
            poller.block()
        raise NoAnswerError(f"{endpoint} does not answer within {SECONDS:g} s")
    finally:
        connection.close()


def hangs_up(endpoint: str, database: str, operations: Sequence[Operation]) -> bool:
    """Whether the server ends the connection when it is asked for this. Nothing of it is executed, for the first operation
    is `abort` (RFC 7047, 5.2.8).

    Raises NoAnswerError."""
    try:
        transact(endpoint, database, [{"op": "abort"}, *operations])
    except HungUpError:
        return True
    return False


def select(
    endpoints: str, database: str, table: str, where: Sequence[Sequence[Any]], columns: Sequence[str]
) -> list[dict[str, Any]]:
    """Rows as OVSDB tells them (RFC 7047, 5.2.2), from the first of the endpoints that answers within some seconds.

    Raises QueryError."""
    operation = {"op": "select", "table": table, "where": list(where), "columns": list(columns)}
    troubles = []
    for endpoint in endpoints.split(","):
        try:
            answers = transact(endpoint, database, [operation])
        except NoAnswerError as error:
            troubles.append(str(error))
            continue
        match answers:
            case [{"rows": list(rows)}]:
                return rows
            case _:
                troubles.append(f"{endpoint} refuses: {answers}")
    raise QueryError("; ".join(troubles))

"""One transaction on a connection of its own, so that the one with the copy and the lock is not at stake.

For what may end the connection: ovsdb-server hangs up on a client whose words it cannot parse (a NUL character or half a
surrogate pair in a string, a number that is none; other control characters are fine as the library sends them, escaped). And
for the one thing that an agent without the lock may write.
"""

from __future__ import annotations

import time
from typing import Any

import ovs.jsonrpc
import ovs.poller
import ovs.stream

from ovnagent.ovn.changes import Operation

SECONDS = 5.0


class NoAnswerError(Exception):
    """There is no connection, or no answer within some seconds."""


def transact(endpoint: str, database: str, operations: list[Operation]) -> list[Any] | None:
    """The server's answer (RFC 7047, 4.1.3; not even looked at for errors), or None where it ends the connection instead.

    Raises NoAnswerError."""
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
                return None
            poller = ovs.poller.Poller()
            connection.wait(poller)
            connection.recv_wait(poller)
            poller.timer_wait(int((deadline - time.monotonic()) * 1000) + 1)
            poller.block()
        raise NoAnswerError(f"{endpoint} does not answer within {SECONDS:g} s")
    finally:
        connection.close()


def hangs_up(endpoint: str, database: str, operations: list[Operation]) -> bool:
    """Whether the server ends the connection when it is asked for this. Nothing of it is executed, for the first operation
    is `abort` (RFC 7047, 5.2.8).

    Raises NoAnswerError."""
    return transact(endpoint, database, [{"op": "abort"}, *operations]) is None

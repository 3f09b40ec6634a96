"""Would the database hang up on this? Asked on a connection of its own, so that the one with the copy and the lock lives.

ovsdb-server ends the connection of a client whose words it cannot parse: a NUL character or half a surrogate pair in a
string, a number that is none. (Other control characters are fine as the library sends them, escaped.) Seen from the client
that looks like an outage.
"""

from __future__ import annotations

import time

import ovs.jsonrpc
import ovs.poller
import ovs.stream

from ovnagent.ovn.changes import Operation

SECONDS = 5.0


class UnknownError(Exception):
    """The database did not say."""


def hangs_up(endpoint: str, database: str, operations: list[Operation]) -> bool:
    """Whether the server ends the connection when it is asked for this transaction. Nothing of it is executed: the first
    operation is `abort` (RFC 7047, 5.2.9).

    Raises UnknownError where there is no connection, or no answer, within some seconds."""
    deadline = time.monotonic() + SECONDS
    error, stream = ovs.stream.Stream.open_block(ovs.stream.Stream.open(endpoint), SECONDS * 1000)
    if error:
        raise UnknownError(f"{endpoint} does not answer")
    connection = ovs.jsonrpc.Connection(stream)
    try:
        request = ovs.jsonrpc.Message.create_request("transact", [database, {"op": "abort"}, *operations])
        connection.send(request)
        while time.monotonic() < deadline:
            connection.run()
            _, message = connection.recv()
            if message is not None and message.id == request.id:
                return False
            if connection.get_status():
                return True
            poller = ovs.poller.Poller()
            connection.wait(poller)
            connection.recv_wait(poller)
            poller.timer_wait(int((deadline - time.monotonic()) * 1000) + 1)
            poller.block()
        raise UnknownError(f"{endpoint} does not answer within {SECONDS:g} s")
    finally:
        connection.close()

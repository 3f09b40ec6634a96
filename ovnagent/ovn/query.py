"""One question to an OVSDB server, on a connection of its own: rows of which no copy is kept."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import ovs.jsonrpc
import ovs.poller
import ovs.stream

SECONDS = 5.0


class QueryError(Exception):
    """No server answered, or it refused; the message says why."""


def select(
    endpoints: str, database: str, table: str, where: Sequence[Sequence[Any]], columns: Sequence[str]
) -> list[dict[str, Any]]:
    """Rows as OVSDB tells them (RFC 7047, 5.2.2), from the first of the endpoints that answers within some seconds. For
    `ssl:` the process has been given its files already (Connection).

    Raises QueryError."""
    operation = {"op": "select", "table": table, "where": list(where), "columns": list(columns)}
    troubles = []
    for endpoint in endpoints.split(","):
        try:
            (answer,) = _transact(endpoint, database, operation)
            rows: list[dict[str, Any]] = answer["rows"]
        except (QueryError, ValueError, KeyError, TypeError) as error:
            troubles.append(f"{endpoint}: {error}")
        else:
            return rows
    raise QueryError("; ".join(troubles))


def _transact(endpoint: str, database: str, operation: dict[str, Any]) -> Sequence[dict[str, Any]]:
    deadline = time.monotonic() + SECONDS
    error, stream = ovs.stream.Stream.open_block(ovs.stream.Stream.open(endpoint), SECONDS * 1000)
    if error:
        raise QueryError("does not answer")
    connection = ovs.jsonrpc.Connection(stream)
    try:
        request = ovs.jsonrpc.Message.create_request("transact", [database, operation])
        connection.send(request)
        while time.monotonic() < deadline:
            connection.run()
            _, message = connection.recv()
            if message is not None and message.id == request.id:
                if message.type == ovs.jsonrpc.Message.T_ERROR:
                    raise QueryError(str(message.error))
                result: Sequence[dict[str, Any]] = message.result
                return result
            if connection.get_status():
                raise QueryError("ended the connection")
            poller = ovs.poller.Poller()
            connection.wait(poller)
            connection.recv_wait(poller)
            poller.timer_wait(int((deadline - time.monotonic()) * 1000) + 1)
            poller.block()
        raise QueryError(f"no answer within {SECONDS:g} s")
    finally:
        connection.close()

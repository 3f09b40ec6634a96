"""A connection to an OVN database: one thread that finds the database, keeps a copy of it, and never gives up."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ovs.jsonrpc
import ovs.poller
import ovs.stream
from ovsdbapp.backend.ovs_idl import connection as ovsdbapp_connection
from ovsdbapp.backend.ovs_idl import idlutils

from ovnagent.ovn import json_parser
from ovnagent.ovn.replica import PROBE_MILLISECONDS, Replica, next_round, set_patience

LOG = logging.getLogger(__name__)

REPORT_SECONDS = 30.0
"""How often a database that cannot be reached is reported."""
STOP_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Tls:
    """Files for `ssl:` endpoints. The ovs library keeps one set for the whole process."""

    private_key: Path
    certificate: Path
    ca: Path


class Connection(ovsdbapp_connection.Connection):  # type: ignore[misc]
    """ovsdbapp's thread around an IDL, but it waits for nobody: neither `start` for the database, nor `stop`."""

    def __init__(self, name: str, make: Callable[[Connection], Replica | None]) -> None:
        super().__init__(idl=None, timeout=PROBE_MILLISECONDS / 1000)
        self._make = make
        self.thread = threading.Thread(target=self.run, name=name, daemon=True)

    def start(self) -> None:
        self.is_running = True
        self.poller = ovs.poller.Poller()
        self.thread.start()

    def run(self) -> None:
        self.idl = self._make(self)
        if self.idl is not None:
            super().run()

    def stop(self, timeout: float | None = None) -> bool:
        """End the thread; False if it did not end in time."""
        self.is_running = False
        self.wake()
        if self.thread.is_alive():
            self.thread.join(timeout)
        return not self.thread.is_alive()

    def wake(self) -> None:
        """End the thread's wait; a queue that is full does that already."""
        try:
            self.txns.put_nowait(None)
        except queue.Full:
            pass


class Database:
    """One OVN database, as a thread that connects, copies and never gives up."""

    def __init__(
        self,
        name: str,
        endpoints: str,
        columns: Mapping[str, Sequence[str]],
        make: Callable[[str, Any, bool], Replica],
        leader_only: bool,
        tls: Tls | None,
    ) -> None:
        self.name = name
        self.endpoints = endpoints
        self.columns = columns
        self.make = make
        self.leader_only = leader_only
        self.connection = Connection(name, self._connect)
        json_parser.install()
        if tls is not None:
            ovs.stream.Stream.ssl_set_private_key_file(str(tls.private_key))
            ovs.stream.Stream.ssl_set_certificate_file(str(tls.certificate))
            ovs.stream.Stream.ssl_set_ca_cert_file(str(tls.ca))

    def start(self) -> None:
        self.connection.start()

    def stop(self) -> None:
        """Within a second, whatever the database does. A lock that is held goes with the connection."""
        self.connection.stop(STOP_SECONDS)

    @property
    def idl(self) -> Any:
        """The copy once there is one, else None."""
        return self.connection.idl

    def request(self, function: Callable[[], None]) -> None:
        """Have something done in the connection's thread, which is the only one that may touch the IDL. Does not wait."""
        idl = self.idl
        if idl is not None:
            idl.request(function)
            self.connection.wake()

    @property
    def age(self) -> float:
        """Seconds since the database was last known to answer; infinite before it ever did."""
        return self.idl.age if self.idl is not None else float("inf")

    def _connect(self, connection: Connection) -> Replica | None:
        schema = self._schema(connection)
        if schema is None:
            return None
        helper = idlutils.create_schema_helper(schema)
        for table, columns in self.columns.items():
            helper.register_columns(table, list(columns))
        return self.make(self.endpoints, helper, self.leader_only)

    def _schema(self, connection: Connection) -> Any:
        """The schema from whichever endpoint answers first; None if the connection is to end.

        ovsdbapp's get_schema_helper waits without end for an endpoint that accepts and stays silent."""
        session = ovs.jsonrpc.Session.open_multiple(idlutils.parse_connection(self.endpoints))
        set_patience(session)
        request: Any = None
        seen = None
        trouble = "no endpoint answers"
        report = time.monotonic() + 1.0
        try:
            while connection.is_running:
                next_round(session)
                session.run()
                if session.is_connected() and seen != session.get_seqno():
                    seen = session.get_seqno()
                    request = ovs.jsonrpc.Message.create_request("get_schema", [self.name])
                    session.send(request)
                answer = session.recv()
                if answer is not None and request is not None and answer.id == request.id:
                    if answer.type == ovs.jsonrpc.Message.T_REPLY and not (missing := self._missing(answer.result)):
                        return answer.result
                    # A member that has not joined its cluster yet knows no such database; another one may.
                    trouble = str(answer.error or missing)
                    session.force_reconnect()
                if time.monotonic() > report:
                    LOG.warning(
                        "not connected", extra={"database": self.name, "endpoints": self.endpoints, "reason": trouble}
                    )
                    report += REPORT_SECONDS
                poller = ovs.poller.Poller()
                session.wait(poller)
                session.recv_wait(poller)
                poller.fd_wait(connection.txns.alert_fileno, ovs.poller.POLLIN)
                poller.timer_wait_until(int(ovs.timeval.msec() + max(0.0, report - time.monotonic()) * 1000))
                poller.block()
            return None
        finally:
            session.close()

    def _missing(self, schema: Any) -> str:
        for table, columns in self.columns.items():
            known = schema["tables"].get(table, {"columns": {}})["columns"]
            for column in columns:
                if column not in known:
                    version = schema.get("version", "?")
                    return f"{self.name} {version} has no {table}.{column}: OVN 22.09 or newer is needed"
        return ""

"""A connection to an OVN database: one thread that finds the database, keeps a copy of it, and never gives up."""

from __future__ import annotations

import logging
import queue
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ovs.jsonrpc
import ovs.poller
import ovs.stream
from ovs.db import idl as ovs_idl
from ovsdbapp.backend.ovs_idl import connection as ovsdbapp_connection
from ovsdbapp.backend.ovs_idl import idlutils

from ovnagent.ovn import json_parser

LOG = logging.getLogger(__name__)

PROBE_MILLISECONDS = 5000
"""A connection that is silent for so long is probed, and given up after as long again."""
BACKOFF_MILLISECONDS = (1000, 2000)
"""Pause between two attempts to connect, the first and the longest. A TLS handshake may take as long."""
REPORT_SECONDS = 30.0
"""How often a database that cannot be reached is reported."""
STOP_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Tls:
    """Files for `ssl:` endpoints. The ovs library keeps one set for the whole process."""

    private_key: Path
    certificate: Path
    ca: Path


def _set_patience(session: Any) -> None:
    """Probe every connection: by itself the library leaves Unix sockets alone, where a server that hangs would never be
    noticed. Try the next endpoint soon: after 8 s, the library's own limit, a cluster has long had its new leader."""
    session.reconnect.set_probe_interval(PROBE_MILLISECONDS)
    session.reconnect.set_backoff(*BACKOFF_MILLISECONDS)


def _next_round(session: Any) -> None:
    """After each pause try every endpoint, not one: a cluster in an election is found again within a second of its end."""
    if session.reconnect.backoff:
        session.reconnect.set_backoff_free_tries(session.get_num_of_remotes())


class Replica(ovsdbapp_connection.OvsdbIdl):  # type: ignore[misc]
    """An IDL that says when its content is thrown away, when a batch of updates has been taken in, and that copies all
    anew where it cannot be sure to have understood an update. Its thread is the only one that may touch it, but for
    `request`, `monitoring` and plain attributes."""

    def __init__(self, remote: str, helper: Any, leader_only: bool) -> None:
        super().__init__(remote, helper, leader_only=leader_only)
        _set_patience(self._session)
        self.generation = 0
        """Counts how often the content was thrown away (a reconnect that could not go on where it was)."""
        self.last_contact = time.monotonic()
        self._seen_bytes = -1
        self._requests: deque[Callable[[], None]] = deque()
        self._failed = False
        self._trusted = True
        self._was_monitoring = False

    def request(self, function: Callable[[], None]) -> None:
        """Have something done in the connection's thread, at its next turn. From any thread."""
        self._requests.append(function)

    def run(self) -> bool:
        # Not between a transaction and its answer: the IDL forbids set_lock there.
        while self._requests and not self._outstanding_txns:
            self._requests.popleft()()
        changed = False
        try:
            _next_round(self._session)
            changed = bool(super().run())
            self._note_contact()
            self.updated()
        except Exception:
            LOG.exception("an update was not understood", extra={"reason": "the database is copied anew"})
            self._failed = True
        if self._failed:
            self._failed = self._trusted = False
            self.last_id = str(uuid.UUID(int=0))
            self.force_reconnect()
        return changed

    def wait(self, poller: Any) -> None:
        if self._requests and not self._outstanding_txns:
            poller.immediate_wake()
        super().wait(poller)

    def cooperative_yield(self) -> None:
        """Not here: a `sleep(0)` for every row is a third of the time of a large load, and this is a thread."""

    @property
    def monitoring(self) -> bool:
        """Connected, and the copy is being kept up to date."""
        return bool(self.state == self.IDL_S_MONITORING and self._session.is_connected() and self._trusted)

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
        if self.monitoring != self._was_monitoring:
            self._was_monitoring = self.monitoring
            where = {"database": self._db.name, "endpoint": self.session_name()}
            if self.monitoring:
                LOG.info("connected", extra=where)
            else:
                LOG.warning("connection lost", extra=where)

    def _Idl__clear(self) -> None:  # noqa: N802 - the IDL's own name: it throws rows away without a notification
        self.generation += 1
        self._trusted = True
        self.cleared()
        super()._Idl__clear()

    def _Idl__do_parse_update(self, updates: Any, version: Any, tables: Any) -> None:  # noqa: N802
        """The IDL logs an update that it cannot apply, and goes on with a copy that is not true any more."""
        try:
            super()._Idl__do_parse_update(updates, version, tables)
        except Exception:
            self._failed = True
            raise


for _hook in ("_Idl__clear", "_Idl__do_parse_update"):
    assert hasattr(ovs_idl.Idl, _hook), f"ovs' IDL has changed: {_hook} is gone"


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
        idl = self.idl
        if idl is None:
            return float("inf")
        silent = time.monotonic() - idl.last_contact
        # Nothing need be said for a probe's length; after that the probe has an answer, or the connection ends.
        return 0.0 if idl.monitoring and silent < 2 * PROBE_MILLISECONDS / 1000 else silent

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
        _set_patience(session)
        request: Any = None
        seen = None
        trouble = "no endpoint answers"
        report = time.monotonic() + 1.0
        try:
            while connection.is_running:
                _next_round(session)
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

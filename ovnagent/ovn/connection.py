"""A connection to an OVN database: one thread that finds the database, keeps a copy of it, and never gives up."""

from __future__ import annotations

import logging
import queue
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ovs.jsonrpc
import ovs.poller
import ovs.stream
from ovsdbapp.backend.ovs_idl import connection as ovsdbapp_connection
from ovsdbapp.backend.ovs_idl import idlutils

from ovnagent.ovn import json_parser, session
from ovnagent.ovn.replica import Replica
from ovnagent.ovn.session import Session

LOG = logging.getLogger(__name__)

REPORT_SECONDS = 30.0
"""How often a database that cannot be reached is reported."""
FIRST_REPORT_SECONDS = 1.0
STOP_SECONDS = 1.0
TURN_MILLISECONDS = 1000
"""So often the thread looks round, also when nothing happens."""
FAILED_SECONDS = (1.0, 30.0)
"""Pause after an exception in the thread: the first, and the longest."""


@dataclass(frozen=True, slots=True)
class Tls:
    """Files for `ssl:` endpoints. The ovs library keeps one set for the whole process."""

    private_key: Path
    certificate: Path
    ca: Path


class Connection(ovsdbapp_connection.Connection):  # type: ignore[misc]
    """ovsdbapp's thread around an IDL, but it waits for nobody, neither `start` for the database nor `stop`, and whatever
    happens in it, it goes on.

    `idl` is the copy, a Replica, once there is one; else None."""

    idl: Any

    def __init__(
        self,
        database: str,
        endpoints: str,
        columns: Mapping[str, Sequence[str]],
        make: Callable[[str, Any, bool], Replica],
        leader_only: bool,
        tls: Tls | None,
    ) -> None:
        """`columns`: table -> the columns to copy. `make(endpoints, schema helper, leader_only)`: the copy, still empty."""
        super().__init__(idl=None, timeout=session.PROBE_MILLISECONDS / 1000)
        self.database = database
        self.endpoints = endpoints
        self._failures = 0
        self._columns, self._make, self._leader_only = columns, make, leader_only
        self._last_turn = time.monotonic()
        self._report = 0.0
        self._stopping = threading.Event()
        self.thread = threading.Thread(target=self.run, name=database, daemon=True)
        json_parser.install()
        if tls is not None:
            ovs.stream.Stream.ssl_set_private_key_file(str(tls.private_key))
            ovs.stream.Stream.ssl_set_certificate_file(str(tls.certificate))
            ovs.stream.Stream.ssl_set_ca_cert_file(str(tls.ca))

    def start(self) -> None:
        self.is_running = True
        self.thread.start()

    def stop(self, timeout: float | None = STOP_SECONDS) -> bool:
        """End the thread, whatever the database does; False if it did not end in time. A lock that is held goes with the
        connection."""
        self.is_running = False
        self._stopping.set()
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

    def request(self, function: Callable[[], None]) -> None:
        """Have something done in the thread, which is the only one that may touch the IDL. Does not wait."""
        idl = self.idl
        if idl is not None:
            idl.request(function)
            self.wake()

    # -- how it is, for any thread

    @property
    def age(self) -> float:
        """Seconds since the database was last known to answer; infinite before it ever did."""
        return self.idl.age if self.idl is not None else float("inf")

    @property
    def failures(self) -> int:
        """Exceptions in the thread, and updates that were not understood; each is a bug, and in the log."""
        return self._failures + (self.idl.failures if self.idl is not None else 0)

    @property
    def last_turn(self) -> float:
        """When the thread was last seen to do something: monotonic seconds. It does at least every second."""
        return max(self._last_turn, self.idl.last_turn if self.idl is not None else 0.0)

    @property
    def alive(self) -> bool:
        """The thread runs (or has not been started yet)."""
        return self.thread.ident is None or self.thread.is_alive()

    # -- the thread

    def run(self) -> None:
        pause, longest = FAILED_SECONDS
        self._report = time.monotonic() + FIRST_REPORT_SECONDS
        while self.is_running:
            self._last_turn = time.monotonic()
            try:
                if self.idl is None:
                    self.idl = self._first_copy()
                else:
                    self._turn()
                pause = FAILED_SECONDS[0]
            except Exception as error:
                self._failures += 1
                LOG.exception("the connection has failed", extra={"database": self.database, "retry_seconds": pause})
                if self.idl is not None:
                    self.idl.distrust(f"{type(error).__name__}: {error}")
                self._stopping.wait(pause)
                pause = min(longest, pause * 2)
        if self.idl is not None:
            self.idl.close()

    def _turn(self) -> None:
        poller = ovs.poller.Poller()
        self.idl.wait(poller)
        self._wait(poller)
        self.idl.run()
        if self.idl.monitoring:
            self._report = time.monotonic() + FIRST_REPORT_SECONDS
        elif reason := self.idl.reason:
            self._tell(reason)
        if (transaction := self.txns.get_nowait()) is not None:
            try:
                transaction.results.put(transaction.do_commit())
            except Exception as error:  # whoever waits for the answer decides
                transaction.results.put(idlutils.ExceptionResult(error, traceback.format_exc()))

    def _wait(self, poller: Any) -> None:
        poller.fd_wait(self.txns.alert_fileno, ovs.poller.POLLIN)
        poller.timer_wait(TURN_MILLISECONDS)
        poller.block()

    def _tell(self, reason: str) -> None:
        """Now and then, why there is no connection."""
        if time.monotonic() > self._report:
            self._report = time.monotonic() + REPORT_SECONDS
            LOG.warning("not connected", extra={"database": self.database, "endpoints": self.endpoints, "reason": reason})

    def _first_copy(self) -> Replica | None:
        schema = self._schema()
        if schema is None:
            return None
        helper = idlutils.create_schema_helper(schema)
        for table, columns in self._columns.items():
            helper.register_columns(table, list(columns))
        return self._make(self.endpoints, helper, self._leader_only)

    def _schema(self) -> Any:
        """The schema from whichever endpoint answers first; None if the connection is to end.

        ovsdbapp's get_schema_helper waits without end for an endpoint that accepts and stays silent."""
        asked = Session(self.endpoints)
        request: Any = None
        seen = None
        try:
            while self.is_running:
                self._last_turn = time.monotonic()
                asked.run()
                if asked.is_connected() and seen != asked.get_seqno():
                    seen = asked.get_seqno()
                    request = ovs.jsonrpc.Message.create_request("get_schema", [self.database])
                    asked.send(request)
                answer = asked.recv()
                if answer is not None and request is not None and answer.id == request.id:
                    missing = self._missing(answer.result)
                    if answer.type == ovs.jsonrpc.Message.T_REPLY and not missing:
                        return answer.result
                    # A member that has not joined its cluster yet knows no such database; another one may.
                    asked.drop(str(answer.error or missing))
                self._tell(asked.reason)
                poller = ovs.poller.Poller()
                asked.wait(poller)
                asked.recv_wait(poller)
                self._wait(poller)
                self.txns.get_nowait()
            return None
        finally:
            asked.close()

    def _missing(self, schema: Any) -> str:
        """What the agent needs and a schema has not; empty if that is nothing."""
        tables = schema.get("tables") if isinstance(schema, dict) else None
        if not isinstance(tables, dict):
            return "the schema is none"
        for table, columns in self._columns.items():
            known = tables.get(table)
            for column in columns:
                if not isinstance(known, dict) or column not in known.get("columns", ()):
                    version = schema.get("version", "?")
                    return f"{self.database} {version} has no {table}.{column}: OVN 22.09 or newer is needed"
        return ""

"""A connection to an OVN database: ovsdbapp's thread around an IDL, made once the database answers, and kept."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ovs.stream
import tenacity
from ovs.db import idl as ovs_idl
from ovsdbapp.backend.ovs_idl import connection as ovsdbapp_connection
from ovsdbapp.backend.ovs_idl import idlutils

from ovnagent.ovn import json_parser

LOG = logging.getLogger(__name__)

CONNECT_SECONDS = 20
"""How long the first copy of a database may take before the next try (10,000 ports: 1-3 s)."""
PROBE_MILLISECONDS = 5000
"""A connection that is silent for so long is probed, and given up after as long again."""


@dataclass(frozen=True, slots=True)
class Tls:
    """Files for `ssl:` endpoints. The ovs library keeps one set for the whole process."""

    private_key: Path
    certificate: Path
    ca: Path


class Replica(ovsdbapp_connection.OvsdbIdl):  # type: ignore[misc]
    """An IDL that says when its content is thrown away, and when a batch of updates has been taken in."""

    def __init__(self, remote: str, helper: Any, leader_only: bool) -> None:
        super().__init__(remote, helper, probe_interval=PROBE_MILLISECONDS, leader_only=leader_only)
        self.generation = 0
        """Counts how often the content was thrown away (a reconnect that could not go on where it was)."""
        self.last_contact = time.monotonic()
        self.on_update: Callable[[], None] = lambda: None
        self._seen_bytes = -1

    def run(self) -> bool:
        changed = bool(super().run())
        received = self._session.rpc.received_bytes if self._session.rpc else -1
        if self.monitoring and received != self._seen_bytes:
            self.last_contact = time.monotonic()
        self._seen_bytes = received
        self.on_update()
        return changed

    def cooperative_yield(self) -> None:
        """Not here: a `sleep(0)` for every row is a third of the time of a large load, and this is a thread."""

    @property
    def monitoring(self) -> bool:
        """Connected, and the copy is being kept up to date."""
        return bool(self.state == self.IDL_S_MONITORING and self._session.is_connected())

    def _Idl__clear(self) -> None:  # noqa: N802 - the IDL's own name: it throws rows away without a notification
        self.generation += 1
        self.cleared()
        super()._Idl__clear()

    def cleared(self) -> None:
        """Hook: all rows are gone; those that still exist will be notified again."""


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
        changed: Callable[[], None],
    ) -> None:
        self.name = name
        self.endpoints = endpoints
        self.columns = columns
        self.make = make
        self.leader_only = leader_only
        self.changed = changed
        self.connection: Any = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._connect, name=f"{name}-connect", daemon=True)
        json_parser.install()
        if tls is not None:
            ovs.stream.Stream.ssl_set_private_key_file(str(tls.private_key))
            ovs.stream.Stream.ssl_set_certificate_file(str(tls.certificate))
            ovs.stream.Stream.ssl_set_ca_cert_file(str(tls.ca))

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Within a second, whatever the database does."""
        self._stopping.set()
        if self.connection is not None:
            self.connection.stop(timeout=1)

    @property
    def idl(self) -> Any:
        """The IDL once it has been made, else None."""
        return self.connection.idl if self.connection is not None else None

    def call(self, function: Callable[[], None]) -> None:
        """Run something in the connection's thread, which is the only one that may touch the IDL; waits for its end."""
        connection = self.connection
        if connection is None:
            return
        call = _Call(function)
        connection.queue_txn(call)
        call.results.get(timeout=CONNECT_SECONDS)

    @property
    def age(self) -> float:
        """Seconds since the database was last known to answer; infinite before it ever did."""
        idl = self.idl
        if idl is None:
            return float("inf")
        silent = time.monotonic() - idl.last_contact
        # Nothing need be said for a probe's length; after that the probe has an answer, or the connection ends.
        return 0.0 if idl.monitoring and silent < 2 * PROBE_MILLISECONDS / 1000 else silent

    def _connect(self) -> None:
        retrying = tenacity.Retrying(
            wait=tenacity.wait_exponential_jitter(initial=0.1, max=5),
            sleep=tenacity.sleep_using_event(self._stopping),
            stop=tenacity.stop_when_event_set(self._stopping),
            before_sleep=self._report,
        )
        try:
            retrying(self._once)
        except tenacity.RetryError:
            return

    def _once(self) -> None:
        helper = idlutils.get_schema_helper(self.endpoints, self.name)
        for table, columns in self.columns.items():
            known = helper.schema_json["tables"][table]["columns"]
            helper.register_columns(table, [column for column in columns if column in known])
        replica = self.make(self.endpoints, helper, self.leader_only)
        connection = ovsdbapp_connection.Connection(replica, timeout=CONNECT_SECONDS)
        self.connection = connection
        try:
            connection.start()
        except Exception:
            self.connection = None
            replica.close()
            raise
        LOG.info("connected", extra={"database": self.name, "endpoints": self.endpoints})
        replica.on_update()
        self.changed()

    def _report(self, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        pause = state.next_action.sleep if state.next_action else 0
        LOG.warning(
            "not connected",
            extra={"database": self.name, "endpoints": self.endpoints, "reason": str(error), "retry_seconds": round(pause, 1)},
        )


class _Call:
    """A function in the place of a transaction in the connection's queue."""

    def __init__(self, function: Callable[[], None]) -> None:
        self.function = function
        self.commands: tuple[Any, ...] = ()
        self.results: queue.Queue[Any] = queue.Queue(1)

    def do_commit(self) -> None:
        self.function()


assert hasattr(ovs_idl.Idl, "_Idl__clear"), "ovs' IDL has changed: Replica hooks into its __clear"

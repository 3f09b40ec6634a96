"""Builds the parts, connects them, starts and stops them."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import FrameType

from ovnagent.announce import Announcer
from ovnagent.config.file import Config
from ovnagent.config.reload import Reloader
from ovnagent.core.problems import INTERNAL_ERROR
from ovnagent.core.vm import VmKey
from ovnagent.dirty import Dirty
from ovnagent.kube.kubernetes import Counters, Kubernetes
from ovnagent.ovn import json_parser
from ovnagent.ovn.nb_replica import Listeners
from ovnagent.ovn.northbound import Northbound
from ovnagent.ovn.southbound import Southbound
from ovnagent.process import memory
from ovnagent.process.supervision import Loop, Supervisor
from ovnagent.reconciler import Reconciler
from ovnagent.serve.http import Server
from ovnagent.serve.metrics import Metrics

LOG = logging.getLogger(__name__)

STOP_SECONDS = 1.0
RECONCILER_SECONDS = 60.0
"""A batch takes 3 s at 10,000 VMs, and a transaction that the database does not answer is given up after 15 s."""
CONNECTION_SECONDS = 60.0
"""A connection's thread turns every second, but takes in a copy of 100,000 rows in one turn."""
SILENT_SECONDS = 30.0
"""A replica that has not been heard of for so long makes the agent not ready."""


class Agent:
    """One agent: `start`, then `stop`. Several may run for one cluster; the Northbound lock decides which of them writes."""

    def __init__(self, config: Config, path: Path) -> None:
        """`path`: the file of the configuration, which may change meanwhile."""
        self.config = config
        self.metrics = Metrics()
        self.supervisor = Supervisor(lambda thread: self.metrics.thread_restarts.labels(thread).inc())
        self.dirty = Dirty()
        self.kube = Kubernetes(
            config.kubernetes,
            self._facts_changed,
            self.dirty.add_everything,
            self.supervisor,
            Counters(
                watch_error=lambda kind, reason: self.metrics.watch_errors.labels(kind, reason).inc(),
                write_dropped=lambda queue, reason: self.metrics.writes_dropped.labels(queue, reason).inc(),
                event_suppressed=lambda reason: self.metrics.events_suppressed.labels(reason).inc(),
            ),
            calm=self.dirty.calm,
        )
        self.northbound = Northbound(
            config.northbound,
            config.cluster,
            {network.logical_switch for network in config.networks.all},
            Listeners(self._rows_changed, self.dirty.add_everything, self.dirty.wake),
            config.tls,
            {network.router for network in config.networks.all if network.router},
        )
        self.southbound = Southbound(config.southbound, self._bindings_changed, self.dirty.add_everything, config.tls)
        self.announcer = Announcer(self.kube.events, self.metrics)
        self.reconciler = Reconciler(
            config, self.dirty, self.kube, self.northbound, self.southbound, self.announcer, self.metrics
        )
        self.reloader = Reloader(
            path,
            config,
            lambda: self.northbound.snapshot.own(),
            self._reconfigure,
            self.metrics.config_accepted.set,
            self.supervisor,
        )
        self._loop = self.supervisor.loop("reconciler", self._turn)
        self._connections = (self.northbound.connection, self.southbound.connection)
        for each in self._connections:
            self.supervisor.watch(each.database, each, CONNECTION_SECONDS)
        self._failures_told: Counter[str] = Counter()
        """Database -> failures of its connection that the metrics know of."""
        self.metrics.on_scrape("reconciler", self._refresh)
        self.server: Server | None = None
        if config.port:
            self.server = Server(
                config.address,
                config.port,
                self.metrics,
                self.reasons,
                self.supervisor.troubles,
                self.supervisor,
                {"/migrations": self.reconciler.timelines.document},
            )

    def start(self) -> None:
        LOG.info("starting", extra={"cluster": self.config.cluster, "json_parser": json_parser.install()})
        self.kube.start()
        self.northbound.start()
        self.southbound.start()
        self._loop.start()
        self.reloader.start()
        if self.server is not None:
            self.server.start()

    def stop(self) -> None:
        """Within two seconds. The transaction under way is finished, the lock goes with the connection."""
        LOG.info("stopping", extra={"reason": "asked to"})
        self.reloader.stop()
        self._loop.stop()
        self.reconciler.stop()
        self._loop.join(STOP_SECONDS)
        self.kube.stop(0.5)
        if self.server is not None:
            self.server.stop()

    def _reconfigure(self, config: Config) -> None:
        self.config = config
        self.reconciler.reconfigure(config)

    def _turn(self, loop: Loop) -> None:
        loop.beat(RECONCILER_SECONDS)
        self.reconciler.turn()

    # -- what happens elsewhere only says which VM to look at again

    def _facts_changed(self, keys: Iterable[VmKey], urgent: bool) -> None:
        self.reconciler.changed(keys, urgent)

    def _rows_changed(self, keys: set[VmKey]) -> None:
        self.reconciler.touch(keys)

    def _bindings_changed(self, ports: set[str], moved: bool) -> None:
        rows = self.northbound.snapshot.ports
        self._facts_changed([row.port.vm for name in ports if (row := rows.get(name)) is not None], urgent=moved)

    # -- what the outside asks

    def reasons(self) -> list[str]:
        """Why the agent is not ready; empty if it is. A standby that follows everything is ready."""
        found = []
        if not self.kube.synced:
            found.append("Kubernetes: not all kinds have been listed yet")
        found += [
            f"Kubernetes: {kind} not heard of for {age:.0f} s beyond the usual"
            for kind, age in self.kube.stale.items()
            if age > SILENT_SECONDS
        ]
        if not self.northbound.snapshot.complete:
            found.append("Northbound: not connected, or the copy is not complete")
        if not self.southbound.snapshot.complete:
            found.append("Southbound: not connected, or the copy is not complete")
        for name, connection in (("Northbound", self.northbound.connection), ("Southbound", self.southbound.connection)):
            if connection.age > SILENT_SECONDS and connection.idl is not None:
                found.append(f"{name}: not heard of for {connection.age:.0f} s")
        if self.northbound.has_lock and not self.reconciler.status.in_sync:
            found.append("the first reconciliation is not done")
        return found

    def _refresh(self) -> None:
        metrics, notes, status = self.metrics, self.reconciler.notes, self.reconciler.status
        nb = self.northbound.snapshot
        metrics.ports.set(len(nb.ports) + len(nb.virtual))
        metrics.lock_held.set(self.northbound.has_lock)
        metrics.sweep_held.set(status.brake.held_ports)
        metrics.records_pending.set(self.kube.record_writer.pending)
        for kind, objects in self.kube.quarantined.items():
            metrics.quarantined.labels(kind).set(objects)
        for each in self._connections:
            metrics.thread_restarts.labels(each.database).inc(each.failures - self._failures_told[each.database])
            self._failures_told[each.database] = each.failures
        metrics.replica_age.labels("northbound").set(self.northbound.connection.age)
        metrics.replica_age.labels("southbound").set(self.southbound.connection.age)
        metrics.replica_age.labels("kubernetes").set(max(self.kube.stale.values(), default=0.0))
        metrics.open_migrations.set(notes.migrations)
        troubles = [problem.reason for problems in notes.problems.values() for problem in problems]
        metrics.set_problems(troubles)
        metrics.quarantined.labels("vm").set(troubles.count(INTERNAL_ERROR))
        metrics.pools(self.config.networks, status.books)


def run(config: Config, path: Path) -> int:
    """Run until SIGTERM or SIGINT; the process' exit status."""
    memory.be_frugal()
    agent = Agent(config, path)
    done = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        done.set()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    agent.start()
    done.wait()
    started = time.monotonic()
    agent.stop()
    LOG.info("stopped", extra={"seconds": round(time.monotonic() - started, 2)})
    return 0

"""All metrics, in one place. docs/metrics.md says what they mean; a test compares the two."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from ovnagent.core.books import Books
from ovnagent.core.networks import Networks

LOG = logging.getLogger(__name__)

T = TypeVar("T")

FAST = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 15)
SLOW = (0.01, 0.05, 0.1, 0.5, 1, 2, 5, 10, 30, 60)


class Metrics:
    """The agent's metrics; its methods are what happens."""

    def __init__(self) -> None:
        self.registry = r = CollectorRegistry()
        # Each in a registry of its own: one that raises costs its own samples, not all.
        self._registries = {"agent": r}
        for name, collector in (("process", ProcessCollector), ("platform", PlatformCollector), ("gc", GCCollector)):
            self._registries[name] = CollectorRegistry()
            collector(registry=self._registries[name])
        self.ports = Gauge("ovnagent_ports", "Logical switch ports that the agent owns.", registry=r)
        self.pool = Gauge(
            "ovnagent_pool_addresses", "Addresses of a network's pool.", ["network", "family", "state"], registry=r
        )
        self.problems = Gauge("ovnagent_problems", "VMs with an unsolved problem, by reason.", ["reason"], registry=r)
        self.open_migrations = Gauge("ovnagent_open_migrations", "VMs in live migration.", registry=r)
        self.lock_held = Gauge("ovnagent_lock_held", "1 while this agent holds the Northbound lock.", registry=r)
        self.replica_age = Gauge(
            "ovnagent_replica_age_seconds", "Seconds for which a source has not been heard of.", ["replica"], registry=r
        )
        self.config_accepted = Gauge(
            "ovnagent_config_last_reload_successful", "0 while the configuration's file says what was refused.", registry=r
        )
        self.sweep_held = Gauge(
            "ovnagent_sweep_held_ports", "Ports whose deletion waits for an operator's go-ahead.", registry=r
        )
        self.records_pending = Gauge("ovnagent_records_pending", "Records still to be written on VMs.", registry=r)
        self.reconcile = Histogram(
            "ovnagent_reconcile_seconds", "Computing the wanted rows of a batch.", buckets=FAST, registry=r
        )
        self.transaction = Histogram(
            "ovnagent_transaction_seconds", "Committing a batch to Northbound.", buckets=FAST, registry=r
        )
        self.transactions = Counter("ovnagent_transactions", "Northbound transactions committed.", registry=r)
        self.changes = Counter("ovnagent_row_changes", "Rows created, changed and deleted.", registry=r)
        self.refused_rows = Counter("ovnagent_refused", "VMs whose rows the database refused.", registry=r)
        self.not_committed_total = Counter(
            "ovnagent_not_committed", "Transactions that failed as a whole and were tried again.", registry=r
        )
        self.target_seconds = Histogram(
            "ovnagent_migration_prepare_seconds",
            "From a migration target's launcher being seen bound to its chassis being committed.",
            buckets=FAST,
            registry=r,
        )
        self.create_seconds = Histogram(
            "ovnagent_port_create_seconds", "From a VM being seen to its port being committed.", buckets=SLOW, registry=r
        )
        self.drift = Counter("ovnagent_drift_repaired", "Rows put right that somebody else had changed.", registry=r)
        self.watch_errors = Counter("ovnagent_watch_errors", "Failed lists and watches.", ["kind", "reason"], registry=r)
        self.writes_dropped = Counter(
            "ovnagent_writes_dropped", "Events and records given up.", ["queue", "reason"], registry=r
        )
        self.events_suppressed = Counter(
            "ovnagent_events_suppressed", "Events that were not told, to spare who reads them.", ["reason"], registry=r
        )
        self.quarantined = Gauge(
            "ovnagent_quarantined", "What was set aside because it cannot be read, by kind.", ["kind"], registry=r
        )
        self.thread_restarts = Counter(
            "ovnagent_thread_restarts", "Failed steps of threads, each of which went on.", ["thread"], registry=r
        )
        self.scrape_errors = Counter(
            "ovnagent_scrape_errors", "Metrics that could not be found out, and are old or missing.", ["part"], registry=r
        )
        self._refresh: dict[str, Callable[[], None]] = {}
        self._failing: set[str] = set()

    def on_scrape(self, part: str, refresh: Callable[[], None]) -> None:
        """Called before each scrape, to set gauges."""
        self._refresh[part] = refresh

    def scrape(self) -> bytes:
        """Never fails: what cannot be found out is counted and left as it was."""
        for part, refresh in self._refresh.items():
            self._guarded(part, refresh)
        texts = [self._guarded(name, partial(generate_latest, registry)) for name, registry in self._registries.items()]
        return b"".join(text for text in reversed(texts) if text)

    def _guarded(self, part: str, function: Callable[[], T]) -> T | None:
        try:
            found = function()
        except Exception:
            self.scrape_errors.labels(part).inc()
            if part not in self._failing:  # said once, not at each scrape
                LOG.exception("metrics not found out", extra={"part": part})
                self._failing.add(part)
            return None
        self._failing.discard(part)
        return found

    def pools(self, networks: Networks, books: Books) -> None:
        for network in networks.all:
            used = dict(books.used(network))
            for subnet in network.subnets:
                family = f"ipv{subnet.version}"
                self.pool.labels(network.name, family, "used").set(used[subnet.version])
                self.pool.labels(network.name, family, "total").set(float(subnet.size))

    def set_problems(self, reasons: Iterable[str]) -> None:
        self.problems.clear()
        for reason in reasons:
            self.problems.labels(reason).inc()

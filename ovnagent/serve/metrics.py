"""All metrics, in one place. docs/metrics.md says what they mean; a test compares the two."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from ovnagent.core.books import Books
from ovnagent.core.networks import Networks

FAST = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 15)
SLOW = (0.01, 0.05, 0.1, 0.5, 1, 2, 5, 10, 30, 60)


class Metrics:
    """The agent's metrics; its methods are what happens."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        r = self.registry
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
        self.writes_dropped = Gauge(
            "ovnagent_writes_dropped", "Events and records given up since the start.", ["queue"], registry=r
        )
        self._refresh: list[Callable[[], None]] = []

    def on_scrape(self, refresh: Callable[[], None]) -> None:
        """Called before each scrape, to set gauges."""
        self._refresh.append(refresh)

    def scrape(self) -> bytes:
        for refresh in self._refresh:
            refresh()
        return generate_latest(self.registry)

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

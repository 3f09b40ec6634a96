"""The metrics of `ovnagent plug`. docs/plugging.md says what they mean; a test compares the two."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector

FAST = (0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5, 30)


class PlugMetrics:
    """What happens on a node."""

    def __init__(self) -> None:
        self.registry = r = CollectorRegistry()
        ProcessCollector(registry=r)
        self.interfaces = Gauge(
            "ovnagent_plug_interfaces", "Interfaces of launchers, by what they are.", ["state"], registry=r
        )
        self.seconds = Histogram(
            "ovnagent_plug_seconds",
            "From an interface being seen in Open_vSwitch to its iface-id being committed.",
            buckets=FAST,
            registry=r,
        )
        self.changes = Counter("ovnagent_plug_changes", "Interfaces plugged and unplugged.", ["change"], registry=r)
        self.failures = Counter(
            "ovnagent_plug_failures", "What did not work and is tried again, by reason.", ["reason"], registry=r
        )
        self.refresh: Callable[[], None] = lambda: None

    def scrape(self) -> bytes:
        self.refresh()
        return generate_latest(self.registry)

"""The dashboard's queries, asked of a real Prometheus that scrapes real agents through a migration: each has data."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.bench import dashboard
from hack.lab import manifests
from hack.lab.cluster import Cluster
from hack.lab.kubevirt import KubeVirt
from hack.lab.process import wait_for
from hack.lab.prometheus import Prometheus
from tests.monitoring.test_rules import DASHBOARD, RULES

QUERIES = [
    pytest.param(target["expr"], id=f"{panel['title']} {target['refId']}")
    for panel in DASHBOARD["panels"]
    for target in panel.get("targets", ())
]


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    with Cluster("watch") as cluster, KubeVirt(cluster.kube, cluster.ovn, guests="fake") as kubevirt:
        agents = cluster.replicas().start()
        addresses = [f"127.0.0.1:{agent.port}" for agent in agents.agents]
        found = Prometheus(tmp_path_factory.mktemp("watching") / "prometheus", RULES["spec"], *addresses)
        try:
            wait_for(lambda: found.value("sum(up)") == 2, 30, "both agents are scraped")
            for vm in (manifests.vm("web"), manifests.vm("still"), manifests.vm("bad", "Halted", ip_address="10.16.0.300")):
                cluster.kube.apply(vm)
            kubevirt.wait_running("default", "web")
            assert kubevirt.wait_migration("default", kubevirt.migrate("default", "web")) == "Succeeded"
            kubevirt.wait_running("default", "still")
            cluster.ovn.nbctl("lsp-set-addresses", "still.default", "unknown")  # drift
            wait_for(lambda: found.value("sum(ovnagent_drift_repaired_total)") > 0, 20, "the drift is repaired")
            counted = "sum(increase(ovnagent_migration_prepare_seconds_count[1m]))"
            wait_for(lambda: found.value(counted) > 0, 20, "the migration is counted")
            yield found
        finally:
            found.stop()


@pytest.mark.parametrize("query", QUERIES)
def test_every_query_has_data(prometheus: Prometheus, query: str) -> None:
    values = prometheus.ask(query)
    assert values
    assert not any(map(math.isnan, values)), values


def test_the_dashboard_can_be_drawn(prometheus: Prometheus, tmp_path: Path) -> None:
    """docs/images/dashboard.svg is made so."""
    now = time.time()
    dashboard.draw(tmp_path / "dashboard.svg", prometheus, now - 20, now)
    drawn = (tmp_path / "dashboard.svg").read_text()
    assert [panel["title"] for panel in DASHBOARD["panels"] if f">{panel['title']}<" not in drawn] == []


def test_what_happened_is_seen(prometheus: Prometheus) -> None:
    assert prometheus.value("sum(ovnagent_lock_held)") == 1
    assert prometheus.value("max(ovnagent_ports)") >= 1
    assert prometheus.value('max(ovnagent_problems{reason="InvalidRequest"})') == 1
    assert prometheus.value("sum(ovnagent_migration_prepare_seconds_count)") == 1


def test_the_alerts_are_computed_and_none_is_critical(prometheus: Prometheus) -> None:
    (group,) = prometheus.get("rules")["groups"]
    wait_for(
        lambda: all(rule["health"] == "ok" for rule in prometheus.get("rules")["groups"][0]["rules"]), 20, "all computed"
    )
    assert len(group["rules"]) == len(RULES["spec"]["groups"][0]["rules"])
    assert not [each for each in prometheus.get("alerts")["alerts"] if each["labels"]["severity"] == "critical"]

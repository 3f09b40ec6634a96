"""The dashboard's queries, asked of a real Prometheus that scrapes real agents through a migration: each has data."""

from __future__ import annotations

import json
import math
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hack.lab.cluster import Cluster
from hack.lab.kube import free_ports
from hack.lab.kubevirt import KubeVirt
from hack.lab.process import start, stop, wait_for
from tests.e2e.conftest import manifest
from tests.monitoring.test_rules import DASHBOARD, RULES

QUERIES = [
    pytest.param(target["expr"], id=f"{panel['title']} {target['refId']}")
    for panel in DASHBOARD["panels"]
    for target in panel.get("targets", ())
]


class Prometheus:
    """A Prometheus that scrapes these addresses once a second."""

    def __init__(self, directory: Path, *targets: str) -> None:
        directory.mkdir()
        self.pidfile = directory / "prometheus.pid"
        self._port = free_ports(1)[0]
        (directory / "rules.yaml").write_text(yaml.safe_dump(RULES["spec"]))
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(directory / "rules.yaml")],
            "scrape_configs": [{"job_name": "ovnagent", "static_configs": [{"targets": list(targets)}]}],
        }
        (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
        start(
            [
                "prometheus",
                f"--config.file={directory}/prometheus.yml",
                f"--storage.tsdb.path={directory}/data",
                f"--web.listen-address=127.0.0.1:{self._port}",
            ],
            directory / "prometheus.log",
            self.pidfile,
        )

    def get(self, path: str, **arguments: str) -> Any:
        """What its HTTP API answers."""
        url = f"http://127.0.0.1:{self._port}/api/v1/{path}?{urllib.parse.urlencode(arguments)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]

    def ask(self, query: str) -> list[float]:
        """The values that a query has now."""
        query = query.replace("$job", "ovnagent").replace("$__rate_interval", "1m")
        return [float(each["value"][1]) for each in self.get("query", query=query)["result"]]

    def value(self, query: str) -> float:
        """The only value of a query; NaN where there is none, or Prometheus does not answer yet."""
        try:
            found = self.ask(query)
        except OSError:
            return math.nan
        return found[0] if len(found) == 1 else math.nan


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    with Cluster("watch") as cluster, KubeVirt(cluster.kube, cluster.ovn, guests="fake") as kubevirt:
        agents = cluster.replicas().start()
        addresses = [f"127.0.0.1:{agent.port}" for agent in agents.agents]
        found = Prometheus(tmp_path_factory.mktemp("watching") / "prometheus", *addresses)
        try:
            wait_for(lambda: found.value("sum(up)") == 2, 30, "both agents are scraped")
            cluster.kube.apply(
                manifest("web")
                + "\n---\n"
                + manifest("still")
                + "\n---\n"
                + manifest("bad", "Halted", ip_address="10.16.0.300")
            )
            kubevirt.wait_running("default", "web")
            assert kubevirt.wait_migration("default", kubevirt.migrate("default", "web")) == "Succeeded"
            kubevirt.wait_running("default", "still")
            cluster.ovn.nbctl("lsp-set-addresses", "still.default", "unknown")  # drift
            wait_for(lambda: found.value("sum(ovnagent_drift_repaired_total)") > 0, 20, "the drift is repaired")
            counted = "sum(increase(ovnagent_migration_prepare_seconds_count[1m]))"
            wait_for(lambda: found.value(counted) > 0, 20, "the migration is counted")
            yield found
        finally:
            stop(found.pidfile)


@pytest.mark.parametrize("query", QUERIES)
def test_every_query_has_data(prometheus: Prometheus, query: str) -> None:
    values = prometheus.ask(query)
    assert values
    assert not any(map(math.isnan, values)), values


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

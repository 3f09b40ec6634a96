"""A real Prometheus that scrapes agents."""

from __future__ import annotations

import json
import math
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from hack.lab.free_ports import free_ports
from hack.lab.process import start, stop


class Prometheus:
    """Scrapes these addresses once a second, as the job `ovnagent`, and computes rules."""

    def __init__(self, directory: Path, rules: Mapping[str, Any], *targets: str) -> None:
        """`rules`: the `spec` of a PrometheusRule."""
        directory.mkdir()
        self._pidfile = directory / "prometheus.pid"
        self._port = free_ports(1)[0]
        (directory / "rules.yaml").write_text(yaml.safe_dump(rules))
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
            self._pidfile,
        )

    def stop(self) -> None:
        """End it."""
        stop(self._pidfile)

    def get(self, path: str, **arguments: str) -> Any:
        """What its HTTP API answers."""
        url = f"http://127.0.0.1:{self._port}/api/v1/{path}?{urllib.parse.urlencode(arguments)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]

    def ask(self, query: str) -> list[float]:
        """The values that a query of the dashboard has now."""
        return [float(each["value"][1]) for each in self.get("query", query=of_dashboard(query))["result"]]

    def course(self, query: str, since: float, until: float) -> list[tuple[dict[str, str], list[float], list[float]]]:
        """Of each series of a dashboard's query: labels, Unix times, values; one a second."""
        answer = self.get("query_range", query=of_dashboard(query), start=str(since), end=str(until), step="1")
        return [
            (each["metric"], [float(at) for at, _ in each["values"]], [float(value) for _, value in each["values"]])
            for each in answer["result"]
        ]

    def value(self, query: str) -> float:
        """The only value of a query; NaN where there is none, or Prometheus does not answer yet."""
        try:
            found = self.ask(query)
        except OSError:
            return math.nan
        return found[0] if len(found) == 1 else math.nan


def of_dashboard(query: str) -> str:
    """With Grafana's variables filled in."""
    return query.replace("$job", "ovnagent").replace("$__rate_interval", "1m")

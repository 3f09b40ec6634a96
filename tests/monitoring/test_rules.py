"""Each alert of deploy/components/monitoring with promtool: what raises it, and that an agent at work raises none."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from hack.lab.cluster import REPOSITORY
from hack.lab.process import run
from ovnagent.plugger.metrics import PlugMetrics
from ovnagent.serve.metrics import Metrics

COMPONENT = REPOSITORY / "deploy" / "components" / "monitoring"
RULES = yaml.safe_load((COMPONENT / "rules.yaml").read_text())
ALERTS: list[dict[str, Any]] = [rule for group in RULES["spec"]["groups"] for rule in group["rules"]]
DASHBOARD = json.loads((COMPONENT / "ovnagent.json").read_text())


class Raised(NamedTuple):
    """Samples, one a minute, in promtool's notation, that raise an alert within 40 minutes; and the alert's labels."""

    series: dict[str, str]
    labels: dict[str, str]


HEALTHY = {
    'up{job="ovnagent",instance="a"}': "1x60",
    'up{job="ovnagent",instance="b"}': "1x60",
    'ovnagent_lock_held{job="ovnagent",instance="a"}': "1x60",
    'ovnagent_lock_held{job="ovnagent",instance="b"}': "0x60",
    'ovnagent_replica_age_seconds{job="ovnagent",instance="a",replica="northbound"}': "4x60",
    'ovnagent_not_committed_total{job="ovnagent",instance="a"}': "3x60",
    'ovnagent_refused_total{job="ovnagent",instance="a"}': "2x60",
    'ovnagent_sweep_held_ports{job="ovnagent",instance="a"}': "0x60",
    'ovnagent_config_last_reload_successful{job="ovnagent",instance="a"}': "1x60",
    'ovnagent_records_pending{job="ovnagent",instance="a"}': "5x60",
    'ovnagent_writes_dropped_total{job="ovnagent",instance="a",queue="events",reason="queue_full"}': "1x60",
    'ovnagent_watch_errors_total{job="ovnagent",instance="a",kind="pods",reason="connection"}': "0+1x60",
    'ovnagent_thread_restarts_total{job="ovnagent",instance="a",thread="x"}': "1x60",
    'ovnagent_scrape_errors_total{job="ovnagent",instance="a",part="pools"}': "1x60",
    'ovnagent_quarantined{job="ovnagent",instance="a",kind="pods"}': "0x60",
    'ovnagent_pool_addresses{job="ovnagent",instance="a",network="pods",family="ipv4",state="used"}': "90x60",
    'ovnagent_pool_addresses{job="ovnagent",instance="a",network="pods",family="ipv4",state="total"}': "100x60",
    'ovnagent_problems{job="ovnagent",instance="a",reason="InvalidRequest"}': "5x60",
    'ovnagent_problems{job="ovnagent",instance="a",reason="ChassisUnknown"}': "0x60",
    'ovnagent_migration_prepare_seconds_bucket{job="ovnagent",instance="a",le="0.1"}': "0+5x60",
    'ovnagent_migration_prepare_seconds_bucket{job="ovnagent",instance="a",le="5"}': "0+5x60",
    'ovnagent_migration_prepare_seconds_bucket{job="ovnagent",instance="a",le="+Inf"}': "0+5x60",
    'ovnagent_drift_repaired_total{job="ovnagent",instance="a"}': "0+1x60",
    'ovnagent_plug_failures_total{job="ovnagent/ovnagent-plug",instance="n",reason="http_500"}': "2x60",
}
"""Two agents, one of which works."""

RAISED = {
    "OvnagentAbsent": Raised({'up{job="ovnagent",instance="a"}': "0x60", 'up{job="ovnagent",instance="b"}': "0x60"}, {}),
    "OvnagentNoLeader": Raised({'ovnagent_lock_held{job="ovnagent",instance="a"}': "1x20 0x40"}, {}),
    "OvnagentDown": Raised({'up{job="ovnagent",instance="b"}': "1x20 0x40"}, {"job": "ovnagent", "instance": "b"}),
    "OvnagentReplicaStale": Raised(
        {'ovnagent_replica_age_seconds{job="ovnagent",instance="a",replica="northbound"}': "4x30 60+60x30"},
        {"instance": "a", "replica": "northbound"},
    ),
    "OvnagentNotCommitted": Raised(
        {'ovnagent_not_committed_total{job="ovnagent",instance="a"}': "0x20 0+1x40"}, {"job": "ovnagent", "instance": "a"}
    ),
    "OvnagentRefused": Raised(
        {'ovnagent_refused_total{job="ovnagent",instance="a"}': "2x30 3x30"}, {"job": "ovnagent", "instance": "a"}
    ),
    "OvnagentSweepHeld": Raised({'ovnagent_sweep_held_ports{job="ovnagent",instance="a"}': "0x30 12x30"}, {}),
    "OvnagentConfigRefused": Raised(
        {'ovnagent_config_last_reload_successful{job="ovnagent",instance="a"}': "1x20 0x40"}, {"instance": "a"}
    ),
    "OvnagentRecordsPending": Raised(
        {'ovnagent_records_pending{job="ovnagent",instance="a"}': "5x10 500x50"}, {"instance": "a"}
    ),
    "OvnagentWritesDropped": Raised(
        {'ovnagent_writes_dropped_total{job="ovnagent",instance="a",queue="events",reason="queue_full"}': "1x30 2x30"},
        {"queue": "events", "reason": "queue_full"},
    ),
    "OvnagentWatchErrors": Raised(
        {'ovnagent_watch_errors_total{job="ovnagent",instance="a",kind="pods",reason="connection"}': "0+60x60"},
        {"kind": "pods", "reason": "connection"},
    ),
    "OvnagentThreadFailed": Raised(
        {'ovnagent_thread_restarts_total{job="ovnagent",instance="a",thread="x"}': "1x30 2x30"},
        {"instance": "a", "thread": "x"},
    ),
    "OvnagentScrapeErrors": Raised(
        {'ovnagent_scrape_errors_total{job="ovnagent",instance="a",part="pools"}': "1x30 2x30"},
        {"instance": "a", "part": "pools"},
    ),
    "OvnagentQuarantined": Raised(
        {'ovnagent_quarantined{job="ovnagent",instance="a",kind="pods"}': "0x10 1x50"}, {"kind": "pods"}
    ),
    "OvnagentPoolNearlyFull": Raised(
        {'ovnagent_pool_addresses{job="ovnagent",instance="a",network="pods",family="ipv4",state="used"}': "91x60"},
        {"network": "pods", "family": "ipv4"},
    ),
    "OvnagentProblems": Raised(
        {'ovnagent_problems{job="ovnagent",instance="a",reason="ChassisUnknown"}': "0x10 1x50"}, {"reason": "ChassisUnknown"}
    ),
    "OvnagentMigrationPrepareSlow": Raised(
        {'ovnagent_migration_prepare_seconds_bucket{job="ovnagent",instance="a",le="0.1"}': "0+1x60"}, {}
    ),
    "OvnagentDrift": Raised({'ovnagent_drift_repaired_total{job="ovnagent",instance="a"}': "0+3x60"}, {}),
    "OvnagentPlugFailures": Raised(
        {'ovnagent_plug_failures_total{job="ovnagent/ovnagent-plug",instance="n",reason="http_500"}': "0+1x60"},
        {"instance": "n", "reason": "http_500"},
    ),
}


def firing(directory: Path, series: dict[str, str], alert: dict[str, Any], labels: dict[str, str] | None) -> None:
    """promtool's verdict: after 40 minutes of these samples the alert fires with these labels (None: it does not).

    Raises RuntimeError with promtool's words."""
    rules = directory / "rules.yaml"
    rules.write_text(yaml.safe_dump({"groups": [{"name": "one", "rules": [alert | {"annotations": {}}]}]}))
    expected = [] if labels is None else [{"exp_labels": labels | alert["labels"]}]
    test = {
        "rule_files": [str(rules)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "alert_rule_test": [{"eval_time": "40m", "alertname": alert["alert"], "exp_alerts": expected}],
            }
        ],
    }
    file = directory / "test.yaml"
    file.write_text(yaml.safe_dump(test))
    run("promtool", "test", "rules", str(file))


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_is_raised_by_what_it_is_for_and_by_nothing_else(alert: dict[str, Any], tmp_path: Path) -> None:
    raised = RAISED[alert["alert"]]
    assert raised.series.keys() <= HEALTHY.keys()
    firing(tmp_path, HEALTHY, alert, None)
    firing(tmp_path, HEALTHY | raised.series, alert, raised.labels)


def test_the_check_above_can_fail(tmp_path: Path) -> None:
    alert = next(each for each in ALERTS if each["alert"] == "OvnagentDrift")
    with pytest.raises(RuntimeError, match="OvnagentDrift"):
        firing(tmp_path, HEALTHY, alert, {})


def test_every_alert_can_be_shown_and_has_a_runbook(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(yaml.safe_dump(RULES["spec"]))
    assert f"{len(ALERTS)} rules found" in run("promtool", "check", "rules", str(rules))
    headings = re.findall(r"^### (\w+)$", (REPOSITORY / "docs" / "operations.md").read_text(), re.MULTILINE)
    assert [each for each in headings if each.startswith("Ovnagent")] == [alert["alert"] for alert in ALERTS]
    for alert in ALERTS:
        assert alert["annotations"]["runbook_url"].endswith(f"docs/operations.md#{alert['alert'].lower()}")


def test_every_metric_that_is_asked_for_is_there() -> None:
    there = set(re.findall(r"^# TYPE (\w+)", (Metrics().scrape() + PlugMetrics().scrape()).decode(), re.MULTILINE))
    there |= {f"{name}_{end}" for name in there for end in ("bucket", "count", "sum")} | {"up"}
    queries = [alert["expr"] for alert in ALERTS]
    queries += [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]
    asked = {name for query in queries for name in re.findall(r"\b((?:ovnagent|process)_\w+|up)\{", query)}
    assert asked
    assert asked <= there, asked - there

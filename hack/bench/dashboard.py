"""The dashboard of deploy/components/monitoring as a picture: each panel's own queries, answered by a real Prometheus that
scraped real agents while VMs came, migrated and went, drawn where the dashboard puts them. It is no Grafana's picture.

    python -m hack.bench.dashboard docs/images/dashboard.svg [--seconds 120]
"""

from __future__ import annotations

import argparse
import json
import math
import re
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from hack.lab import manifests
from hack.lab.cluster import REPOSITORY, Cluster, Replicas
from hack.lab.kubevirt import KubeVirt
from hack.lab.process import wait_for
from hack.lab.prometheus import Prometheus

COMPONENT = REPOSITORY / "deploy" / "components" / "monitoring"
VMS = 12
COLUMNS, UNIT_WIDTH, UNIT_HEIGHT = 24, 0.62, 0.42
"""The dashboard's grid, and a cell's inches."""
COLOURS = {"green": "#2e7d32", "red": "#c62828", "": "#455a64"}
UNITS = {"s": (1000, " ms"), "bytes": (1e-6, " MB"), "percentunit": (100, " %"), "ops": (1, " /s"), "short": (1, "")}


def load(cluster: Cluster, agents: Replicas, kubevirt: KubeVirt, seconds: float) -> None:
    """VMs come, one of them is refused, all migrate in turns, somebody else changes a row, the leader dies."""
    end = time.monotonic() + seconds
    names = [f"vm{number}" for number in range(VMS)]
    for name in names:
        cluster.kube.apply(manifests.vm(name))
    for name in names:
        kubevirt.wait_running("default", name)
    cluster.kube.apply(manifests.vm("refused", ip_address="10.16.0.300"))
    turn = 0
    while time.monotonic() < end:
        moving = [names[(turn + offset) % VMS] for offset in range(3)]
        migrations = [kubevirt.migrate("default", name) for name in moving]
        for migration in migrations:
            kubevirt.wait_migration("default", migration)
        cluster.ovn.nbctl("lsp-set-addresses", f"{moving[0]}.default", "unknown")
        turn += 3
        if turn == 9:
            agents.crash_one(agents.leader())


def draw(path: Path, prometheus: Prometheus, since: float, until: float) -> None:
    """Every panel at its place."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    dashboard = json.loads((COMPONENT / "ovnagent.json").read_text())
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"])
    pyplot.rcParams.update({"font.size": 7, "svg.fonttype": "none", "axes.spines.top": False, "axes.spines.right": False})
    figure = pyplot.figure(figsize=(COLUMNS * UNIT_WIDTH, rows * UNIT_HEIGHT))
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        x, width = at["x"] / COLUMNS, at["w"] / COLUMNS
        y, height = 1 - (at["y"] + at["h"]) / rows, at["h"] / rows
        if panel["type"] == "row":
            figure.text(x + 0.005, y + height / 3, panel["title"], fontsize=10, fontweight="bold")
            continue
        axes = figure.add_axes((x + 0.04, y + 0.22 * height, width - 0.05, 0.62 * height))
        axes.set_title(panel["title"], fontsize=8, loc="left")
        show = _stat if panel["type"] == "stat" else _course
        show(axes, panel, prometheus, since, until)
    figure.savefig(path)


def _stat(axes: Any, panel: Mapping[str, Any], prometheus: Prometheus, _: float, until: float) -> None:
    query = panel["targets"][0]["expr"]
    value = prometheus.course(query, until, until)[0][2][-1]
    steps = panel["fieldConfig"]["defaults"].get("thresholds", {}).get("steps", [])
    colour = next((step["color"] for step in reversed(steps) if step["value"] is None or value >= step["value"]), "")
    axes.set_facecolor(COLOURS[colour])
    axes.set_xticks([])
    axes.set_yticks([])
    axes.text(0.5, 0.5, f"{value:g}", ha="center", va="center", fontsize=22, color="white", transform=axes.transAxes)


def _course(axes: Any, panel: Mapping[str, Any], prometheus: Prometheus, since: float, until: float) -> None:
    settings = panel["fieldConfig"]["defaults"]
    factor, unit = UNITS[settings["unit"]]
    for target in panel["targets"]:
        for labels, times, values in prometheus.course(target["expr"], since, until):
            name = re.sub(r"{{(\w+)}}", lambda match, labels=labels: labels.get(match[1], ""), target["legendFormat"])
            known = dict(zip(map(round, times), values, strict=True))  # what is missing leaves a gap: an agent that was down
            seconds = range(round(times[0]), round(times[-1]) + 1)
            points = [known.get(at, math.nan) * factor for at in seconds]
            axes.plot([at - since for at in seconds], points, linewidth=1, label=name.strip() or "-")
    axes.set_xlim(0, until - since)
    axes.set_ylim(bottom=settings["min"] * factor, top=settings["max"] * factor if "max" in settings else None)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}{unit}")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g} s")
    axes.grid(alpha=0.3, linewidth=0.5)
    axes.legend(fontsize=5, frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.12))


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--seconds", type=float, default=120.0, help="of load; default: 120")
    options = parser.parse_args()
    rules = yaml.safe_load((COMPONENT / "rules.yaml").read_text())["spec"]
    with (
        tempfile.TemporaryDirectory() as folder,
        Cluster("board") as cluster,
        KubeVirt(cluster.kube, cluster.ovn, guests="fake") as kubevirt,
    ):
        agents = cluster.replicas().start()
        prometheus = Prometheus(Path(folder) / "prometheus", rules, *(f"127.0.0.1:{each.port}" for each in agents.agents))
        try:
            wait_for(lambda: prometheus.value("sum(up)") == 2, 30, "both agents are scraped")
            began = time.time()
            load(cluster, agents, kubevirt, options.seconds)
            draw(options.picture, prometheus, began, time.time())
        finally:
            prometheus.stop()
    print(options.picture)


if __name__ == "__main__":
    main()

"""Pictures of what hack/bench/scale.py has measured: `python -m hack.bench.plots FIGURES.json`, into docs/images."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from hack.lab.cluster import REPOSITORY

IMAGES = REPOSITORY / "docs" / "images"
FLOOR, OURS = "#9aa5b1", "#2b6cb0"


def starts(figures: dict[str, Any]) -> None:
    """How long starts take, beside their floors, and the memory at its peak."""
    _, (left, right) = plt.subplots(1, 2, figsize=(9, 2.8), layout="constrained")
    rows = [
        ("start with all right", figures["warm"]["seconds"], OURS),
        ("floor: list + load", figures["warm"]["listed"], FLOOR),
        ("cold start", figures["cold"]["seconds"], OURS),
        ("floor: list + raw transaction", figures["listed"] + figures["raw"], FLOOR),
    ]
    names, values, colours = zip(*rows, strict=True)
    left.barh(names, values, color=colours)
    left.set(xlabel="seconds", title=f"start beside {figures['vms']:,} VMs")
    parts = {"no VM": figures["none"], "start with all right": figures["warm"], "cold start": figures["cold"]}
    parts |= {f"ovnagent {name}": figures[name] for name in ("ports", "check", "pools")}
    right.barh(list(parts), [part["megabytes"] for part in parts.values()], color=OURS)
    right.axvline(150, color="#c53030", linewidth=1)
    right.set(xlabel="MB resident at the peak; line: 150", title="memory")
    plt.savefig(IMAGES / "starts.svg")


def latencies(figures: dict[str, Any]) -> None:
    """From the fact being known outside to the row being heard of outside, as shares of all."""
    names = {
        "floor": "floor: one raw transaction",
        "floor of steady": "the same beside 200 changes/s",
        "watches of steady": "two watches of a change, apart by",
        "steady": "200 changes/s",
        "listed": "bound at once",
        "ends": "ended at once",
    }
    _, axes = plt.subplots(figsize=(9, 2.8), layout="constrained")
    for name, label in names.items():
        took = sorted(max(0.1, each) for each in figures["storm"][name])
        axes.plot(took, [(index + 1) / len(took) for index in range(len(took))], label=label)
    axes.set(xscale="log", xlabel="ms", ylabel="share", title="from the last fact to the row")
    axes.grid(alpha=0.3)
    axes.legend()
    plt.savefig(IMAGES / "latencies.svg")


if __name__ == "__main__":
    found = json.loads(Path(sys.argv[1]).read_text())
    starts(found)
    latencies(found)

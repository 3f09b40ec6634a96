"""An agent beside many VMs: how long it takes to start, what it writes, and what memory it needs.

    python -m hack.bench.scale [-n VMS] [--nodes NODES] [--runs RUNS] [--figures FILE]

VM, VMI and launcher of each VM are in a real API server, of realistic size (hack/bench/population.py); a real Northbound
and Southbound database beside it; no guest and no control plane of KubeVirt runs. Each figure stands beside its floor of
the same run: the same lists in pages, parsed by orjson with the collector held back and nothing else; the same rows as one
raw transaction. Peak memory is VmHWM of proc(5).
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import orjson

from hack.bench import looks, population, storm
from hack.bench.rig import LISTS, caught_up, memory, peak, requests, rig, say, start
from hack.lab.cluster import REPOSITORY
from hack.lab.databases import Server, server
from hack.lab.process import wait_for
from ovnagent.kube.client import Client, KubeConfig

PAGE = 500
COLUMNS = ("name", "addresses", "port_security", "options", "external_ids")


def list_and_load(kubeconfig: Path) -> None:
    """In a process of its own: all lists in pages, parsed and dropped; prints seconds and MB as JSON."""
    client = Client(KubeConfig(kubeconfig))
    gc.disable()
    started = time.monotonic()
    for path in LISTS:
        token = ""
        while True:
            page = orjson.loads(client.request("GET", f"{path}?limit={PAGE}{'&continue=' if token else ''}{token}"))
            token = page["metadata"].get("continue") or ""
            del page
            if not token:
                break
    print(json.dumps([time.monotonic() - started, peak("self")]))


def list_alone(kubeconfig: Path) -> tuple[float, float]:
    """Seconds and MB of `list_and_load`."""
    arguments = [sys.executable, "-m", "hack.bench.scale", "--list", str(kubeconfig)]
    seconds, megabytes = json.loads(subprocess.check_output(arguments, cwd=REPOSITORY))
    return seconds, megabytes


def raw_transaction(nb: Server, empty: Server) -> float:
    """Seconds to write the rows of one database into another that has none."""
    rows = nb.transact({"op": "select", "table": "Logical_Switch_Port", "where": [], "columns": list(COLUMNS)})[0]["rows"]
    inserts = [
        {"op": "insert", "table": "Logical_Switch_Port", "uuid-name": f"row{number}", "row": row}
        for number, row in enumerate(rows)
    ]
    ports = ["set", [["named-uuid", f"row{number}"] for number in range(len(rows))]]
    switch = {"op": "insert", "table": "Logical_Switch", "row": {"name": "ovn-default", "ports": ports}}
    started = time.monotonic()
    empty.transact(*inserts, switch)
    return time.monotonic() - started


def measure(directory: Path, count: int, nodes: int, runs: int, moving: int) -> dict[str, Any]:
    """All figures, which are printed as they come."""
    figures: dict[str, Any] = {"vms": count}
    with rig(directory, nodes) as lab, server(directory / "empty") as empty:
        kube, agent = lab.kube, lab.agent
        figures["none"] = asdict(start(agent))
        say("no VMs: peak memory", f"{figures['none']['megabytes']:.0f} MB")
        agent.stop()
        size = population.write(kube, population.machines(count - moving, nodes))
        vms = storm.populate(lab, moving)
        caught_up(kube)
        say(f"{count} VMs, VMIs and launchers, {nodes} nodes", f"{size / 1e6:.0f} MB of JSON in etcd")
        floors = [list_alone(kube.kubeconfig) for _ in range(runs)]
        listed = figures["listed"] = median(seconds for seconds, _ in floors)
        say("floor: list in pages and orjson", f"{listed:.1f} s, peak {max(floor[1] for floor in floors):.0f} MB")
        cold = start(agent)
        figures["cold"], figures["raw"] = asdict(cold), raw_transaction(lab.nb, empty)
        say("floor: the same rows in one raw transaction", f"{figures['raw']:.1f} s")
        say("cold start", f"{cold.seconds:.1f} s = {cold.seconds / (listed + figures['raw']):.2f} x floor")
        say("  rows written", f"{cold.rows:.0f} in {cold.transactions:.0f} transactions")
        say("  peak memory", f"{cold.megabytes:.0f} MB")
        began = time.monotonic()
        wait_for(lambda: agent.metric("ovnagent_records_pending") == 0, 600, "a record on each")
        say("  records on all of them", f"{time.monotonic() - began:.0f} s later")
        figures["patches"] = requests(kube, "PATCH", "virtualmachines")
        figures["events"] = requests(kube, "POST", "events")
        say("  patches of VMs for them", f"{figures['patches']:.0f}")
        say("  Events told so far", f"{figures['events']:.0f}")
        for name in ("ovnagent_events_suppressed_total", "ovnagent_writes_dropped_total"):
            say(f"  {name}", f"{agent.metric(name):.0f}")
        figures["storm"] = storm.run(lab, vms)
        figures["peak"] = memory(agent)
        say("  peak memory", f"{figures['peak']:.0f} MB")
        before = agent.metric("process_cpu_seconds_total")
        time.sleep(10)
        say("  at rest", f"{(agent.metric('process_cpu_seconds_total') - before) * 100:.0f} millicores")
        agent.stop()
        warm, floors = [], []
        for _ in range(runs):  # the API server has more to do now than before the storm
            floors.append(list_alone(kube.kubeconfig))
            warm.append(start(agent))
            agent.stop()
        seconds, listed = median(each.seconds for each in warm), median(each for each, _ in floors)
        figures["warm"] = {"seconds": seconds, "megabytes": max(each.megabytes for each in warm), "listed": listed}
        say("floor: list in pages and orjson, again", f"{listed:.1f} s")
        say("start with all right", f"{seconds:.1f} s = {seconds / listed:.2f} x list; {warm[-1].rows:.0f} rows written")
        say("  peak memory", f"{figures['warm']['megabytes']:.0f} MB")
        for name in looks.COMMANDS:
            seen = looks.look(name, agent.config)
            figures[name] = asdict(seen)
            told = f"{seen.told:.1f} s" if seen.told is not None else "never"
            say(f"ovnagent {name}: first line", f"{seen.first:.1f} s; {seen.megabytes:.0f} MB; first word on stderr: {told}")
    return figures


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=10_000, metavar="VMS", help="how many VMs (default 10000)")
    parser.add_argument("--nodes", type=int, default=100, help="how many nodes, each with a chassis (default 100)")
    parser.add_argument("--runs", type=int, default=3, help="runs of what can be repeated; the median counts (default 3)")
    parser.add_argument("--moving", type=int, default=500, help="of them, migrate at once (default 500)")
    parser.add_argument("--figures", type=Path, metavar="FILE", help="write all figures there, for hack/bench/plots.py")
    parser.add_argument("--list", type=Path, metavar="KUBECONFIG", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.list:
        list_and_load(options.list)
        return 0
    with tempfile.TemporaryDirectory(prefix="ovnagent-scale-") as directory:
        figures = measure(Path(directory), options.n, options.nodes, options.runs, options.moving)
    if options.figures:
        options.figures.write_text(json.dumps(figures, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

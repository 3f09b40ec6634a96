"""An agent beside many VMs: how long it takes to start, what it writes, and what memory it needs.

    python -m hack.bench.scale [-n VMS] [--nodes NODES] [--runs RUNS]

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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import orjson

from hack.bench import population
from hack.lab.cluster import CLUSTER, NETWORKS, REPOSITORY, Agent
from hack.lab.databases import Server, server
from hack.lab.kube import ControlPlane
from hack.lab.process import running, wait_for
from ovnagent.kube.client import ApiError, Client, KubeConfig

LISTS = (
    "/apis/kubevirt.io/v1/virtualmachines",
    "/apis/kubevirt.io/v1/virtualmachineinstances",
    "/apis/kubevirt.io/v1/virtualmachineinstancemigrations",
    "/api/v1/pods",
    "/api/v1/nodes",
)
PAGE = 500
COLUMNS = ("name", "addresses", "port_security", "options", "external_ids")


@dataclass(frozen=True)
class Start:
    """What a start of the agent took."""

    seconds: float
    """From the process' start until it has reconciled everything."""
    megabytes: float
    transactions: float
    rows: float


def peak(pid: int | str) -> float:
    """The most memory that a process has had, in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1000
    raise RuntimeError(f"no VmHWM of {pid}")


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


def caught_up(kube: ControlPlane) -> None:
    """Wait until the API server has taken in what was written to etcd behind its back."""
    client = Client(KubeConfig(kube.kubeconfig))

    def answers(path: str) -> bool:
        try:
            token = orjson.loads(client.request("GET", f"{path}?limit=1"))["metadata"].get("continue")
            if token:  # the first page comes from etcd, the next from the API server's own copy
                client.request("GET", f"{path}?limit=1&continue={token}")
        except ApiError as error:
            if error.status not in (429, 504):
                raise
            return False
        return True

    for path in LISTS:
        wait_for(lambda path=path: answers(path), 300, f"the API server has all of {path}")


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


def start(agent: Agent, seconds: float = 180) -> Start:
    began = time.monotonic()
    said = agent.log.stat().st_size if agent.log.exists() else 0
    agent.start(ready=False)
    wait_for(lambda: b" leading " in agent.log.read_bytes()[said:], seconds, "the agent leads")
    agent.wait_ready(seconds)
    took = time.monotonic() - began
    time.sleep(1.1)  # metrics are computed once a second
    metric = agent.metric
    return Start(took, memory(agent), metric("ovnagent_transactions_total"), metric("ovnagent_row_changes_total"))


def memory(agent: Agent) -> float:
    pid = running(agent.pidfile)
    assert pid is not None
    return peak(pid)


def requests(kube: ControlPlane, verb: str, resource: str) -> float:
    """How many of these the API server has answered."""
    lines = kube.kubectl("get", "--raw", "/metrics").splitlines()
    wanted = ("apiserver_request_total", f'resource="{resource}"', f'verb="{verb}"')
    return sum(float(line.split()[-1]) for line in lines if all(part in line for part in wanted))


def say(what: str, figure: str) -> None:
    print(f"{what:52} {figure}", flush=True)


@dataclass(frozen=True)
class Rig:
    """An API server and OVN's databases, and an agent that is not started yet."""

    kube: ControlPlane
    nb: Server
    agent: Agent


@contextmanager
def rig(directory: Path, nodes: int) -> Iterator[Rig]:
    """So many nodes, each with a chassis, and namespaces; no VM."""
    with (
        ControlPlane(directory / "kube") as kube,
        server(directory / "nb") as nb,
        server(directory / "sb", "OVN_Southbound") as sb,
    ):
        population.only_the_api_server(kube)
        names = [population.namespace_of(number) for number in range(population.NAMESPACES)]
        population.write(kube, population.surroundings(nodes, names))
        kube.kubectl("apply", *(f"-f{REPOSITORY}/deploy/base/{name}.yaml" for name in ("namespace", "rbac")))
        for number in range(nodes):
            encap = {"op": "insert", "table": "Encap", "uuid-name": "e", "row": {"type": "geneve", "ip": f"10.0.0.{number}"}}
            row = {"name": f"chassis{number}", "hostname": f"node{number}", "encaps": ["named-uuid", "e"]}
            sb.transact(encap, {"op": "insert", "table": "Chassis", "row": row})
        config: dict[str, object] = {
            "cluster": CLUSTER,
            "ovn": {"northbound": [nb.remote], "southbound": [sb.remote]},
            "kubernetes": {"kubeconfig": str(kube.service_account_kubeconfig("ovnagent", "ovnagent"))},
            "networks": NETWORKS,
        }
        agent = Agent(directory, config)
        try:
            yield Rig(kube, nb, agent)
        finally:
            agent.stop()


def measure(directory: Path, count: int, nodes: int, runs: int) -> None:
    with rig(directory, nodes) as lab, server(directory / "empty") as empty:
        kube, agent = lab.kube, lab.agent
        say("no VMs: peak memory", f"{start(agent).megabytes:.0f} MB")
        agent.stop()
        size = population.write(kube, population.machines(count, nodes))
        caught_up(kube)
        say(f"{count} VMs, VMIs and launchers, {nodes} nodes", f"{size / 1e6:.0f} MB of JSON in etcd")
        floors = []
        for _ in range(runs):
            arguments = [sys.executable, "-m", "hack.bench.scale", "--list", str(kube.kubeconfig)]
            floors.append(json.loads(subprocess.check_output(arguments, cwd=REPOSITORY)))
        listed = median(seconds for seconds, _ in floors)
        say("floor: list in pages and orjson", f"{listed:.1f} s, peak {max(floor[1] for floor in floors):.0f} MB")
        cold = start(agent)
        raw = raw_transaction(lab.nb, empty)
        say("floor: the same rows in one raw transaction", f"{raw:.1f} s")
        say("cold start", f"{cold.seconds:.1f} s = {cold.seconds / (listed + raw):.2f} x floor")
        say("  rows written", f"{cold.rows:.0f} in {cold.transactions:.0f} transactions")
        say("  peak memory", f"{cold.megabytes:.0f} MB")
        began = time.monotonic()
        wait_for(lambda: agent.metric("ovnagent_records_pending") == 0, 600, "a record on each")
        say("  records on all of them", f"{time.monotonic() - began:.0f} s later")
        say("  patches of VMs for them", f"{requests(kube, 'PATCH', 'virtualmachines'):.0f}")
        say("  Events told so far", f"{requests(kube, 'POST', 'events'):.0f}")
        say("  peak memory", f"{memory(agent):.0f} MB")
        before = agent.metric("process_cpu_seconds_total")
        time.sleep(10)
        say("  at rest", f"{(agent.metric('process_cpu_seconds_total') - before) * 100:.0f} millicores")
        agent.stop()
        warm = []
        for _ in range(runs):
            warm.append(start(agent))
            agent.stop()
        seconds = median(each.seconds for each in warm)
        say("start with all right", f"{seconds:.1f} s = {seconds / listed:.2f} x list; {warm[-1].rows:.0f} rows written")
        say("  peak memory", f"{max(each.megabytes for each in warm):.0f} MB")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=10_000, metavar="VMS", help="how many VMs (default 10000)")
    parser.add_argument("--nodes", type=int, default=100, help="how many nodes, each with a chassis (default 100)")
    parser.add_argument("--runs", type=int, default=3, help="runs of what can be repeated; the median counts (default 3)")
    parser.add_argument("--list", type=Path, metavar="KUBECONFIG", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.list:
        list_and_load(options.list)
        return 0
    with tempfile.TemporaryDirectory(prefix="ovnagent-scale-") as directory:
        measure(Path(directory), options.n, options.nodes, options.runs)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

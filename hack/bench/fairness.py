"""Whether a tenant can hold up another's migration: from the target's launcher being bound to both chassis being in NB.

    python -m hack.bench.fairness [-n VMS] [--migrations N]

Beside many VMs, migrations of one namespace's VMs are measured while another namespace does nothing, creates and deletes
5,000 VMs with their VMIs and launchers as fast as the API server takes it, changes one VM's requested address 200 times a
second, or both. Time runs from the moment at which another client's watch hears of the launcher (so the API server's own
lag is not the agent's), to the moment at which an independent client of the database hears of the row.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from statistics import quantiles

from urllib3.exceptions import HTTPError

from hack.bench import population
from hack.bench.rig import Rig, caught_up, rig, say, start
from hack.lab.databases import Server
from hack.lab.kubevirt.api import Obj
from hack.lab.process import wait_for
from ovnagent.kube.client import ApiError, Client, KubeConfig

NOISY, QUIET = "noisy", "quiet"
OBJECTS_A_SECOND = 1000
"""More than an API server takes on two cores (350)."""
CHANGES_A_SECOND = 200
PAUSE_SECONDS = 0.1


class Launchers:
    """When a pod of a namespace was heard of, by a watch of its own."""

    def __init__(self, client: Client, namespace: str) -> None:
        self.seen: dict[str, float] = {}
        self._client, self._path = client, f"/api/v1/namespaces/{namespace}/pods?watch=true&resourceVersion=0"
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with suppress(HTTPError):  # the API server has ended
            for line in self._client.lines(self._path, 600):
                self.seen.setdefault(json.loads(line)["object"]["metadata"]["name"], time.monotonic())


class Rows:
    """When a port's row named two chassis, as ovsdb-client heard it."""

    def __init__(self, nb: Server) -> None:
        self.seen: dict[str, float] = {}
        table = ("OVN_Northbound", "Logical_Switch_Port", "name,options")
        command = ["ovsdb-client", "--format=json", "monitor", nb.remote, *table]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            now = time.monotonic()
            for row in json.loads(line)["data"]:
                _uuid, action, name, options = row
                if action in ("new", "initial") and "," in dict(options[1]).get("requested-chassis", ""):
                    self.seen.setdefault(name, now)

    def close(self) -> None:
        self._process.kill()
        self._process.wait(5)


@contextmanager
def repeated(step: Callable[[int], object], per_second: float) -> Iterator[None]:
    """`step(0)`, `step(1)`... in a thread, at this rate or, where that is too fast, one after the other."""
    end = threading.Event()

    def run() -> None:
        began = time.monotonic()
        for number in itertools.count():
            if end.wait(max(0.0, began + number / per_second - time.monotonic())):
                return
            step(number)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def creating(client: Client, nodes: int, count: int) -> Callable[[int], object]:
    """Create so many VMs with VMI and launcher, then delete them all, and again."""
    entries = [obj for _, obj in population.machines(count, nodes, NOISY)]
    for obj in entries:
        for key in ("uid", "managedFields", "creationTimestamp", "ownerReferences", "finalizers"):
            obj["metadata"].pop(key, None)
    now = {"gracePeriodSeconds": 0}

    def step(number: int) -> None:
        obj = entries[number % len(entries)]
        path = population.path_of(obj)
        try:
            if number // len(entries) % 2:
                client.request("DELETE", f"{path}/{obj['metadata']['name']}", now)
            else:
                client.request("POST", path, obj)
        except ApiError as error:
            if error.status not in (404, 409):  # a flood that was cut short left some
                raise

    return step


def changing(client: Client) -> Callable[[int], object]:
    """Ask for another address with each step, for one VM."""
    _, vm = next(iter(population.machines(1, 1, NOISY)))
    vm["metadata"] = {"name": "restless", "namespace": NOISY}
    path = population.path_of(vm)
    client.request("POST", path, vm)

    def step(number: int) -> None:
        annotations = {"ovn.kubernetes.io/ip_address": f"10.16.200.{number % 200 + 1}"}
        patch = {"spec": {"template": {"metadata": {"annotations": annotations}}}}
        client.request("PATCH", f"{path}/restless", patch, content_type="application/merge-patch+json")

    return step


def migrate(lab: Rig, launchers: Launchers, rows: Rows, victims: list[Obj]) -> list[float]:
    """Milliseconds of each migration."""
    took = []
    for vm in victims:
        (moving_key, moving), (pod_key, pod) = population.migration(vm, "node1")
        population.write(lab.kube, [(moving_key, moving)])
        time.sleep(PAUSE_SECONDS)
        name, pod_name = f"{vm['metadata']['name']}.{QUIET}", pod["metadata"]["name"]
        population.write(lab.kube, [(pod_key, pod)])
        wait_for(lambda name=pod_name: name in launchers.seen, 120, f"{pod_name} heard of")
        wait_for(lambda name=name: name in rows.seen, 60, f"{name} has two chassis")
        took.append((rows.seen[name] - launchers.seen[pod_name]) * 1000)
    return took


def measure(directory: Path, count: int, migrations: int, floods: int) -> None:
    nodes = 100
    with rig(directory, nodes) as lab:
        population.write(lab.kube, population.surroundings(0, [NOISY, QUIET]))
        population.write(lab.kube, population.machines(count, nodes))
        client = Client(KubeConfig(lab.kube.kubeconfig))
        flood = (creating(client, nodes, floods), OBJECTS_A_SECOND)
        change = (changing(client), CHANGES_A_SECOND)
        noises = {"nothing": [], "creates and deletes VMs": [flood], "changes one VM": [change], "both": [flood, change]}
        everything = list(population.machines(migrations * len(noises), nodes, QUIET))
        population.write(lab.kube, everything)
        caught_up(lab.kube)
        start(lab.agent)
        rows, launchers = Rows(lab.nb), Launchers(client, QUIET)
        try:
            victims = [obj for _, obj in everything if obj["kind"] == "VirtualMachine"]
            for number, (what, steps) in enumerate(noises.items()):
                with ExitStack() as stack:
                    for step, rate in steps:
                        stack.enter_context(repeated(step, rate))
                    if steps:
                        time.sleep(3)
                    mine = victims[number :: len(noises)]
                    took = sorted(migrate(lab, launchers, rows, [vm for vm in mine if _node(vm) != "node1"]))
                p99 = quantiles(took, n=100, method="inclusive")[98]
                say(f"another namespace: {what}", f"p50 {took[len(took) // 2]:.1f}  p99 {p99:.1f}  max {took[-1]:.1f} ms")
        finally:
            rows.close()


def _node(vm: Obj) -> str:
    return f"node{int(vm['metadata']['name'].removeprefix('vm')) % 100}"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=5_000, metavar="VMS", help="VMs that do nothing (default 5000)")
    parser.add_argument("--migrations", type=int, default=100, help="for each line (default 100)")
    parser.add_argument("--flood", type=int, default=5_000, help="VMs that are created and deleted (default 5000)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="ovnagent-fairness-") as directory:
        measure(Path(directory), options.n, options.migrations, options.flood)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

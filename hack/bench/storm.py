"""Much at once beside many VMs: changes without a pause, and migrations that all begin, or all end, in one moment.

    python -m hack.bench.storm [-n VMS] [--migrations N] [--rate CHANGES_A_SECOND]

Time runs from the moment at which another client's watch hears of the last fact that counts (so the API server's own lag
is not the agent's), to the moment at which an independent client of the database hears of the row. Its floor is of the same
run: from one row's raw transaction being sent to that client hearing of it, before anything else goes on, and then beside
it, twenty times a second: what the machine makes of one row while its cores are full. And how far apart two watches hear of
the same: the API server serves each of them by turns, and the agent's is a third. (hack/bench/scale.py runs this, too.)
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import count, islice
from pathlib import Path
from statistics import quantiles
from typing import Any

import msgspec
import orjson
from urllib3.exceptions import HTTPError

from hack.bench import population
from hack.bench.rig import Rig, caught_up, requests, rig, say, start
from hack.lab.kubevirt.api import Obj
from hack.lab.process import wait_for
from ovnagent.kube import decode
from ovnagent.kube.client import ApiError, Client, KubeConfig

NAMESPACE = "moving"
SOURCE, TARGET = "node0", "node1"
BURST, TOGETHER = 4, 13
"""Changes written one after the other without a pause; VMs whose bindings move in one transaction."""
FLOORS, FLOOR_SECONDS = 200, 0.05
RATE, SECONDS = 200, 15


class _Meta(decode.Meta):
    annotations: dict[str, str] = {}


class _Object(msgspec.Struct):
    metadata: _Meta


class _Event(msgspec.Struct):
    object: _Object


class Heard:
    """When a watch of its own heard of an object: each time."""

    def __init__(self, client: Client, path: str, version: str = "0") -> None:
        """`version`: from there on; 0: of what there is, too."""
        self.last: dict[str, float] = {}
        self.asking: dict[tuple[str, str], float] = {}
        """(object, MAC) -> when it was first heard to ask for it."""
        self._client, self._path = client, f"{path}?watch=true"
        self._decoder = msgspec.json.Decoder(_Event)
        threading.Thread(target=self._read, args=(version,), daemon=True).start()

    def _read(self, version: str) -> None:
        while True:  # the API server ends the watch of a client that it finds slow
            try:
                for line in self._client.lines(f"{self._path}&resourceVersion={version}", 600):
                    version = self._note(line)
            except (HTTPError, ApiError):
                time.sleep(0.1)

    def _note(self, line: bytes) -> str:
        now = time.monotonic()
        meta = self._decoder.decode(line).object.metadata
        if meta.namespace == NAMESPACE:
            self.last[meta.name] = now
            if mac := meta.annotations.get("ovn.kubernetes.io/mac_address"):
                self.asking.setdefault((meta.name, mac), now)
        return meta.version or "0"  # an ERROR has none: what was seen last is too old


class Ports:
    """What ports of the namespace say, and since when, as ovsdb-client heard it."""

    def __init__(self, lab: Rig) -> None:
        self.chassis: dict[tuple[str, int], float] = {}
        """(port, number of chassis) -> when it last came to name so many."""
        self.addresses: dict[tuple[str, str], float] = {}
        """(port, MAC) -> when it came to have it."""
        table = ("OVN_Northbound", "Logical_Switch_Port", "name,options,addresses")
        command = ["ovsdb-client", "--format=json", "monitor", lab.nb.remote, *table]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            now = time.monotonic()
            for _uuid, action, name, options, addresses in orjson.loads(line)["data"]:
                if action in ("insert", "new", "initial") and name.endswith(f".{NAMESPACE}"):
                    chassis = dict(options[1]).get("requested-chassis", "")
                    self.chassis[name, chassis.count(",") + 1] = now
                    if isinstance(addresses, str):
                        self.addresses.setdefault((name, addresses.partition(" ")[0]), now)

    def close(self) -> None:
        self._process.kill()
        self._process.wait(5)


def spread(took: list[float]) -> str:
    """Of durations, in ms."""
    took = sorted(took)
    cuts = quantiles(took, n=100, method="inclusive")
    return f"p50 {cuts[49]:.1f}  p99 {cuts[98]:.1f}  max {took[-1]:.1f} ms"


class Storm:
    """One rig, with an agent that has started."""

    def __init__(self, lab: Rig, vms: list[Obj]) -> None:
        self.lab, self.vms = lab, vms
        self.figures: dict[str, list[float]] = {}
        """In ms."""
        self._rows = count()
        client = Client(KubeConfig(lab.kube.kubeconfig))
        here, kubevirt = f"namespaces/{NAMESPACE}", "/apis/kubevirt.io/v1"
        self.pods = Heard(client, f"/api/v1/{here}/pods")
        self.vmis = Heard(client, f"{kubevirt}/{here}/virtualmachineinstances")
        self.migrations = Heard(client, f"{kubevirt}/{here}/virtualmachineinstancemigrations")
        # As the agent's: of all namespaces.
        self.vmis_again, self.pods_again = (
            Heard(client, path, decode.page(client.request("GET", f"{path}?limit=1"))[0].version)
            for path in (f"{kubevirt}/virtualmachineinstances", "/api/v1/pods")
        )
        self.ports = Ports(lab)
        wait_for(lambda: len(self.vmis.last) == len(vms), 60, "all VMIs heard of")

    def _note(self, name: str, what: str, seconds: Iterable[float]) -> None:
        self.figures[name] = [max(0.0, each) * 1000 for each in seconds]
        say(what, spread(self.figures[name]))

    def floor(self) -> None:
        """What one row costs without an agent: from the transaction to the same monitor."""
        took = []
        for _ in range(FLOORS):
            key, began = self._one_row()
            wait_for(lambda key=key: key in self.ports.addresses, 10, "the floor's row")
            took.append(self.ports.addresses[key] - began)
        self._note("floor", "floor: one row, from raw transaction to monitor", took)

    @contextmanager
    def _floor_beside(self, name: str) -> Iterator[None]:
        """The same, again and again beside what goes on meanwhile."""
        rows: list[tuple[tuple[str, str], float]] = []
        done = threading.Event()

        def write() -> None:
            while not done.wait(FLOOR_SECONDS):
                rows.append(self._one_row())

        writer = threading.Thread(target=write, daemon=True)
        writer.start()
        try:
            yield
        finally:
            done.set()
            writer.join()
        wait_for(lambda: all(key in self.ports.addresses for key, _ in rows), 10, "the floor's rows")
        self._note(name, "  floor meanwhile", (self.ports.addresses[key] - began for key, began in rows))

    def _one_row(self) -> tuple[tuple[str, str], float]:
        """Write one; (port, MAC), and when it was sent."""
        number = next(self._rows)
        name, mac = f"floor{number}.{NAMESPACE}", f"02:00:00:00:{number >> 8:02x}:{number & 255:02x}"
        row = {"name": name, "addresses": f"{mac} 10.17.{number >> 8}.{number & 255}"}
        insert = {"op": "insert", "table": "Logical_Switch_Port", "uuid-name": "p", "row": row}
        switch = {"op": "insert", "table": "Logical_Switch", "row": {"name": name, "ports": ["named-uuid", "p"]}}
        began = time.monotonic()
        self.lab.nb.transact(insert, switch)
        return (name, mac), began

    def steady(self, rate: int, seconds: int) -> None:
        """Each change asks for another MAC: a row, a record and an Event."""
        wait_for(lambda: self.lab.agent.metric("ovnagent_records_pending") == 0, 600, "a record on each VM")
        before = {what: requests(self.lab.kube, *what) for what in (("PATCH", "virtualmachines"), ("POST", "events"))}
        asked: list[tuple[str, str]] = []
        with self._floor_beside("floor of steady"):
            began = time.monotonic()
            for first in range(0, rate * seconds, BURST):
                time.sleep(max(0.0, began + first / rate - time.monotonic()))
                entries = []
                for number in range(first, first + BURST):
                    vm, mac = self.vms[number % len(self.vms)], f"02:aa:00:00:{number >> 8:02x}:{number & 255:02x}"
                    entries.append(population.requesting(vm, SOURCE, mac))
                    asked.append((vm["metadata"]["name"], mac))
                population.write(self.lab.kube, entries, at_once=1)
            took = time.monotonic() - began
        name, mac = asked[-1]
        wait_for(lambda: (f"{name}.{NAMESPACE}", mac) in self.ports.addresses, 60, "the last change")
        wait_for(lambda: (name, mac) in self.vmis.asking, 60, "the last change heard of")
        found = [
            self.ports.addresses[port, mac] - heard
            for (name, mac), heard in self.vmis.asking.items()
            if ((port := f"{name}.{NAMESPACE}"), mac) in self.ports.addresses
        ]
        again = self.vmis_again.asking
        apart = [abs(again[key] - heard) for key, heard in self.vmis.asking.items() if key in again]
        self._note("watches of steady", "  two watches hear of one change, apart by", apart)
        overtaken = len(asked) - len(found)
        self._note("steady", f"{len(asked) / took:.0f} changes a second ({overtaken} overtaken)", found)
        wait_for(lambda: self.lab.agent.metric("ovnagent_records_pending") == 0, 300, "all records written")
        for what, answered in before.items():
            say(f"  {what[0]} {what[1]} meanwhile", f"{requests(self.lab.kube, *what) - answered:.0f}")

    def migrate(self) -> None:
        """All targets bound in one moment, and then all at their end in one moment."""
        bindings = self._bind()
        targets = list(zip(*(list(population.migration(vm, TARGET)) for vm in self.vms), strict=True))
        population.write(self.lab.kube, targets[0], at_once=1)
        wait_for(lambda: len(self.migrations.last) == len(self.vms), 60, "all migrations heard of")
        time.sleep(1)
        with self._floor_beside("floor of listed"):
            population.write(self.lab.kube, targets[1], at_once=1)
        names = [f"{vm['metadata']['name']}.{NAMESPACE}" for vm in self.vms]
        pods = [pod["metadata"]["name"] for _, pod in targets[1]]
        wait_for(lambda: all((name, 2) in self.ports.chassis for name in names), 60, "both chassis on all")
        wait_for(lambda: all(pod in self.pods.last for pod in pods), 60, "all targets heard of")
        again = self.pods_again.last
        wait_for(lambda: all(pod in again for pod in pods), 60, "all targets heard of twice")
        apart = [abs(again[pod] - self.pods.last[pod]) for pod in pods]
        self._note("watches of listed", "  two watches hear of one target, apart by", apart)
        took = [self.ports.chassis[name, 2] - self.pods.last[pod] for name, pod in zip(names, pods, strict=True)]
        self._note("listed", f"{len(self.vms)} migrations bound at once: both listed", took)
        self._move(bindings, "chassis1", chassis=0, additional=1)
        for name in names:
            self.ports.chassis.pop((name, 1), None)
        written: dict[str, float] = {}
        began = time.monotonic()
        vms = iter(self.vms)
        while batch := list(islice(vms, TOGETHER)):
            entries = [each for vm in batch for each in population.arrival(vm, SOURCE, TARGET)]
            population.write(self.lab.kube, entries, at_once=1)
            some = [f"{vm['metadata']['name']}.{NAMESPACE}" for vm in batch]
            self._move([bindings[names.index(name)] for name in some], "chassis1", chassis=1, additional=None)
            written |= dict.fromkeys(some, time.monotonic())
        wait_for(lambda: all((name, 1) in self.ports.chassis for name in names), 60, "one chassis on all")
        plain = [vm["metadata"]["name"] for vm in self.vms]
        wait_for(lambda: all(self._ended(each) > began for each in plain), 60, "all ends heard of")
        took = [
            self.ports.chassis[port, 1] - max(written[port], self._ended(each, max))
            for each, port in zip(plain, names, strict=True)
        ]
        self._note("ends", "  their ends: last write", took)

    def _ended(self, vm: str, choose: Callable[..., float] = min) -> float:
        """When the first, or the last, of the facts of a migration's end was heard of."""
        pod = f"virt-launcher-{vm}-x7k2p"
        return choose(self.vmis.last[vm], self.migrations.last[f"{vm}-move"], self.pods.last[pod])

    def _bind(self) -> list[str]:
        """Each VM's port bound in SB on the source; UUIDs."""
        path = {"op": "insert", "table": "Datapath_Binding", "uuid-name": "path", "row": {"tunnel_key": 1}}
        chassis = self._chassis("chassis0")
        rows = [
            {
                "logical_port": f"{vm['metadata']['name']}.{NAMESPACE}",
                "datapath": ["named-uuid", "path"],
                "tunnel_key": number + 1,
                "chassis": chassis,
                "up": True,
            }
            for number, vm in enumerate(self.vms)
        ]
        answer = self.lab.sb.transact(path, *({"op": "insert", "table": "Port_Binding", "row": row} for row in rows))
        return [each["uuid"][1] for each in answer[1:]]

    def _chassis(self, name: str) -> list[str]:
        (found,) = self.lab.sb.transact({"op": "select", "table": "Chassis", "where": [["name", "==", name]]})
        uuid: list[str] = found["rows"][0]["_uuid"]
        return uuid

    def _move(self, bindings: Iterable[str], target: str, chassis: int, additional: int | None) -> None:
        """Bound on the source still (0) or on the target (1); the target activated besides, or alone."""
        uuid = self._chassis(target)
        row: dict[str, Any] = {"additional_chassis": uuid if additional else ["set", []]}
        row["options"] = ["map", [["additional-chassis-activated", target]] if additional else []]
        if chassis:
            row["chassis"] = uuid
        where = ([["_uuid", "==", ["uuid", each]]] for each in bindings)
        self.lab.sb.transact(*({"op": "update", "table": "Port_Binding", "where": each, "row": row} for each in where))

    def close(self) -> None:
        self.ports.close()


def populate(lab: Rig, count: int) -> list[Obj]:
    """VMs of a namespace of their own, on the source's node."""
    population.write(lab.kube, population.surroundings(0, [NAMESPACE]))
    entries = list(population.machines(count, 1, NAMESPACE))
    population.write(lab.kube, entries)
    return [obj for _, obj in entries if obj["kind"] == "VirtualMachine"]


def run(lab: Rig, vms: list[Obj], rate: int = RATE, seconds: int = SECONDS) -> dict[str, list[float]]:
    """What each took, in ms."""
    storm = Storm(lab, vms)
    try:
        storm.floor()
        storm.steady(rate, seconds)
        storm.migrate()
    finally:
        storm.close()
    return storm.figures


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=10_000, metavar="VMS", help="VMs that do nothing (default 10000)")
    parser.add_argument("--migrations", type=int, default=500, help="at once (default 500)")
    parser.add_argument("--rate", type=int, default=RATE, help=f"changes a second (default {RATE})")
    parser.add_argument("--seconds", type=int, default=SECONDS, help=f"for which they go on (default {SECONDS})")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="ovnagent-storm-") as directory, rig(Path(directory), 100) as lab:
        population.write(lab.kube, population.machines(options.n, 100))
        vms = populate(lab, options.migrations)
        caught_up(lab.kube)
        start(lab.agent)
        run(lab, vms, options.rate, options.seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

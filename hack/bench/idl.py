"""What the copy of NB costs: time to load, memory, and CPU of one change, of the agent and of the server.

python -m hack.bench.idl                     10,000 ports of the agent's
python -m hack.bench.idl --elsewhere 100000  and that many foreign ports on a switch that is not the agent's
python -m hack.bench.idl --foreign 300       and that many foreign ports on the agent's own switch
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hack.lab.databases import Server, server
from hack.lab.process import wait_for
from ovnagent.core.ports import CLUSTER, VM, with_options
from ovnagent.ovn import json_parser
from ovnagent.ovn.changes import UpdatePort
from ovnagent.ovn.nb_replica import Listeners
from ovnagent.ovn.northbound import Group, Northbound

CHUNK = 5000
CHANGES = 50


@dataclass(frozen=True)
class Figures:
    """Seconds but for `megabytes`."""

    load: float
    load_cpu: float
    megabytes: float
    """By which the process grew."""
    commit: float
    """Of one port's options, asked for until answered; median."""
    commit_cpu: float
    """Of the agent's process, for that and the copy's update."""
    server_cpu: float
    """Of ovsdb-server, for one change."""


def fill(nb: Server, own: int, foreign: int, elsewhere: int) -> None:
    """The agent's ports and those of others on switch `pods`, and those of others on another."""
    for switch in ("pods", "elsewhere"):
        nb.transact({"op": "insert", "table": "Logical_Switch", "row": {"name": switch}})
    populate(nb, "pods", own, own=True)
    populate(nb, "pods", foreign, own=False)
    populate(nb, "elsewhere", elsewhere, own=False)


def populate(nb: Server, switch: str, ports: int, own: bool) -> None:
    """That many more ports on a switch, of the agent's or of others."""
    for first in range(0, ports, CHUNK):
        numbers = range(first, min(first + CHUNK, ports))
        rows = [_insert(f"{switch}-{'own' if own else 'foreign'}", number, own) for number in numbers]
        members = ["set", [["named-uuid", row["uuid-name"]] for row in rows]]
        where = [["name", "==", switch]]
        mutations = [["ports", "insert", members]]
        nb.transact(*rows, {"op": "mutate", "table": "Logical_Switch", "where": where, "mutations": mutations})


def _insert(prefix: str, number: int, own: bool) -> dict[str, Any]:
    ip = f"{10 if own else 11}.{number // 65536}.{number // 256 % 256}.{number % 256}"
    address = f"02:00:{number >> 24:02x}:{number >> 16 & 255:02x}:{number >> 8 & 255:02x}:{number & 255:02x} {ip}"
    external_ids = [[CLUSTER, "c1"], [VM, f"default/{prefix}-{number}"], ["ovnagent-interface", "default"]]
    row = {
        "name": f"{prefix}-{number}.default",
        "addresses": address,
        "port_security": address,
        "options": ["map", [["requested-chassis", f"chassis{number % 100}"]] if own else []],
        "external_ids": ["map", external_ids if own else [["pod", "true"]]],
    }
    return {"op": "insert", "table": "Logical_Switch_Port", "uuid-name": f"row{number}", "row": row}


def measure(nb: Server, own: int, foreign: int) -> Figures:
    """Load a database that `fill` has filled, and change it."""
    northbound = Northbound(nb.remote, "c1", ["pods"], Listeners(lambda _: None, lambda: None, lambda: None))
    memory = _megabytes()
    began, cpu = time.monotonic(), time.process_time()
    northbound.start()
    try:
        wait_for(lambda: northbound.snapshot.complete, 120, "the copy is complete")
        load, load_cpu = time.monotonic() - began, time.process_time() - cpu
        memory = _megabytes() - memory
        now = northbound.snapshot
        assert (len(now.ports), sum(len(used.ips) for used in now.foreign.values())) == (own, foreign)
        northbound.acquire_lock()
        wait_for(lambda: northbound.has_lock, 10, "the lock")
        server_cpu, cpu = _cpu(nb), time.process_time()
        times = list(_changes(northbound))
        cpu, server_cpu = time.process_time() - cpu, _cpu(nb) - server_cpu
        return Figures(load, load_cpu, memory, statistics.median(times), cpu / CHANGES, server_cpu / CHANGES)
    finally:
        northbound.stop()


def _changes(northbound: Northbound) -> Iterator[float]:
    """Seconds of each of some changes, the copy's update included."""
    names = list(northbound.snapshot.ports)[:CHANGES]
    for name in names:
        present = northbound.snapshot.ports[name]
        wanted = with_options(present.port, requested_chassis="chassis1,chassis2", activation_strategy="rarp")
        began = time.monotonic()
        assert northbound.commit([Group(name, (UpdatePort(present, wanted),))]) == [None]
        wait_for(lambda name=name, wanted=wanted: northbound.snapshot.ports[name].port == wanted, 10, f"{name} in the copy")
        yield time.monotonic() - began


def _megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _cpu(nb: Server) -> float:
    pid = nb.pidfile.read_text().split()[0]
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("own", 10_000), ("foreign", 0), ("elsewhere", 0)):
        arguments.add_argument(f"--{name}", type=int, default=default)
    asked = arguments.parse_args()
    with tempfile.TemporaryDirectory() as directory, server(Path(directory)) as nb:
        fill(nb, asked.own, asked.foreign, asked.elsewhere)
        figures = measure(nb, asked.own, asked.foreign)
    print(
        f"parser {json_parser.install()}; load {figures.load:.2f} s ({figures.load_cpu:.2f} s CPU, "
        f"{figures.megabytes:.0f} MB); a change {figures.commit * 1000:.1f} ms "
        f"({figures.commit_cpu * 1000:.1f} ms CPU, server {figures.server_cpu * 1000:.1f} ms CPU)"
    )


if __name__ == "__main__":
    main()

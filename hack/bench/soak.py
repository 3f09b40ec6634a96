"""Whether anything grows: churn with guests (without a CPU) on the real control plane, and what both agents use meanwhile.

    python -m hack.bench.soak [--minutes M] [--vms N] [--seed S] [--plot docs/images/soak.svg]

VMs are created, started, migrated, stopped, given other addresses and deleted, by a seed that is printed; about so many live
at once. Every 2 s the memory, threads and file descriptors of both agents are read from /proc, and the agent's rows are
counted beside the VMs that are there. The agent with the lock is the worker, the other one the floor: it has the same copies
and watches, and does nothing. In the end all VMs are deleted, and nothing of the agent's may be left.
"""

from __future__ import annotations

import argparse
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from hack.lab import manifests
from hack.lab.cluster import Agent, Cluster, Replicas
from hack.lab.kubevirt import KubeVirt
from hack.lab.kubevirt.api import ApiError
from hack.lab.process import running, wait_for

NETWORK: dict[str, object] = {
    "name": "pods",
    "logicalSwitch": "ovn-default",
    "podNetwork": True,
    "subnets": [{"cidr": "10.16.0.0/16", "gateway": "10.16.0.1"}],
    "dhcp": {},
    "dnsDomain": "vms.example",
}
SAMPLE_SECONDS = 2.0
TABLES = ("Logical_Switch_Port", "DHCP_Options", "DNS")
OWN = "external_ids:ovnagent-cluster=lab"


@dataclass(frozen=True)
class Use:
    """What one process uses."""

    megabytes: float
    threads: int
    descriptors: int


@dataclass(frozen=True)
class Sample:
    minute: float
    worker: Use
    standby: Use
    rows: dict[str, int]
    """Table -> the agent's rows."""
    vms: int
    operations: int


def use(agent: Agent) -> Use:
    """From /proc: resident memory, threads, open file descriptors."""
    pid = running(agent.pidfile)
    assert pid is not None, f"an agent has ended: {agent.log}"
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return Use(int(status["VmRSS"].split()[0]) / 1024, int(status["Threads"]), descriptors)


class Churn:
    """One thread that does one thing after the other to VMs, as the seed has it."""

    def __init__(self, cluster: Cluster, kubevirt: KubeVirt, seed: int, vms: int) -> None:
        self.done: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self._cluster, self._kubevirt, self._vms = cluster, kubevirt, vms
        self._chance = random.Random(seed)
        self._names: list[str] = []
        self._number = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._end.set()
        self._thread.join(120)

    def _run(self) -> None:
        while not self._end.is_set():
            few = len(self._names) < self._vms
            what = self._chance.choice(
                ["create"] * 3 if few else ["delete"] * 2 + ["migrate"] * 4 + ["restart", "readdress"]
            )
            try:
                getattr(self, f"_{what}")()
                self.done[what] += 1
            except (ApiError, RuntimeError, TimeoutError, OSError) as error:
                # What the API server refuses (a VM that is on its way out), or takes long for, is counted.
                self.failed[f"{what}: {type(error).__name__}"] += 1

    def _create(self) -> None:
        name = f"soak{self._number}"
        self._number += 1
        # Every other address comes back again and again, to other VMs.
        ip = f"10.16.7.{self._number % 50 + 1}"
        asked = {"ip_address": ip} if self._chance.random() < 0.5 else {}
        self._cluster.kube.apply(manifests.vm(name, **asked))
        self._names.append(name)

    def _delete(self) -> None:
        name = self._names.pop(self._chance.randrange(len(self._names)))
        self._cluster.kube.kubectl("delete", "vm", name, "--wait=false")

    def _migrate(self) -> None:
        name = self._chance.choice(self._names)
        self._kubevirt.wait_running("default", name, 20)
        self._kubevirt.migrate("default", name)

    def _restart(self) -> None:
        self._kubevirt.restart_vm("default", self._chance.choice(self._names))

    def _readdress(self) -> None:
        name = self._chance.choice(self._names)
        ip = f"10.16.8.{self._chance.randrange(1, 250)}"
        self._cluster.kube.apply(manifests.vm(name, ip_address=ip))


def rows(cluster: Cluster) -> dict[str, int]:
    return {table: len(cluster.ovn.nbctl("--bare", "--columns=_uuid", "find", table, OWN).split()) for table in TABLES}


def vms(cluster: Cluster) -> int:
    return len(cluster.kube.kubectl("get", "vm", "-o", "name").split())


def soak(cluster: Cluster, agents: Replicas, churn: Churn, minutes: float) -> list[Sample]:
    """Samples, of what is used while the churn goes on."""
    worker = wait_for(lambda: next((a for a in agents.agents if a.metric("ovnagent_lock_held") == 1), None), 20, "a worker")
    standby = next(agent for agent in agents.agents if agent is not worker)
    began, samples = time.monotonic(), []
    churn.start()
    while (now := time.monotonic()) < began + 60 * minutes:
        samples.append(
            Sample((now - began) / 60, use(worker), use(standby), rows(cluster), vms(cluster), sum(churn.done.values()))
        )
        time.sleep(max(0.0, now + SAMPLE_SECONDS - time.monotonic()))
        assert churn.alive, "the churn has ended"
    churn.stop()
    assert worker.metric("ovnagent_lock_held") == 1, "the lock has gone over meanwhile: the samples mix two processes"
    return samples


def parts(samples: Sequence[Sample], minutes: float) -> tuple[Sequence[Sample], Sequence[Sample]]:
    """The second fifth (the first is warming up), and the last."""
    first = [each for each in samples if minutes * 0.2 <= each.minute < minutes * 0.4]
    return first, [each for each in samples if each.minute >= minutes * 0.8]


def table(samples: Sequence[Sample], minutes: float) -> str:
    """As Markdown: the median of the second fifth of the time, of the last one, and the most of all."""
    first, last = parts(samples, minutes)
    lines = [
        f"| | {minutes * 0.2:g}-{minutes * 0.4:g} min | {minutes * 0.8:g}-{minutes:g} min | most |",
        "|---|---|---|---|",
    ]

    def line(what: str, values: list[list[float]], digits: int = 0) -> None:
        early, late, every = values
        lines.append(f"| {what} | {median(early):.{digits}f} | {median(late):.{digits}f} | {max(every):.{digits}f} |")

    spans = (first, last, samples)
    for who in ("worker", "standby"):
        line(f"memory of the {who}, MB", [[getattr(s, who).megabytes for s in span] for span in spans], 1)
        line(f"threads of the {who}", [[getattr(s, who).threads for s in span] for span in spans])
        line(f"file descriptors of the {who}", [[getattr(s, who).descriptors for s in span] for span in spans])
    line("VMs", [[s.vms for s in span] for span in spans])
    for name in TABLES:
        line(f"the agent's rows in {name}", [[s.rows[name] for s in span] for span in spans])
    return "\n".join(lines)


def plot(samples: Sequence[Sample], path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(4, 1, figsize=(7, 7.5), sharex=True)
    minutes = [each.minute for each in samples]
    for who in ("worker", "standby"):
        axes[0].plot(minutes, [getattr(each, who).megabytes for each in samples], label=who)
        axes[1].plot(minutes, [getattr(each, who).threads for each in samples], label=who)
        axes[2].plot(minutes, [getattr(each, who).descriptors for each in samples], label=who)
    axes[3].plot(minutes, [each.vms for each in samples], color="grey", linewidth=3, alpha=0.4, label="VMs")
    for name in TABLES:
        axes[3].plot(minutes, [each.rows[name] for each in samples], label=name)
    for axis, title in zip(axes, ("resident memory, MB", "threads", "file descriptors", "rows of the agent's"), strict=True):
        axis.set_ylim(bottom=0)
        axis.set_ylabel(title)
        axis.grid(alpha=0.4)
        axis.legend(fontsize="small", loc="lower right")
    axes[3].set_xlabel("minutes")
    figure.tight_layout()
    figure.savefig(path)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--vms", type=int, default=16, help="about so many live at once (default 16)")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--plot", type=Path, metavar="SVG")
    options = parser.parse_args(arguments)
    print(f"seed {options.seed}", file=sys.stderr, flush=True)
    with Cluster("soak") as cluster, KubeVirt(cluster.kube, cluster.ovn, guests="fake") as kubevirt:
        agents = cluster.replicas([NETWORK]).start()
        churn = Churn(cluster, kubevirt, options.seed, options.vms)
        samples = soak(cluster, agents, churn, options.minutes)
        cluster.kube.kubectl("delete", "vm", "--all", "--wait=false")
        wait_for(lambda: vms(cluster) == 0, 120, "all VMs gone")
        wait_for(lambda: not any(rows(cluster).values()), 30, "no row of the agent's is left")
    print(table(samples, options.minutes))
    total = sum(churn.done.values())
    did = ", ".join(f"{count} {what}" for what, count in sorted(churn.done.items()))
    print(f"\n{total} operations in {options.minutes:g} minutes ({did}); refused or too slow: {dict(churn.failed)}")
    print("In the end, with all VMs deleted, no row of the agent's was left.")
    if options.plot:
        plot(samples, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

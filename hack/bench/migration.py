"""What a live migration costs the network: loss and longest gap of a 1 ms stream, by who writes the rows and when.

    python -m hack.bench.migration [-n RUNS] [--plot docs/migration.svg]

The guests answer pings and move in no time (guest pause 0), so all loss is the network's. All columns come from the same
run on the same machine:

    floor       no migration at all
    flip        requested-chassis is flipped when KubeVirt reports the end, at once
    flip-1s     the same by a controller with a lag of 1 s
    none        no requested-chassis: the two chassis take the port from each other
    agent       ovnagent
"""

from __future__ import annotations

import argparse
import statistics
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hack.lab.cluster import Cluster
from hack.lab.fake_guest import FakeGuest
from hack.lab.kubevirt import KubeVirt
from hack.lab.peer import Peer
from hack.lab.process import wait_for

VM = """
apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata: {name: guest, namespace: default}
spec:
  runStrategy: Always
  template:
    metadata: {annotations: {kubevirt.io/allow-pod-bridge-network-live-migration: "true"}}
    spec:
      domain: {devices: {interfaces: [{name: default, bridge: {}}]}}
      networks: [{name: default, pod: {}}]
"""
PORT = "guest.default"
STREAM_SECONDS = 0.001
WAYS = ("floor", "flip", "flip-1s", "none", "agent")


@dataclass(frozen=True)
class Run:
    """One migration. Packets (of a 1 ms stream) and milliseconds."""

    lost: int
    gap: float
    switch: float
    """From the switch to the first request that reached the guest at its new place."""
    lost_at_end: int
    """Of those lost, the ones after the migration's end: at the final write."""


class Bench:
    def __init__(self, cluster: Cluster, kubevirt: KubeVirt, peer: Peer) -> None:
        self.cluster, self.kubevirt, self.peer = cluster, kubevirt, peer
        self.ovn = cluster.ovn
        self.address = self.ovn.addresses(PORT)[0]

    def measure(self, way: str, runs: int) -> list[Run]:
        if way == "agent":
            return [self._run(lambda: None, lambda: None) for _ in range(runs)]
        # The agent steps aside, and a controller of the kind that is compared writes the port.
        for agent in self.cluster.agents:
            agent.stop()
        try:
            return [self._by_hand(way) for _ in range(runs)]
        finally:
            for agent in self.cluster.agents:
                agent.start()

    def _by_hand(self, way: str) -> Run:
        if way == "floor":
            with self.peer.stream(self.address, STREAM_SECONDS) as stream:
                began = stream.mark()
                threading.Event().wait(2)
                loss = stream.loss(began)
            return Run(loss.lost, loss.longest_gap, 0.0, 0)

        def chassis() -> str:
            vmi = self.kubevirt.vmi("default", "guest")
            assert vmi is not None
            return self.ovn.on(vmi["status"]["nodeName"]).name

        def flip() -> None:
            self.ovn.nbctl("set", "Logical_Switch_Port", PORT, f"options:requested-chassis={chassis()}")

        if way == "none":
            self.ovn.nbctl("remove", "Logical_Switch_Port", PORT, "options", "requested-chassis")
            run = self._run(lambda: None, lambda: None)
            flip()
            self.ovn.sync()
            return run
        pause = 1.0 if way == "flip-1s" else 0.0
        return self._run(lambda: threading.Event().wait(pause), flip)

    def _run(self, before_end: Callable[[], object], at_end: Callable[[], None]) -> Run:
        with self.peer.stream(self.address, STREAM_SECONDS) as stream:
            threading.Event().wait(0.3)
            began = stream.mark()
            name = self.kubevirt.migrate("default", "guest")
            assert self.kubevirt.wait_migration("default", name) == "Succeeded"
            ended = stream.mark()
            before_end()
            at_end()
            wait_for(self._settled, 40, "the port is on one chassis")
            threading.Event().wait(0.5)
            loss, tail = stream.loss(began), stream.loss(ended + 0.1)
        guest = self.kubevirt.guest("default", "guest")
        assert isinstance(guest, FakeGuest)
        delay = (guest.first_frame - guest.switched) * 1000
        return Run(loss.lost, loss.longest_gap, delay, tail.lost)

    def _settled(self) -> bool:
        vmi = self.kubevirt.vmi("default", "guest")
        assert vmi is not None
        placed = self.ovn.placed(PORT)
        return placed in ("", self.ovn.on(vmi["status"]["nodeName"]).name)


def spread(values: list[float]) -> str:
    return f"{min(values):.0f}/{statistics.median(values):.0f}/{max(values):.0f}"


def table(results: dict[str, list[Run]]) -> str:
    heads = f"{'lost, min/median/max':>24} {'longest gap ms':>20} {'switch to first ms':>20} {'lost at final write':>20}"
    lines = [f"{'':10} {'n':>3} {heads}"]
    for way, runs in results.items():
        lines.append(
            f"{way:10} {len(runs):3} {spread([run.lost for run in runs]):>24} {spread([run.gap for run in runs]):>20} "
            f"{spread([run.switch for run in runs]):>20} {sum(run.lost_at_end for run in runs):>20}"
        )
    return "\n".join(lines)


def plot(results: dict[str, list[Run]], path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.2))
    shown = [way for way in results if way != "floor"]
    losses = [[max(run.lost, 0.5) for run in results[way]] for way in shown]
    axes.boxplot(losses, orientation="horizontal", tick_labels=shown)
    axes.set_xscale("log")
    axes.set_xlabel("packets of a 1 ms stream lost by the network in one live migration (guest pause 0)")
    axes.grid(axis="x", alpha=0.4)
    figure.tight_layout()
    figure.savefig(path)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=6, metavar="RUNS", help="migrations for each way (default 6)")
    parser.add_argument("--agent-runs", type=int, default=30, help="migrations by the agent (default 30)")
    parser.add_argument("--plot", type=Path, metavar="SVG", help="draw the comparison")
    options = parser.parse_args(arguments)
    FakeGuest.answers = True
    results: dict[str, list[Run]] = {}
    with Cluster("bench") as cluster, KubeVirt(cluster.kube, cluster.ovn, guests="fake") as kubevirt:
        cluster.agent().start()
        cluster.kube.apply(VM)
        kubevirt.wait_running("default", "guest")
        wait_for(lambda: cluster.ovn.placed(PORT), 10, "the port is placed")
        kubevirt.cordon("node3")  # where the peer is: a VM beside it would not cross a tunnel
        if kubevirt.vmi("default", "guest")["status"]["nodeName"] == "node3":  # type: ignore[index]
            kubevirt.wait_migration("default", kubevirt.migrate("default", "guest"))
        with Peer(cluster.ovn, "node3", "10.16.255.10") as peer:
            bench = Bench(cluster, kubevirt, peer)
            if not peer.ping(bench.address):
                raise RuntimeError("the guest does not answer")
            for way in WAYS:
                started = time.monotonic()
                results[way] = bench.measure(way, options.agent_runs if way == "agent" else options.n)
                print(f"{way}: {len(results[way])} runs in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    print(table(results))
    if options.plot:
        plot(results, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

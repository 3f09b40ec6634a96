"""What a live migration costs the network: loss and longest gap of a 1 ms stream, by who writes the rows and when.

    python -m hack.bench.migration [-n RUNS] [--agent-runs RUNS] [--qemu] [--plot docs/migration.svg]

The guests answer pings and move in no time (guest pause 0), so all loss is the network's. With --qemu they are real ones,
the stream's interval is 10 ms, what QEMU itself pauses the guest is shown beside, and one TCP connection goes on through all
migrations by the agent. All columns come from the same run on the same machine:

    floor       no migration at all
    ideal       both chassis and the strategy written by hand long before, one chassis long after: what OVN itself costs
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
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hack.lab import manifests
from hack.lab.cluster import Cluster
from hack.lab.ear import Ear, echo_request_to_guest
from hack.lab.fake_guest import FakeGuest
from hack.lab.kubevirt import KubeVirt
from hack.lab.peer import Peer
from hack.lab.process import wait_for

PORT = "guest.default"
WAYS = ("floor", "ideal", "flip", "flip-1s", "none", "agent")


@dataclass(frozen=True)
class Run:
    """One migration. Packets (of a 1 ms stream) and milliseconds."""

    lost: int
    gap: float
    switch: float
    """From the switch (QEMU's RESUME) to the first request that reached the guest at its new place."""
    lost_at_end: int
    """Of those lost, the ones after the migration's end: at the final write."""
    paused: float = 0.0
    """What QEMU paused the guest."""


class Bench:
    def __init__(self, cluster: Cluster, kubevirt: KubeVirt, peer: Peer, interval: float, ears: dict[str, Ear]) -> None:
        self.cluster, self.kubevirt, self.peer = cluster, kubevirt, peer
        self.ears = ears
        self.interval = interval
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
            with self.peer.stream(self.address, self.interval) as stream:
                began = stream.mark()
                threading.Event().wait(2)
                loss = stream.loss(began)
            return Run(loss.lost, loss.longest_gap, 0.0, 0)

        def chassis() -> str:
            vmi = self.kubevirt.vmi("default", "guest")
            assert vmi is not None
            return self.ovn.on(vmi["status"]["nodeName"]).name

        def flip() -> None:
            self._options(f"requested-chassis={chassis()}")

        if way == "ideal":
            both = [chassis(), next(name for name in ("chassis1", "chassis2") if name != chassis())]
            self._options(f"requested-chassis={','.join(both)}", "activation-strategy=rarp")
            self.ovn.sync()
            return self._run(lambda: wait_for(lambda: self._bound() != both[0], 5, "the source has let go"), flip)
        if way == "none":
            self._options()
            run = self._run(lambda: None, lambda: None)
            flip()
            self.ovn.sync()
            return run
        pause = 1.0 if way == "flip-1s" else 0.0
        return self._run(lambda: threading.Event().wait(pause), flip)

    def _run(self, before_end: Callable[[], object], at_end: Callable[[], None]) -> Run:
        with self.peer.stream(self.address, self.interval) as stream:
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
        report = self.kubevirt.report("default", name)
        if isinstance(guest, FakeGuest):
            delay = guest.first_frame - guest.switched
        else:
            delay = next(at for at in self.ears[guest.node].heard if at >= report.resumed) - report.resumed
        return Run(loss.lost, loss.longest_gap, delay * 1000, tail.lost, report.paused_ms)

    def _options(self, *options: str) -> None:
        self.ovn.nbctl("lsp-set-options", PORT, *options)

    def _bound(self) -> str:
        """The name of the chassis to which SB binds the port, or empty."""
        chassis = self.ovn.sbctl("--bare", "--columns=chassis", "find", "Port_Binding", f"logical_port={PORT}").strip()
        return self.ovn.sbctl("get", "Chassis", chassis, "name").strip() if chassis else ""

    def _settled(self) -> bool:
        vmi = self.kubevirt.vmi("default", "guest")
        assert vmi is not None
        placed = self.ovn.placed(PORT)
        return placed in ("", self.ovn.on(vmi["status"]["nodeName"]).name)


def spread(values: list[float]) -> str:
    return f"{min(values):.0f}/{statistics.median(values):.0f}/{max(values):.0f}"


def table(results: dict[str, list[Run]]) -> str:
    heads = (
        f"{'lost, min/median/max':>22} {'longest gap ms':>18} {'guest paused ms':>18} {'switch to first ms':>20} "
        f"{'lost at final write':>20}"
    )
    lines = [f"{'':10} {'n':>3} {heads}"]
    for way, runs in results.items():
        lines.append(
            f"{way:10} {len(runs):3} {spread([run.lost for run in runs]):>22} {spread([run.gap for run in runs]):>18} "
            f"{spread([run.paused for run in runs]):>18} {spread([run.switch for run in runs]):>20} "
            f"{sum(run.lost_at_end for run in runs):>20}"
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
    parser.add_argument("--qemu", action="store_true", help="real guests, with a pause of their own")
    parser.add_argument("--plot", type=Path, metavar="SVG", help="draw the comparison")
    options = parser.parse_args(arguments)
    FakeGuest.answers = True
    sys.setswitchinterval(
        0.0002
    )  # stream, guests and stand-in are threads of this process; 5 ms each would be measured, too
    results: dict[str, list[Run]] = {}
    kind: Literal["qemu", "fake"] = "qemu" if options.qemu else "fake"
    with Cluster("bench") as cluster, KubeVirt(cluster.kube, cluster.ovn, guests=kind) as kubevirt:
        cluster.agent().start()
        # A real cluster's API server does not share two cores with the data path: keep its work away from the switch.
        kubevirt.faults.delays.migration_step = kubevirt.faults.delays.domain_ready = 0.2
        cluster.kube.apply(manifests.vm("guest"))
        kubevirt.wait_running("default", "guest", 60)
        wait_for(lambda: cluster.ovn.placed(PORT), 10, "the port is placed")
        kubevirt.cordon("node3")  # where the peer is: a VM beside it would not cross a tunnel
        if kubevirt.vmi("default", "guest")["status"]["nodeName"] == "node3":  # type: ignore[index]
            kubevirt.wait_migration("default", kubevirt.migrate("default", "guest"))
        with ExitStack() as stack:
            peer = stack.enter_context(Peer(cluster.ovn, "node3", "10.16.255.10"))
            ears = {
                node: stack.enter_context(Ear(cluster.ovn.on(node).netns, echo_request_to_guest))
                for node in ("node1", "node2")
                if options.qemu
            }
            bench = Bench(cluster, kubevirt, peer, 0.01 if options.qemu else 0.001, ears)
            if not peer.ping(bench.address, 30):
                raise RuntimeError("the guest does not answer")
            for way in WAYS:
                tcp = stack.enter_context(peer.connect(bench.address)) if options.qemu and way == "agent" else None
                started = time.monotonic()
                results[way] = bench.measure(way, options.agent_runs if way == "agent" else options.n)
                print(f"{way}: {len(results[way])} runs in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    print(table(results))
    if tcp is not None:
        state = tcp.error or f"lived through all of them, longest gap {tcp.longest_gap:.0f} ms, {tcp.echoed} echoes"
        print(f"one TCP connection through the {options.agent_runs} migrations by the agent: {state}")
    if options.plot:
        plot(results, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

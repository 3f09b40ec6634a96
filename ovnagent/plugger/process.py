"""Builds the parts of `ovnagent plug`, connects them, starts and stops them."""

from __future__ import annotations

import logging
import os
import signal
import threading
from pathlib import Path
from types import FrameType

from ovnagent.core import reduce, vm
from ovnagent.kube.events import Events
from ovnagent.kube.watch import Kind, Watcher
from ovnagent.kube.writer import Writer
from ovnagent.ovn.vswitch import Vswitch
from ovnagent.plugger.access import PodClient
from ovnagent.plugger.machines import Machines
from ovnagent.plugger.metrics import PlugMetrics
from ovnagent.plugger.plugger import Launchers, Plugger
from ovnagent.serve.http import Server

LOG = logging.getLogger(__name__)

STALE_SECONDS = 30.0
EVENTS_PER_SECOND = 5.0


class Process:
    """One node's process: `start`, then `stop`."""

    def __init__(self, node: str, ovsdb: str, credentials: Path, address: str, port: int) -> None:
        """Raises CannotReachError."""
        client = PodClient(credentials)
        news = threading.Event()
        self.metrics = PlugMetrics()
        self.vswitch = Vswitch(ovsdb, news.set)
        launchers = Launchers(news)
        pods = Kind(
            "pods",
            "/api/v1/pods",
            vm.Launcher,
            reduce.launcher,
            selector="kubevirt.io=virt-launcher",
            fields=f"spec.nodeName={node}",
        )
        self.watcher = Watcher(client, pods, launchers.store, self._failed)
        self.machines = Machines(client, news.set)
        self.writer = Writer("events", 1, EVENTS_PER_SECOND)
        events = Events(client, self.writer, "ovnagent-plug")
        self.plugger = Plugger(node, self.vswitch, launchers, self.watcher, self.machines, events, self.metrics, news)
        self.metrics.refresh = self.plugger.refresh
        self.failed = threading.Event()
        """The plugger has ended by an error: the process must end."""
        self._thread = threading.Thread(target=self._plug, name="plugger", daemon=True)
        self.server = Server(address, port, self.metrics, self.reasons, self._thread.is_alive)

    def start(self) -> None:
        self.vswitch.start()
        self.watcher.start()
        self.writer.start()
        self._thread.start()
        self.server.start()

    def stop(self) -> None:
        """Every interface keeps what it has."""
        self.plugger.stop()
        self._thread.join(1.0)
        self.watcher.stop()
        self.machines.stop()
        self.writer.stop()
        self.vswitch.stop()
        self.server.stop()

    def reasons(self) -> list[str]:
        """Why it is not ready; empty if it is."""
        found = []
        if not self.vswitch.complete:
            found.append("Open_vSwitch: not connected, or the copy is not complete")
        if not self.watcher.synced:
            found.append("Kubernetes: the launchers of this node have not been listed yet")
        elif self.watcher.age > STALE_SECONDS:
            found.append(f"Kubernetes: not heard of for {self.watcher.age:.0f} s beyond the usual")
        if not found and not self.plugger.in_sync:
            found.append("the first look is not done")
        return found

    def _failed(self, _kind: str, reason: str) -> None:
        self.metrics.failures.labels(reason).inc()

    def _plug(self) -> None:
        try:
            self.plugger.run()
        except Exception:
            LOG.exception("plugging has failed; the process ends, and the kubelet starts it again")
            self.failed.set()
            os.kill(os.getpid(), signal.SIGTERM)


def run(node: str, ovsdb: str, credentials: Path, address: str, port: int) -> int:
    """Run until SIGTERM or SIGINT; the process' exit status.

    Raises CannotReachError."""
    process = Process(node, ovsdb, credentials, address, port)
    done = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        done.set()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    LOG.info("starting", extra={"node": node, "ovsdb": ovsdb})
    process.start()
    done.wait()
    process.stop()
    LOG.info("stopped", extra={"reason": "asked to"})
    return 1 if process.failed.is_set() else 0

"""Builds the parts of `ovnagent plug`, connects them, starts and stops them."""

from __future__ import annotations

import logging
import signal
import threading
from pathlib import Path
from types import FrameType

from ovnagent.core import reduce, vm
from ovnagent.kube.events import Events
from ovnagent.kube.kinds import Kind
from ovnagent.kube.watch import Watcher
from ovnagent.kube.writer import Writer
from ovnagent.ovn.vswitch import Vswitch
from ovnagent.plugger.access import PodClient
from ovnagent.plugger.machines import Machines
from ovnagent.plugger.metrics import PlugMetrics
from ovnagent.plugger.plugger import Launchers, Plugger
from ovnagent.process.supervision import Loop, Supervisor
from ovnagent.serve.http import Server

LOG = logging.getLogger(__name__)

SILENT_SECONDS = 30.0
EVENTS_PER_SECOND = 5.0
TURN_SECONDS = 30.0
"""A look takes milliseconds; a transaction that Open_vSwitch does not answer is given up after 15 s."""
STOP_SECONDS = 1.0


class Process:
    """One node's process: `start`, then `stop`."""

    def __init__(self, node: str, ovsdb: str, credentials: Path, address: str, port: int) -> None:
        """Raises CannotReachError."""
        client = PodClient(credentials)
        self.metrics = PlugMetrics()
        self.supervisor = Supervisor(lambda _: self._failed("fault"))
        self._news = threading.Event()
        """Something happened: look again."""
        self.vswitch = Vswitch(ovsdb, self._news.set)
        connection = self.vswitch.connection
        self.supervisor.watch("Open_vSwitch", connection, SILENT_SECONDS)
        launchers = Launchers(self._news.set)
        pods = Kind(
            "Pod",
            "pods",
            "v1",
            vm.Launcher,
            reduce.launcher,
            selector="kubevirt.io=virt-launcher",
            fields=f"spec.nodeName={node}",
        )
        self.watcher = Watcher(
            client, pods, launchers.store, lambda _, why: self._failed(why), lambda *_: None, self.supervisor
        )
        self.machines = Machines(client, self._news.set, self._failed)
        self.writer = Writer("events", 1, EVENTS_PER_SECOND, self.supervisor, self._failed)
        events = Events(client, self.writer, lambda _: None, "ovnagent-plug")
        self.plugger = Plugger(node, self.vswitch, launchers, self.watcher, self.machines, events, self.metrics)
        self.metrics.refresh = self.plugger.refresh
        self._loop = self.supervisor.loop("plugger", self._turn)
        self.server = Server(address, port, self.metrics, self.reasons, self.supervisor.troubles, self.supervisor)

    def start(self) -> None:
        self.vswitch.start()
        self.watcher.start()
        self.writer.start()
        self._loop.start()
        self.server.start()

    def stop(self) -> None:
        """Every interface keeps what it has."""
        self._loop.stop()
        self._news.set()
        self._loop.join(STOP_SECONDS)
        self.watcher.stop()
        self.machines.stop()
        self.writer.stop()
        self.vswitch.stop()
        self.server.stop()

    def _turn(self, loop: Loop) -> None:
        """A look whenever something has happened, and when there is something to ask again."""
        loop.beat(TURN_SECONDS)
        self._news.clear()
        pause = self.plugger.turn()
        loop.beat(pause + TURN_SECONDS)
        self._news.wait(pause)

    def reasons(self) -> list[str]:
        """Why it is not ready; empty if it is."""
        found = []
        if not self.vswitch.complete:
            found.append("Open_vSwitch: not connected, or the copy is not complete")
        if not self.watcher.synced:
            found.append("Kubernetes: the launchers of this node have not been listed yet")
        elif self.watcher.age > SILENT_SECONDS:
            found.append(f"Kubernetes: not heard of for {self.watcher.age:.0f} s beyond the usual")
        if not found and not self.plugger.in_sync:
            found.append("the first look is not done")
        return found

    def _failed(self, reason: str) -> None:
        self.metrics.failures.labels(reason).inc()


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
    return 0

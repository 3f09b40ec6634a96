"""`ovnagent plug` on the lab's nodes, as its DaemonSet runs it: a ServiceAccount, the node's Open_vSwitch, nothing else."""

from __future__ import annotations

import signal
import sys
import urllib.error
import urllib.request
from pathlib import Path

from hack.lab.kube import ControlPlane, free_ports
from hack.lab.ovn import OvnLab
from hack.lab.process import running, send, start, stop, wait_for

REPOSITORY = Path(__file__).resolve().parents[2]
BASE = REPOSITORY / "deploy" / "base"
ACCOUNT = "ovnagent-plug"
"""The ServiceAccount and its namespace."""


class Plug:
    """The process of one node."""

    def __init__(self, node: str, ovsdb: str, directory: Path, credentials: Path, api_port: int) -> None:
        self.node = node
        self.ovsdb = ovsdb
        self.log = directory / f"plug-{node}.log"
        self.pidfile = directory / f"plug-{node}.pid"
        self.port = free_ports(1)[0]
        self._credentials = credentials
        self._env = {
            "PYTHONPATH": str(REPOSITORY),
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT": str(api_port),
            "NODE_NAME": node,
        }

    def start(self, ready: bool = True) -> None:
        """Start it; `ready`: wait until its first look is done."""
        start(
            [sys.executable, "-m", "ovnagent", "plug", "--ovsdb", self.ovsdb, "--credentials", self._credentials,
             "--address", "127.0.0.1", "--port", str(self.port)],
            self.log,
            self.pidfile,
            env=self._env,
        )  # fmt: skip
        if ready:
            self.wait_ready()

    def wait_ready(self, seconds: float = 20) -> None:
        wait_for(self._ready, seconds, f"plug ready on {self.node} ({self.log})")

    def _ready(self) -> bool:
        if self.pid is None:
            raise RuntimeError(f"plug on {self.node} has ended:\n{self.log.read_text()[-2000:]}")
        return self.http("/readyz")[0] == 200

    @property
    def pid(self) -> int | None:
        return running(self.pidfile)

    def http(self, path: str) -> tuple[int, str]:
        """(status, body); status 0 while nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def metric(self, name: str) -> float:
        """The sum of a metric's samples (`name`: with its labels, or all that have the name)."""
        lines = [line for line in self.http("/metrics")[1].splitlines() if not line.startswith("#")]
        return sum(float(line.split()[-1]) for line in lines if name in (line.split(" ")[0], line.split("{")[0]))

    def stop(self) -> None:
        stop(self.pidfile)

    def kill(self) -> None:
        """As a crash does it."""
        send(self.pidfile, signal.SIGKILL)
        wait_for(lambda: self.pid is None, 5, "plug killed")


class Plugs:
    """Those of all nodes."""

    def __init__(self, control_plane: ControlPlane, ovn: OvnLab) -> None:
        self._kube = control_plane
        self._ovn = ovn
        self._directory = ovn.directory / "plugs"
        self._nodes: dict[str, Plug] = {}

    def start(self, nodes: list[str]) -> None:
        """Start it on these nodes at once, and wait until it works on all of them."""
        self.prepare()
        for node in nodes:
            if node not in self._nodes:
                ovsdb = self._ovn.on(node).ovsdb
                self._nodes[node] = Plug(node, ovsdb, self._directory, self._directory, self._kube.port)
                self._nodes[node].start(ready=False)
        for node in nodes:
            self._nodes[node].wait_ready()

    def on(self, node: str) -> Plug:
        return self._nodes[node]

    def stop(self) -> None:
        for plug in self._nodes.values():
            plug.stop()

    def prepare(self) -> None:
        """What the kubelet mounts into the DaemonSet's pods."""
        if self._directory.exists():
            return
        self._directory.mkdir(parents=True)
        self._kube.kubectl("apply", "-f", str(BASE / "plug-rbac.yaml"))
        token = self._kube.kubectl("create", "token", ACCOUNT, "--namespace", ACCOUNT).strip()
        (self._directory / "token").write_text(token)
        (self._directory / "ca.crt").write_bytes((self._kube.directory / "tls" / "apiserver.crt").read_bytes())

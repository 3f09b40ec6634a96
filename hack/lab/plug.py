"""`ovnagent plug` on the lab's nodes, as its DaemonSet runs it: a ServiceAccount, the node's Open_vSwitch, nothing else."""

from __future__ import annotations

import sys
from pathlib import Path

from hack.lab.kube import ControlPlane
from hack.lab.ovn import OvnLab
from hack.lab.process import start
from hack.lab.served import Served

REPOSITORY = Path(__file__).resolve().parents[2]
BASE = REPOSITORY / "deploy" / "base"
ACCOUNT = "ovnagent-plug"
"""The ServiceAccount and its namespace."""


class Plug(Served):
    """The process of one node."""

    def __init__(self, node: str, ovsdb: str, directory: Path, credentials: Path, api_port: int) -> None:
        super().__init__(directory, f"plug-{node}")
        self.node = node
        self.ovsdb = ovsdb
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

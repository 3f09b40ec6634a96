"""The lab's OVN in the sandbox's container instead of this machine's own packages; the rest of the lab does not notice:
the container shares the lab's folder, the network namespaces and the process ids with the host."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from pathlib import Path

from hack.lab.cluster import Agent, Cluster
from hack.lab.free_ports import free_ports
from hack.lab.ovn import OvnLab
from hack.lab.process import run, start, stop, wait_for

AGENT_IMAGE, SANDBOX_IMAGE = "localhost/ovnagent:latest", "localhost/ovn-sandbox:latest"
NETNS = Path("/run/netns")
CONF = Path(__file__).parents[1] / "containers.conf"


@functools.cache
def program() -> str:
    """Docker if it runs, else podman: as hack/images decides."""
    docker = subprocess.run(["docker", "info"], capture_output=True, check=False).returncode if shutil.which("docker") else 1
    return "docker" if docker == 0 else "podman"


def engine(*arguments: str | Path) -> str:
    """A command of the container engine; its standard output."""
    # podman's own settings work where there are systemd and all cgroups; elsewhere these do.
    conf = os.environ.get("CONTAINERS_CONF") or ("" if Path("/run/systemd/system").is_dir() else str(CONF))
    return run(program(), *arguments, env={"CONTAINERS_CONF": conf} if conf else {})


class SandboxLab(OvnLab):
    """`OvnLab`, with its daemons in a container of the sandbox's image."""

    def __init__(self, name: str, directory: Path, chassis: int = 3, root: Path | None = None) -> None:
        if root is not None:
            raise ValueError("the sandbox has the OVN that is in its image")
        super().__init__(name, directory, chassis)
        self._container = f"ovnagent-{name}"

    def up(self) -> None:
        self.claim()
        self._clear()
        if not NETNS.exists():  # made by the first one, and shared with containers from then on
            run("ip", "netns", "add", self.bridge_netns)
            run("ip", "netns", "del", self.bridge_netns)
        parent = self.directory.parent  # the lab makes its folder itself
        parent.mkdir(parents=True, exist_ok=True)
        shares = ("-v", f"{parent}:{parent}", "-v", f"{NETNS}:{NETNS}:rshared")
        place = ("--privileged", "--network", "host", "--pid", "host")
        try:
            engine("run", "-d", "--name", self._container, *place, *shares, SANDBOX_IMAGE, "lab", self.name, self.directory)
            wait_for((self.directory / "ready").exists, 30, f"the sandbox's OVN (podman logs {self._container})")
        except BaseException:
            self.down()
            raise

    def _clear(self) -> None:
        if engine("ps", "-a", "-q", "--filter", f"name=^{self._container}$").strip():
            engine("rm", "-f", "-t", "20", self._container)
        super()._clear()


class ContainerAgent(Agent):
    """The agent's image, with a ServiceAccount's token and a ConfigMap's files where a pod has them, and no more rights than
    the Deployment gives it. The databases' sockets are reached over TCP on loopback."""

    def __init__(self, cluster: Cluster, name: str = "image") -> None:
        self.cluster = cluster
        self._mounts = cluster.directory / name
        self._account = self._mounts / "serviceaccount"
        self._container = f"ovnagent-{cluster.name}-{name}"
        self.nb_port, self.sb_port = free_ports(2)
        super().__init__(self._mounts / "config", cluster.config(), "config")

    def write_config(self, text: str) -> None:
        """What the kubelet does with the ConfigMap."""
        self.config.write_text(text)

    def start(self, ready: bool = True) -> ContainerAgent:
        kube, ovn = self.cluster.kube, self.cluster.ovn
        for database, port in (("nb", self.nb_port), ("sb", self.sb_port)):
            socket = f"UNIX-CONNECT:{ovn.central.directory}/{database}.sock"
            listen = f"TCP-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork"
            start(["socat", listen, socket], self._mounts / "socat.log", self._mounts / f"{database}.pid")
        self._account.mkdir(parents=True, exist_ok=True)
        token = kube.kubectl("--namespace", "ovnagent", "create", "token", "ovnagent").strip()
        (self._account / "token").write_text(token)
        (self._account / "ca.crt").write_bytes((kube.directory / "tls" / "apiserver.crt").read_bytes())
        (self._account / "namespace").write_text("ovnagent")
        rights = ("--read-only", "--user", "65532:65532", "--cap-drop", "all", "--security-opt", "no-new-privileges")
        mounts = (
            *("-v", f"{self._account}:/var/run/secrets/kubernetes.io/serviceaccount:ro"),
            *("-v", f"{self.directory}:/etc/ovnagent:ro"),
        )
        where = ("-e", "KUBERNETES_SERVICE_HOST=127.0.0.1", "-e", f"KUBERNETES_SERVICE_PORT={kube.port}")
        arguments = ("run", "--config=/etc/ovnagent/config.yaml", "--log-format=json")
        engine(
            "run", "-d", "--name", self._container, "--network", "host", *rights, *mounts, *where, AGENT_IMAGE, *arguments
        )
        if ready:
            self.wait_ready()
        return self

    def wait_ready(self, seconds: float = 30) -> None:
        wait_for(lambda: self.http("/readyz")[0] == 200, seconds, f"the agent's container ready: {self.logs()[-2000:]}")

    def logs(self) -> str:
        """What it has written on both streams."""
        done = subprocess.run(
            [program(), "logs", self._container], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        return done.stdout

    def running(self) -> bool:
        return engine("inspect", "-f", "{{.State.Running}}", self._container).strip() == "true"

    def stop(self) -> None:
        """Ended as a pod is; the exit status is checked."""
        engine("stop", "-t", "10", self._container)
        status = engine("inspect", "-f", "{{.State.ExitCode}}", self._container).strip()
        engine("rm", "-f", self._container)
        for database in ("nb", "sb"):
            stop(self._mounts / f"{database}.pid")
        if status != "0":
            raise RuntimeError(f"the agent's container ended with {status}")

"""Everything together: OVN, Kubernetes, and the agent as it runs in a cluster (as its own ServiceAccount)."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml

from hack.lab.kube import ControlPlane
from hack.lab.ovn import OvnLab
from hack.lab.process import running, start, stop, stop_all, wait_for
from hack.lab.served import Served

REPOSITORY = Path(__file__).resolve().parents[2]
RBAC = REPOSITORY / "deploy" / "base"
CLUSTER = "lab"
NETWORKS = [
    {
        "name": "pods",
        "logicalSwitch": "ovn-default",
        "podNetwork": True,
        "subnets": [{"cidr": "10.16.0.0/16", "gateway": "10.16.0.1"}],
    }
]


class Agent(Served):
    """An agent process."""

    def __init__(self, directory: Path, config: dict[str, object], name: str = "agent") -> None:
        super().__init__(directory, name)
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.config = directory / f"{name}.yaml"
        self.write_config(yaml.safe_dump(config))

    def write_config(self, text: str) -> None:
        """A configuration for it, with an address of its own to serve on; what cannot be read is written as it is."""
        try:
            content = {**yaml.safe_load(text), "serve": {"address": "127.0.0.1", "port": self.port}}
        except (yaml.YAMLError, TypeError):
            self.config.write_text(text)
        else:
            self.config.write_text(yaml.safe_dump(content))

    def start(self, ready: bool = True) -> Agent:
        """Start it; `ready`: wait until it has done its first reconciliation."""
        start(
            [sys.executable, "-m", "ovnagent", "run", "--config", self.config],
            self.log,
            self.pidfile,
            env={"PYTHONPATH": str(REPOSITORY)},
        )
        if ready:
            self.wait_ready()
        return self


class Replicas:
    """Agents of one configuration: one works, the others stand by. Used as if it were one agent; what it says of itself is
    what the one says that works."""

    def __init__(self, agents: Sequence[Agent]) -> None:
        self.agents = agents
        self.config = agents[0].config
        """Of one of them; `write_config` writes them all."""
        self.log = agents[0].log
        for agent in agents:
            agent.log = self.log
        self._lock = threading.RLock()

    def leader(self, seconds: float = 5) -> Agent:
        """The one that holds the lock: waited for, since a scrape may be a fraction of a second old and somebody may just
        have taken over. Any that runs, where nobody holds it for so long."""
        try:
            return wait_for(self._holder, seconds, "one of the agents holds the lock")
        except TimeoutError:
            return next((agent for agent in self.agents if running(agent.pidfile) is not None), self.agents[0])

    def _holder(self) -> Agent | None:
        return next((agent for agent in self.agents if agent.metric("ovnagent_lock_held") == 1), None)

    def write_config(self, text: str) -> None:
        for agent in self.agents:
            agent.write_config(text)

    def start(self, ready: bool = True) -> Replicas:
        with self._lock:
            for agent in self.agents:
                agent.start(ready=False)
        if ready:
            self.wait_ready()
        return self

    def start_missing(self) -> None:
        """Start again those that do not run: a test that fails half-way leaves none dead for the tests after it."""
        with self._lock:
            for agent in self.agents:
                if running(agent.pidfile) is None:
                    agent.start(ready=False)

    def wait_ready(self, seconds: float = 20) -> None:
        with self._lock:  # not while one of them is being killed at random and started again
            for agent in self.agents:
                agent.wait_ready(seconds)
        wait_for(self._holder, seconds, "one of the agents works")

    def http(self, path: str) -> tuple[int, str]:
        return (self._holder() or self.agents[0]).http(path)

    def metric(self, name: str) -> float:
        return self.leader().metric(name)

    def signal(self, number: signal.Signals) -> None:
        for agent in self.agents:
            agent.signal(number)

    def stop(self) -> None:
        with self._lock:
            for agent in self.agents:
                agent.stop()

    def kill(self) -> None:
        """All of them, as a crash does it."""
        with self._lock:
            for agent in self.agents:
                agent.kill()

    def crash_one(self, agent: Agent) -> bool:
        """Kill one of them and start it again, unless it does not run now; whether it did."""
        with self._lock:
            if running(agent.pidfile) is None:
                return False
            agent.kill()
            agent.start(ready=False)
        return True


class Cluster:
    """`with Cluster("t1") as cluster:` — OVN and Kubernetes are up; agents are started with `agent()`."""

    ovn_class: type[OvnLab] = OvnLab
    """SandboxLab (hack/lab/container.py) for OVN in a container."""

    def __init__(self, name: str, directory: Path | None = None, root: Path | None = None, audit: bool = False) -> None:
        self.name = name
        self.directory = directory or Path(tempfile.gettempdir()) / f"ovnagent-{name}"
        self.ovn = self.ovn_class(name, self.directory / "ovn", root=root)
        self.kube = ControlPlane(self.directory / "kube", audit=audit)
        self.agents: list[Agent] = []

    def __enter__(self) -> Cluster:
        self.up()
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    def up(self) -> None:
        self.ovn.claim()
        self.directory.mkdir(parents=True, exist_ok=True)
        stop_all(self.directory)  # an agent that a killed run left would take the lock of this run's database
        try:
            with ThreadPoolExecutor() as pool:
                list(pool.map(lambda part: part.up(), (self.kube, self.ovn)))
            self.kube.kubectl("apply", "-f", str(RBAC / "namespace.yaml"), "-f", str(RBAC / "rbac.yaml"))
            self.credentials = self.kube.service_account_kubeconfig("ovnagent", "ovnagent")
        except BaseException:
            self.down()
            raise

    def down(self) -> None:
        for agent in self.agents:
            stop(agent.pidfile, 2)
        self.agents.clear()
        self.kube.down()
        self.ovn.down()
        if os.environ.get("KEEP_LOGS") != "1":
            shutil.rmtree(self.directory, ignore_errors=True)

    def config(self, networks: list[dict[str, object]] | None = None) -> dict[str, object]:
        """An agent's configuration for this cluster."""
        return {
            "cluster": CLUSTER,
            "ovn": {"northbound": [self.ovn.nb_remote], "southbound": [self.ovn.sb_remote]},
            "kubernetes": {"kubeconfig": str(self.credentials)},
            "networks": networks or NETWORKS,
        }

    def agent(self, networks: list[dict[str, object]] | None = None, name: str = "agent") -> Agent:
        """An agent, not started yet."""
        agent = Agent(self.directory, self.config(networks), name)
        self.agents.append(agent)
        return agent

    def replicas(self, networks: list[dict[str, object]] | None = None) -> Replicas:
        """Two agents, as they are deployed; not started yet."""
        return Replicas([self.agent(networks), self.agent(networks, "agent2")])

"""An API server with many VMs in it and OVN's databases, beside which an agent is measured; no guest and no control plane of
KubeVirt runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson

from hack.bench import population
from hack.lab.cluster import CLUSTER, NETWORKS, REPOSITORY, Agent
from hack.lab.databases import Server, server
from hack.lab.kube import ControlPlane
from hack.lab.process import running, wait_for
from ovnagent.kube.client import ApiError, Client, KubeConfig

LISTS = (
    "/apis/kubevirt.io/v1/virtualmachines",
    "/apis/kubevirt.io/v1/virtualmachineinstances",
    "/apis/kubevirt.io/v1/virtualmachineinstancemigrations",
    "/api/v1/pods",
    "/api/v1/nodes",
)


@dataclass(frozen=True)
class Start:
    """What a start of the agent took."""

    seconds: float
    """From the process' start until it has reconciled everything."""
    megabytes: float
    transactions: float
    rows: float


def peak(pid: int | str) -> float:
    """The most memory that a process has had, in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1000
    raise RuntimeError(f"no VmHWM of {pid}")


def caught_up(kube: ControlPlane) -> None:
    """Wait until the API server has taken in what was written to etcd behind its back."""
    client = Client(KubeConfig(kube.kubeconfig))

    def answers(path: str) -> bool:
        try:
            token = orjson.loads(client.request("GET", f"{path}?limit=1"))["metadata"].get("continue")
            if token:  # the first page comes from etcd, the next from the API server's own copy
                client.request("GET", f"{path}?limit=1&continue={token}")
        except ApiError as error:
            if error.status not in (429, 504):
                raise
            return False
        return True

    for path in LISTS:
        wait_for(lambda path=path: answers(path), 300, f"the API server has all of {path}")


def start(agent: Agent, seconds: float = 180) -> Start:
    began = time.monotonic()
    said = agent.log.stat().st_size if agent.log.exists() else 0
    agent.start(ready=False)
    wait_for(lambda: b" leading " in agent.log.read_bytes()[said:], seconds, "the agent leads")
    agent.wait_ready(seconds)
    took = time.monotonic() - began
    time.sleep(1.1)  # metrics are computed once a second
    metric = agent.metric
    return Start(took, memory(agent), metric("ovnagent_transactions_total"), metric("ovnagent_row_changes_total"))


def memory(agent: Agent) -> float:
    pid = running(agent.pidfile)
    assert pid is not None
    return peak(pid)


def requests(kube: ControlPlane, verb: str, resource: str) -> float:
    """How many of these the API server has answered."""
    lines = kube.kubectl("get", "--raw", "/metrics").splitlines()
    wanted = ("apiserver_request_total", f'resource="{resource}"', f'verb="{verb}"')
    return sum(float(line.split()[-1]) for line in lines if all(part in line for part in wanted))


def say(what: str, figure: str) -> None:
    print(f"{what:52} {figure}", flush=True)


@dataclass(frozen=True)
class Rig:
    """An API server and OVN's databases, and an agent that is not started yet."""

    kube: ControlPlane
    nb: Server
    sb: Server
    agent: Agent


@contextmanager
def rig(directory: Path, nodes: int) -> Iterator[Rig]:
    """So many nodes, each with a chassis, and namespaces; no VM."""
    with (
        ControlPlane(directory / "kube") as kube,
        server(directory / "nb") as nb,
        server(directory / "sb", "OVN_Southbound") as sb,
    ):
        population.only_the_api_server(kube)
        names = [population.namespace_of(number) for number in range(population.NAMESPACES)]
        population.write(kube, population.surroundings(nodes, names))
        kube.kubectl("apply", *(f"-f{REPOSITORY}/deploy/base/{name}.yaml" for name in ("namespace", "rbac")))
        for number in range(nodes):
            encap = {"op": "insert", "table": "Encap", "uuid-name": "e", "row": {"type": "geneve", "ip": f"10.0.0.{number}"}}
            row = {"name": f"chassis{number}", "hostname": f"node{number}", "encaps": ["named-uuid", "e"]}
            sb.transact(encap, {"op": "insert", "table": "Chassis", "row": row})
        config: dict[str, object] = {
            "cluster": CLUSTER,
            "ovn": {"northbound": [nb.remote], "southbound": [sb.remote]},
            "kubernetes": {"kubeconfig": str(kube.service_account_kubeconfig("ovnagent", "ovnagent"))},
            "networks": NETWORKS,
        }
        agent = Agent(directory, config)
        try:
            yield Rig(kube, nb, sb, agent)
        finally:
            agent.stop()

"""The images, run: the agent's as the Deployment runs it, through the whole story of the demo; and the sandbox's."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from hack.lab import manifests
from hack.lab.cluster import Cluster
from hack.lab.container import AGENT_IMAGE, SANDBOX_IMAGE, ContainerAgent, engine
from hack.lab.demo import NETWORKS, Story, tell
from hack.lab.kubevirt import KubeVirt
from hack.lab.process import run, wait_for
from tests.deploy.conftest import of_kind

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("images")]
USER = "system:serviceaccount:ovnagent:ovnagent"
STANDALONE = """
apiVersion: kubevirt.io/v1
kind: VirtualMachineInstance
metadata: {name: alone, namespace: default}
spec:
  domain: {devices: {interfaces: [{name: default, bridge: {}}]}, memory: {guest: 64Mi}}
  networks: [{name: default, pod: {}}]
"""
SIZE_LIMIT = 250_000_000
"""Bytes of the agent's image with its base, unpacked."""


def test_the_agent_s_image_is_lean() -> None:
    assert int(engine("image", "inspect", "-f", "{{.Size}}", AGENT_IMAGE)) < SIZE_LIMIT
    assert "ovnagent " in engine("run", "--rm", "--read-only", "--network", "none", AGENT_IMAGE, "--version")
    inside = ("run", "--rm", "--read-only", "--network", "none", "--entrypoint", "sh", AGENT_IMAGE, "-c")
    assert engine(*inside, "id -u").strip() == "65532"
    assert engine(*inside, "command -v gcc cc pip pip3; find /var/lib/apt/lists /var/cache/apt -type f; true").strip() == ""
    parser = "from ovnagent.ovn import json_parser; print(json_parser.install())"
    assert engine("run", "--rm", "--entrypoint", "python", AGENT_IMAGE, "-c", parser).strip() in ("C", "frame")


def test_the_sandbox(tmp_path: Path) -> None:
    """Up and healthy, reached from outside over TCP and TLS, and ended cleanly."""
    name = "ovn-sandbox-test"
    engine("rm", "-f", "--ignore", name)
    started = time.monotonic()
    engine("run", "-d", "--name", name, "--privileged", "--network", "host", "-e", "SANDBOX_BIND=127.0.0.1", SANDBOX_IMAGE)
    try:
        wait_for(lambda: healthy(name), 30, "the sandbox is healthy")
        print(f"healthy after {time.monotonic() - started:.1f} s")
        assert engine("exec", name, "ovn-sbctl", "--bare", "--columns=name", "list", "Chassis").split()
        run("ovn-nbctl", "--db=tcp:127.0.0.1:6641", "ls-add", "from-outside")
        engine("cp", f"{name}:/run/ovn-sandbox/tls", tmp_path / "tls")
        files = (
            "-p",
            tmp_path / "tls" / "client.key",
            "-c",
            tmp_path / "tls" / "client.pem",
            "-C",
            tmp_path / "tls" / "ca.pem",
        )
        assert "from-outside" in run("ovn-nbctl", "--db=ssl:127.0.0.1:16641", *files, "ls-list")
        assert "chassis2" in run("ovn-sbctl", "--db=ssl:127.0.0.1:16642", *files, "show")
        engine("stop", "-t", "20", name)
        assert engine("inspect", "-f", "{{.State.ExitCode}}", name).strip() == "0"
        assert "ending" in engine("logs", name)
    finally:
        engine("rm", "-f", name)


def healthy(name: str) -> bool:
    try:
        engine("exec", name, "python3", "-m", "hack.lab.sandbox", "healthy")
    except RuntimeError:
        return False
    return True


@pytest.fixture(scope="module")
def deployed() -> Iterator[tuple[Cluster, ContainerAgent, KubeVirt]]:
    """The overlay `tcp` on the lab: its ServiceAccount, ClusterRole and ConfigMap, the latter with the lab's endpoints."""
    with Cluster("image", audit=True) as cluster, KubeVirt(cluster.kube, cluster.ovn, guests="qemu") as kubevirt:
        for kind in ("ServiceAccount", "ClusterRole", "ClusterRoleBinding"):
            cluster.kube.apply(yaml.safe_dump(of_kind("tcp", kind)))
        agent = ContainerAgent(cluster)
        publish(cluster, agent)
        agent.start()
        try:
            yield cluster, agent, kubevirt
        finally:
            agent.stop()


def publish(cluster: Cluster, agent: ContainerAgent, *more: dict[str, object]) -> None:
    """Apply the ConfigMap, with the lab's endpoints and networks; then do with what is stored as the kubelet does."""
    config_map = of_kind("tcp", "ConfigMap")
    content = yaml.safe_load(config_map["data"]["config.yaml"])
    content["ovn"] = {
        "northbound": [f"tcp:127.0.0.1:{agent.nb_port}"],
        "southbound": [f"tcp:127.0.0.1:{agent.sb_port}"],
    }
    content["serve"] = {"address": "127.0.0.1", "port": agent.port}
    content["networks"] = [*NETWORKS, *more]
    cluster.kube.apply(yaml.safe_dump(config_map | {"data": {"config.yaml": yaml.safe_dump(content)}}))
    stored = cluster.kube.get("configmap", "ovnagent", "-n", "ovnagent")
    agent.write_config(stored["data"]["config.yaml"])  # type: ignore[index]


def test_the_whole_story(deployed: tuple[Cluster, ContainerAgent, KubeVirt]) -> None:
    cluster, agent, kubevirt = deployed
    tell(cluster, kubevirt, Story())
    assert '"json_parser": ' in agent.logs()
    cluster.kube.kubectl("delete", "vm", "--all", "--wait=false")
    wait_for(lambda: agent.metric("ovnagent_ports") == 0, 60, "all ports gone")


def test_a_changed_config_map_takes_effect(deployed: tuple[Cluster, ContainerAgent, KubeVirt]) -> None:
    cluster, agent, _ = deployed
    publish(cluster, agent, {"name": "more", "subnets": [{"cidr": "172.31.0.0/24"}]})
    wait_for(lambda: "more" in cluster.ovn.nbctl("ls-list"), 15, "the new network's switch")


def test_exactly_the_verbs_that_are_used(deployed: tuple[Cluster, ContainerAgent, KubeVirt]) -> None:
    """The API server's audit log of all that went before, and of what the demo does not show, against the ClusterRole."""
    cluster, agent, _ = deployed
    cluster.kube.apply(STANDALONE)
    for name in ("first", "second"):
        cluster.kube.apply(manifests.vm(name, "Halted", ip_address="10.16.0.99"))
    wait_for(lambda: cluster.ovn.port("alone.default"), 20, "the standalone VMI's port")

    def told() -> str:
        return cluster.kube.kubectl("get", "events", "--field-selector", "involvedObject.name=second", "--no-headers")

    wait_for(lambda: "AddressConflict" in told(), 20, "the Event")
    agent.stop()
    agent.start()  # says the same again: the Event that is there gets a higher count
    granted = {
        (group, resource, verb)
        for rule in of_kind("tcp", "ClusterRole")["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    try:
        wait_for(lambda: not granted - used(cluster)[0], 30, "every verb that is granted is used")
    except TimeoutError:
        pytest.fail(f"granted and never used: {granted - used(cluster)[0]}")
    verbs, denied = used(cluster)
    assert denied == {}
    assert verbs == granted
    assert agent.running()


def used(cluster: Cluster) -> tuple[set[tuple[str, str, str]], dict[str, int]]:
    """What the agent did: (API group, resource, verb); and what it was denied."""
    verbs, denied = set(), defaultdict(int)
    assert cluster.kube.audit_log is not None
    for line in cluster.kube.audit_log.read_text().splitlines():
        entry = json.loads(line)
        if entry["user"]["username"] == USER and (what := entry.get("objectRef")):
            verbs.add((what.get("apiGroup", ""), what["resource"], entry["verb"]))
            if entry.get("responseStatus", {}).get("code") == 403:
                denied[f"{entry['verb']} {what['resource']}"] += 1
    return verbs, dict(denied)


def test_a_verb_that_is_missing_is_named_and_nothing_is_deleted(
    deployed: tuple[Cluster, ContainerAgent, KubeVirt],
) -> None:
    cluster, agent, _ = deployed
    before = agent.metric("ovnagent_ports")
    assert before > 0
    role = of_kind("tcp", "ClusterRole")
    rules = [{**rule, "verbs": [verb for verb in rule["verbs"] if verb != "list"]} for rule in role["rules"]]
    cluster.kube.apply(yaml.safe_dump(role | {"rules": rules}))
    try:
        agent.stop()
        agent.start(ready=False)
        wait_for(lambda: 'cannot list resource "virtualmachines"' in agent.logs().replace("\\", ""), 30, "the log names it")
        assert agent.running()
        assert "Kubernetes: not all kinds have been listed yet" in agent.http("/readyz")[1]
        ports = cluster.ovn.nbctl(
            "--bare", "--columns=name", "find", "Logical_Switch_Port", "external_ids:ovnagent-cluster=production"
        )
        assert len(ports.split()) == before
    finally:
        cluster.kube.apply(yaml.safe_dump(role))
    agent.wait_ready(90)

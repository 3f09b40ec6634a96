"""A real control plane, a real OVN, the agent as its own ServiceAccount; guests without a CPU: they plug and announce."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from hack.lab.cluster import Agent, Cluster
from hack.lab.kubevirt import KubeVirt
from hack.lab.process import wait_for

MANIFEST = """
apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata: {{name: {name}, namespace: default}}
spec:
  runStrategy: {strategy}
  template:
    metadata:
      annotations: {{kubevirt.io/allow-pod-bridge-network-live-migration: "true"{annotations}}}
    spec:
      domain: {{devices: {{interfaces: [{{name: default, bridge: {{}}}}]}}}}
      networks: [{{name: default, pod: {{}}}}]
"""


class Lab:
    """What the tests use, in their words."""

    def __init__(self, cluster: Cluster, agent: Agent, kubevirt: KubeVirt) -> None:
        self.cluster, self.agent, self.kubevirt = cluster, agent, kubevirt
        self.ovn, self.kube = cluster.ovn, cluster.kube

    def create(self, name: str, strategy: str = "Always", **annotations: str) -> str:
        """Apply a VM; the name of its port."""
        self.kube.apply(manifest(name, strategy, **annotations))
        return f"{name}.default"

    def run(self, name: str, **annotations: str) -> str:
        """Apply a VM and wait until it runs; the name of its port."""
        port = self.create(name, **annotations)
        self.kubevirt.wait_running("default", name)
        return port

    def delete(self, *names: str) -> None:
        """Delete VMs and wait until they and their ports are gone."""
        if names:
            self.kube.kubectl("delete", "vm", *names, "--ignore-not-found", "--wait=false")
        for name in names:
            wait_for(lambda name=name: not self.ovn.port(f"{name}.default"), 20, f"{name}'s port gone")

    def vmi(self, name: str) -> dict[str, Any] | None:
        """A VMI of the default namespace; None where there is none at this moment."""
        return self.kubevirt.vmi("default", name)

    def node(self, name: str) -> str:
        vmi = self.vmi(name)
        assert vmi is not None
        return str(vmi["status"]["nodeName"])

    def chassis(self, name: str) -> str:
        """The chassis of the node on which a VM runs."""
        return self.ovn.on(self.node(name)).name

    def placed(self, port: str, expected: str, seconds: float = 5) -> float:
        """Wait until a port asks for these chassis; how many seconds that took."""
        started = time.monotonic()
        try:
            wait_for(lambda: self.ovn.placed(port) == expected, seconds, f"{port} placed on {expected or 'nothing'}")
        except TimeoutError as error:
            raise AssertionError(f"{error}; it is: {self.ovn.placed(port)!r}") from None
        return time.monotonic() - started

    def events(self, name: str) -> str:
        return self.kube.kubectl("get", "events", "--field-selector", f"involvedObject.name={name}", "--no-headers")

    def uuid(self, port: str) -> str:
        return self.ovn.port(port).get("_uuid", "")


def manifest(name: str, strategy: str = "Always", **annotations: str) -> str:
    keys = "".join(f', ovn.kubernetes.io/{key}: "{value}"' for key, value in annotations.items())
    return MANIFEST.format(name=name, strategy=strategy, annotations=keys)


@pytest.fixture(scope="session")
def session_lab() -> Iterator[Lab]:
    with Cluster("e2e") as cluster, KubeVirt(cluster.kube, cluster.ovn, guests="fake") as kubevirt:
        agent = cluster.agent().start()
        yield Lab(cluster, agent, kubevirt)


@pytest.fixture
def lab(session_lab: Lab) -> Iterator[Lab]:
    """Each test begins and ends without VMs, and with an agent that works."""
    yield session_lab
    session_lab.kubevirt.faults.reset()
    session_lab.kubevirt.uncordon(*session_lab.kubevirt.nodes)
    names = session_lab.kube.kubectl("get", "vm", "-o", "name").split()
    session_lab.delete(*(name.partition("/")[2] for name in names))
    session_lab.agent.wait_ready()

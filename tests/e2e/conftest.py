"""Real control planes of Kubernetes and KubeVirt, a real OVN, two agents as their own ServiceAccount; guests without a CPU:
they plug and announce.

Once a session, at a random moment of a random test, one of the agents is killed: RANDOM_CRASH=<seed> does it again,
RANDOM_CRASH=no does not.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from hack.lab import manifests
from hack.lab.cluster import Cluster, Replicas
from hack.lab.kubevirt import KubeVirt
from hack.lab.process import wait_for


class Lab:
    """What the tests use, in their words."""

    def __init__(self, cluster: Cluster, agent: Replicas, kubevirt: KubeVirt) -> None:
        self.cluster, self.agent, self.kubevirt = cluster, agent, kubevirt
        self.ovn, self.kube = cluster.ovn, cluster.kube

    def create(self, name: str, strategy: str = "Always", **annotations: str) -> str:
        """Apply a VM; the name of its port."""
        self.kube.apply(manifests.vm(name, strategy, **annotations))
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


@pytest.fixture(scope="session")
def session_lab() -> Iterator[Lab]:
    with (
        Cluster(os.environ.get("E2E_LAB", "e2e")) as cluster,
        KubeVirt(cluster.kube, cluster.ovn, guests="fake") as kubevirt,
    ):
        agent = cluster.replicas().start()
        yield Lab(cluster, agent, kubevirt)


class RandomCrash:
    """One agent is killed in one of these tests, and started again."""

    def __init__(self, tests: Sequence[str]) -> None:
        seed = os.environ.get("RANDOM_CRASH") or str(random.randrange(10**6))
        chance = random.Random(seed)
        self.test = "" if seed == "no" or not tests else chance.choice(tests)
        self.seconds, self.agent = chance.uniform(0, 3), chance.randrange(2)
        self.text = (
            f"RANDOM_CRASH={seed}: agent {self.agent} is killed {self.seconds:.1f} s into {self.test}" if self.test else ""
        )

    @contextmanager
    def during(self, test: str, agents: Replicas) -> Iterator[None]:
        if test != self.test:
            yield
            return
        timer = threading.Timer(self.seconds, lambda: agents.crash_one(agents.agents[self.agent]))
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()


CRASH = pytest.StashKey[RandomCrash]()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Tests that count what one process has done are left alone."""
    tests = [
        item.nodeid
        for item in session.items
        if "lab" in getattr(item, "fixturenames", ()) and item.get_closest_marker("one_process") is None
    ]
    session.config.stash[CRASH] = RandomCrash(tests)


def pytest_report_collectionfinish(config: pytest.Config) -> str:
    return config.stash[CRASH].text


@pytest.fixture
def lab(session_lab: Lab, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """Each test begins and ends without VMs, and with agents that work."""
    with request.config.stash[CRASH].during(request.node.nodeid, session_lab.agent):
        yield session_lab
    session_lab.kubevirt.faults.reset()
    session_lab.kubevirt.uncordon(*session_lab.kubevirt.nodes)
    names = session_lab.kube.kubectl("get", "vm", "-o", "name").split()
    session_lab.agent.start_missing()
    session_lab.delete(*(name.partition("/")[2] for name in names))
    session_lab.agent.wait_ready()

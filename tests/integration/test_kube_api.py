"""A real API server that loses a verb, a token or itself, a network that loses packets, objects nested thousands deep."""

from __future__ import annotations

import itertools
import os
import shutil
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from hack.lab.cluster import RBAC
from hack.lab.free_ports import free_ports
from hack.lab.kube import ControlPlane
from hack.lab.process import run, start, stop_all, wait_for
from ovnagent.core.vm import RECORD_ANNOTATION, VmKey
from ovnagent.kube import client, watch
from ovnagent.kube.client import Client, KubeConfig
from ovnagent.kube.events import ObjectRef
from ovnagent.kube.kubernetes import Counters, Kubernetes
from ovnagent.process.supervision import Supervisor
from tests.desk import record_text, vm_object
from tests.integration.busy_gateway import Gateway

VMS = "/apis/kubevirt.io/v1/namespaces/default/virtualmachines"


class Edge:
    """The Kubernetes side of an agent, and all that it counts."""

    def __init__(self, kubeconfig: Path) -> None:
        self.changed: list[VmKey] = []
        self.errors: list[tuple[str, str]] = []
        self.dropped: list[tuple[str, str]] = []
        self.failures: list[str] = []
        self.complete = threading.Event()
        self.supervisor = Supervisor(self.failures.append)
        self.kube = Kubernetes(
            KubeConfig(kubeconfig),
            self._changed,
            self.complete.set,
            self.supervisor,
            Counters(lambda *error: self.errors.append(error), lambda *drop: self.dropped.append(drop)),
        )
        self.kube.start()

    def _changed(self, keys: Iterable[VmKey], _urgent: bool) -> None:
        self.changed.extend(keys)

    def sees(self, name: str, seconds: float = 10) -> float:
        """Wait until a VM is known; how long that took."""
        started = time.monotonic()
        key = VmKey("default", name)
        wait_for(lambda: self.kube.facts(key).vm, seconds, f"{name} seen; errors {self.errors[-3:]}")
        return time.monotonic() - started

    def noticed(self, kind: str, reason: str, seconds: float) -> float:
        started = time.monotonic()
        wait_for(lambda: (kind, reason) in self.errors, seconds, f"{kind} {reason}; errors {self.errors[-3:]}")
        return time.monotonic() - started


@contextmanager
def edge(kubeconfig: Path, seconds: float = 20) -> Iterator[Edge]:
    made = Edge(kubeconfig)
    try:
        assert made.complete.wait(seconds), made.errors
        yield made
    finally:
        made.kube.stop()
    assert not made.failures, "no step of a thread failed by a fault in the agent"
    assert not made.supervisor.troubles()


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("api") / "kube") as made:
        made.kubectl("apply", *(f"-f{RBAC}/{name}.yaml" for name in ("namespace", "rbac")))
        yield made


@pytest.fixture
def api(plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> Iterator[ControlPlane]:
    """Each test begins and ends without VMs, and with all rights; watches are short."""
    monkeypatch.setattr(watch, "WATCH_SECONDS", 2)
    monkeypatch.setattr(watch, "SILENCE_SECONDS", 17)
    yield plane
    plane.kubectl("replace", "-f", str(RBAC / "rbac.yaml"))
    plane.kubectl("delete", "vm", "--all", "--wait=true")


def create(api: ControlPlane, name: str, **more: Any) -> None:
    obj = vm_object(name, **more)
    del obj["metadata"]["uid"], obj["metadata"]["creationTimestamp"]
    body = {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", **obj}
    Client(KubeConfig(api.kubeconfig)).request("POST", VMS, body)


@pytest.mark.parametrize("levels", [1_000, 5_000])
def test_an_object_nested_thousands_deep_harms_no_list_and_no_watch(api: ControlPlane, levels: int) -> None:
    """`spec.template.metadata` keeps unknown fields, and the API server takes them so."""
    admin = Client(KubeConfig(api.kubeconfig))
    odd = vm_object("odd")
    odd["spec"]["template"]["metadata"]["odd"] = orjson.Fragment(b"[" * levels + b"]" * levels)
    del odd["metadata"]["uid"], odd["metadata"]["creationTimestamp"]
    credentials = api.service_account_kubeconfig("ovnagent", "ovnagent")
    with edge(credentials) as watching:
        admin.request("POST", VMS, {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", **odd})
        create(api, "innocent")
        assert watching.sees("innocent") < 1
        watching.sees("odd")
        assert not watching.errors
    with edge(credentials) as listing:
        assert listing.sees("innocent") < 1
        assert listing.sees("odd") < 1
        assert not listing.errors
        assert set(listing.kube.quarantined.values()) == {0}


def test_a_verb_that_is_lost_costs_one_kind_only(api: ControlPlane) -> None:
    with edge(api.service_account_kubeconfig("ovnagent", "ovnagent")) as watching:
        rules = api.get("clusterrole", "ovnagent")["rules"]
        assert isinstance(rules, list)
        number = next(index for index, rule in enumerate(rules) if "pods" in rule["resources"])
        patch = orjson.dumps([{"op": "replace", "path": f"/rules/{number}/verbs", "value": ["list"]}]).decode()
        api.kubectl("patch", "clusterrole", "ovnagent", "--type=json", "-p", patch)
        watching.noticed("pods", "forbidden", 15)
        create(api, "web")
        assert watching.sees("web") < 1
        assert {kind for kind, _ in watching.errors} <= {"pods", "nodes", "namespaces"}
        api.kubectl("replace", "-f", str(RBAC / "rbac.yaml"))
        pod = {"containers": [{"name": "compute", "image": "none"}], "automountServiceAccountToken": False}
        labels = {"kubevirt.io": "virt-launcher"}
        meta = {"name": "launcher", "labels": labels, "annotations": {"kubevirt.io/domain": "web"}}
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": pod}
        Client(KubeConfig(api.kubeconfig)).request("POST", "/api/v1/namespaces/default/pods", body)
        wait_for(lambda: watching.kube.facts(VmKey("default", "web")).launchers, 20, "pods are watched again")
        api.kubectl("delete", "pod", "launcher", "--now")


def test_a_token_that_is_revoked_while_watches_run_is_noticed_and_a_new_one_taken_up(api: ControlPlane) -> None:
    credentials = api.service_account_kubeconfig("ovnagent", "ovnagent")
    with edge(credentials) as watching:
        api.kubectl("--namespace", "ovnagent", "delete", "serviceaccount", "ovnagent")
        watching.noticed("virtualmachines", "unauthorized", 40)  # the API server remembers for 10 s that the token was good
        create(api, "web")
        api.kubectl("replace", "-f", str(RBAC / "rbac.yaml"), "--force")
        api.service_account_kubeconfig("ovnagent", "ovnagent")
        watching.sees("web", 40)


def test_a_killed_api_server_is_noticed_at_once_and_nothing_is_missed(api: ControlPlane) -> None:
    create(api, "before")
    with edge(api.service_account_kubeconfig("ovnagent", "ovnagent")) as watching:
        watching.sees("before")
        api.stop_api_server()
        assert watching.noticed("virtualmachines", "connection", 10) < 5
        api.start_api_server()
        api.kubectl("delete", "vm", "before")
        create(api, "after")
        watching.sees("after", 20)
        wait_for(lambda: watching.kube.facts(VmKey("default", "before")).empty, 20, "gone")


def test_events_that_may_not_be_written_hold_up_no_record(api: ControlPlane, caplog: pytest.LogCaptureFixture) -> None:
    create(api, "web")
    uid = str(api.get("vm", "web")["metadata"]["uid"])  # type: ignore[index]
    ref = ObjectRef("VirtualMachine", "default", "web", uid)
    rules = api.get("clusterrole", "ovnagent")["rules"]
    assert isinstance(rules, list)
    number = next(index for index, rule in enumerate(rules) if "events" in rule["resources"])
    api.kubectl("patch", "clusterrole", "ovnagent", "--type=json", "-p", f'[{{"op": "remove", "path": "/rules/{number}"}}]')
    with edge(api.service_account_kubeconfig("ovnagent", "ovnagent")) as watching:
        for step in range(20):
            watching.kube.events.normal(ref, "Told", f"step {step}")
        watching.kube.records.keep(ref, "", "text")
        wait_for(lambda: len(watching.dropped) == 20, 20, f"given up: {watching.dropped}")
        assert set(watching.dropped) == {("events", "forbidden")}

        def written() -> bool:
            metadata: Any = api.get("vm", "web")["metadata"]
            return bool(metadata.get("annotations", {}).get(RECORD_ANNOTATION) == "text")

        wait_for(written, 10, "the record")
    said = [record for record in caplog.records if record.message == "write given up"]
    assert len(said) == 1, "once"
    assert "grant the verbs create and patch on events" in said[0].reason  # type: ignore[attr-defined]


# -- an API server that has too much to do


@pytest.fixture
def gateway(api: ControlPlane, tmp_path: Path) -> Iterator[Gateway]:
    made = Gateway(api.service_account_kubeconfig("ovnagent", "ovnagent"), tmp_path / "gateway")
    yield made
    made.close()


@pytest.mark.parametrize(("status", "headers"), [(429, {"Retry-After": "3"}), (500, {})])
def test_an_api_server_that_refuses_for_a_while_is_asked_again_when_it_says_so(
    api: ControlPlane, gateway: Gateway, caplog: pytest.LogCaptureFixture, status: int, headers: dict[str, str]
) -> None:
    with edge(gateway.kubeconfig) as watching:
        create(api, "before")
        watching.sees("before")
        gateway.headers, gateway.status = headers, status
        began = time.monotonic()
        # Watches end after 2 s here, after 50 s else; a watch that runs goes on, and is not disturbed by it.
        noticed = watching.noticed("virtualmachines", f"http_{status}", 10)
        create(api, "web")
        wait_for(lambda: time.monotonic() - began > noticed + 4, 20, "refused for a while")
        times = [at for at, path in gateway.asked if path.endswith("/virtualmachines") and at > began]
        pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
        gateway.status = 0
        seen = watching.sees("web", 20)
        assert not watching.kube.facts(VmKey("default", "before")).empty, "what was known stays"
    said = next(each for each in caplog.records if each.message == "watch failed" and f"HTTP {status}" in each.reason)  # type: ignore[attr-defined]
    print(f"{status}: noticed {noticed:.1f} s after; asked {len(times)} times; seen {seen:.1f} s after; said: {said.reason}")  # type: ignore[attr-defined]
    assert pauses, "asked again"
    assert min(pauses) >= (3 if headers else 0.2)


def test_answers_that_take_ten_seconds_are_waited_for(api: ControlPlane, gateway: Gateway) -> None:
    """A list, a watch and a write take so long, each beside the others: late, and nothing is lost or taken for gone."""
    create(api, "web")
    uid = str(api.get("vm", "web")["metadata"]["uid"])  # type: ignore[index]
    gateway.delay = 10.0
    with edge(gateway.kubeconfig, 60) as watching:
        began = time.monotonic()
        watching.sees("web")
        text = record_text("web", uid, "10.16.0.5")
        watching.kube.records.keep(ObjectRef("VirtualMachine", "default", "web", uid), "", text)
        create(api, "later")
        watching.sees("later", 30)
        wait_for(lambda: watching.kube.facts(VmKey("default", "web")).vm.record == text, 40, "the record, by the watch")  # type: ignore[union-attr]
        print(f"all {time.monotonic() - began:.1f} s after the lists")
        assert not watching.errors
        assert not watching.dropped
        assert max(watching.kube.stale.values()) == 0


# -- a network that swallows packets


class Cable:
    """A relay behind a veth pair: `cut` it, and packets vanish in both directions without a word."""

    def __init__(self, directory: Path, target: int) -> None:
        self._name = f"kube-{os.getpid()}"
        self._host, self._peer = f"kv{os.getpid()}a"[:15], f"kv{os.getpid()}b"[:15]
        self._directory = directory
        directory.mkdir()
        near, far = "10.213.77.1", "10.213.77.2"
        self.port = free_ports(1)[0]
        self.address = far
        run("ip", "netns", "add", self._name)
        run("ip", "link", "add", self._host, "type", "veth", "peer", "name", self._peer, "netns", self._name)
        run("ip", "addr", "add", f"{near}/30", "dev", self._host)
        run("ip", "link", "set", self._host, "up")
        run("ip", "-n", self._name, "addr", "add", f"{far}/30", "dev", self._peer)
        run("ip", "-n", self._name, "link", "set", self._peer, "up")
        mac = run("ip", "netns", "exec", self._name, "cat", f"/sys/class/net/{self._peer}/address").strip()
        # A neighbour that is known for good: else the kernel says after three seconds that nobody is there.
        run("ip", "neigh", "replace", far, "lladdr", mac, "dev", self._host, "nud", "permanent")
        for name, netns, listen, to in (
            ("near", None, f"{near}:{self.port}", f"127.0.0.1:{target}"),
            ("far", self._name, f"{far}:{self.port}", f"{near}:{self.port}"),
        ):
            address, _, port = listen.partition(":")
            argv = ["socat", f"TCP-LISTEN:{port},bind={address},reuseaddr,fork", f"TCP:{to}"]
            start(argv, directory / f"{name}.log", directory / f"{name}.pid", netns=netns)

    def cut(self) -> None:
        run("ip", "-n", self._name, "link", "set", self._peer, "down")

    def mend(self) -> None:
        run("ip", "-n", self._name, "link", "set", self._peer, "up")

    def close(self) -> None:
        stop_all(self._directory)
        run("ip", "netns", "delete", self._name)
        run("ip", "link", "delete", self._host)


@pytest.mark.skipif(shutil.which("socat") is None, reason="needs socat")
def test_a_connection_that_is_silently_dropped_is_noticed_by_its_keepalive(
    api: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long before the watch should have said something. (Here after 4 s instead of 25.)"""
    monkeypatch.setattr(client, "KEEPALIVE", {"idle": 2, "interval": 1, "count": 2})
    monkeypatch.setattr(watch, "WATCH_SECONDS", 300)
    monkeypatch.setattr(watch, "SILENCE_SECONDS", 315)
    credentials = yaml.safe_load(api.service_account_kubeconfig("ovnagent", "ovnagent").read_text())
    cable = Cable(tmp_path / "cable", api.port)
    try:
        server = credentials["clusters"][0]["cluster"]
        server |= {"server": f"https://{cable.address}:{cable.port}", "tls-server-name": "127.0.0.1"}
        kubeconfig = tmp_path / "kubeconfig"
        kubeconfig.write_text(yaml.safe_dump(credentials))
        with edge(kubeconfig) as watching:
            cable.cut()
            assert watching.noticed("virtualmachines", "connection", 30) < 10
            create(api, "web")
            cable.mend()
            watching.sees("web", 40)
    finally:
        cable.close()

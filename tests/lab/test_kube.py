"""The control plane: what the lab and the agent's tests count on."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from hack.lab import kube, process
from hack.lab.kube import ControlPlane
from hack.lab.process import wait_for

NODE_STATUS = {
    "conditions": [{"type": "Ready", "status": "True"}],
    "allocatable": {"cpu": "4", "memory": "8Gi", "pods": "10"},
}
POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "placed"},
    "spec": {"containers": [{"name": "compute", "image": "none"}]},
}


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("kube"), audit=True) as running:
        yield running


def test_the_scheduler_places_pods_on_ready_nodes(plane: ControlPlane) -> None:
    plane.apply('{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node1"}}')
    plane.kubectl("taint", "node", "node1", "node.kubernetes.io/not-ready-")
    plane.kubectl("patch", "node", "node1", "--subresource=status", "-p", json.dumps({"status": NODE_STATUS}))
    plane.apply(yaml.safe_dump(POD))
    plane.kubectl("wait", "--for=jsonpath={.spec.nodeName}=node1", "pod/placed", "--timeout=20s")


def test_the_garbage_collector_takes_with_an_owner_what_it_owns(plane: ControlPlane) -> None:
    instance = {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance"}
    plane.apply(yaml.safe_dump({**instance, "metadata": {"name": "owner"}, "spec": {"domain": {"devices": {}}}}))
    owner = {**instance, "name": "owner", "uid": plane.kubectl("get", "vmi", "owner", "-o", "jsonpath={.metadata.uid}")}
    # No pod: without a kubelet nobody confirms its end.
    owned = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "owned", "ownerReferences": [owner]}}
    plane.apply(yaml.safe_dump(owned))
    plane.kubectl("delete", "vmi", "owner")
    plane.kubectl("wait", "--for=delete", "configmap/owned", "--timeout=30s")


def test_a_service_account_may_do_what_its_role_says_and_no_more(plane: ControlPlane) -> None:
    plane.kubectl("create", "serviceaccount", "reader")
    plane.kubectl("create", "clusterrole", "pod-reader", "--verb=list", "--resource=pods")
    plane.kubectl("create", "clusterrolebinding", "reader", "--clusterrole=pod-reader", "--serviceaccount=default:reader")
    path = str(plane.service_account_kubeconfig("default", "reader"))
    plane.kubectl("--kubeconfig", path, "get", "pods")
    with pytest.raises(RuntimeError, match="forbidden"):
        plane.kubectl("--kubeconfig", path, "get", "nodes")
    assert plane.audit_log is not None
    requests = [json.loads(line) for line in plane.audit_log.read_text().splitlines()]
    seen = {
        (request["verb"], request["objectRef"]["resource"], request["responseStatus"]["code"])
        for request in requests
        if request["user"]["username"] == "system:serviceaccount:default:reader"
        and request.get("objectRef", {}).get("resource") in ("pods", "nodes")
    }
    assert seen == {("list", "pods", 200), ("list", "nodes", 403)}


def test_objects_survive_an_api_server_that_ends_and_starts_again(plane: ControlPlane) -> None:
    plane.kubectl("create", "configmap", "kept")
    plane.stop_api_server()
    with pytest.raises(RuntimeError, match="refused"):
        plane.kubectl("get", "configmap", "kept")
    plane.start_api_server()
    plane.kubectl("get", "configmap", "kept")


def test_what_a_killed_process_left_is_ended_by_the_next(tmp_path: Path) -> None:
    directory = tmp_path / "kube"
    code = f"""if True:
        import os, pathlib
        from hack.lab.kube import ControlPlane
        ControlPlane(pathlib.Path({str(directory)!r})).up()
        os._exit(9)"""
    killed = subprocess.run([sys.executable, "-c", code], cwd=kube.HERE.parents[1], check=False)
    assert killed.returncode == 9
    pids = [process.running(pidfile) for pidfile in directory.glob("*.pid")]
    assert len(pids) == 4
    assert None not in pids
    ControlPlane(directory).down()
    wait_for(lambda: not any(pid and process.start_time(pid) for pid in pids), 5, "all processes gone")
    assert not directory.exists()


def test_envtests_binaries_are_used_where_the_user_has_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    (tmp_path / "kube-apiserver").touch()
    assert kube.command("kube-apiserver") == (str(tmp_path / "kube-apiserver"),)
    with pytest.warns(UserWarning, match="no kube-scheduler in KUBEBUILDER_ASSETS"):
        assert kube.command("kube-scheduler") == ()
    with pytest.raises(RuntimeError, match="no etcd in KUBEBUILDER_ASSETS"):
        kube.command("etcd")

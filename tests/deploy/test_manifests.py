"""Every object of every overlay, before a real API server with strict validation and pod security."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hack.lab.cluster import REPOSITORY
from hack.lab.kube import ControlPlane
from hack.lab.sandbox import certificates
from ovnagent.config import file as config
from tests.deploy.conftest import OVERLAYS, manifests, of_kind


@pytest.fixture(scope="module")
def kube(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("deploy") / "kube") as made:
        yield made


def dry_run(kube: ControlPlane, *objects: dict[str, Any]) -> str:
    text = yaml.safe_dump_all(objects)
    return kube.kubectl("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-", stdin=text)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_object_is_accepted(kube: ControlPlane, overlay: str) -> None:
    namespaces = yaml.safe_dump_all(each for each in manifests(overlay) if each["kind"] == "Namespace")
    kube.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=namespaces)
    answer = dry_run(kube, *manifests(overlay))
    assert answer.count("serverside-applied") == len(manifests(overlay)) >= 8
    assert "Warning" not in answer
    kube.apply(yaml.safe_dump(of_kind(overlay, "ServiceAccount")))
    dry_run(kube, pod(overlay))  # a Deployment that pod security refuses would only be warned of


def pod(overlay: str) -> dict[str, Any]:
    """What the Deployment's controller would create."""
    template = copy.deepcopy(of_kind(overlay, "Deployment")["spec"]["template"])
    template["metadata"] |= {"name": "probe", "namespace": "ovnagent"}
    return {"apiVersion": "v1", "kind": "Pod", **template}


@pytest.mark.parametrize("overlay", ["tcp", "tls"])
def test_the_namespace_is_restricted_and_the_check_above_can_fail(kube: ControlPlane, overlay: str) -> None:
    namespace = of_kind(overlay, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    kube.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=yaml.safe_dump(namespace))
    kube.apply(yaml.safe_dump(of_kind(overlay, "ServiceAccount")))
    root = pod(overlay)
    root["spec"]["securityContext"]["runAsUser"] = 0
    with pytest.raises(RuntimeError, match="violates PodSecurity"):
        dry_run(kube, root)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_config_map_is_a_configuration(overlay: str, tmp_path: Path) -> None:
    text = of_kind(overlay, "ConfigMap")["data"]["config.yaml"]
    tls = certificates(tmp_path / "tls")
    for inside, made in (("tls.key", "client.key"), ("tls.crt", "client.pem"), ("ca.crt", "ca.pem")):
        text = text.replace(f"/etc/ovnagent-tls/{inside}", str(tls / made))
    found = config.parse(text)
    assert found.networks.pod is not None


def test_the_deployment_runs_the_image_as_it_is_built() -> None:
    dockerfile = (REPOSITORY / "docker" / "agent" / "Dockerfile").read_text()
    user = re.search(r"^USER (\d+):(\d+)$", dockerfile, re.MULTILINE)
    assert user is not None
    context = of_kind("tcp", "Deployment")["spec"]["template"]["spec"]["securityContext"]
    assert (str(context["runAsUser"]), str(context["runAsGroup"])) == (user[1], user[2])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_of_the_host_plug_has_the_sockets_of_open_vswitch_and_nothing_else(kube: ControlPlane, overlay: str) -> None:
    template = copy.deepcopy(of_kind(overlay, "DaemonSet", "ovnagent-plug")["spec"]["template"])
    spec = template["spec"]
    assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
    assert spec["volumes"] == [{"name": "openvswitch", "hostPath": {"path": "/var/run/openvswitch", "type": "Directory"}}]
    (container,) = spec["containers"]
    assert [(each["name"], each["readOnly"]) for each in container["volumeMounts"]] == [("openvswitch", True)]
    context = container["securityContext"]
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["readOnlyRootFilesystem"] is True
    assert context["allowPrivilegeEscalation"] is False
    namespaces = yaml.safe_dump_all(each for each in manifests(overlay) if each["kind"] == "Namespace")
    kube.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=namespaces)
    kube.apply(yaml.safe_dump(of_kind(overlay, "ServiceAccount", "ovnagent-plug")))
    template["metadata"] |= {"name": "probe", "namespace": "ovnagent-plug"}
    dry_run(kube, {"apiVersion": "v1", "kind": "Pod", **template})

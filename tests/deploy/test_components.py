"""The components, added to an overlay as a cluster's operator does it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import yaml

from hack.lab.cluster import REPOSITORY
from hack.lab.kube import command
from hack.lab.process import run
from tests.deploy.conftest import manifests

DEPLOY = REPOSITORY / "deploy"


def with_component(directory: Path, name: str) -> list[dict[str, Any]]:
    """What a component adds to the overlay `tcp`."""
    kustomization = {
        "resources": [os.path.relpath(DEPLOY / "overlays" / "tcp", directory)],
        "components": [os.path.relpath(DEPLOY / "components" / name, directory)],
    }
    (directory / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    found = [each for each in yaml.safe_load_all(run(*command("kubectl"), "kustomize", directory)) if each]
    before = {(each["kind"], each["metadata"]["name"]) for each in manifests("tcp")}
    return [each for each in found if (each["kind"], each["metadata"]["name"]) not in before]


def test_admission_is_two_policies_in_force(tmp_path: Path) -> None:
    added = with_component(tmp_path, "admission")
    assert sorted((each["kind"], each["metadata"]["name"]) for each in added) == [
        (kind, name)
        for kind in ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
        for name in ("ovnagent-addresses", "ovnagent-requests")
    ]
    for each in added:
        assert each["metadata"]["labels"]["app.kubernetes.io/name"] == "ovnagent"  # by which docs/operations.md deletes them
        assert each["spec"].get("validationActions", ["Deny"]) == ["Deny"]


def test_monitoring_selects_what_is_there(tmp_path: Path) -> None:
    added = {each["kind"]: each for each in with_component(tmp_path, "monitoring")}
    assert sorted(added) == ["ConfigMap", "PodMonitor", "PrometheusRule", "ServiceMonitor"]
    objects = manifests("tcp")
    (service,) = (each for each in objects if each["kind"] == "Service")
    monitor = added["ServiceMonitor"]["spec"]
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["namespaceSelector"]["matchNames"] == [service["metadata"]["namespace"]]
    assert monitor["endpoints"][0]["port"] in {port["name"] for port in service["spec"]["ports"]}
    (daemons,) = (each for each in objects if each["kind"] == "DaemonSet")
    pods, template = added["PodMonitor"]["spec"], daemons["spec"]["template"]
    assert pods["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    assert pods["namespaceSelector"]["matchNames"] == [daemons["metadata"]["namespace"]]
    ports = {port["name"] for container in template["spec"]["containers"] for port in container.get("ports", ())}
    assert pods["podMetricsEndpoints"][0]["port"] in ports
    assert json.loads(added["ConfigMap"]["data"]["ovnagent.json"])["title"] == "ovnagent"

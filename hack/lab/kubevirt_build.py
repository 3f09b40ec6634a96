"""What hack/kubevirt builds: KubeVirt's programs, and what virt-operator would install."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hack.lab.process import run

UNUSED = (
    "virtualmachineinstancepresets.",
    "virtualmachineinstancereplicasets.",
    "virtualmachinepools.",
    "virtualmachinesnapshotcontents.",
)
BUILD = Path(__file__).resolve().parents[1] / "kubevirt" / "build"


@functools.cache
def built() -> Path:
    """The folder that hack/kubevirt builds, for KUBEVIRT_VERSION."""
    return Path(run(BUILD).strip())


def version() -> str:
    """The version of KubeVirt that runs."""
    return built().name.split("-")[1]


@functools.cache
def manifests() -> tuple[Mapping[str, Any], ...]:
    """What virt-operator would install, without what needs virt-operator itself."""
    found = {}
    for line in (built() / "manifests.jsonl").read_text().splitlines():
        obj = json.loads(line)
        name = obj["metadata"]["name"]
        # The pod mutator serves a feature gate that is off.
        if not name.startswith(("virt-operator", "kubevirt-operator", "virt-launcher-pod-mutator")):
            found[obj["kind"], obj["metadata"].get("namespace", ""), name] = obj
    return tuple(found.values())


def crds() -> str:
    """KubeVirt's resource types, as `kubectl create` takes them. The schemas of those that hold whole VMs and nobody uses
    here are left open: the API server takes 4 s of processor time for all instead of 6."""
    return as_list(_opened(each) for each in manifests() if each["kind"] == "CustomResourceDefinition")


def _opened(crd: Mapping[str, Any]) -> Mapping[str, Any]:
    if not crd["metadata"]["name"].startswith(UNUSED):
        return crd
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    versions = [{**version, "schema": schema} for version in crd["spec"]["versions"]]
    return {**crd, "spec": {**crd["spec"], "versions": versions}}


def as_list(objects: Iterable[Mapping[str, Any]]) -> str:
    """Objects as `kubectl create -f -` takes them."""
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})

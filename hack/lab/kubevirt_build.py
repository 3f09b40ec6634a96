"""What hack/kubevirt builds: KubeVirt's programs, and what virt-operator would install."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hack.lab.process import run

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
    """KubeVirt's resource types, as `kubectl create` takes them."""
    return as_list(each for each in manifests() if each["kind"] == "CustomResourceDefinition")


def as_list(objects: Iterable[Mapping[str, Any]]) -> str:
    """Objects as `kubectl create -f -` takes them."""
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})

"""VirtualMachines as their owners write them, for `kubectl apply`; several may follow each other."""

from __future__ import annotations

import json
from typing import Any

MIGRATES = "kubevirt.io/allow-pod-bridge-network-live-migration"
ASKS = "ovn.kubernetes.io/"


def vm(name: str, strategy: str = "Always", **asked: str) -> str:
    """One in namespace `default`, with a bridge interface on the pod network, that may migrate. `asked`: what it asks for,
    by the annotation's last part (`ip_address="10.16.0.9"`)."""
    annotations = {MIGRATES: "true", **{ASKS + key: value for key, value in asked.items()}}
    spec: dict[str, Any] = {
        "domain": {"devices": {"interfaces": [{"name": "default", "bridge": {}}]}, "memory": {"guest": "64Mi"}},
        "networks": [{"name": "default", "pod": {}}],
    }
    return json.dumps(
        {
            "apiVersion": "kubevirt.io/v1",
            "kind": "VirtualMachine",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"runStrategy": strategy, "template": {"metadata": {"annotations": annotations}, "spec": spec}},
        }
    )

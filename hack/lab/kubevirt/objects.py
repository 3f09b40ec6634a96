"""What is read from objects of Kubernetes and KubeVirt, and the parts of a status, as virt-handler and kubelet write it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from hack.lab.kubevirt.api import Obj, uid_of

LAUNCHER_LABEL = "kubevirt.io"
CREATED_BY = "kubevirt.io/created-by"
MIGRATION_UID = "kubevirt.io/migrationJobUID"
MIGRATION_NAME = "kubevirt.io/migrationJobName"
NODE_NAME = "kubevirt.io/nodeName"
TARGET_NODE_NAME = "kubevirt.io/migrationTargetNodeName"
EPHEMERAL = "kubevirt.io/ephemeral-provisioning"
DEFAULT_NAD = "v1.multus-cni.io/default-network"
"""The NAD that Multus attaches in place of the pod network."""
NETWORK_STATUS = "k8s.v1.cni.cncf.io/network-status"

MACHINE = "pc-q35-rhel9.6.0"
"""What virt-handler reports of QEMU's `q35`; a migration's target has to know the same."""
FINAL = ("Succeeded", "Failed")


def now() -> str:
    """The time as Kubernetes writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def deleting(obj: Mapping[str, Any]) -> bool:
    return "deletionTimestamp" in obj["metadata"]


def phase_of(obj: Mapping[str, Any]) -> str:
    phase: str = obj.get("status", {}).get("phase", "")
    return phase


def node_of(pod: Mapping[str, Any]) -> str:
    """Where a pod was bound to; empty if it is not."""
    node: str = pod.get("spec", {}).get("nodeName", "")
    return node


def labels_of(obj: Mapping[str, Any]) -> Mapping[str, str]:
    labels: Mapping[str, str] = obj["metadata"].get("labels") or {}
    return labels


def annotations_of(obj: Mapping[str, Any]) -> Mapping[str, str]:
    annotations: Mapping[str, str] = obj["metadata"].get("annotations") or {}
    return annotations


def is_launcher(pod: Mapping[str, Any]) -> bool:
    """A pod that runs a guest, or will."""
    return labels_of(pod).get(LAUNCHER_LABEL) == "virt-launcher" and EPHEMERAL not in annotations_of(pod)


def condition(obj: Mapping[str, Any], kind: str) -> Obj | None:
    """A condition of an object's status."""
    found: Obj | None = next((each for each in obj.get("status", {}).get("conditions") or () if each["type"] == kind), None)
    return found


def set_condition(obj: Obj, kind: str, true: bool, reason: str = "", message: str = "", probed: bool = False) -> None:
    """Set a condition; its transition time moves only when its status does."""
    conditions = obj.setdefault("status", {}).setdefault("conditions", [])
    wanted: Obj = {"type": kind, "status": str(true), "lastProbeTime": now() if probed else None}
    wanted |= {key: value for key, value in (("reason", reason), ("message", message)) if value}
    known = condition(obj, kind)
    if known is None:
        conditions.append(wanted | {"lastTransitionTime": now()})
        return
    same = {key: known.get(key) for key in ("status", "reason", "message")} == {
        key: wanted.get(key) for key in ("status", "reason", "message")
    }
    if same:
        return
    changed = known["status"] != wanted["status"]
    wanted["lastTransitionTime"] = now() if changed else known.get("lastTransitionTime")
    conditions[conditions.index(known)] = wanted


def set_phase(obj: Obj, phase: str) -> None:
    """Set the phase of a VMI or a migration, with its time."""
    status = obj.setdefault("status", {})
    if status.get("phase") == phase:
        return
    status["phase"] = phase
    status.setdefault("phaseTransitionTimestamps", []).append({"phase": phase, "phaseTransitionTimestamp": now()})


def owner(obj: Mapping[str, Any], api_version: str, kind: str) -> Obj:
    """A controller reference to an object."""
    return {
        "apiVersion": api_version,
        "kind": kind,
        "name": obj["metadata"]["name"],
        "uid": uid_of(obj),
        "controller": True,
        "blockOwnerDeletion": True,
    }


def interfaces_of(vmi: Mapping[str, Any]) -> list[tuple[Obj, Obj]]:
    """(interface, network) pairs of a VMI, as far as they match."""
    networks = {network["name"]: network for network in vmi["spec"].get("networks") or ()}
    devices = vmi["spec"].get("domain", {}).get("devices", {})
    return [(each, networks[each["name"]]) for each in devices.get("interfaces") or () if each["name"] in networks]


def nad_of(network: Mapping[str, Any], namespace: str) -> str:
    """`namespace/name` of a network's NetworkAttachmentDefinition; empty for the pod network."""
    name: str = network.get("multus", {}).get("networkName", "")
    return name if not name or "/" in name else f"{namespace}/{name}"


def pod_interface(network: Mapping[str, Any]) -> str:
    """An interface's name inside the launcher (kubevirt pkg/network/namescheme)."""
    if "pod" in network or network.get("multus", {}).get("default"):
        return "eth0"
    return "pod" + hashlib.sha256(network["name"].encode()).hexdigest()[:11]


def hostname_of(vmi: Mapping[str, Any]) -> str:
    """The guest's hostname (kubevirt pkg/util/dns, SanitizeHostname)."""
    name: str = vmi["spec"].get("hostname") or vmi["metadata"]["name"]
    return name.split(".")[0][:63].strip("-")


def migration(namespace: str, name: str, vmi: str) -> Obj:
    """A migration as a user creates it."""
    return {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachineInstanceMigration",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"vmiName": vmi},
    }


def ephemeral_launcher_of(launcher: Mapping[str, Any]) -> Obj:
    """The short-lived copy of a launcher by which volumes that wait for their first consumer are provisioned. On another
    node: KubeVirt makes none beside a guest that runs, and virt-controller would take the newest of the VMI's pods on its
    node for the guest's own, and its end for the guest's."""
    metadata = launcher["metadata"]
    kept: Obj = {key: metadata[key] for key in ("generateName", "namespace", "labels", "ownerReferences")}
    kept["annotations"] = {EPHEMERAL: "true"}
    containers = [{"name": each["name"], "image": each["image"]} for each in launcher["spec"]["containers"]]
    elsewhere = {"key": "kubernetes.io/hostname", "operator": "NotIn", "values": [node_of(launcher)]}
    required = {"nodeSelectorTerms": [{"matchExpressions": [elsewhere]}]}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": kept, "spec": {"containers": containers, "affinity": affinity}}


def attachment_pod_of(launcher: Mapping[str, Any], migration: Mapping[str, Any] | None) -> Obj:
    """The pod that brings a hot-plugged volume to a launcher's node; with a migration, to its target's."""
    pod: Obj = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": "hp-volume-",
            "namespace": launcher["metadata"]["namespace"],
            "labels": {LAUNCHER_LABEL: "hotplug-disk"},
            "annotations": {},
            "ownerReferences": [owner(launcher, "v1", "Pod")],
        },
        "spec": {
            "containers": [{"name": "hotplug-disk", "image": "none"}],
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "nodeSelector": {"kubernetes.io/hostname": node_of(launcher)},
        },
    }
    if migration is not None:
        pod["metadata"]["labels"][MIGRATION_UID] = uid_of(migration)
        pod["metadata"]["annotations"][MIGRATION_NAME] = migration["metadata"]["name"]
    return pod


def node(name: str, number: int) -> Obj:
    """A Node with plenty of everything."""
    resources = {
        "cpu": "1000",
        "memory": "4Ti",
        "pods": "10000",
        "ephemeral-storage": "4Ti",
        **{f"devices.kubevirt.io/{device}": "1k" for device in ("kvm", "tun", "vhost-net")},
    }
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {
                "kubernetes.io/hostname": name,
                "kubernetes.io/arch": "amd64",
                "kubernetes.io/os": "linux",
                "kubevirt.io/schedulable": "true",
                # What virt-handler's node-labeller finds out about a host's CPU and QEMU.
                "machine-type.node.kubevirt.io/q35": "true",
                f"machine-type.node.kubevirt.io/{MACHINE}": "true",
                "host-model-cpu.node.kubevirt.io/qemu64": "true",
                "cpu-model-migration.node.kubevirt.io/qemu64": "true",
                "topology.kubernetes.io/zone": f"z{number}",
            },
        },
        "spec": {"podCIDR": f"10.244.{number}.0/24"},
        "status": {
            "capacity": resources,
            "allocatable": resources,
            "addresses": [{"type": "InternalIP", "address": f"192.168.10.{number}"}],
            "nodeInfo": {
                "architecture": "amd64",
                "bootID": "",
                "containerRuntimeVersion": "cri-o://1.36.0",
                "kernelVersion": "",
                "kubeProxyVersion": "",
                "kubeletVersion": "v1.36.3",
                "machineID": "",
                "operatingSystem": "linux",
                "osImage": "lab",
                "systemUUID": "",
            },
        },
    }

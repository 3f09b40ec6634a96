"""The objects that the stand-in creates, and the parts of a status, as KubeVirt v1.9 and a kubelet write them."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from hack.lab.kubevirt.api import Obj, uid_of

LAUNCHER_IMAGE = "quay.io/kubevirt/virt-launcher:v1.9.0"
LAUNCHER_LABEL = "kubevirt.io"
CREATED_BY = "kubevirt.io/created-by"
MIGRATION_UID = "kubevirt.io/migrationJobUID"
MIGRATION_NAME = "kubevirt.io/migrationJobName"
NODE_NAME = "kubevirt.io/nodeName"
TARGET_NODE_NAME = "kubevirt.io/migrationTargetNodeName"
EPHEMERAL = "kubevirt.io/ephemeral-provisioning"
NETWORKS = "k8s.v1.cni.cncf.io/networks"
NETWORK_STATUS = "k8s.v1.cni.cncf.io/network-status"
DEFAULT_NETWORK = "v1.multus-cni.io/default-network"
UNPAUSED = "kubevirt.io/virtual-machine-unpaused"

VM_FINALIZER = "kubevirt.io/virtualMachineControllerFinalize"
VMI_FINALIZER = "kubevirt.io/foregroundDeleteVirtualMachine"
MIGRATION_FINALIZER = "kubevirt.io/migrationJobFinalize"
OBSERVED_VERSIONS = {
    "kubevirt.io/latest-observed-api-version": "v1",
    "kubevirt.io/storage-observed-api-version": "v1",
}

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


def owned_by(obj: Mapping[str, Any], uid: str) -> bool:
    return any(each["uid"] == uid for each in obj["metadata"].get("ownerReferences") or ())


def unfinalize(obj: Obj, *finalizers: str) -> None:
    """Take finalizers off an object, as far as they are there."""
    kept = [each for each in obj["metadata"].get("finalizers") or () if each not in finalizers]
    if kept:
        obj["metadata"]["finalizers"] = kept
    else:
        obj["metadata"].pop("finalizers", None)


# ---- VMI ------------------------------------------------------------------------------------------------------------


def instance_of(vm: Mapping[str, Any]) -> Obj:
    """The VMI of a VM that starts."""
    template = copy.deepcopy(vm["spec"]["template"])
    metadata = template.get("metadata") or {}
    generation = vm["metadata"]["generation"]
    vmi: Obj = {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachineInstance",
        "metadata": {
            "name": vm["metadata"]["name"],
            "namespace": vm["metadata"]["namespace"],
            "labels": metadata.get("labels") or {},
            "annotations": {**(metadata.get("annotations") or {}), "kubevirt.io/vm-generation": str(generation)},
            "ownerReferences": [owner(vm, "kubevirt.io/v1", "VirtualMachine")],
            "finalizers": [VM_FINALIZER],
        },
        "spec": template["spec"],
    }
    admit_instance(vmi)
    vmi["status"]["virtualMachineRevisionName"] = f"revision-start-vm-{uid_of(vm)}-{generation}"
    return vmi


def admit_instance(vmi: Obj) -> None:
    """What KubeVirt's webhooks do to a new VMI."""
    finalizers = vmi["metadata"].setdefault("finalizers", [])
    if VMI_FINALIZER not in finalizers:
        finalizers.append(VMI_FINALIZER)
    set_phase(vmi, "Pending")
    vmi["status"] |= {"guestOSInfo": {}, "runtimeUser": 107}


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


# ---- migrations -----------------------------------------------------------------------------------------------------


def migration(namespace: str, name: str, vmi: str) -> Obj:
    """A migration as the API server stores it when KubeVirt's webhooks have seen it."""
    metadata: Obj = {"name": name, "namespace": namespace}
    found = {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachineInstanceMigration",
        "metadata": metadata,
        "spec": {"vmiName": vmi},
    }
    admit_migration(found)
    return found


def admit_migration(migration: Obj) -> None:
    """What KubeVirt's webhooks do to a new migration."""
    metadata = migration["metadata"]
    metadata.setdefault("labels", {})["kubevirt.io/vmi-name"] = migration["spec"]["vmiName"]
    if MIGRATION_FINALIZER not in metadata.setdefault("finalizers", []):
        metadata["finalizers"].append(MIGRATION_FINALIZER)


# ---- pods -----------------------------------------------------------------------------------------------------------


def hostname_of(vmi: Mapping[str, Any]) -> str:
    """The guest's hostname (kubevirt pkg/util/dns, SanitizeHostname)."""
    name: str = vmi["spec"].get("hostname") or vmi["metadata"]["name"]
    return name.split(".")[0][:63].strip("-")


def launcher_of(vmi: Mapping[str, Any]) -> Obj:
    """The launcher pod of a VMI."""
    name, namespace = vmi["metadata"]["name"], vmi["metadata"]["namespace"]
    label = name if len(name) <= 63 else f"{name[:54]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    spec = vmi["spec"]
    arguments = ["--name", name, "--uid", uid_of(vmi), "--namespace", namespace, "--grace-period-seconds", "45"]
    pod: Obj = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": f"virt-launcher-{name}-",
            "namespace": namespace,
            "labels": {
                **labels_of(vmi),
                LAUNCHER_LABEL: "virt-launcher",
                CREATED_BY: uid_of(vmi),
                "vm.kubevirt.io/name": hostname_of(vmi),
                "vmi.kubevirt.io/id": label,
            },
            "annotations": _launcher_annotations(vmi),
            "ownerReferences": [owner(vmi, "kubevirt.io/v1", "VirtualMachineInstance")],
        },
        "spec": {
            "containers": [
                {
                    "name": "compute",
                    "image": LAUNCHER_IMAGE,
                    "command": ["/usr/bin/virt-launcher-monitor", *arguments],
                    "resources": {
                        "limits": {"devices.kubevirt.io/kvm": "1", "devices.kubevirt.io/tun": "1"},
                        "requests": {"cpu": "10m", "memory": "64Mi"},
                    },
                }
            ],
            "hostname": hostname_of(vmi),
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": spec.get("terminationGracePeriodSeconds", 30) + 30,
            "nodeSelector": {
                "kubernetes.io/arch": "amd64",
                "kubevirt.io/schedulable": "true",
                **(spec.get("nodeSelector") or {}),
            },
            "affinity": copy.deepcopy(spec.get("affinity") or {}),
            "tolerations": copy.deepcopy(spec.get("tolerations") or []),
            "readinessGates": [{"conditionType": UNPAUSED}],
        },
    }
    return pod


def target_launcher_of(vmi: Mapping[str, Any], migration: Mapping[str, Any]) -> Obj:
    """The launcher pod to which a migration moves the guest. Its node label is the VMI's, so that of the *source*."""
    pod = launcher_of(vmi)
    pod["metadata"]["labels"][MIGRATION_UID] = uid_of(migration)
    pod["metadata"]["annotations"][MIGRATION_NAME] = migration["metadata"]["name"]
    terms = pod["spec"]["affinity"].setdefault("podAntiAffinity", {})
    terms.setdefault("requiredDuringSchedulingIgnoredDuringExecution", []).append(
        {"labelSelector": {"matchLabels": {CREATED_BY: uid_of(vmi)}}, "topologyKey": "kubernetes.io/hostname"}
    )
    return pod


def ephemeral_launcher_of(vmi: Mapping[str, Any]) -> Obj:
    """The short-lived copy of a launcher by which volumes that wait for their first consumer are provisioned."""
    pod = launcher_of(vmi)
    pod["metadata"]["annotations"][EPHEMERAL] = "true"
    return pod


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
            "containers": [{"name": "hotplug-disk", "image": LAUNCHER_IMAGE}],
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "nodeSelector": {"kubernetes.io/hostname": node_of(launcher)},
        },
    }
    if migration is not None:
        pod["metadata"]["labels"][MIGRATION_UID] = uid_of(migration)
        pod["metadata"]["annotations"][MIGRATION_NAME] = migration["metadata"]["name"]
    return pod


def _launcher_annotations(vmi: Mapping[str, Any]) -> dict[str, str]:
    name, namespace = vmi["metadata"]["name"], vmi["metadata"]["namespace"]
    observed = set(OBSERVED_VERSIONS)
    annotations = {key: value for key, value in annotations_of(vmi).items() if key not in observed}
    annotations |= {
        "descheduler.alpha.kubernetes.io/request-evict-only": "",
        "kubectl.kubernetes.io/default-container": "compute",
        "kubevirt.io/domain": name,
        "kubevirt.io/memory-overhead-bytes": "281018368",
        "kubevirt.io/migrationTransportUnix": "true",
    }
    for moment in ("pre", "post"):
        flag = "--freeze" if moment == "pre" else "--unfreeze"
        freezer = ["/usr/bin/virt-freezer", flag, "--name", name, "--namespace", namespace]
        annotations[f"{moment}.hook.backup.velero.io/container"] = "compute"
        annotations[f"{moment}.hook.backup.velero.io/command"] = json.dumps(freezer)
    annotations["pre.hook.backup.velero.io/timeout"] = "60s"
    networks = []
    for interface, network in interfaces_of(vmi):
        if "masquerade" in interface:
            annotations["istio.io/reroute-virtual-interfaces"] = "k6t-eth0"
            annotations["traffic.sidecar.istio.io/kubevirtInterfaces"] = "k6t-eth0"
        nad = nad_of(network, namespace)
        if nad and network["multus"].get("default"):
            annotations[DEFAULT_NETWORK] = nad
        elif nad and interface.get("state") != "absent":
            nad_namespace, _, nad_name = nad.partition("/")
            entry = {"name": nad_name, "namespace": nad_namespace}
            entry |= {"mac": interface["macAddress"]} if interface.get("macAddress") else {}
            networks.append(entry | {"interface": pod_interface(network)})
    if networks:
        annotations[NETWORKS] = json.dumps(networks, separators=(",", ":"))
    return annotations


# ---- nodes ----------------------------------------------------------------------------------------------------------


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

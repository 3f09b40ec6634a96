"""Many VMs at once: VM, VMI and launcher as KubeVirt leaves them, of the size that they have in a cluster, written to etcd.

Not by way of the API server: it takes 350 objects a second, and what it would add (UIDs, managed fields) is known. No
control plane of KubeVirt runs, so nothing changes by itself. 10,000 VMs are 245 MB of JSON.
"""

from __future__ import annotations

import base64
import json
import urllib.request
import uuid
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from hack.lab.kube import ControlPlane
from hack.lab.kubevirt import objects
from hack.lab.kubevirt.api import Obj, clone
from hack.lab.process import stop

NAMESPACES = 20
CONDITIONS = ("Ready", "LiveMigratable", "StorageLiveMigratable", "AgentConnected")
VERSIONS = {
    "kubevirt.io/latest-observed-api-version": "v1",
    "kubevirt.io/storage-observed-api-version": "v1",
}
IMAGE = "quay.io/kubevirt/virt-launcher:v1.9.0"
CREATED = "2026-01-01T00:00:00Z"
IN_A_TRANSACTION = 40
"""etcd takes 128 operations and 1.5 MB."""


def only_the_api_server(kube: ControlPlane) -> None:
    """End the controllers: they would watch, and change, what is written."""
    for program in ("kube-controller-manager", "kube-scheduler"):
        stop(kube.directory / f"{program}.pid", seconds=0.2)


def write(kube: ControlPlane, entries: Iterable[tuple[str, Obj]], at_once: int = IN_A_TRANSACTION) -> int:
    """Put objects below these keys into etcd; how many bytes they are. `at_once`: so many in a transaction, with one
    resourceVersion; a watch that is taken up again misses what is left of it, so while somebody watches it must be 1."""
    written = 0
    rest = iter(entries)
    while batch := list(islice(rest, at_once)):
        puts = []
        for key, obj in batch:
            value = json.dumps(obj, separators=(",", ":")).encode()
            written += len(value)
            puts.append({"requestPut": {"key": _base64(key.encode()), "value": _base64(value)}})
        _transact(kube, puts)
    return written


def _transact(kube: ControlPlane, operations: list[Obj]) -> None:
    body = json.dumps({"success": operations}).encode()
    with urllib.request.urlopen(f"{kube.etcd_url}/v3/kv/txn", body, timeout=60) as answer:
        assert answer.status == 200


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def surroundings(nodes: int, namespaces: Iterable[str]) -> Iterator[tuple[str, Obj]]:
    """Nodes and namespaces."""
    for number in range(nodes):
        yield f"/registry/minions/node{number}", _complete(objects.node(f"node{number}", number))
    for name in namespaces:
        namespace = {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}},
            "spec": {"finalizers": ["kubernetes"]},
            "status": {"phase": "Active"},
        }
        yield f"/registry/namespaces/{name}", _complete(namespace)
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": name}}
        yield f"/registry/serviceaccounts/{name}/default", _complete(account)


def namespace_of(number: int) -> str:
    return f"team{number % NAMESPACES:02d}"


def machines(count: int, nodes: int, namespace: str = "") -> Iterator[tuple[str, Obj]]:
    """VM, VMI and launcher of each, running; in turns in all namespaces if none is given."""
    for number in range(count):
        vm = _complete(machine(number, namespace or namespace_of(number)))
        vmi = _complete(instance(vm, f"node{number % nodes}"))
        pod = _complete(launcher(vmi))
        yield from ((key_of(each), each) for each in (vm, vmi, pod))


def migration(vm: Obj, target: str) -> Iterator[tuple[str, Obj]]:
    """A migration of a VM of `machines`, and its target launcher, bound to this node."""
    meta = vm["metadata"]
    moving = objects.migration(meta["namespace"], f"{meta['name']}-move", meta["name"])
    moving["status"] = {"phase": "Scheduling"}
    vmi = _complete(instance(vm, "elsewhere"))
    pod = launcher(vmi, "target")
    _complete(moving)
    pod["metadata"]["labels"][objects.MIGRATION_UID] = moving["metadata"]["uid"]
    pod["spec"]["nodeName"] = target
    pod["status"] = {"phase": "Pending"}
    yield from ((key_of(each), each) for each in (moving, _complete(pod)))


def arrival(vm: Obj, source: str, target: str) -> Iterator[tuple[str, Obj]]:
    """The end of that migration: the guest runs on the target, and the source's launcher has ended."""
    (key, moving), _ = migration(vm, target)
    moving["status"] = {"phase": "Succeeded"}
    vmi = _complete(instance(vm, target))
    vmi["status"]["migrationState"] = {
        "migrationUid": moving["metadata"]["uid"],
        "sourceNode": source,
        "targetNode": target,
        "targetNodeDomainReadyTimestamp": CREATED,
        "completed": True,
    }
    pod = _complete(launcher(_complete(instance(vm, source))))
    pod["status"]["phase"] = "Succeeded"
    yield from ((key, moving), (key_of(vmi), vmi), (key_of(pod), pod))


def requesting(vm: Obj, node: str, mac: str) -> tuple[str, Obj]:
    """The VM's VMI, asking for a MAC, with which the guest runs."""
    vmi = instance(vm, node)
    vmi["metadata"]["annotations"]["ovn.kubernetes.io/mac_address"] = mac
    vmi["status"]["interfaces"][0]["mac"] = mac
    return key_of(vmi), _complete(vmi)


def machine(number: int, namespace: str) -> Obj:
    interfaces = [{"name": "default", "bridge": {}}]
    template = {
        "metadata": {"labels": {"app": "web"}, "annotations": {"kubevirt.io/pci-topology-version": "v3"}},
        "spec": {
            "architecture": "amd64",
            "domain": {
                "cpu": {"cores": 2},
                "devices": {"disks": [_disk(name) for name in ("root", "data", "cloudinit")], "interfaces": interfaces},
                "firmware": {"serial": str(uuid.UUID(int=number)), "uuid": str(uuid.UUID(int=number))},
                "machine": {"type": "q35"},
                "memory": {"guest": "4Gi"},
                "resources": {},
            },
            "evictionStrategy": "LiveMigrate",
            "networks": [{"name": "default", "pod": {}}],
            "terminationGracePeriodSeconds": 30,
            "volumes": [
                {"name": "root", "dataVolume": {"name": f"vm{number:05d}-root"}},
                {"name": "data", "persistentVolumeClaim": {"claimName": f"vm{number:05d}-data"}},
                {"name": "cloudinit", "cloudInitNoCloud": {"userData": "#cloud-config\n" + "# a line of it\n" * 100}},
            ],
        },
    }
    return {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachine",
        "metadata": {
            "name": f"vm{number:05d}",
            "namespace": namespace,
            "labels": {"app": "web"},
            "annotations": dict(VERSIONS),
            "finalizers": ["kubevirt.io/virtualMachineControllerFinalize"],
            "generation": 1,
        },
        "spec": {"runStrategy": "Always", "template": template},
        "status": {
            "conditions": [_condition(kind) for kind in CONDITIONS],
            "created": True,
            "ready": True,
            "desiredGeneration": 1,
            "observedGeneration": 1,
            "printableStatus": "Running",
            "runStrategy": "Always",
            "volumeSnapshotStatuses": [{"enabled": False, "name": name, "reason": "no class"} for name in ("root", "data")],
        },
    }


def instance(vm: Mapping[str, Any], node: str) -> Obj:
    meta, template = vm["metadata"], vm["spec"]["template"]
    vmi: Obj = {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachineInstance",
        "metadata": {
            "name": meta["name"],
            "namespace": meta["namespace"],
            "labels": {**template["metadata"]["labels"], objects.NODE_NAME: node},
            "annotations": {**template["metadata"]["annotations"], **VERSIONS, "kubevirt.io/vm-generation": "1"},
            "ownerReferences": [objects.owner(vm, "kubevirt.io/v1", "VirtualMachine")],
            "finalizers": ["kubevirt.io/virtualMachineControllerFinalize", "kubevirt.io/foregroundDeleteVirtualMachine"],
        },
        "spec": clone(template["spec"]),
    }
    vmi["status"] = {
        "phase": "Running",
        "nodeName": node,
        "activePods": {str(uuid.uuid5(uuid.NAMESPACE_OID, vm["metadata"]["name"])): node},
        "conditions": [_condition(kind) for kind in CONDITIONS],
        "guestOSInfo": {"id": "fedora", "name": "Fedora Linux", "prettyName": "Fedora Linux 41 (Cloud Edition)"},
        "interfaces": [
            {
                "infoSource": "domain, guest-agent",
                "interfaceName": "eth0",
                "ipAddress": "10.16.0.9",
                "ipAddresses": ["10.16.0.9", "fe80::9"],
                "linkState": "up",
                "mac": _mac(vm),
                "name": "default",
                "podInterfaceName": "eth0",
                "queueCount": 1,
            }
        ],
        "memory": {"guestAtBoot": "4Gi", "guestCurrent": "4Gi", "guestRequested": "4Gi", "memoryOverhead": "268Mi"},
        "migrationMethod": "LiveMigration",
        "migrationTransport": "Unix",
        "phaseTransitionTimestamps": [
            {"phase": phase, "phaseTransitionTimestamp": CREATED}
            for phase in ("Pending", "Scheduling", "Scheduled", "Running")
        ],
        "qosClass": "Burstable",
        "volumeStatus": [{"name": name, "target": f"vd{name[0]}"} for name in ("root", "data", "cloudinit")],
    }
    return vmi


def launcher(vmi: Mapping[str, Any], suffix: str = "x7k2p") -> Obj:
    name, namespace, uid = (vmi["metadata"][key] for key in ("name", "namespace", "uid"))
    mac = vmi["status"]["interfaces"][0]["mac"]
    status = {"name": "ovn-kubernetes", "interface": "eth0", "ips": ["10.244.2.5"], "mac": mac, "default": True, "dns": {}}
    folders = ("private", "public", "sockets", "virt-bin-share-dir", "libvirt-runtime", "ephemeral-disks", "hotplug-disks")
    mounts = [{"name": folder, "mountPath": f"/var/run/kubevirt-{folder}"} for folder in folders]
    flags = ("qemu-timeout 351s", "kubevirt-share-dir /var/run/kubevirt", "grace-period-seconds 45", "hypervisor kvm")
    command = ["/usr/bin/virt-launcher-monitor", "--name", name, "--uid", uid, "--namespace", namespace]
    command += [word for flag in flags for word in f"--{flag}".split(" ")]
    devices = {f"devices.kubevirt.io/{device}": "1" for device in ("kvm", "tun", "vhost-net")}
    resources = {"limits": devices, "requests": {"cpu": "100m", "memory": "780Mi", **devices}}
    pod: Obj = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"virt-launcher-{name}-{suffix}",
            "namespace": namespace,
            "labels": {
                **vmi["metadata"]["labels"],
                objects.LAUNCHER_LABEL: "virt-launcher",
                objects.CREATED_BY: uid,
                "vm.kubevirt.io/name": name,
                "vmi.kubevirt.io/id": name,
            },
            "annotations": {
                objects.NETWORK_STATUS: json.dumps([status], indent=4),
                "kubectl.kubernetes.io/default-container": "compute",
                "kubevirt.io/domain": name,
                "kubevirt.io/migrationTransportUnix": "true",
                "post.hook.backup.velero.io/command": f'["/usr/bin/virt-freezer", "--unfreeze", "--name", "{name}"]',
                "pre.hook.backup.velero.io/command": f'["/usr/bin/virt-freezer", "--freeze", "--name", "{name}"]',
            },
            "ownerReferences": [objects.owner(vmi, "kubevirt.io/v1", "VirtualMachineInstance")],
        },
    }
    helper = {"image": IMAGE, "command": ["/usr/bin/virt-tail", "--logfile", "/var/run/log"], **_container(mounts[:2])}
    compute = {"name": "compute", "image": IMAGE, "command": command, "resources": resources, **_container(mounts)}
    pod["spec"] = {
        "containers": [compute],
        "initContainers": [{"name": each, **helper} for each in ("console-log", "volumeroot")],
        "nodeName": vmi["status"]["nodeName"],
        "volumes": [{"name": folder, "emptyDir": {}} for folder in folders],
        "hostname": name,
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 60,
        "nodeSelector": {"kubernetes.io/arch": "amd64", "kubevirt.io/schedulable": "true"},
        "readinessGates": [{"conditionType": "kubevirt.io/virtual-machine-unpaused"}],
        "dnsPolicy": "ClusterFirst",
        "schedulerName": "default-scheduler",
        "securityContext": {"runAsUser": 107, "fsGroup": 107},
    }
    started = {"startedAt": CREATED}
    pod["status"] = {
        "phase": "Running",
        "conditions": [_condition(kind) for kind in ("Initialized", "Ready", "ContainersReady", "PodScheduled")],
        "containerStatuses": [
            {
                "name": "compute",
                "image": IMAGE,
                "imageID": f"{IMAGE}@sha256:{'0' * 64}",
                "containerID": f"cri-o://{'0' * 64}",
                "ready": True,
                "restartCount": 0,
                "started": True,
                "state": {"running": started},
                "lastState": {},
            }
        ],
        "podIP": "10.244.2.5",
        "podIPs": [{"ip": "10.244.2.5"}],
        "hostIP": "192.168.10.1",
        "qosClass": "Burstable",
        "startTime": CREATED,
    }
    return pod


def _complete(obj: Obj) -> Obj:
    """With what the API server adds."""
    meta = obj["metadata"]
    name = f"{obj['kind']}/{meta.get('namespace', '')}/{meta['name']}"
    fields = [
        {
            "apiVersion": obj["apiVersion"],
            "manager": "virt-controller",
            "operation": "Update",
            "fieldsType": "FieldsV1",
            "time": CREATED,
            "fieldsV1": _fields(part),
        }
        for part in ({"metadata": dict(meta), "spec": obj.get("spec", {})}, {"status": obj.get("status", {})})
    ]
    meta |= {"uid": str(uuid.uuid5(uuid.NAMESPACE_URL, name)), "creationTimestamp": CREATED, "managedFields": fields}
    meta.setdefault("generation", 1)
    return obj


def _fields(value: object) -> Obj:
    if isinstance(value, dict):
        return {f"f:{key}": _fields(each) for key, each in value.items()}
    if isinstance(value, list):
        named = [each for each in value if isinstance(each, dict) and "name" in each]
        return {f'k:{{"name":"{each["name"]}"}}': {".": {}} | _fields(each) for each in named}
    return {}


def _container(mounts: list[Obj]) -> Obj:
    env = [{"name": f"VIRT_{name}", "value": "/var/run/kubevirt-private"} for name in ("CACHE", "CONFIG", "RUNTIME", "LOG")]
    return {
        "env": env,
        "volumeMounts": mounts,
        "imagePullPolicy": "IfNotPresent",
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "securityContext": {"capabilities": {"drop": ["ALL"]}, "runAsUser": 107, "runAsNonRoot": True},
    }


def _condition(kind: str) -> Obj:
    return {"type": kind, "status": "True", "lastProbeTime": None, "lastTransitionTime": CREATED}


def _disk(name: str) -> Obj:
    return {"name": name, "disk": {"bus": "virtio"}}


def _mac(vm: Mapping[str, Any]) -> str:
    digest = uuid.uuid5(uuid.NAMESPACE_X500, f"{vm['metadata']['namespace']}/{vm['metadata']['name']}").bytes
    return "02:" + ":".join(f"{byte:02x}" for byte in digest[:5])


def path_of(obj: Mapping[str, Any]) -> str:
    """Where the API server has it."""
    version = obj["apiVersion"]
    root = f"/apis/{version}" if "/" in version else f"/api/{version}"
    return f"{root}/namespaces/{obj['metadata']['namespace']}/{obj['kind'].lower()}s"


def key_of(obj: Mapping[str, Any]) -> str:
    """Where etcd has it."""
    plural = f"{obj['kind'].lower()}s"
    resource = plural if obj["apiVersion"] == "v1" else f"kubevirt.io/{plural}"
    return f"/registry/{resource}/{obj['metadata']['namespace']}/{obj['metadata']['name']}"

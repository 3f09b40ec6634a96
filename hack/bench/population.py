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
from hack.lab.kubevirt.api import Obj
from hack.lab.process import stop

NAMESPACES = 20
CONDITIONS = ("Ready", "LiveMigratable", "StorageLiveMigratable", "AgentConnected")
CREATED = "2026-01-01T00:00:00Z"
IN_A_TRANSACTION = 40
"""etcd takes 128 operations and 1.5 MB."""


def only_the_api_server(kube: ControlPlane) -> None:
    """End the controllers: they would watch, and change, what is written."""
    for program in ("kube-controller-manager", "kube-scheduler"):
        stop(kube.directory / f"{program}.pid", seconds=0.2)


def write(kube: ControlPlane, entries: Iterable[tuple[str, Obj]]) -> int:
    """Put objects below these keys into etcd; how many bytes they are."""
    written = 0
    rest = iter(entries)
    while batch := list(islice(rest, IN_A_TRANSACTION)):
        puts = []
        for key, obj in batch:
            value = json.dumps(obj, separators=(",", ":")).encode()
            written += len(value)
            puts.append({"requestPut": {"key": _base64(key.encode()), "value": _base64(value)}})
        _transact(kube, puts)
    return written


def delete(kube: ControlPlane, keys: Iterable[str]) -> None:
    """Take objects out of etcd."""
    rest = iter(keys)
    while batch := list(islice(rest, IN_A_TRANSACTION)):
        _transact(kube, [{"requestDeleteRange": {"key": _base64(key.encode())}} for key in batch])


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
            "annotations": dict(objects.OBSERVED_VERSIONS),
            "finalizers": [objects.VM_FINALIZER],
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
    vmi = objects.instance_of(vm)
    mac = _mac(vm)
    vmi["metadata"]["labels"][objects.NODE_NAME] = node
    vmi["status"] |= {
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
                "mac": mac,
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
    pod = objects.launcher_of(vmi)
    meta, spec = pod["metadata"], pod["spec"]
    meta["name"] = meta.pop("generateName") + suffix
    mac = vmi["status"]["interfaces"][0]["mac"]
    status = {"name": "ovn-kubernetes", "interface": "eth0", "ips": ["10.244.2.5"], "mac": mac, "default": True, "dns": {}}
    meta["annotations"][objects.NETWORK_STATUS] = json.dumps([status], indent=4)
    folders = ("private", "public", "sockets", "virt-bin-share-dir", "libvirt-runtime", "ephemeral-disks", "hotplug-disks")
    mounts = [{"name": folder, "mountPath": f"/var/run/kubevirt-{folder}"} for folder in folders]
    compute = spec["containers"][0]
    compute |= _container(mounts)
    helper = {"image": objects.LAUNCHER_IMAGE, "command": ["/usr/bin/virt-tail"], "args": ["--logfile", "/var/run/log"]}
    spec |= {
        "nodeName": vmi["status"]["nodeName"],
        "volumes": [{"name": folder, "emptyDir": {}} for folder in folders],
        "initContainers": [{"name": name, **helper, **_container(mounts[:2])} for name in ("console-log", "volumeroot")],
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
                "image": objects.LAUNCHER_IMAGE,
                "imageID": f"{objects.LAUNCHER_IMAGE}@sha256:{'0' * 64}",
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
        for part in ({"metadata": dict(meta), "spec": obj["spec"]}, {"status": obj.get("status", {})})
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
    number = int(vm["metadata"]["name"].removeprefix("vm"))
    return f"02:00:00:{number >> 16 & 255:02x}:{number >> 8 & 255:02x}:{number & 255:02x}"


def key_of(obj: Mapping[str, Any]) -> str:
    """Where etcd has it."""
    plural = f"{obj['kind'].lower()}s"
    resource = plural if obj["apiVersion"] == "v1" else f"kubevirt.io/{plural}"
    return f"/registry/{resource}/{obj['metadata']['namespace']}/{obj['metadata']['name']}"

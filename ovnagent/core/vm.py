"""What the network has to know of a virtual machine, reduced from plain Kubernetes dicts.

A VirtualMachine of 8 kB becomes a value of a few hundred bytes as it is read: 10,000 VMs with their VMIs and launchers
are 232 MB of JSON, and the facts kept of them a twentieth of it. All values are frozen and hold tuples only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

RECORD_ANNOTATION = "ovnagent.io/record"
"""The agent's own annotation on the VM (on the VMI where there is no VM): see core/records.py."""
ADDRESSES_ANNOTATION = "network.kubevirt.io/addresses"
"""KubeVirt's ecosystem key for chosen addresses: `{"<interface>": ["ip", ...]}` (kubevirt/ipam-extensions)."""
CHASSIS_ANNOTATION = "ovnagent.io/chassis"
"""On a Node: the name of its OVN chassis, where the chassis' hostname is not the node's name."""

FINAL_PHASES = frozenset({"Succeeded", "Failed"})
"""Phases of a VMI, a pod and a migration from which there is no way back."""


class VmKey(NamedTuple):
    """A VM's namespace and name. VM, VMI and launcher of one machine share it: a VMI is named after its VM."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Interface:
    """One entry of `spec.domain.devices.interfaces` joined with the `spec.networks` entry of the same name."""

    name: str
    binding: str
    """`bridge`, `masquerade`, `passt`, `sriov`, or the name of a network binding plugin."""
    mac: str = ""
    """`macAddress` as the user wrote it; empty where there is none."""
    state: str = ""
    """`absent` (hot-unplugged), `up`, `down` or empty."""
    nad: str = ""
    """`namespace/name` of the NetworkAttachmentDefinition; empty for the pod network."""
    primary: bool = False
    """`multus.default: true`: this NAD takes the place of the pod network."""


Annotations = tuple[tuple[str, str | None], ...]
"""Annotations that concern the agent, sorted by key; the value is None where it is no string (the template of a VM is
not checked by the API server)."""


@dataclass(frozen=True, slots=True)
class VirtualMachine:
    """A VirtualMachine; `annotations` and `interfaces` are its template's."""

    namespace: str
    name: str
    uid: str
    created: str
    deleting: bool
    annotations: Annotations
    interfaces: tuple[Interface, ...]
    hostname: str
    record: str

    @property
    def key(self) -> VmKey:
        return VmKey(self.namespace, self.name)


@dataclass(frozen=True, slots=True)
class MigrationState:
    """`VMI.status.migrationState`. It shows the *previous* migration until hand-off: compare `uid`."""

    uid: str
    source_node: str
    target_node: str
    target_ready: bool
    """`targetNodeDomainReadyTimestamp` is set: the domain runs on the target."""
    completed: bool
    failed: bool


@dataclass(frozen=True, slots=True)
class Instance:
    """A VirtualMachineInstance."""

    namespace: str
    name: str
    uid: str
    created: str
    deleting: bool
    vm_uid: str
    """UID of the VirtualMachine that owns it; empty for a standalone or orphaned VMI."""
    phase: str
    node: str
    annotations: Annotations
    interfaces: tuple[Interface, ...]
    hostname: str
    record: str
    migration: MigrationState | None
    macs: tuple[tuple[str, str], ...]
    """(interface name, MAC) as `status.interfaces` reports it."""

    @property
    def key(self) -> VmKey:
        return VmKey(self.namespace, self.name)

    @property
    def final(self) -> bool:
        return self.phase in FINAL_PHASES


@dataclass(frozen=True, slots=True)
class Migration:
    """A VirtualMachineInstanceMigration."""

    namespace: str
    name: str
    uid: str
    created: str
    deleting: bool
    vmi: str
    phase: str

    @property
    def key(self) -> VmKey:
        return VmKey(self.namespace, self.vmi)

    @property
    def open(self) -> bool:
        """Neither Succeeded nor Failed. One that is being deleted stays open until KubeVirt has ended it."""
        return self.phase not in FINAL_PHASES


@dataclass(frozen=True, slots=True)
class Launcher:
    """A virt-launcher pod (label `kubevirt.io=virt-launcher`)."""

    namespace: str
    name: str
    uid: str
    created: str
    deleting: bool
    vmi: str
    vmi_uid: str
    node: str
    """`spec.nodeName`: never the label `kubevirt.io/nodeName`, which on a migration target names the *source*."""
    phase: str
    migration_uid: str
    """`kubevirt.io/migrationJobUID`; stays for ever, also once the pod is the source of a later migration."""
    ephemeral: bool
    """A temporary pod that provisions volumes (`kubevirt.io/ephemeral-provisioning`)."""
    attached: tuple[tuple[str, str, str], ...]
    """(interface in the pod, network, MAC) from the network-status annotation; the pod network's interface is `eth0`, a
    secondary network is the NAD's `namespace/name`."""

    @property
    def key(self) -> VmKey:
        return VmKey(self.namespace, self.vmi)

    @property
    def alive(self) -> bool:
        """It may hold a guest or its interfaces, now or soon."""
        return self.phase not in FINAL_PHASES and not self.ephemeral


@dataclass(frozen=True, slots=True)
class Node:
    """A Node; `chassis` is the chassis name that an annotation gives, or empty."""

    name: str
    chassis: str


@dataclass(frozen=True, slots=True)
class Attachable:
    """A NetworkAttachmentDefinition; `network` names the configured network it attaches to, where it says so itself."""

    namespace: str
    name: str
    network: str

    @property
    def nad(self) -> str:
        return f"{self.namespace}/{self.name}"


Fact = VirtualMachine | Instance | Migration | Launcher | Node | Attachable


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything Kubernetes says of one VM."""

    key: VmKey
    vm: VirtualMachine | None = None
    vmi: Instance | None = None
    migrations: tuple[Migration, ...] = ()
    launchers: tuple[Launcher, ...] = ()

    @property
    def empty(self) -> bool:
        """Nothing is left that could use or claim an address. A finished migration object claims nothing."""
        return self.vm is None and self.vmi is None and not any(pod.alive for pod in self.launchers)


def pod_interface(interface: Interface) -> str:
    """The name of an interface inside the launcher pod (kubevirt pkg/network/namescheme: 14 characters of a hash)."""
    if not interface.nad or interface.primary:
        return "eth0"
    return "pod" + hashlib.sha256(interface.name.encode()).hexdigest()[:11]


# ---- from Kubernetes objects ----------------------------------------------------------------------------------------


def virtual_machine(obj: Mapping[str, Any]) -> VirtualMachine:
    """Reduce a `kubevirt.io/v1` VirtualMachine."""
    meta = obj["metadata"]
    template = _dict(_dict(obj.get("spec")).get("template"))
    spec = _dict(template.get("spec"))
    return VirtualMachine(
        namespace=meta["namespace"],
        name=meta["name"],
        uid=meta["uid"],
        created=meta.get("creationTimestamp") or "",
        deleting=bool(meta.get("deletionTimestamp")),
        annotations=_annotations(_dict(template.get("metadata"))),
        interfaces=_interfaces(spec, meta["namespace"]),
        hostname=_text(spec.get("hostname")),
        record=_record(meta),
    )


def instance(obj: Mapping[str, Any]) -> Instance:
    """Reduce a `kubevirt.io/v1` VirtualMachineInstance."""
    meta, status = obj["metadata"], _dict(obj.get("status"))
    spec = _dict(obj.get("spec"))
    return Instance(
        namespace=meta["namespace"],
        name=meta["name"],
        uid=meta["uid"],
        created=meta.get("creationTimestamp") or "",
        deleting=bool(meta.get("deletionTimestamp")),
        vm_uid=_owner(meta, "VirtualMachine")[1],
        phase=status.get("phase") or "",
        node=status.get("nodeName") or "",
        annotations=_annotations(meta),
        interfaces=_interfaces(spec, meta["namespace"]),
        hostname=_text(spec.get("hostname")),
        record=_record(meta),
        migration=_migration_state(status.get("migrationState")),
        macs=tuple(
            (entry["name"], entry["mac"])
            for entry in status.get("interfaces") or ()
            if entry.get("name") and entry.get("mac")
        ),
    )


def migration(obj: Mapping[str, Any]) -> Migration:
    """Reduce a `kubevirt.io/v1` VirtualMachineInstanceMigration."""
    meta = obj["metadata"]
    return Migration(
        namespace=meta["namespace"],
        name=meta["name"],
        uid=meta["uid"],
        created=meta.get("creationTimestamp") or "",
        deleting=bool(meta.get("deletionTimestamp")),
        vmi=_text(_dict(obj.get("spec")).get("vmiName")),
        phase=_dict(obj.get("status")).get("phase") or "",
    )


def launcher(obj: Mapping[str, Any]) -> Launcher:
    """Reduce a virt-launcher pod. The VMI's name comes from the owner (or the annotation `kubevirt.io/domain`), never
    from `vm.kubevirt.io/name`, which is a truncated hostname."""
    meta = obj["metadata"]
    labels, annotations = _dict(meta.get("labels")), _dict(meta.get("annotations"))
    owner_name, owner_uid = _owner(meta, "VirtualMachineInstance")
    return Launcher(
        namespace=meta["namespace"],
        name=meta["name"],
        uid=meta["uid"],
        created=meta.get("creationTimestamp") or "",
        deleting=bool(meta.get("deletionTimestamp")),
        vmi=owner_name or annotations.get("kubevirt.io/domain") or "",
        vmi_uid=labels.get("kubevirt.io/created-by") or owner_uid,
        node=_dict(obj.get("spec")).get("nodeName") or "",
        phase=_dict(obj.get("status")).get("phase") or "",
        migration_uid=labels.get("kubevirt.io/migrationJobUID") or "",
        ephemeral="kubevirt.io/ephemeral-provisioning" in annotations,
        attached=_network_status(annotations.get("k8s.v1.cni.cncf.io/network-status")),
    )


def node(obj: Mapping[str, Any]) -> Node:
    """Reduce a Node."""
    meta = obj["metadata"]
    return Node(name=meta["name"], chassis=_dict(meta.get("annotations")).get(CHASSIS_ANNOTATION) or "")


def attachable(obj: Mapping[str, Any]) -> Attachable:
    """Reduce a `k8s.cni.cncf.io/v1` NetworkAttachmentDefinition."""
    meta = obj["metadata"]
    annotations = _dict(meta.get("annotations"))
    return Attachable(
        namespace=meta["namespace"],
        name=meta["name"],
        network=_text(annotations.get("ovn.kubernetes.io/logical_switch")),
    )


def _dict(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _owner(meta: Mapping[str, Any], kind: str) -> tuple[str, str]:
    """(name, UID) of the owner of this kind in KubeVirt's group, or empty strings."""
    for owner in meta.get("ownerReferences") or ():
        if owner.get("kind") == kind and str(owner.get("apiVersion", "")).startswith("kubevirt.io/"):
            return owner.get("name", ""), owner.get("uid", "")
    return "", ""


def _record(meta: Mapping[str, Any]) -> str:
    return _text(_dict(meta.get("annotations")).get(RECORD_ANNOTATION))


def _annotations(meta: Mapping[str, Any]) -> Annotations:
    kept = [
        (key, value if isinstance(value, str) else None)
        for key, value in _dict(meta.get("annotations")).items()
        if key == ADDRESSES_ANNOTATION or _is_network_key(key)
    ]
    return tuple(sorted(kept, key=lambda item: item[0]))


def _is_network_key(key: str) -> bool:
    """`ovn.kubernetes.io/<key>`, `<nad>.<ns>.ovn.kubernetes.io/<key>`, `<nad>.<ns>.kubernetes.io/<key>`."""
    domain = key.partition("/")[0]
    return domain == "ovn.kubernetes.io" or (domain.endswith(".kubernetes.io") and domain.count(".") >= 3)


_BINDINGS = {
    "bridge": "bridge",
    "masquerade": "masquerade",
    "passtBinding": "passt",
    "passt": "passt",
    "sriov": "sriov",
}


def _interfaces(spec: Mapping[str, Any], namespace: str) -> tuple[Interface, ...]:
    """Interfaces joined with their networks by name. What matches no network, or is no dict, is KubeVirt's to refuse."""
    networks = {
        entry.get("name"): entry for entry in spec.get("networks") or () if isinstance(entry, dict) and entry.get("name")
    }
    devices = _dict(_dict(spec.get("domain")).get("devices"))
    found = []
    for entry in devices.get("interfaces") or ():
        if not isinstance(entry, dict) or entry.get("name") not in networks:
            continue
        network = networks[entry["name"]]
        multus = _dict(network.get("multus"))
        nad = _text(multus.get("networkName"))
        if not nad and "pod" not in network:
            continue
        found.append(
            Interface(
                name=entry["name"],
                binding=_binding(entry),
                mac=_text(entry.get("macAddress")),
                state=_text(entry.get("state")),
                nad=nad if "/" in nad or not nad else f"{namespace}/{nad}",
                primary=multus.get("default") is True,
            )
        )
    return tuple(found)


def _binding(entry: Mapping[str, Any]) -> str:
    for key, binding in _BINDINGS.items():
        if key in entry:
            return binding
    return _text(_dict(entry.get("binding")).get("name")) or "bridge"


def _migration_state(state: object) -> MigrationState | None:
    if not isinstance(state, dict) or not state.get("migrationUid"):
        return None
    return MigrationState(
        uid=state["migrationUid"],
        source_node=state.get("sourceNode") or "",
        target_node=state.get("targetNode") or "",
        target_ready=bool(state.get("targetNodeDomainReadyTimestamp")),
        completed=bool(state.get("completed")),
        failed=bool(state.get("failed")),
    )


def _network_status(text: object) -> tuple[tuple[str, str, str], ...]:
    """(interface, network, MAC) of a pod's interfaces from Multus' network-status annotation."""
    if not isinstance(text, str) or not text:
        return ()
    try:
        entries = json.loads(text)
    except ValueError:
        return ()
    found = []
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict):
            interface = "eth0" if entry.get("default") else _text(entry.get("interface"))
            if interface:
                found.append((interface, _text(entry.get("name")), _text(entry.get("mac"))))
    return tuple(found)

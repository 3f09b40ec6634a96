"""Kubernetes objects, as plain dicts, reduced to the facts that count. What is odd in an object harms nobody."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ovnagent.core.vm import (
    ADDRESSES_ANNOTATION,
    CHASSIS_ANNOTATION,
    RECORD_ANNOTATION,
    Annotations,
    Attachable,
    Instance,
    Interface,
    Launcher,
    Migration,
    MigrationState,
    Node,
    VirtualMachine,
)


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

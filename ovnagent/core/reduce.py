"""Kubernetes objects, as plain JSON, reduced to the facts that count. What is odd in an object harms nobody.

Nothing is taken on trust: whatever its type, a field is read by core/values.py or it is absent, and a sentence about it
stays with the fact for the object's owner. Only an object that cannot even be named is refused (UnreadableError).

Texts that many objects share (names of nodes and interfaces, phases, keys) are interned: 10,000 VMs hold each once."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from ovnagent.core import limits, records, values
from ovnagent.core.vm import (
    ADDRESSES_ANNOTATION,
    CHASSIS_ANNOTATION,
    INTERFACE_STATES,
    LOGICAL_SWITCH_KEY,
    RECORD_ANNOTATION,
    REQUEST_KEYS,
    Annotations,
    Complaints,
    Instance,
    Interface,
    Launcher,
    Migration,
    MigrationState,
    Namespace,
    NetworkAttachmentDefinition,
    Node,
    VirtualMachine,
)

NETWORK_STATUS_ANNOTATION = "k8s.v1.cni.cncf.io/network-status"
DOMAIN_ANNOTATION = "kubevirt.io/domain"
EPHEMERAL_ANNOTATION = "kubevirt.io/ephemeral-provisioning"


class UnreadableError(Exception):
    """An object that cannot be told from others: it has no namespace, name or UID that is one. Set it aside."""

    def __init__(self, namespace: str, name: str, reason: str) -> None:
        super().__init__(reason)
        self.namespace = namespace
        """Empty where it is not known."""
        self.name = name
        """Empty where it is not known."""


def virtual_machine(obj: object) -> VirtualMachine:
    """Reduce a `kubevirt.io/v1` VirtualMachine.

    Raises UnreadableError."""
    reader = _Reader(obj)
    template = _dict(_dict(reader.obj.get("spec")).get("template"))
    spec = _dict(template.get("spec"))
    namespace, name, uid = reader.identity("namespace", "name", "uid")
    return VirtualMachine(
        namespace=namespace,
        name=name,
        uid=uid,
        created=reader.created(),
        deleting=reader.deleting(),
        annotations=reader.requests(_dict(template.get("metadata"))),
        interfaces=reader.interfaces(spec, namespace),
        hostname=reader.text(spec.get("hostname"), values.parse_label, "hostname"),
        record=reader.record(),
        complaints=reader.complaints(),
    )


def instance(obj: object) -> Instance:
    """Reduce a `kubevirt.io/v1` VirtualMachineInstance.

    Raises UnreadableError."""
    reader = _Reader(obj)
    spec, status = _dict(reader.obj.get("spec")), _dict(reader.obj.get("status"))
    namespace, name, uid = reader.identity("namespace", "name", "uid")
    interfaces = reader.interfaces(spec, namespace)
    return Instance(
        namespace=namespace,
        name=name,
        uid=uid,
        created=reader.created(),
        deleting=reader.deleting(),
        vm_uid=reader.owner("VirtualMachine")[1],
        phase=reader.text(status.get("phase"), _phase, "status.phase"),
        node=reader.text(status.get("nodeName"), _name, "status.nodeName"),
        annotations=reader.requests(reader.meta),
        interfaces=interfaces,
        hostname=reader.text(spec.get("hostname"), values.parse_label, "hostname"),
        record=reader.record(),
        migration=reader.migration_state(_dict(status.get("migrationState"))),
        macs=reader.macs(status, interfaces),
        complaints=reader.complaints(),
    )


def migration(obj: object) -> Migration:
    """Reduce a `kubevirt.io/v1` VirtualMachineInstanceMigration.

    Raises UnreadableError."""
    reader = _Reader(obj)
    namespace, name, uid = reader.identity("namespace", "name", "uid")
    return Migration(
        namespace=namespace,
        name=name,
        uid=uid,
        created=reader.created(),
        deleting=reader.deleting(),
        vmi=reader.text(_dict(reader.obj.get("spec")).get("vmiName"), values.parse_name, "spec.vmiName"),
        phase=reader.text(_dict(reader.obj.get("status")).get("phase"), _phase, "status.phase"),
        complaints=reader.complaints(),
    )


def launcher(obj: object) -> Launcher:
    """Reduce a virt-launcher pod. The VMI's name comes from the owner (or the annotation `kubevirt.io/domain`), never
    from `vm.kubevirt.io/name`, which is a truncated hostname.

    Raises UnreadableError."""
    reader = _Reader(obj)
    labels, annotations = _dict(reader.meta.get("labels")), reader.annotations
    namespace, name, uid = reader.identity("namespace", "name", "uid")
    owner_name, owner_uid = reader.owner("VirtualMachineInstance")
    vmi = owner_name or reader.text(annotations.get(DOMAIN_ANNOTATION), values.parse_name, DOMAIN_ANNOTATION)
    created_by = reader.text(labels.get("kubevirt.io/created-by"), values.parse_uid, "kubevirt.io/created-by")
    job = labels.get("kubevirt.io/migrationJobUID")
    return Launcher(
        namespace=namespace,
        name=name,
        uid=uid,
        created=reader.created(),
        deleting=reader.deleting(),
        vmi=vmi,
        vmi_uid=created_by or owner_uid,
        node=reader.text(_dict(reader.obj.get("spec")).get("nodeName"), _name, "spec.nodeName"),
        phase=reader.text(_dict(reader.obj.get("status")).get("phase"), _phase, "status.phase"),
        migration_uid=reader.text(job, values.parse_uid, "kubevirt.io/migrationJobUID"),
        ephemeral=EPHEMERAL_ANNOTATION in annotations,
        attached=reader.attached(),
        complaints=reader.complaints(),
    )


def node(obj: object) -> Node:
    """Reduce a Node.

    Raises UnreadableError."""
    reader = _Reader(obj)
    (name,) = reader.identity("name")
    chassis = reader.text(reader.annotations.get(CHASSIS_ANNOTATION), values.parse_chassis, CHASSIS_ANNOTATION)
    return Node(name=name, chassis=chassis, complaints=reader.complaints())


def network_attachment_definition(obj: object) -> NetworkAttachmentDefinition:
    """Reduce a `k8s.cni.cncf.io/v1` NetworkAttachmentDefinition.

    Raises UnreadableError."""
    reader = _Reader(obj)
    namespace, name = reader.identity("namespace", "name")
    network = reader.text(reader.annotations.get(LOGICAL_SWITCH_KEY), values.parse_title, LOGICAL_SWITCH_KEY)
    return NetworkAttachmentDefinition(namespace=namespace, name=name, network=network, complaints=reader.complaints())


def namespace(obj: object) -> Namespace:
    """Reduce a Namespace. A label that is none (the API server would not have taken it) is left out.

    Raises UnreadableError."""
    reader = _Reader(obj)
    (name,) = reader.identity("name")
    labels = [
        (key, value)
        for key, value in _dict(reader.meta.get("labels")).items()
        if values.TOKEN.fullmatch(key) and isinstance(value, str) and (not value or values.TOKEN.fullmatch(value))
    ]
    return Namespace(name=name, labels=tuple(sorted(labels)))


def _dict(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _dicts(value: object) -> Iterator[Mapping[str, Any]]:
    """Those entries of a list that are objects."""
    return (entry for entry in value if isinstance(entry, dict)) if isinstance(value, list) else iter(())


def _shared(parse: Callable[[str], str]) -> Callable[[str], str]:
    """For what many objects hold: it is parsed once, and held once."""
    return lru_cache(maxsize=1 << 12)(lambda text: sys.intern(parse(text)))


_label, _name, _namespaced = map(_shared, (values.parse_label, values.parse_name, values.parse_namespaced))
_phase, _token = map(_shared, (values.parse_phase, values.parse_token))
_interface_name, _device = map(_shared, (values.parse_interface, values.parse_device))
_IDENTIFIERS = {"namespace": _label, "name": values.parse_name, "uid": values.parse_uid}
_BINDINGS = {
    "bridge": "bridge",
    "masquerade": "masquerade",
    "passtBinding": "passt",
    "passt": "passt",
    "sriov": "sriov",
}


class _Reader:
    """Reads the fields of one object, and collects what is wrong with them."""

    def __init__(self, obj: object) -> None:
        self.obj = _dict(obj)
        self.meta = _dict(self.obj.get("metadata"))
        self.annotations = _dict(self.meta.get("annotations"))
        self._complaints: list[str] = []
        self._more = 0

    # -- any field

    def text(self, value: object, parse: Callable[[str], str], field: str) -> str:
        """What `parse` makes of a field; empty where there is none, or none that can be read."""
        if not isinstance(value, str):
            if value is not None:
                self.complain(field, "it is no text")
            return ""
        try:
            return parse(value) if value else ""
        except ValueError as error:
            self.complain(field, str(error))
            return ""

    def complain(self, field: str, sentence: str) -> None:
        if len(self._complaints) < limits.COMPLAINTS:
            self._complaints.append(f"{field}: {sentence}")
        else:
            self._more += 1

    def complaints(self) -> Complaints:
        return (*self._complaints, *((f"and {self._more} more like these",) if self._more else ()))

    # -- metadata

    def identity(self, *keys: str) -> tuple[str, ...]:
        """What the object is told by, of `namespace`, `name` and `uid`.

        Raises UnreadableError."""
        found = {key: self.text(self.meta.get(key), _IDENTIFIERS[key], f"metadata.{key}") for key in keys}
        if not all(found.values()):
            absent = "; ".join(self._complaints) or "it has not all of metadata." + ", metadata.".join(keys)
            raise UnreadableError(found.get("namespace", ""), found.get("name", ""), absent)
        return tuple(found.values())

    def created(self) -> str:
        return self.text(self.meta.get("creationTimestamp"), values.parse_time, "metadata.creationTimestamp")

    def deleting(self) -> bool:
        return bool(self.meta.get("deletionTimestamp"))

    def owner(self, kind: str) -> tuple[str, str]:
        """(name, UID) of the owner of this kind in KubeVirt's group, or empty strings."""
        for owner in _dicts(self.meta.get("ownerReferences")):
            version = owner.get("apiVersion")
            if owner.get("kind") == kind and isinstance(version, str) and version.startswith("kubevirt.io/"):
                name = self.text(owner.get("name"), values.parse_name, "ownerReferences.name")
                return name, self.text(owner.get("uid"), values.parse_uid, "ownerReferences.uid")
        return "", ""

    # -- annotations

    def requests(self, meta: Mapping[str, Any]) -> Annotations:
        """The annotations by which something is asked for, sorted. One that cannot be read stays as None: nothing is granted
        on a guess at what it was."""
        keys = sorted(key for key in _dict(meta.get("annotations")) if _asks(key))
        if len(keys) > limits.ANNOTATIONS:
            self.complain(
                "annotations", f"{len(keys)} of them ask for something; the first {limits.ANNOTATIONS} by name are read"
            )
        found: list[tuple[str, str | None]] = []
        room = limits.ANNOTATIONS_TEXT
        for key in keys[: limits.ANNOTATIONS]:
            value = meta["annotations"][key]
            readable = isinstance(value, str) and len(value) <= min(limits.ANNOTATION, room)
            found.append((sys.intern(key), value if readable else None))
            room -= len(value) if readable else 0
        return tuple(found)

    def record(self) -> str:
        return self.text(self.annotations.get(RECORD_ANNOTATION), _record, RECORD_ANNOTATION)

    def attached(self) -> tuple[tuple[str, str, str], ...]:
        """(interface, network, MAC) of a pod's interfaces from Multus' network-status annotation."""
        key = NETWORK_STATUS_ANNOTATION
        text = self.annotations.get(key)
        if not isinstance(text, str) or not text:
            return ()
        try:
            entries = list(_dicts(values.parse_json(text, limits.NETWORK_STATUS)))
            values.check_count(len(entries), limits.ATTACHED, "interfaces")
        except ValueError as error:
            self.complain(key, str(error))
            return ()
        found = []
        for entry in entries:
            interface = "eth0" if entry.get("default") else self.text(entry.get("interface"), _device, key)
            if interface:
                network = self.text(entry.get("name"), _token, key)
                found.append((interface, network, self.text(entry.get("mac"), values.parse_mac, key)))
        return tuple(found)

    # -- interfaces

    def interfaces(self, spec: Mapping[str, Any], namespace: str) -> tuple[Interface, ...]:
        """Interfaces joined with their networks by name. What matches no network, or is no object, is KubeVirt's to
        refuse."""
        networks = {entry["name"]: entry for entry in _dicts(spec.get("networks")) if isinstance(entry.get("name"), str)}
        devices = _dict(_dict(spec.get("domain")).get("devices"))
        entries = [
            entry
            for entry in _dicts(devices.get("interfaces"))
            if isinstance(entry.get("name"), str) and entry["name"] in networks
        ]
        if len(entries) > limits.INTERFACES:
            self.complain("interfaces", f"there are {len(entries)}; the first {limits.INTERFACES} get ports")
        found: dict[str, Interface] = {}
        for entry in entries[: limits.INTERFACES]:
            interface = self._interface(entry, networks[entry["name"]], namespace)
            if interface is not None:
                found.setdefault(interface.name, interface)
        return tuple(found.values())

    def _interface(self, entry: Mapping[str, Any], network: Mapping[str, Any], namespace: str) -> Interface | None:
        multus = _dict(network.get("multus"))
        name = self.text(entry["name"], _interface_name, "interfaces.name")
        nad = multus.get("networkName")
        if isinstance(nad, str) and nad and "/" not in nad:
            nad = f"{namespace}/{nad}"
        nad = self.text(nad, _namespaced, f"networkName of {name}")
        if not name or (not nad and (multus.get("networkName") or "pod" not in network)):
            return None
        return Interface(
            name=name,
            binding=self._binding(entry, name),
            mac=self.text(entry.get("macAddress"), _mac_text, f"macAddress of interface {name}"),
            state=self.text(entry.get("state"), _interface_state, f"state of interface {name}"),
            nad=nad,
            primary=multus.get("default") is True,
        )

    def _binding(self, entry: Mapping[str, Any], name: str) -> str:
        for key, binding in _BINDINGS.items():
            if key in entry:
                return binding
        plugin = _dict(entry.get("binding")).get("name")
        return self.text(plugin, _token, f"binding of interface {name}") or "bridge"

    # -- status

    def migration_state(self, state: Mapping[str, Any]) -> MigrationState | None:
        path = "status.migrationState"
        uid = self.text(state.get("migrationUid"), values.parse_uid, f"{path}.migrationUid")
        if not uid:
            return None
        return MigrationState(
            uid=uid,
            source_node=self.text(state.get("sourceNode"), _name, f"{path}.sourceNode"),
            target_node=self.text(state.get("targetNode"), _name, f"{path}.targetNode"),
            target_ready=bool(state.get("targetNodeDomainReadyTimestamp")),
            failed=state.get("failed") is True,
        )

    def macs(self, status: Mapping[str, Any], interfaces: tuple[Interface, ...]) -> tuple[tuple[str, str], ...]:
        """Of the interfaces that the VM has: a guest agent reports all that the guest made up besides."""
        names = {interface.name: interface.name for interface in interfaces}
        found: dict[str, str] = {}
        for entry in _dicts(status.get("interfaces")):
            name = entry.get("name")
            if isinstance(name, str) and name in names and name not in found:
                mac = self.text(entry.get("mac"), values.parse_mac, f"status.interfaces: MAC of {name}")
                if mac:
                    found[names[name]] = mac
        return tuple(found.items())


def _asks(key: str) -> bool:
    """`ovn.kubernetes.io/<key>`, `<nad>.<ns>.ovn.kubernetes.io/<key>`, `<nad>.<ns>.kubernetes.io/<key>`, the latter two
    also with `.<interface>`; and KubeVirt's own key."""
    domain, _, name = key.partition("/")
    if not domain.endswith("kubernetes.io"):
        return key == ADDRESSES_ANNOTATION
    if name.partition(".")[0] not in REQUEST_KEYS or len(key) > limits.PORT:
        return False
    return domain == "ovn.kubernetes.io" or (domain.endswith(".kubernetes.io") and domain.count(".") >= 3)


def _record(text: str) -> str:
    if records.parse(text) is None:
        raise ValueError("it is no record and claims nothing; the agent writes it anew")
    return text


def _mac_text(text: str) -> str:
    """A MAC as the user wrote it: core/requests.py says what is wrong with it, where it is asked for."""
    return values.parse_line(text, limits.LABEL)


def _interface_state(text: str) -> str:
    if text not in INTERFACE_STATES:
        raise ValueError(f"{values.shown(text)} is none of {', '.join(sorted(INTERFACE_STATES))}")
    return text

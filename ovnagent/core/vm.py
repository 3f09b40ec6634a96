"""What the network has to know of a virtual machine (core/reduce.py makes it of plain Kubernetes dicts).

A VirtualMachine of 8 kB becomes a value of a few hundred bytes as it is read: 10,000 VMs with their VMIs and launchers
are 232 MB of JSON, and the facts kept of them a twentieth of it. All values are frozen and hold tuples only.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

RECORD_ANNOTATION = "ovnagent.io/record"
"""The agent's own annotation on the VM (on the VMI where there is no VM): see core/records.py."""
ADDRESSES_ANNOTATION = "network.kubevirt.io/addresses"
"""KubeVirt's ecosystem key for chosen addresses: `{"<interface>": ["ip", ...]}` (kubevirt/ipam-extensions)."""
CHASSIS_ANNOTATION = "ovnagent.io/chassis"
"""On a Node: the name of its OVN chassis, where the chassis' hostname is not the node's name."""

LOGICAL_SWITCH_KEY = "ovn.kubernetes.io/logical_switch"
"""On a NAD: the configured network to which it attaches."""
REQUEST_KEYS = frozenset(
    {
        "ip_address",
        "ip_pool",
        "mac_address",
        "logical_switch",
        "port_security",
        "dhcp-v4-options",
        "dhcp-v6-options",
        "allowed_address_pairs",
        "egress_rate",
        "ingress_rate",
    }
)
"""What may stand behind the slash of an annotation with a request (core/requests.py): these are Kube-OVN's."""

INTERFACE_STATES = frozenset({"absent", "up", "down"})
"""Values of `interfaces[].state`."""
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
"""Annotations that concern the agent, sorted by key; the value is None where it cannot be read: no string (the template of
a VM is not checked by the API server), or too long a one."""
Complaints = tuple[str, ...]
"""What could not be read of an object and is absent from its fact, as sentences for its owner."""


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
    """The text of the agent's record; empty where there is none, or none that can be read."""
    complaints: Complaints = ()

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
    """(interface name, MAC) as `status.interfaces` reports it, of the interfaces that the specification has."""
    complaints: Complaints = ()

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
    complaints: Complaints = ()

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
    secondary network is the NAD's `namespace/name`. The MAC is empty where it is not told."""
    complaints: Complaints = ()

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
    complaints: Complaints = ()


@dataclass(frozen=True, slots=True)
class NetworkAttachmentDefinition:
    """A NetworkAttachmentDefinition; `network` names the configured network it attaches to, where it says so itself."""

    namespace: str
    name: str
    network: str
    complaints: Complaints = ()

    @property
    def nad(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Namespace:
    """A Namespace and its labels, by which a network may admit it."""

    name: str
    labels: tuple[tuple[str, str], ...]
    """Sorted."""


Fact = VirtualMachine | Instance | Migration | Launcher | Node | NetworkAttachmentDefinition | Namespace


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

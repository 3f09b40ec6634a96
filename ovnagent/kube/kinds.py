"""The kinds of objects that are watched, in all namespaces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ovnagent.core import reduce, vm


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of object."""

    kind: str
    name: str
    """Plural, as in RBAC."""
    api: str
    """`v1`, or group and version."""
    fact: type[vm.Fact]
    reduce: Callable[[object], vm.Fact]
    selector: str = ""
    """Of labels."""
    fields: str = ""
    """A field selector."""
    optional: bool = False
    """Its CRD may be absent: then there are none."""

    @property
    def root(self) -> str:
        return f"/apis/{self.api}" if "/" in self.api else f"/api/{self.api}"

    @property
    def path(self) -> str:
        """Of all objects of the kind."""
        return f"{self.root}/{self.name}"


KUBEVIRT = "kubevirt.io/v1"
KINDS = (
    Kind("VirtualMachine", "virtualmachines", KUBEVIRT, vm.VirtualMachine, reduce.virtual_machine),
    Kind("VirtualMachineInstance", "virtualmachineinstances", KUBEVIRT, vm.Instance, reduce.instance),
    Kind("VirtualMachineInstanceMigration", "virtualmachineinstancemigrations", KUBEVIRT, vm.Migration, reduce.migration),
    Kind("Pod", "pods", "v1", vm.Launcher, reduce.launcher, selector="kubevirt.io=virt-launcher"),
    Kind("Node", "nodes", "v1", vm.Node, reduce.node),
    Kind("Namespace", "namespaces", "v1", vm.Namespace, reduce.namespace),
    Kind(
        "NetworkAttachmentDefinition",
        "network-attachment-definitions",
        "k8s.cni.cncf.io/v1",
        vm.NetworkAttachmentDefinition,
        reduce.network_attachment_definition,
        optional=True,
    ),
)
API_VERSIONS = {kind.kind: kind.api for kind in KINDS}

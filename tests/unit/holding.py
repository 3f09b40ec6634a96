"""What the tests of what a VM holds do at the desk."""

from __future__ import annotations

from ovnagent.core.networks import Network, Networks
from tests.desk import Desk, network, pod_object, vm_object, vmi_object

OVN = "ovn.kubernetes.io"
DUAL = network("10.16.0.0/16", "fd00::/64")


def ask(**asked: str) -> dict[str, str]:
    return {f"{OVN}/{key}": value for key, value in asked.items()}


def feed(desk: Desk, name: str, *, record: str = "", created: str = "2026-01-01T00:00:00Z", **asked: str) -> None:
    made = vm_object(name, annotations=ask(**asked), record=record, created=created)
    desk.feed("MODIFIED", "virtualmachines", made)


def start(desk: Desk, name: str, node: str = "node1", macs: dict[str, str] | None = None, **asked: str) -> None:
    vmi = vmi_object(name, node=node, annotations=ask(**asked), macs=macs)
    desk.feed("MODIFIED", "virtualmachineinstances", vmi)
    desk.feed("MODIFIED", "pods", pod_object(f"{name}-1", name, node=node))


def stop(desk: Desk, name: str) -> None:
    desk.feed("DELETED", "virtualmachineinstances", vmi_object(name))
    desk.feed("DELETED", "pods", pod_object(f"{name}-1", name))


def ips(desk: Desk, name: str) -> tuple[str, ...]:
    return desk.port(f"{name}.default").ips


def configure(desk: Desk, *networks: Network) -> None:
    """The agent is started with another configuration."""
    desk.networks = Networks(networks)
    desk.forget()

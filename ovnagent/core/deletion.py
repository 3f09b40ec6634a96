"""When is a port deleted? The one answer.

A row of the agent's goes if
  * nothing of its VM is left, or the VM's specification does not ask for it any more,
  * no launcher that lives uses it (core/identity.py),
  * and there is evidence: the VM is there without it, or the VM was *seen* to be deleted. Absence from a list is evidence
    for few ports only: an empty answer from a broken API server must not cost a cluster its network. The same holds for
    networks that are absent from the configuration.
If more than that would go, all of it stays until an operator gives his word.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from ovnagent.core.networks import Networks
from ovnagent.core.ports import NETWORK, Port, PresentPort
from ovnagent.core.vm import VmKey

FEW = 10
"""So many ports may always be deleted."""
APPROVAL = "ovnagent-approve-sweep"
"""external_ids key of NB_Global by which an operator lets a held sweep go on; its value is the cluster id."""


def too_many(ports: int, owned: int) -> bool:
    """So many deletions for which there is no evidence need an operator's word."""
    return ports > FEW and ports * 2 > owned


def go_ahead(cluster: str) -> str:
    """The command by which an operator gives it."""
    return f"ovn-nbctl set NB_Global . external_ids:{APPROVAL}={cluster}"


@dataclass(frozen=True, slots=True)
class Brake:
    """What stays although nothing seems to use it."""

    vms: frozenset[VmKey] = frozenset()
    """VMs of which nothing is left in Kubernetes, and that nobody saw deleted."""
    ports: frozenset[str] = frozenset()
    """Ports on networks that the configuration does not name."""
    message: str = ""
    """What to tell an operator; empty where nothing is held."""
    held_ports: int = 0
    approved: bool = False
    """An operator's word is used up by the deletions that follow."""


NO_BRAKE = Brake()


def brake(
    absent: Collection[VmKey],
    by_vm: Mapping[VmKey, tuple[PresentPort, ...]],
    networks: Networks,
    owned: int,
    approved: bool,
    cluster: str,
) -> Brake:
    """`absent`: the VMs that have rows, of which nothing is left in Kubernetes, and that nobody saw deleted: all of them,
    whichever are looked at just now. `owned`: how many rows the agent has."""
    at_stake = sum(len(by_vm.get(key, ())) for key in absent)
    lost = [row.port for rows in by_vm.values() for row in rows if homeless(row.port, networks)]
    hold_vms, hold_ports = too_many(at_stake, owned), too_many(len(lost), owned)
    if approved or not (hold_vms or hold_ports):
        return Brake(approved=hold_vms or hold_ports)
    message = ""
    if hold_vms:
        message = f"{at_stake} of {owned} ports belong to VMs that Kubernetes does not list, and nobody saw them deleted."
    if hold_ports:
        names = ", ".join(sorted({port.external_id(NETWORK) for port in lost}))
        message += " " * bool(message)
        message += f"{len(lost)} of {owned} ports are on networks that the configuration does not name: {names}."
    return Brake(
        vms=frozenset(absent) if hold_vms else frozenset(),
        ports=frozenset(port.name for port in lost) if hold_ports else frozenset(),
        message=f"{message} They stay; nothing of them is deleted. If they are really to go: {go_ahead(cluster)}",
        held_ports=(at_stake if hold_vms else 0) + (len(lost) if hold_ports else 0),
    )


def homeless(port: Port, networks: Networks) -> bool:
    """No configured network is this port's: none has its name, nor its switch and its addresses under another name."""
    name = port.external_id(NETWORK)
    if not name or any(network.name == name for network in networks.all):
        return False
    here = [network for network in networks.all if network.logical_switch == port.switch]
    return not any(network.has_all(port.ips) for network in here)


def obsolete(present: Iterable[PresentPort], wanted: Collection[str], spared: Collection[str]) -> tuple[PresentPort, ...]:
    """The rows of a VM that go: not wanted, and not held. `wanted` holds the names of rows that a launcher uses, too."""
    return tuple(row for row in present if row.port.name not in wanted and row.port.name not in spared)

"""Which of a VM's interfaces get a port, on which network, under which name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from ovnagent.core import problems
from ovnagent.core.identity import name_of
from ovnagent.core.networks import Network, Networks
from ovnagent.core.owner import Owner
from ovnagent.core.placement import SILENT_BINDINGS
from ovnagent.core.ports import INTERFACE, PresentPort
from ovnagent.core.problems import Problem
from ovnagent.core.requests import Request, read
from ovnagent.core.vm import Facts, Interface, VmKey

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Attachment:
    """An interface that gets a port."""

    port: str
    interface: Interface
    network: Network
    request: Request


@dataclass(frozen=True, slots=True)
class Rules:
    """What decides which network an interface attaches to."""

    networks: Networks
    nads: Mapping[str, str]
    """`namespace/name` of a NAD -> the network that the NAD itself names."""
    namespaces: Mapping[str, Labels]
    """Namespace -> its labels."""


def attachments(
    owner: Owner, facts: Facts, rows: Iterable[PresentPort], rules: Rules
) -> tuple[tuple[Attachment, ...], tuple[Problem, ...]]:
    """The owner's interfaces that get a port, and why others get none. What is on no configured network gets none, and
    nobody is blamed."""
    found, troubles = [], []
    for interface in owner.interfaces:
        if interface.state == "absent":
            continue
        silent = interface.binding in SILENT_BINDINGS
        request = read(replace(interface, mac="") if silent else interface, owner.annotations)
        network = _network(interface, request, owner.key, rules)
        if isinstance(network, Problem):
            troubles.append(replace(network, interface=interface.name))
        elif network is not None:
            name = name_of(owner, interface, network, facts, rows)
            if trouble := _insecure(request, network, owner.key, rules):
                troubles.append(replace(trouble, interface=interface.name))
                # A rule that has changed counts from the guest's next start.
                off = owner.running and any(row.port.name == name and not row.port.port_security for row in rows)
                request = request if off else replace(request, port_security=None)
            found.append(Attachment(name, interface, network, request))
    once = {each.port: each for each in reversed(found)}
    once |= {each.port: each for each in found if any(_is_row_of(row, each) for row in rows)}
    for each in found:
        if each is not once[each.port]:
            other = once[each.port].interface.name
            text = (
                f"interface {each.interface.name} would have the logical switch port {each.port}, which is interface "
                f"{other}'s; rename an interface or a NetworkAttachmentDefinition"
            )
            troubles.append(Problem(problems.PORT_REFUSED, text))
    return tuple(each for each in found if each is once[each.port]), tuple(troubles)


def _is_row_of(row: PresentPort, attachment: Attachment) -> bool:
    return (row.port.name, row.port.external_id(INTERFACE)) == (attachment.port, attachment.interface.name)


def _network(interface: Interface, request: Request, key: VmKey, rules: Rules) -> Network | Problem | None:
    networks = rules.networks
    source = ""
    network: Network | None = None
    if request.network:
        source, name = request.network_key, request.network
    elif interface.nad in networks.by_nad:
        network, name = networks.by_nad[interface.nad], ""
    elif name := rules.nads.get(interface.nad, ""):
        source = f"NetworkAttachmentDefinition {interface.nad}"
    else:
        network = networks.pod if not interface.nad and interface.binding != "sriov" else None
    if name:
        network = networks.named(name)
        if network is None:
            # A tenant learns the names of his own networks only.
            known = [each.name for each in networks.all if each.namespaces.admit(key.namespace, _labels(key, rules))]
            text = f"{source} names {name}, which is not configured; choose one of: {', '.join(known)}"
            return Problem(problems.UNKNOWN_NETWORK, text)
    if network is not None and not network.namespaces.admit(key.namespace, _labels(key, rules)):
        who = f"{source} names" if source else f"interface {interface.name} is on"
        text = (
            f"{who} network {network.name}, to which namespace {key.namespace} may not attach (the network's rule "
            "`namespaces`); choose another network, or ask the cluster's operator to admit the namespace"
        )
        return Problem(problems.NETWORK_REFUSED, text)
    return network


def _insecure(request: Request, network: Network, key: VmKey, rules: Rules) -> Problem | None:
    """Why port security may not be switched off as it is asked for, or None."""
    if request.port_security is not False or not network.port_security:
        return None
    if network.port_security_off.admit(key.namespace, _labels(key, rules)):
        return None
    text = (
        f"port security stays on: on network {network.name} namespace {key.namespace} may not switch it off "
        "(the network's rule `allowPortSecurityOff`); ask the cluster's operator"
    )
    return Problem(problems.NETWORK_REFUSED, text)


def _labels(key: VmKey, rules: Rules) -> Labels:
    return rules.namespaces.get(key.namespace, ())

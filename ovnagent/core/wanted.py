"""The wanted row: what was granted and decided for an interface, in OVN's terms."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ovnagent.core import ports, problems
from ovnagent.core.addresses import Grant
from ovnagent.core.attachments import Attachment
from ovnagent.core.dhcp import DhcpOptions, dhcpv4, dhcpv6
from ovnagent.core.networks import Network
from ovnagent.core.owner import Owner
from ovnagent.core.placement import SILENT_BINDINGS, Placement
from ovnagent.core.ports import Port
from ovnagent.core.problems import Problem
from ovnagent.core.records import Lease


def wanted_port(
    cluster: str,
    owner: Owner,
    attachment: Attachment,
    grant: Grant,
    placement: Placement,
    present: Port | None,
    pod_macs: Iterable[str],
) -> Port:
    """The row of an interface that has been granted a lease. `pod_macs`: the MACs that it has in the launchers, by
    network-status."""
    assert grant.lease is not None
    lease, request, network = grant.lease, attachment.request, attachment.network
    secure = network.port_security if request.port_security is None else request.port_security
    dhcpv4_options, dhcpv6_options = _dhcpv4(attachment), _dhcpv6(attachment)
    served = isinstance(dhcpv4_options, DhcpOptions)
    # OVN puts the text into an action as it is: a string stands in quotes there.
    extra = {"hostname": f'"{owner.hostname or owner.key.name}"'} if served else {}
    if request.egress_rate:
        extra |= {"qos_max_rate": str(request.egress_rate), "qos_burst": str(request.egress_rate)}
    # Written with the row or the pin, and left there when the VMI goes: a UID of the past does no harm, a write for it alone
    # does.
    vmi_uid = owner.vmi_uid if placement.requested or present is None else ""
    vmi_uid = vmi_uid or (present.external_id(ports.VMI_UID) if present else "")
    external_ids = {
        ports.CLUSTER: cluster,
        ports.VM: str(owner.key),
        ports.VM_UID: owner.uid,
        ports.VMI_UID: vmi_uid,
        ports.INTERFACE: attachment.interface.name,
        ports.NETWORK: network.name,
        ports.EXTRA_OPTIONS: ",".join(sorted(extra)),
    }
    port = Port(
        name=attachment.port,
        switch=network.logical_switch,
        addresses=(" ".join((lease.mac, *map(str, lease.ips))),),
        port_security=_security(attachment, grant, lease, pod_macs) if secure else (),
        enabled=attachment.interface.state != "down",
        options=tuple(extra.items()),
        dhcpv4=dhcpv4_options if isinstance(dhcpv4_options, DhcpOptions) else None,
        dhcpv6=dhcpv6_options,
        dns=_dns(owner, network, lease),
        external_ids=tuple(sorted((key, value) for key, value in external_ids.items() if value)),
    )
    return placed(port, placement)


def placed(port: Port, placement: Placement) -> Port:
    """The port with what the placement says."""
    if placement.migration != port.external_id(ports.MIGRATION):
        external_ids = {key: value for key, value in port.external_ids if key != ports.MIGRATION}
        if placement.migration:
            external_ids[ports.MIGRATION] = placement.migration
        port = replace(port, external_ids=tuple(sorted(external_ids.items())))
    return ports.with_options(port, requested_chassis=",".join(placement.requested), activation_strategy=placement.strategy)


def dhcp_trouble(attachment: Attachment) -> Problem | None:
    """Why OVN cannot answer DHCPv4 there, though it is asked to."""
    found = _dhcpv4(attachment)
    return Problem(problems.INVALID_REQUEST, found) if isinstance(found, str) else None


def _dhcpv4(attachment: Attachment) -> DhcpOptions | str | None:
    subnet = next((subnet for subnet in attachment.network.subnets if subnet.version == 4), None)
    return dhcpv4(attachment.network, subnet, attachment.request.dhcpv4_options) if subnet is not None else None


def _dhcpv6(attachment: Attachment) -> DhcpOptions | None:
    subnet = next((subnet for subnet in attachment.network.subnets if subnet.version == 6), None)
    return dhcpv6(attachment.network, subnet, attachment.request.dhcpv6_options) if subnet is not None else None


def _dns(owner: Owner, network: Network, lease: Lease) -> str:
    if not network.dns_domain:
        return ""
    return " ".join((f"{owner.key.name}.{owner.key.namespace}.{network.dns_domain}", *map(str, lease.ips)))


def _security(attachment: Attachment, grant: Grant, lease: Lease, pod_macs: Iterable[str]) -> tuple[str, ...]:
    """What the guest may send from: its own MAC and addresses, and the further ones that it may use. Behind masquerade and
    passt each launcher has a MAC of its own; during a migration both may send."""
    entries: dict[str, list[str]] = {lease.mac: [str(ip) for ip in lease.ips]}
    if attachment.interface.binding in SILENT_BINDINGS and not attachment.request.mac:
        for mac in pod_macs:
            entries.setdefault(mac, [str(ip) for ip in lease.ips])
    for pair in grant.pairs:
        entries.setdefault(pair.mac or lease.mac, []).append(str(pair.ip))
    return tuple(sorted(" ".join((mac, *dict.fromkeys(ips))) for mac, ips in entries.items()))

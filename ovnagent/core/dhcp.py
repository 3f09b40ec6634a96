"""What OVN's native DHCP answers on a port: rows of DHCP_Options as values (ovn-nb(5), DHCP Options).

A row is known by its content: ports that are told the same share one, and what a row says is never changed under the
guests that it serves; a port that is to be told something else refers to another row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from ovnagent.core.dhcp_options import Options
from ovnagent.core.networks import IPAddress, Network, Subnet

DEFAULT_LEASE_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class DhcpOptions:
    """The content of a row of DHCP_Options."""

    cidr: str
    options: Options


def dhcpv4(network: Network, subnet: Subnet, asked: Options) -> DhcpOptions | str | None:
    """The DHCPv4 options of a port, None where OVN is not to answer, or a sentence that says what is missing.

    `asked` are the VM's own (annotation `dhcp-v4-options`); they go before the network's. An empty value takes one away,
    but for those without which OVN gives no answer: they are the network's again."""
    dhcp = network.dhcp
    if dhcp is None and not asked:
        return None
    lease_seconds = dhcp.lease_seconds if dhcp is not None else DEFAULT_LEASE_SECONDS
    needed = {"server_mac": server_mac(network), "lease_time": str(lease_seconds)}
    options: dict[str, str] = {}
    if subnet.gateway is not None:
        options |= {"server_id": str(subnet.gateway), "router": str(subnet.gateway)}
    if network.mtu is not None:
        options["mtu"] = str(network.mtu)
    if dhcp is not None:
        options |= _present(
            server_id=str(dhcp.server_id or ""),
            dns_server=_list(dhcp.dns_servers, 4),
            domain_name=_quoted(dhcp.domain),
            domain_search_list=_quoted(",".join(dhcp.search)),
            ntp_server=_list(dhcp.ntp_servers, 4),
        )
        routes = [(str(to), str(via)) for to, via in dhcp.routes if to.version == 4]
        if routes:
            # A client that is told classless routes takes no notice of the router option (RFC 3442).
            routes += [("0.0.0.0/0", str(subnet.gateway))] if subnet.gateway is not None else []
            options["classless_static_route"] = "{" + ", ".join(f"{to},{via}" for to, via in routes) + "}"
    options = needed | _present(**(options | dict(asked)))
    if "server_id" not in options:
        return f"DHCPv4 on network {network.name} needs a server_id, for its subnet {subnet.cidr} has no gateway"
    return DhcpOptions(str(subnet.cidr), tuple(sorted(options.items())))


def dhcpv6(network: Network, subnet: Subnet, asked: Options) -> DhcpOptions | None:
    """The DHCPv6 options of a port, or None where OVN is not to answer. Routes and MTU come by router advertisements."""
    dhcp = network.dhcp
    if dhcp is None and not asked:
        return None
    needed, options = {"server_id": server_mac(network)}, {}
    if dhcp is not None:
        options = {"dns_server": _list(dhcp.dns_servers, 6), "domain_search": _quoted(",".join(dhcp.search) or dhcp.domain)}
    options = needed | _present(**(options | dict(asked)))
    return DhcpOptions(str(subnet.cidr), tuple(sorted(options.items())))


def server_mac(network: Network) -> str:
    """The MAC of OVN's DHCP server on a network: configured, else derived from the switch's name."""
    if network.dhcp is not None and network.dhcp.server_mac:
        return network.dhcp.server_mac
    return derived_mac(f"dhcp/{network.logical_switch}")


@lru_cache(maxsize=1 << 8)  # each look at a VM asks for that of its network
def derived_mac(seed: str) -> str:
    """A locally administered unicast MAC that follows from a text."""
    digest = hashlib.sha256(seed.encode()).digest()
    return ":".join(f"{octet:02x}" for octet in ((digest[0] & 0xFC) | 0x02, *digest[1:6]))


def _present(**options: str) -> dict[str, str]:
    return {key: value for key, value in options.items() if value}


def _list(addresses: Iterable[IPAddress], version: int) -> str:
    texts = [str(each) for each in addresses if each.version == version]
    return "{" + ", ".join(texts) + "}" if texts else ""


def _quoted(text: str) -> str:
    return f'"{text}"' if text else ""

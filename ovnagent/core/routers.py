"""The gateways: ports of logical routers on the switches of networks that name a router."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ovnagent.core.dhcp import derived_mac
from ovnagent.core.dhcp_options import Options
from ovnagent.core.networks import Network


@dataclass(frozen=True, slots=True)
class RouterPort:
    """A Logical_Router_Port, and the port of type `router` on the switch that leads to it."""

    name: str
    router: str
    switch: str
    mac: str
    networks: tuple[str, ...]
    """`10.16.0.1/16`, sorted."""
    advertisements: Options = ()
    """ipv6_ra_configs; empty: no router advertisements."""

    @property
    def switch_port(self) -> str:
        return f"{self.switch}-{self.router}"


def router_ports(networks: Iterable[Network]) -> list[RouterPort]:
    """One for each pair of router and switch; networks that share both share it."""
    found: dict[str, RouterPort] = {}
    for network in networks:
        if not network.router:
            continue
        name = f"{network.router}-{network.logical_switch}"
        before = found.get(name)
        gateways = [f"{subnet.gateway}/{subnet.cidr.prefixlen}" for subnet in network.subnets if subnet.gateway is not None]
        found[name] = RouterPort(
            name=name,
            router=network.router,
            switch=network.logical_switch,
            mac=derived_mac(f"router/{name}"),
            networks=tuple(sorted((*(before.networks if before else ()), *gateways))),
            advertisements=(before.advertisements if before else ()) or _advertisements(network),
        )
    return list(found.values())


def _advertisements(network: Network) -> Options:
    """Where OVN answers DHCPv6, guests learn from the router that they are to ask, their default route and the MTU. There
    is no SLAAC: a port has the address that it was given, and port security would not let another pass."""
    if network.dhcp is None or not any(subnet.version == 6 for subnet in network.subnets):
        return ()
    options = {"address_mode": "dhcpv6_stateful", "send_periodic": "true"}
    if network.mtu is not None:
        options["mtu"] = str(network.mtu)
    servers = [str(server) for server in network.dhcp.dns_servers if server.version == 6]
    if servers:
        options["rdnss"] = servers[0]  # ovn-nb(5): one address
    return tuple(sorted(options.items()))

"""The configured networks: which logical switch, which subnets, and which of a VM's interfaces attach to them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


class AddressRange(NamedTuple):
    """First to last address, both included, of one family."""

    first: IPAddress
    last: IPAddress

    def __contains__(self, ip: object) -> bool:
        return type(ip) is type(self.first) and self.first <= ip <= self.last  # type: ignore[operator]

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}..{self.last}"


@dataclass(frozen=True, slots=True)
class Subnet:
    """The addresses of one family on a network."""

    cidr: IPNetwork
    gateway: IPAddress | None = None
    reserved: tuple[AddressRange, ...] = ()
    dhcp_server: IPAddress | None = None
    """The address in which OVN's DHCP answers, where that is not the gateway's."""

    @property
    def version(self) -> int:
        return self.cidr.version

    def __contains__(self, ip: object) -> bool:
        return type(ip) is type(self.cidr.network_address) and ip in self.cidr

    @property
    def first(self) -> int:
        """The lowest address that a port may have, as a number: not the network address, and in IPv6 not the
        subnet-router anycast address (RFC 4291, 2.6.1)."""
        return int(self.cidr.network_address) + 1

    @property
    def last(self) -> int:
        """The highest address that a port may have, as a number."""
        return int(self.cidr.broadcast_address) - (1 if self.version == 4 else 0)

    @property
    def size(self) -> int:
        """How many addresses ports may have. Reserved ranges may overlap each other; none is counted twice."""
        taken = {int(ip) for ip in (self.gateway, self.dhcp_server) if ip is not None}
        spans = sorted((max(int(span.first), self.first), min(int(span.last), self.last)) for span in self.reserved)
        count, reached = self.last - self.first + 1, self.first - 1
        for first, last in spans:
            first = max(first, reached + 1)
            if last >= first:
                count -= last - first + 1
                reached = last
        return count - sum(1 for ip in taken if not any(first <= ip <= last for first, last in spans))

    def refuse(self, ip: IPAddress, reserved: bool = True) -> str:
        """Why no port may have this address, as the rest of a sentence ("... which is reserved"); empty if one may.
        `reserved`: the reserved ranges count."""
        if ip not in self:
            return f"lies outside {self.cidr}; choose an address of that subnet"
        if ip == self.gateway:
            return f"is the gateway of {self.cidr}; choose another address"
        if ip == self.dhcp_server:
            return f"is the DHCP server of {self.cidr}; choose another address"
        if self.version == 4 and ip == self.cidr.broadcast_address:
            return f"is the broadcast address of {self.cidr}; choose another address"
        if ip == self.cidr.network_address:
            return f"is the network address of {self.cidr}; choose another address"
        for span in self.reserved:
            if reserved and ip in span:
                return f"is reserved ({span}) in {self.cidr}; choose another address"
        return ""


@dataclass(frozen=True, slots=True)
class Dhcp:
    """What OVN's native DHCP tells the guests of a network, besides addresses, gateway and MTU."""

    lease_seconds: int = 3600
    dns_servers: tuple[IPAddress, ...] = ()
    domain: str = ""
    search: tuple[str, ...] = ()
    ntp_servers: tuple[IPAddress, ...] = ()
    routes: tuple[tuple[IPNetwork, IPAddress], ...] = ()
    """(destination, next hop)"""
    server_id: IPAddress | None = None
    """The DHCPv4 server's address; the gateway if None."""
    server_mac: str = ""
    """Empty: derived from the switch's name."""


@dataclass(frozen=True, slots=True)
class Namespaces:
    """The namespaces that a rule of a network admits: all, or those of these names and those that carry these labels."""

    everyone: bool = True
    names: frozenset[str] = frozenset()
    labels: tuple[tuple[str, str], ...] = ()
    """All of them; none: labels admit nobody."""

    def admit(self, namespace: str, labels: Iterable[tuple[str, str]]) -> bool:
        """`labels`: the namespace's own, which who may only work in it cannot change."""
        return self.everyone or namespace in self.names or (bool(self.labels) and set(self.labels) <= set(labels))


@dataclass(frozen=True, slots=True)
class Network:
    """A network of the configuration: a logical switch and who attaches to it."""

    name: str
    logical_switch: str
    subnets: tuple[Subnet, ...]
    """At most one per family, IPv4 first."""
    pod_network: bool = False
    nads: tuple[str, ...] = ()
    """`namespace/name` of the NetworkAttachmentDefinitions that attach to it."""
    port_security: bool = True
    mtu: int | None = None
    """Bytes; told to guests by DHCPv4 and router advertisements. None: not told."""
    dhcp: Dhcp | None = None
    """None: OVN does not answer DHCP, unless a VM asks for it."""
    dns_domain: str = ""
    """OVN answers DNS queries for `<vm>.<namespace>.<domain>`; empty: it does not."""
    router: str = ""
    """The logical router that has the gateways' addresses; empty: whoever has them is not the agent's concern."""
    namespaces: Namespaces = Namespaces()
    """Whose VMs may attach."""
    port_security_off: Namespaces = Namespaces()
    """Whose VMs may switch port security off."""
    shared_addresses: Literal["namespace", "network"] = "namespace"
    """Who may share an allowed address pair: VMs of one namespace only, or of all that may attach."""
    reserved_macs: tuple[str, ...] = ()
    """MACs that no VM may have: a physical gateway's, say."""

    def has_all(self, ips: Iterable[str]) -> bool:
        """All of these addresses lie in its subnets (and there is one). What is no address lies in none."""
        try:
            found = [ipaddress.ip_address(ip) for ip in ips]
        except ValueError:
            return False
        return bool(found) and all(any(ip in subnet for subnet in self.subnets) for ip in found)


@dataclass(frozen=True, slots=True)
class Networks:
    """All configured networks, with the look-ups."""

    all: tuple[Network, ...]
    by_nad: Mapping[str, Network] = field(init=False)
    switches: Mapping[str, str] = field(init=False)
    """Name of a network -> its logical switch."""
    pod: Network | None = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_nad", {nad: network for network in self.all for nad in network.nads})
        object.__setattr__(self, "switches", {network.name: network.logical_switch for network in self.all})
        object.__setattr__(self, "pod", next((network for network in self.all if network.pod_network), None))

    def named(self, name: str) -> Network | None:
        """By the network's own name, else by that of its logical switch."""
        return next(
            (network for network in self.all if network.name == name),
            next((network for network in self.all if network.logical_switch == name), None),
        )

    def names(self) -> Iterable[str]:
        return (network.name for network in self.all)

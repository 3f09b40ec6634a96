"""What a VM's owner asks for, interface by interface: the annotations, read and checked.

A request that cannot be understood is a value too: its `errors` are sentences for the VM's owner, and nothing of it is
granted. Kube-OVN's keys are accepted; README.md lists them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

from ovnagent.core import limits
from ovnagent.core.dhcp_options import DHCPV4, DHCPV6, Options, parse_options
from ovnagent.core.networks import AddressRange, IPAddress
from ovnagent.core.values import (
    BLANK,
    check_count,
    check_length,
    parse_ip,
    parse_json,
    parse_mac,
    parse_range,
    parse_title,
    shown,
)
from ovnagent.core.vm import ADDRESSES_ANNOTATION, Annotations, Interface

T = TypeVar("T")
ADDRESS = re.compile("[^/,]*(/[0-9]{1,3})?")
"""An address (core/values.py says whether it is one) with or without a prefix length."""
NO_IPS: tuple[IPAddress, ...] = ()
NO_RANGES: tuple[AddressRange, ...] = ()
NO_OPTIONS: Options = ()


class Pair(NamedTuple):
    """An address that a guest may use besides its own, with the MAC that goes with it (empty: the port's)."""

    ip: IPAddress
    mac: str


NO_PAIRS: tuple[Pair, ...] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for one interface. Empty fields ask for nothing; a `..._key` says where the value stands."""

    ips: tuple[IPAddress, ...] = ()
    """At most one per family."""
    ips_key: str = ""
    pool: tuple[AddressRange, ...] = ()
    pool_key: str = ""
    mac: str = ""
    """Lower case, colons."""
    mac_key: str = ""
    network: str = ""
    network_key: str = ""
    port_security: bool | None = None
    dhcpv4_options: Options = ()
    dhcpv6_options: Options = ()
    pairs: tuple[Pair, ...] = ()
    """Further addresses that the guest may use, as it does with those that keepalived moves."""
    pairs_key: str = ""
    egress_rate: int = 0
    """Bits per second that the guest may send; 0: no limit."""
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@lru_cache(maxsize=1 << 6)  # most VMs ask for nothing, in the same words; one may use 64 KiB of them
def read(interface: Interface, annotations: Annotations) -> Request:
    """The request for one interface."""
    reader = _Reader(interface, dict(annotations))
    ips_key, ips = reader.ecosystem_addresses(*reader.get("ip_address", parse_ips, NO_IPS))
    pool_key, pool = reader.get("ip_pool", parse_pool, NO_RANGES)
    for ip in ips:
        if pool and not any(ip in span for span in pool):
            reader.errors.append(f"{ips_key} asks for {ip}, which {pool_key} does not contain; change or remove one of them")
    mac_key, mac = reader.get("mac_address", parse_mac, "")
    mac_key, mac = reader.interface_mac(mac_key, mac)
    network_key, network = reader.get("logical_switch", parse_title, "")
    pairs_key, pairs = reader.get("allowed_address_pairs", parse_pairs, NO_PAIRS)
    ingress_key, _ = reader.get("ingress_rate", parse_rate, 0)
    if ingress_key:
        reader.warnings.append(
            f"{ingress_key} has no effect: OVN's ports limit only what a guest sends (egress_rate); for the other direction "
            "add a rule with ovn-nbctl qos-add <switch> to-lport"
        )
    dhcpv4_options = reader.told("dhcp-v4-options", parse_dhcpv4, "server_mac")
    dhcpv6_options = reader.told("dhcp-v6-options", parse_dhcpv6, "server_id")
    return Request(
        ips=ips,
        ips_key=ips_key,
        pool=pool,
        pool_key=pool_key,
        mac=mac,
        mac_key=mac_key,
        network=network,
        network_key=network_key,
        port_security=reader.get("port_security", parse_bool, None)[1],
        dhcpv4_options=dhcpv4_options,
        dhcpv6_options=dhcpv6_options,
        pairs=pairs,
        pairs_key=pairs_key,
        egress_rate=reader.get("egress_rate", parse_rate, 0)[1],
        errors=tuple(reader.errors),
        warnings=tuple(reader.warnings),
    )


class _Reader:
    """Looks a key up under every name it may have for one interface, and collects what is wrong."""

    def __init__(self, interface: Interface, annotations: dict[str, str | None]) -> None:
        self.interface = interface
        self.annotations = annotations
        self.errors: list[str] = []
        self.warnings: list[str] = []

    def names(self, key: str) -> Iterator[tuple[str, ...]]:
        """A key's names, the most specific first; the names of one tuple mean the same."""
        if not self.interface.nad:
            yield (f"ovn.kubernetes.io/{key}",)
            return
        namespace, _, nad = self.interface.nad.partition("/")
        domains = (f"{nad}.{namespace}.ovn.kubernetes.io", f"{nad}.{namespace}.kubernetes.io")
        yield tuple(f"{domain}/{key}.{self.interface.name}" for domain in domains)
        yield tuple(f"{domain}/{key}" for domain in domains)

    def get(self, key: str, parse: Callable[[str], T], default: T) -> tuple[str, T]:
        """(the annotation's name, its value), or ("", default)."""
        for names in self.names(key):
            found = [(name, self.value(name, parse, default)) for name in names if name in self.annotations]
            if not found:
                continue
            if any(value != found[0][1] for _, value in found):
                self.errors.append(f"{found[0][0]} and {found[1][0]} differ; keep one of them")
                return found[0][0], default
            return found[0]
        return "", default

    def value(self, name: str, parse: Callable[..., T], default: T, *arguments: str) -> T:
        text = self.annotations[name]
        if text is None:
            self.errors.append(
                f"the value of annotation {name} is no string; put it in quotes (it may hold {limits.ANNOTATION} characters)"
            )
            return default
        if not text.strip(BLANK):
            return default
        value, error = _parsed(parse, text, *arguments)
        if error:
            self.errors.append(f"{name}: {error}")
            return default
        return value  # type: ignore[no-any-return]

    def told(self, key: str, parse: Callable[[str], Options], server: str) -> Options:
        """DHCP options, without the one that says which MAC the server has: northd lets DHCP answers from that MAC past the
        ACLs of the port, so whoever chose it could be reached by those whom the operator shuts out."""
        name, options = self.get(key, parse, NO_OPTIONS)
        if server in dict(options):
            self.warnings.append(f"{name}: {server} is the network's to choose (dhcp.serverMac) and is left out")
        return tuple((option, value) for option, value in options if option != server)

    def ecosystem_addresses(self, key: str, ips: tuple[IPAddress, ...]) -> tuple[str, tuple[IPAddress, ...]]:
        """`network.kubevirt.io/addresses`, where no ovn key is given."""
        if ADDRESSES_ANNOTATION not in self.annotations:
            return key, ips
        asked = self.value(ADDRESSES_ANNOTATION, parse_addresses, NO_IPS, self.interface.name)
        if not asked:
            return key, ips
        if key and set(asked) != set(ips):
            self.errors.append(f"{key} and {ADDRESSES_ANNOTATION} differ; keep one of them")
        return key or ADDRESSES_ANNOTATION, ips or asked

    def interface_mac(self, key: str, mac: str) -> tuple[str, str]:
        """`interfaces[].macAddress`, where no annotation is given. The guest gets that MAC in any case."""
        if not self.interface.mac:
            return key, mac
        field = f"macAddress of interface {self.interface.name}"
        try:
            own = parse_mac(self.interface.mac)
        except ValueError as error:
            if not key:
                self.errors.append(f"{field}: {error}")
            return key, mac
        if mac and mac != own:
            self.warnings.append(
                f"{key} says {mac}, but {field} says {own} and that is what the guest gets; "
                f"set macAddress to {mac} or remove the annotation"
            )
        return (key, mac) if mac else (field, own)


@lru_cache(maxsize=256)
def _parsed(parse: Callable[..., Any], text: str, *arguments: str) -> tuple[Any, str]:
    """(the value, "") or (None, why it is none). One text may be for all interfaces on a NAD, and is read at each look: 64
    of them with every key as long as may be took 0.3 s."""
    try:
        check_length(text, limits.ANNOTATION)
        return parse(text, *arguments), ""
    except ValueError as error:
        return None, str(error)


# ---- values ---------------------------------------------------------------------------------------------------------


def parse_ips(text: str) -> tuple[IPAddress, ...]:
    """`10.16.0.15`, `fd00::15` or both with a comma between: at most one address per family, IPv4 first.

    Raises ValueError with a sentence that says what would be right."""
    parts = text.split(",")
    if len(parts) > 2:
        raise ValueError(f"{shown(text)} holds {len(parts)} addresses; give one per family")
    ips = tuple(parse_ip(part) for part in parts)
    for version in (4, 6):
        if sum(1 for ip in ips if ip.version == version) > 1:
            raise ValueError(f"{shown(text)} holds more than one IPv{version} address; give one per family")
    return tuple(sorted(ips, key=lambda ip: ip.version))


def parse_pool(text: str) -> tuple[AddressRange, ...]:
    """`10.16.0.50..10.16.0.60`, single addresses, or a list of both (commas; Kube-OVN also writes semicolons).

    Raises ValueError with a sentence."""
    parts = re.split("[,;]", text)
    check_count(len(parts), limits.POOL_RANGES, "ranges")
    return tuple(parse_range(part) for part in parts)


def parse_bool(text: str) -> bool | None:
    """`"true"` or `"false"`.

    Raises ValueError with a sentence."""
    try:
        return {"true": True, "false": False}[text.strip(BLANK).lower()]
    except KeyError:
        raise ValueError(f'{shown(text)} is neither "true" nor "false"') from None


def parse_pairs(text: str) -> tuple[Pair, ...]:
    """`10.16.0.50` or `00:00:5e:00:01:0a 10.16.0.50`, or a comma list of both.

    Raises ValueError with a sentence."""
    parts = text.split(",")
    check_count(len(parts), limits.ADDRESS_PAIRS, "addresses")
    pairs = []
    for part in parts:
        mac, _, ip = part.strip(BLANK).rpartition(" ")
        pairs.append(Pair(parse_ip(ip), parse_mac(mac) if mac else ""))
    return tuple(dict.fromkeys(pairs))


def parse_dhcpv4(text: str) -> Options:
    """A list of OVN's DHCPv4 options (core/dhcp_options.py)."""
    return parse_options(text, DHCPV4)


def parse_dhcpv6(text: str) -> Options:
    """A list of OVN's DHCPv6 options."""
    return parse_options(text, DHCPV6)


def parse_rate(text: str) -> int:
    """Mbit/s with at most three decimals, as Kube-OVN's `egress_rate`; returned in bit/s.

    Raises ValueError with a sentence."""
    number = re.fullmatch(r"([0-9]{1,7})(?:\.([0-9]{1,3}))?", text.strip(BLANK))
    rate = int(number[1]) * 1000 + int((number[2] or "").ljust(3, "0")) if number else -1
    if not 0 <= rate < limits.RATE * 1000:
        raise ValueError(f"{shown(text)} is no rate; write Mbit/s like 100 or 0.5, less than {limits.RATE}")
    return rate * 1000


def parse_addresses(text: str, interface: str) -> tuple[IPAddress, ...]:
    """This interface's entry of `network.kubevirt.io/addresses`; prefix lengths are allowed there and mean nothing.

    Raises ValueError with a sentence."""
    form = f'{shown(text)} is not of the form {{"<interface>": ["<address>"]}}'
    try:
        entry = parse_json(text, limits.ANNOTATION).get(interface, [])
    except (ValueError, AttributeError):
        raise ValueError(form) from None
    if not isinstance(entry, list) or not all(isinstance(ip, str) and ADDRESS.fullmatch(ip) for ip in entry):
        raise ValueError(form)
    return parse_ips(",".join(ip.partition("/")[0] for ip in entry)) if entry else ()

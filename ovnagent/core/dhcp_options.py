"""The options that OVN's native DHCP can tell, with their types: ovn-nb(5), DHCP_Options, and the tables of the same name
that northd writes into SB (a test compares them).

northd copies a value into the action of a logical flow as it stands: whoever writes free text there writes actions. So every
value is read into its type, and written anew from it."""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Callable
from functools import partial

from ovnagent.core import limits, values

Options = tuple[tuple[str, str], ...]
"""(OVN's name of an option, its value as OVN writes it), sorted."""

Form = Callable[[str], str]
"""Reads a value in any usual form and returns it as OVN writes it. Raises ValueError with a sentence."""


def parse_options(text: str, known: dict[str, Form]) -> Options:
    """`lease_time=3600,dns_server={8.8.8.8, 9.9.9.9}`: commas within braces or quotes belong to the value. An empty value
    stays empty: it takes the network's own away. `known`: DHCPV4 or DHCPV6.

    Raises ValueError with a sentence."""
    found: dict[str, str] = {}
    for part in filter(str.strip, _split(text)):
        key, equals, value = (word.strip(values.BLANK) for word in part.partition("="))
        if not equals or not key.replace("_", "").isalnum():
            raise ValueError(
                f"{values.shown(part.strip(values.BLANK))} is no option; write <name>=<value>, with commas between"
            )
        if key in found:
            raise ValueError(f"the option {key} stands twice")
        if key in SET_BY_OVN:
            raise ValueError(f"the option {key} is set by OVN itself, from the port's address and its subnet")
        if key not in known:
            near = difflib.get_close_matches(key[: limits.LABEL], known)
            hint = f"did you mean {' or '.join(near)}?" if near else f"it knows {', '.join(sorted(known))}"
            raise ValueError(f"OVN knows no option {values.shown(key)}; {hint}")
        try:
            found[key] = known[key](value) if value else ""
        except ValueError as error:
            raise ValueError(f"{key}: {error}") from None
    return tuple(sorted(found.items()))


def _split(text: str) -> list[str]:
    """At the commas, but for those within braces or quotes."""
    parts, start, depth, quoted = [], 0, 0, False
    for mark in re.finditer('[",{}]', text):
        letter = mark[0]
        quoted ^= letter == '"'
        depth += (letter == "{") - (letter == "}") if not quoted else 0
        if letter == "," and not depth and not quoted:
            parts.append(text[start : mark.start()])
            start = mark.end()
    if depth or quoted:
        raise ValueError(f"{values.shown(text)} has a brace or a quote that is not closed")
    return [*parts, text[start:]]


# ---- types ----------------------------------------------------------------------------------------------------------


def number(low: int, high: int) -> Form:
    """A decimal number."""
    return lambda text: str(values.parse_number(text, low, high))


def ipv4(text: str) -> str:
    """One IPv4 address."""
    return _address(text, 4)


def addresses(text: str, version: int) -> str:
    """One address, or `{one, another}`."""
    inside = _inside(text)
    if inside is None:
        return _address(text, version)
    found = [_address(part, version) for part in inside]
    values.check_count(len(found), limits.DHCP_ADDRESSES, "addresses")
    return "{" + ", ".join(found) + "}"


def routes(text: str) -> str:
    """`{10.0.0.0/8,10.16.0.1, 0.0.0.0/0,10.16.0.254}`: destination and next hop in turn."""
    words = _inside(text)
    if not words or len(words) % 2:
        raise ValueError(f"{values.shown(text)} is no list of routes; write {{<destination>,<next hop>, ...}}")
    values.check_count(len(words) // 2, limits.DHCP_ROUTES, "routes")
    return (
        "{" + ", ".join(f"{_network(to)},{_address(via, 4)}" for to, via in zip(words[::2], words[1::2], strict=True)) + "}"
    )


def string(text: str) -> str:
    """A text, with or without quotes: printable ASCII without quote and backslash, which would end or escape OVN's own."""
    inside = _unquoted(text)
    if not (0 < len(inside) <= limits.DHCP_TEXT and inside.isascii() and inside.isprintable()) or set(inside) & set('"\\'):
        raise ValueError(
            f"{values.shown(text)} is no text that DHCP can tell; it may hold 1 to {limits.DHCP_TEXT} printable ASCII "
            "characters without quotes and backslashes"
        )
    return f'"{inside}"'


def host(text: str) -> str:
    """An IPv4 address, or a text."""
    try:
        return _address(text, 4)
    except ValueError:
        return string(text)


def domains(text: str) -> str:
    """Domain names with commas between."""
    names = [values.parse_domain(name) for name in _unquoted(text).split(",")]
    if sum(len(name) + 2 for name in names) > limits.DHCP_TEXT:
        raise ValueError(f"the domains take more than the {limits.DHCP_TEXT} octets that DHCP has for them")
    return f'"{",".join(names)}"'


def truth(text: str) -> str:
    """`true` or `false`, with or without quotes."""
    if _unquoted(text) not in ("true", "false"):
        raise ValueError(f"{values.shown(text)} is neither true nor false")
    return _unquoted(text)


def _unquoted(text: str) -> str:
    return text[1:-1] if text[:1] == text[-1:] == '"' else text


def _inside(text: str) -> list[str] | None:
    return text[1:-1].split(",") if text[:1] == "{" and text[-1:] == "}" else None


def _address(text: str, version: int) -> str:
    ip = values.parse_ip(text)
    if ip.version != version:
        raise ValueError(f"{values.shown(text)} is no IPv{version} address")
    return str(ip)


def _network(text: str) -> str:
    try:
        return str(ipaddress.IPv4Network(text.strip(values.BLANK)))
    except ValueError:
        raise ValueError(f"{values.shown(text)} is no destination; write it like 10.0.0.0/8") from None


# ---- options --------------------------------------------------------------------------------------------------------

UINT32 = 0xFFFFFFFF
LEASE_SECONDS = number(60, UINT32)
"""A guest asks again after half of it: seconds would keep ovn-controller busy."""
_OCTET = number(0, 255)
_FLAG = number(0, 1)
_IPV4 = partial(addresses, version=4)

DHCPV4: dict[str, Form] = {
    # What a guest is told goes to that guest alone: northd sends every answer back through the port that asked. So a VM may
    # name any server and any router, and misleads nobody but itself. (Not the server's MAC: core/requests.py.)
    "server_id": ipv4,
    "server_mac": values.parse_mac,
    "router": _IPV4,
    "lease_time": LEASE_SECONDS,
    "T1": LEASE_SECONDS,
    "T2": LEASE_SECONDS,
    "mtu": number(68, 65535),
    "dns_server": _IPV4,
    "log_server": _IPV4,
    "lpr_server": _IPV4,
    "swap_server": _IPV4,
    "policy_filter": _IPV4,
    "router_solicitation": _IPV4,
    "nis_server": _IPV4,
    "ntp_server": _IPV4,
    "netbios_name_server": _IPV4,
    "netbios_node_type": _OCTET,
    "classless_static_route": routes,
    "ms_classless_static_route": routes,
    "next_server": ipv4,
    "tftp_server": host,
    "tftp_server_address": _IPV4,
    "broadcast_address": ipv4,
    "ip_forward_enable": _FLAG,
    "router_discovery": _FLAG,
    "ethernet_encap": _FLAG,
    "default_ttl": _OCTET,
    "tcp_ttl": _OCTET,
    "arp_cache_timeout": number(0, UINT32),
    "tcp_keepalive_interval": number(0, UINT32),
    "wpad": string,
    "bootfile_name": string,
    "bootfile_name_alt": string,
    "path_prefix": string,
    "hostname": string,
    "domain_name": string,
    "domain_search_list": domains,
}
DHCPV6: dict[str, Form] = {
    # Those of OVN 22.09 and newer. One that OVN does not know costs the port the whole answer: `bootfile_name`,
    # `bootfile_name_alt` and `fqdn` came later.
    "server_id": values.parse_mac,
    "dns_server": partial(addresses, version=6),
    "domain_search": domains,
    "dhcpv6_stateless": truth,
}
SET_BY_OVN = frozenset({"offerip", "netmask", "ia_addr"})

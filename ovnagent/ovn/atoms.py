"""Every value that the agent writes into OVN goes through here, and none can be another than its column may hold.

northd pastes much of what stands in the Northbound database into matches and actions of logical flows, or splits it at
blanks and commas: a value of the wrong form is not a wrong value there but a different program. What comes from tenants has
been read strictly long before (core/values.py); this is the second lock on the same door, and it does not care where a
value comes from. The forms are those of ovn-nb(5), and only those that the agent has a use for: a column, a key or a form
that is not named here cannot be written.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from ovnagent.core import deletion, limits, ports, values
from ovnagent.core.dhcp import DhcpOptions
from ovnagent.core.dhcp_options import DHCPV4, DHCPV6

Form = Callable[[str], bool]
"""Whether a column may hold a text."""
Value = str | bool | tuple[str, ...] | Mapping[str, str] | list[Any]
"""A column's value: text, truth, set, map, or a reference to rows, which is written as it is (RFC 7047, 5.1)."""


class UnwritableError(ValueError):
    """A value that its column must not hold; the sentence names both."""


def row(table: str, columns: Mapping[str, Value]) -> dict[str, Any]:
    """A row, or part of one, as OVSDB takes it.

    Raises UnwritableError."""
    return {column: _written(table, column, value) for column, value in columns.items()}


def text(table: str, column: str, value: str) -> str:
    """The text itself.

    Raises UnwritableError."""
    return _checked(FORMS.get((table, column)), value, table, column)


def pairs(table: str, column: str, value: Mapping[str, str]) -> list[Any]:
    """A map, or the part of one that is to be inserted.

    Raises UnwritableError."""
    forms = KEYS.get((table, column), {})
    return ["map", [[key, _checked(_form_of(forms, key), each, table, column, key)] for key, each in value.items()]]


def keys(table: str, column: str, value: list[str]) -> list[Any]:
    """Keys of a map that are to be deleted: the agent's own, or any that stand in its row's list of them.

    Raises UnwritableError."""
    return ["set", [_checked(str.isprintable, key, table, f"a key of {column}") for key in value]]


def dhcp_row(content: DhcpOptions) -> dict[str, Any]:
    """The columns of a row of DHCP_Options that say what guests are told: each option of its family, in its type.

    Raises UnwritableError."""
    table, version = "DHCP_Options", _version(content.cidr)
    known = {4: DHCPV4, 6: DHCPV6}.get(version, {})
    told = [
        [key, _checked(_fixed(known[key]) if key in known else None, each, table, "options", key)]
        for key, each in content.options
    ]
    return {"cidr": _checked(lambda _: version > 0, content.cidr, table, "cidr"), "options": ["map", told]}


def dns_records(name: str, addresses: str) -> list[Any]:
    """The records of a row of DNS: one name, and its addresses with blanks between.

    Raises UnwritableError."""
    key = _checked(_matches(DNS_NAME), name, "DNS", "a name in records")
    return ["map", [[key, _checked(_all(_ip), addresses, "DNS", "records", key)]]]


def _written(table: str, column: str, value: Value) -> Any:
    match value:
        case str():
            return text(table, column, value)
        case tuple():
            return ["set", [text(table, column, each) for each in value]]
        case bool() if (table, column) in TRUTHS:
            return value
        case list() if (table, column) in REFERENCES:
            return value
        case Mapping():
            return pairs(table, column, value)
    raise UnwritableError(f"{table}.{column} is no column that the agent writes")


def _form_of(forms: Mapping[str, Form], key: str) -> Form | None:
    """That of the key; keys that hold a cluster's id are known by their beginning."""
    cluster = key.removeprefix(ports.ALIVE)
    return forms.get(key) if cluster == key or not _cluster(cluster) else forms.get(ports.ALIVE)


def _checked(form: Form | None, value: str, table: str, column: str, key: str | None = None) -> str:
    if form is not None and isinstance(value, str) and form(value):
        return value
    place = f"{table}.{column}" if key is None else f"{table}.{column}:{values.shown(key)[1:-1]}"
    if form is None:
        raise UnwritableError(f"{place} is nothing that the agent writes")
    raise UnwritableError(f"{place} cannot be {values.shown(str(value))}")


# ---- forms ----------------------------------------------------------------------------------------------------------

DNS_NAME = re.compile(rf"[a-z0-9](?:[a-z0-9.-]{{0,{3 * limits.NAME}}}[a-z0-9])?")
OPTION_KEY = re.compile(r"[a-z_-]{1,63}")
PORT_NAME = re.compile(rf"[A-Za-z0-9._-]{{1,{limits.PORT}}}")
"""Of a VM's port: it stands in the comma list of virtual-parents."""
VM_KEY = re.compile(rf"{values.LABEL.pattern}/{values.SUBDOMAIN.pattern}")


def _matches(pattern: re.Pattern[str]) -> Form:
    return lambda value: pattern.fullmatch(value) is not None


def _one_of(*words: str) -> Form:
    return lambda value: value in words


def _list(pattern: re.Pattern[str], most: int) -> Form:
    """A comma list of up to so many."""
    return lambda value: 0 < len(value.split(",")) <= most and all(map(pattern.fullmatch, value.split(",")))


def _all(form: Form) -> Form:
    """Words with single blanks between."""
    return lambda value: all(map(form, value.split(" ")))


def _fixed(parse: Callable[[str], object]) -> Form:
    """A text that is already as `parse` and str() write it."""

    def form(value: str) -> bool:
        try:
            return str(parse(value)) == value
        except ValueError:
            return False

    return form


def _title(value: str) -> bool:
    """A name of the operator's choice, or made of one: printable, on one line, and nothing that ends OVN's quotes. (northd
    23.03 pastes the names of ports that are served by DHCP into matches without escaping them.)"""
    return 0 < len(value) <= limits.PORT and value.isprintable() and not set(value) & set('"\\')


_ip, _mac = _fixed(values.parse_ip), _fixed(values.parse_mac)


def _version(cidr: str) -> int:
    """Of a subnet in its one form; 0 where it is none."""
    try:
        network = ipaddress.ip_network(cidr)
        return network.version if str(network) == cidr and _ip(str(cidr.partition("/")[0])) else 0
    except ValueError:
        return 0


def _host(value: str) -> bool:
    """`10.16.0.1/16`: an address with the length of its subnet's prefix."""
    return _ip(value.partition("/")[0]) and _fixed(ipaddress.ip_interface)(value)


@lru_cache(maxsize=1 << 10)  # `addresses` and `port_security` of a port are mostly the same
def _addresses(value: str) -> bool:
    """`MAC IP...`, at least one IP: a MAC alone stands for every address in port_security."""
    mac, blank, ips = value.partition(" ")
    return _mac(mac) and bool(blank) and _all(_ip)(ips)


def _number(value: str) -> bool:
    return _fixed(lambda text: values.parse_number(text, 0, 2**63 - 1))(value)


def _quoted_name(value: str) -> bool:
    """`"name"`: northd puts the text into an action as it is, quotes included."""
    return value[:1] == value[-1:] == '"' and _matches(values.SUBDOMAIN)(value[1:-1]) and len(value) <= limits.NAME + 2


_uid = _matches(values.UID)
_cluster = _matches(re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"))

FORMS: Mapping[tuple[str, str], Form] = {
    ("Logical_Switch", "name"): _title,
    ("Logical_Switch_Port", "name"): _title,
    ("Logical_Switch_Port", "addresses"): lambda value: value == "router" or _addresses(value),
    ("Logical_Switch_Port", "port_security"): _addresses,
    ("Logical_Switch_Port", "type"): _one_of("", "virtual", "router"),
    ("Logical_Router", "name"): _title,
    ("Logical_Router_Port", "name"): _title,
    ("Logical_Router_Port", "mac"): _mac,
    ("Logical_Router_Port", "networks"): _host,
}
KEYS: Mapping[tuple[str, str], Mapping[str, Form]] = {
    ("Logical_Switch", "external_ids"): {ports.CLUSTER: _cluster},
    ("Logical_Switch_Port", "options"): {
        "requested-chassis": _list(values.CHASSIS, 2),
        "activation-strategy": _one_of("rarp"),
        "hostname": _quoted_name,
        "qos_max_rate": _number,
        "qos_burst": _number,
        "virtual-ip": _ip,
        "virtual-parents": _list(PORT_NAME, 1 << 16),
        "router-port": _title,
    },
    ("Logical_Switch_Port", "external_ids"): {
        ports.CLUSTER: _cluster,
        ports.VM: _matches(VM_KEY),
        ports.VM_UID: _uid,
        ports.VMI_UID: _uid,
        ports.INTERFACE: _matches(values.INTERFACE),
        ports.NETWORK: _title,
        ports.MIGRATION: _uid,
        ports.EXTRA_OPTIONS: _list(OPTION_KEY, 16),
        "ovnagent-router": _cluster,
    },
    ("Logical_Router", "external_ids"): {ports.CLUSTER: _cluster},
    ("Logical_Router_Port", "external_ids"): {ports.CLUSTER: _cluster},
    ("Logical_Router_Port", "ipv6_ra_configs"): {
        "address_mode": _one_of("dhcpv6_stateful"),
        "send_periodic": _one_of("true"),
        "mtu": _number,
        "rdnss": _ip,
    },
    ("DHCP_Options", "external_ids"): {ports.CLUSTER: _cluster},
    ("DNS", "external_ids"): {ports.CLUSTER: _cluster, ports.PORT: _title},
    ("NB_Global", "external_ids"): {deletion.APPROVAL: _cluster, ports.ALIVE: _one_of("asked")},
}
TRUTHS = frozenset({("Logical_Switch_Port", "enabled")})
REFERENCES = frozenset({("Logical_Switch_Port", "dhcpv4_options"), ("Logical_Switch_Port", "dhcpv6_options")})

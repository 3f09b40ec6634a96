"""The border: text from outside becomes a value here, or is refused with a sentence that says what would be right.

Annotations, records, network-status, VMI status, Nodes and NADs are written by tenants. Behind this border there is no
MAC that is none, no address with a zone, no name with a blank or a control character. Every function takes a text and
returns the value in its one canonical form, or raises ValueError with the sentence; core/limits.py has the bounds.

Letters and digits are ASCII everywhere: Unicode knows other digits (U+0661), other blanks (U+00A0) and other ends of
lines (U+2028)."""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import Any

import orjson

from ovnagent.core import limits
from ovnagent.core.networks import AddressRange, IPAddress

BLANK = " \t\r\n"
"""What may stand around a value: YAML's block scalars end with a newline."""

LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
SUBDOMAIN = re.compile(rf"{LABEL.pattern}(?:\.{LABEL.pattern})*")
UID = re.compile(rf"[0-9a-zA-Z-]{{1,{limits.UID}}}")
WORD = re.compile(r"[A-Za-z]{1,63}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?Z", re.ASCII)
TOKEN = re.compile(rf"[A-Za-z0-9._/-]{{1,{2 * limits.NAME}}}")
INTERFACE = re.compile(rf"[A-Za-z0-9_-]{{1,{limits.NAME}}}")
DEVICE = re.compile(r"[A-Za-z0-9_.-]{1,15}")
CHASSIS = re.compile(rf"[!-+\--~]{{1,{limits.NAME}}}")
NUMBER = re.compile(r"[0-9]{1,20}")
PLAIN_MAC = re.compile("[0-9a-f][02468ace](?::[0-9a-f]{2}){5}")
"""The form that nearly all have, unicast."""
MAC = re.compile(
    r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}|[0-9a-f]{2}(?:-[0-9a-f]{2}){5}|[0-9a-f]{4}(?:\.[0-9a-f]{4}){2}|[0-9a-f]{12}"
)


def shown(text: str) -> str:
    """Somebody's text as a sentence may repeat it: in quotes, short, and nothing in it but printable characters."""
    return repr(text if len(text) <= limits.SHOWN else f"{text[: limits.SHOWN]}...")


# ---- names ----------------------------------------------------------------------------------------------------------


def parse_name(text: str) -> str:
    """The name of a Kubernetes object: an RFC 1123 subdomain."""
    if len(text) > limits.NAME or not SUBDOMAIN.fullmatch(text):
        raise ValueError(f"{shown(text)} is no name; write a-z, 0-9, '-' and '.', at most {limits.NAME} of them")
    return text


def parse_label(text: str) -> str:
    """A namespace, a host name: an RFC 1123 label."""
    if len(text) > limits.LABEL or not LABEL.fullmatch(text):
        raise ValueError(f"{shown(text)} is no DNS label; write a-z, 0-9 and '-', at most {limits.LABEL} of them")
    return text


def parse_domain(text: str) -> str:
    """A DNS name, in lower case."""
    text = text.strip(BLANK)
    name = text.lower()
    labels = name.split(".")
    readable = text.isascii() and len(name) <= limits.NAME and all(map(LABEL.fullmatch, labels))
    if not readable or max(map(len, labels)) > limits.LABEL:
        raise ValueError(f"{shown(text)} is no DNS name; write it like vm.example")
    return name


def parse_namespaced(text: str) -> str:
    """`namespace/name`."""
    namespace, _, name = text.partition("/")
    return f"{parse_label(namespace)}/{parse_name(name)}"


def parse_uid(text: str) -> str:
    """The UID of a Kubernetes object. (A UUID as a rule, but that is nobody's promise.)"""
    if not UID.fullmatch(text):
        raise ValueError(f"{shown(text)} is no UID")
    return text


def parse_phase(text: str) -> str:
    """A word. KubeVirt adds phases from time to time: which ones there are is not checked, and what is none of the known
    final ones (core/vm.py) is not final."""
    if not WORD.fullmatch(text):
        raise ValueError(f"{shown(text)} is no phase")
    return text


def parse_time(text: str) -> str:
    """A time stamp as the API server writes it, which sorts as a text."""
    if not TIME.fullmatch(text):
        raise ValueError(f"{shown(text)} is no time")
    return text


def parse_interface(text: str) -> str:
    """The name of a VM's interface (KubeVirt's rule: letters, digits, '-' and '_')."""
    if not INTERFACE.fullmatch(text):
        raise ValueError(f"{shown(text)} is no name of an interface; it may hold letters, digits, '-' and '_'")
    return text


def parse_device(text: str) -> str:
    """The name of an interface inside a pod, as Linux has it."""
    if not DEVICE.fullmatch(text):
        raise ValueError(f"{shown(text)} is no name of a network device")
    return text


def parse_token(text: str) -> str:
    """A name that others chose by rules of their own: a binding plugin, a CNI network."""
    if not TOKEN.fullmatch(text):
        raise ValueError(f"{shown(text)} is no name; it may hold letters, digits and ./_-")
    return text


def parse_chassis(text: str) -> str:
    """The name of a chassis: printable ASCII without blanks, and no comma, for requested-chassis is a comma list."""
    text = text.strip(BLANK)
    if not CHASSIS.fullmatch(text):
        raise ValueError(f"{shown(text)} is no name of a chassis; it may hold no blank and no comma")
    return text


def parse_title(text: str) -> str:
    """The name of a network, switch or router, which is the operator's to choose: whatever can be printed on one line. No
    quotes and backslashes: names of ports are made of it, and northd 23.03 does not escape those where it allows DHCP's
    answers past ACLs."""
    text = text.strip(BLANK)
    if set(text) & set('"\\'):
        raise ValueError(f"{shown(text)} is no name; it may hold no quotes and backslashes")
    return parse_line(text, limits.NAME)


def parse_line(text: str, limit: int) -> str:
    """A text of 1 to `limit` characters, each of which can be printed: no control characters, no ends of lines, no blank
    but the common one."""
    if not 0 < len(text) <= limit or not text.isprintable():
        raise ValueError(f"{shown(text)} is no name; it may hold 1 to {limit} printable characters")
    return text


# ---- addresses ------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1 << 10)  # a VM's row and its record, read one after the other, say the same
def parse_ip(text: str) -> IPAddress:
    """An address in any usual form. No zone: `fd00::15%x` equals no other address here, and is `fd00::15` in OVN, which
    drops the zone. No IPv4-mapped one, which is one address here and another there."""
    text = text.strip(BLANK)
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        raise ValueError(f"{shown(text)} is no IP address; write it like 10.16.0.15 or fd00::15") from None
    if isinstance(ip, ipaddress.IPv6Address) and (ip.scope_id is not None or ip.ipv4_mapped is not None):
        raise ValueError(f"{shown(text)} is no address of a port: no zone, no IPv4-mapped address; write it like fd00::15")
    return ip


def parse_range(text: str) -> AddressRange:
    """`10.16.0.50..10.16.0.60`, or one address."""
    first, dots, last = text.partition("..")
    span = AddressRange(parse_ip(first), parse_ip(last if dots else first))
    if span.first.version != span.last.version or int(span.first) > int(span.last):
        raise ValueError(
            f"{shown(text.strip(BLANK))} is no range; write <first>..<last>, both of one family, the lower one first"
        )
    return span


def parse_mac(text: str) -> str:
    """A unicast MAC, in lower case with colons."""
    if PLAIN_MAC.fullmatch(text) and text != "00:00:00:00:00:00":
        return text
    word = text.strip(BLANK).lower()
    if not MAC.fullmatch(word):
        raise ValueError(f"{shown(text)} is no MAC address; write it like 00:00:00:53:6b:b6")
    digits = re.sub("[:.-]", "", word)
    mac = ":".join(digits[index : index + 2] for index in range(0, 12, 2))
    if int(mac[:2], 16) & 1:
        raise ValueError(f"{shown(text)} is a multicast MAC address; the first octet must be even")
    if mac == "00:00:00:00:00:00":
        raise ValueError(f"{shown(text)} is no address of an interface; write one like 00:00:00:53:6b:b6")
    return mac


# ---- the rest -------------------------------------------------------------------------------------------------------


def parse_number(text: str, low: int, high: int) -> int:
    """A decimal number within bounds, both included."""
    text = text.strip(BLANK)
    if not NUMBER.fullmatch(text) or not low <= int(text) <= high:
        raise ValueError(f"{shown(text)} is no number from {low} to {high}")
    return int(text)


def parse_json(text: str, limit: int) -> Any:
    """A JSON document of at most `limit` characters; the parser ends at 1024 levels. Of a key that stands twice the last
    one counts, as everywhere in Kubernetes."""
    check_length(text, limit)
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        raise ValueError(f"{shown(text)} is no JSON") from None


def check_length(text: str, limit: int) -> None:
    """Raises ValueError where a text is longer than that."""
    if len(text) > limit:
        raise ValueError(f"the text has {len(text)} characters; at most {limit}")


def check_count(count: int, limit: int, what: str) -> None:
    """Raises ValueError where there are more than that; `what`: `ranges`, `addresses`..."""
    if count > limit:
        raise ValueError(f"it holds {count} {what}; at most {limit}")

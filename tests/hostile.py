"""Values that somebody may write where a name, an address or a number should stand, and what a fact may hold of them."""

from __future__ import annotations

import copy
import dataclasses
import ipaddress
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

from ovnagent.core import limits

TEXTS = (
    "",
    " ",
    "\x00",
    "a\x00b",
    "a\nb",
    "\x7f",
    "\x85",
    "\xa0",
    "\u2028",
    "\u202e",
    "\ufeff",
    "\U000e0001",
    '"',
    '\\"',
    "\\",
    "'",
    "`",
    "$(id)",
    "${x}",
    "%s",
    "a,b",
    "a;b",
    "a b",
    "a/b/c",
    "../..",
    "a" * 100_000,
    "10.16.0.1",
    "10.16.0.0/12",
    "\u0661\u0660.16.0.5",
    "\uff11\uff10.16.0.5",
    "fd00::15%x",
    "::ffff:10.16.0.1",
    "0a:00:00:00:00:01 10.16.0.1",
    "0a:00:00:00:00:01\n",
    "ff:ff:ff:ff:ff:ff",
    'lease_time=3600); outport="victim"; output; //',
    'domain_name="x"); output; //"',
    "domain_name=x\\",
    "dns_server={1.1.1.1}); drop; //",
    "router=10.0.0.1, server_id = 9.9.9.9",
    "[" * 5000,
    '{"a":' * 2000,
    '"\\ud800"',
    "nan",
    "1e308",
    "9" * 400,
    "-1",
    "true",
    "null",
)
"""Nothing of this breaks out of its string, option or action (issue 10)."""


def nested(levels: int) -> list[Any]:
    """A list in a list, so many times."""
    made: list[Any] = []
    for _ in range(levels):
        made = [made]
    return made


ODD = (
    None,
    True,
    False,
    0,
    -1,
    2**64 - 1,
    1.5,
    1e300,
    [],
    {},
    [None],
    [[]],
    {"a": None},
    {"name": []},
    [1, "a", {}],
    nested(900),
)
"""JSON of every other type."""

texts = st.one_of(
    st.sampled_from(TEXTS),
    st.text(max_size=20),
    st.text(alphabet="\\\"';,{}=()[]/$%@#&|<>\x00\x01\n\t \xa0\u2028abz019.:-_", max_size=40),
)
anything = st.recursive(
    st.one_of(texts, st.sampled_from(ODD)),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(texts, inside, max_size=3),
    max_leaves=8,
)


def places(document: object, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a document, down to twelve levels."""
    yield path
    items: Any = ()
    if isinstance(document, dict):
        items = document.items()
    elif isinstance(document, list):
        items = enumerate(document)
    for key, value in items if len(path) < 12 else ():
        yield from places(value, (*path, key))


def replaced(document: Any, path: tuple[Any, ...], value: object) -> Any:
    """The document with another value at one place."""
    if not path:
        return value
    made = copy.copy(document)
    made[path[0]] = replaced(made[path[0]], path[1:], value)
    return made


def check_fact(value: object, loose: bool = False) -> None:
    """Nothing but plain values of bounded size; every text can be printed on one line. `loose`: annotations and records,
    which are read later, are bounded only."""
    if isinstance(value, str):
        assert len(value) <= limits.RECORD
        assert loose or value.isprintable(), value
        assert loose or len(value) <= limits.PORT, value
    elif isinstance(value, tuple):
        assert len(value) <= limits.ANNOTATIONS
        for each in value:
            check_fact(each, loose)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            check_fact(getattr(value, field.name), field.name in ("annotations", "record"))
    else:
        assert value is None or isinstance(value, bool | int | ipaddress.IPv4Address | ipaddress.IPv6Address), value

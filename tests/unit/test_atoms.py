"""The one function for every value that is written into OVN: it cannot write what its column must not hold."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovnagent.core import ports
from ovnagent.core.dhcp import DhcpOptions
from ovnagent.core.ports import Port, PresentPort
from ovnagent.core.routers import RouterPort
from ovnagent.ovn import atoms
from ovnagent.ovn.atoms import UnwritableError
from ovnagent.ovn.changes import Change, CreatePort, CreateSwitch, Known, PutRouterPort, UpdatePort, operations
from tests import hostile

DHCPV4 = DhcpOptions(
    "10.16.0.0/16",
    (("domain_name", '"x"'), ("lease_time", "3600"), ("server_id", "10.16.0.1"), ("server_mac", "02:00:00:00:00:01")),
)
DHCPV6 = DhcpOptions("fd00::/64", (("server_id", "02:00:00:00:00:01"),))
PORT = Port(
    name="web.default",
    switch="pods",
    addresses=("0a:58:00:00:00:01 10.16.0.9 fd00::9",),
    port_security=("0a:58:00:00:00:01 10.16.0.9 fd00::9", "00:00:5e:00:01:0a 10.16.0.50"),
    options=(
        ("activation-strategy", "rarp"),
        ("hostname", '"web"'),
        ("qos_burst", "1000"),
        ("qos_max_rate", "1000"),
        ("requested-chassis", "chassis1,node2.example"),
    ),
    external_ids=(
        (ports.CLUSTER, "c1"),
        (ports.VM, "default/web"),
        (ports.VM_UID, "c8d0"),
        (ports.INTERFACE, "default"),
        (ports.NETWORK, "Büro 7"),
        (ports.EXTRA_OPTIONS, "hostname,qos_burst"),
    ),
    dhcpv4=DHCPV4,
    dhcpv6=DHCPV6,
    dns="web.default.vm.example 10.16.0.9 fd00::9",
)
VIRTUAL = Port(
    name="fd00::50.pods",
    switch="pods",
    type="virtual",
    options=(("virtual-ip", "fd00::50"), ("virtual-parents", "a.b,c.d")),
    external_ids=((ports.CLUSTER, "c1"), (ports.EXTRA_OPTIONS, "virtual-ip,virtual-parents")),
)
ROUTER = RouterPort(
    name="edge-pods",
    router="edge",
    switch="pods",
    mac="02:00:00:00:00:02",
    networks=("10.16.0.1/16", "fd00::1/64"),
    advertisements=(("address_mode", "dhcpv6_stateful"), ("mtu", "1400"), ("rdnss", "fd00::2"), ("send_periodic", "true")),
)


def write(*changes: Change, cluster: str = "c1") -> list[dict[str, Any]]:
    return operations([CreateSwitch("pods"), *changes], Known({}), cluster)


def port_texts(port: Port) -> Iterator[tuple[str, Any]]:
    """(a phrase, a function that puts another text there) of every text of a port."""
    for field in fields(port):
        value = getattr(port, field.name)
        if field.name in ("switch", "enabled"):
            continue  # the switch is found by its name, which is not written
        if isinstance(value, str):
            yield field.name, lambda text, name=field.name: replace(port, **{name: text})
        elif isinstance(value, DhcpOptions):
            yield field.name, lambda text, name=field.name, value=value: replace(port, **{name: replace(value, cidr=text)})
            for key, _ in value.options:
                yield (
                    f"{field.name}:{key}",
                    lambda text, name=field.name, value=value, key=key: replace(
                        port, **{name: replace(value, options=tuple(sorted((dict(value.options) | {key: text}).items())))}
                    ),
                )
        elif isinstance(value, tuple) and value and isinstance(value[0], tuple):
            for key, _ in value:
                yield (
                    f"{field.name}:{key}",
                    lambda text, name=field.name, value=value, key=key: replace(
                        port, **{name: tuple(sorted((dict(value) | {key: text}).items()))}
                    ),
                )
            yield field.name, lambda text, name=field.name, value=value: replace(port, **{name: (*value, (text, "x"))})
        elif isinstance(value, tuple):
            yield field.name, lambda text, name=field.name, value=value: replace(port, **{name: (*value, text)})


PLACES = [(f"{port.type} {what}".strip(), make) for port in (PORT, VIRTUAL) for what, make in port_texts(port)]
TITLE, WORD = r'[^"\\]{1,1024}', r"[A-Za-z0-9._-]{1,1024}"
RIGHT = {
    "name": TITLE,
    "virtual name": TITLE,
    "external_ids:ovnagent-network": TITLE,
    "external_ids:ovnagent-cluster": r"[a-z0-9.]{1,63}",
    "external_ids:ovnagent-vm-uid": r"[a-z0-9-]{1,64}",
    "external_ids:ovnagent-interface": r"[a-z0-9-]{1,64}",
    "external_ids:ovnagent-options": r"[a-z]{1,63}(,[a-z]{1,63})?",
    "addresses": r"0a:00:00:00:00:01 10\.16\.0\.1",
    "port_security": r"0a:00:00:00:00:01 10\.16\.0\.1",
    "virtual addresses": r"0a:00:00:00:00:01 10\.16\.0\.1",
    "virtual port_security": r"0a:00:00:00:00:01 10\.16\.0\.1",
    "options:requested-chassis": r"[!-+.-~-]{1,253}(,[!-+.-~-]{1,253})?",
    "virtual options:virtual-ip": r"10\.16\.0\.1",
    "virtual options:virtual-parents": rf"{WORD}(,{WORD})?",
    "virtual external_ids:ovnagent-cluster": r"[a-z0-9.]{1,63}",
    "virtual external_ids:ovnagent-options": r"[a-z]{1,63}(,[a-z]{1,63})?",
    "dhcpv4": r"10\.16\.0\.0/12",
    "dhcpv4:server_id": r"10\.16\.0\.1",
}
"""Which texts may stand where, said once more; nowhere else may any of them."""


def test_what_the_agent_writes_is_written() -> None:
    rows = write(CreatePort(PORT), CreatePort(VIRTUAL), PutRouterPort(ROUTER, "", False, False))
    tables = [row["table"] for row in rows if row["op"] == "insert"]
    assert sorted(set(tables)) == ["DHCP_Options", "DNS", "Logical_Router", "Logical_Router_Port", "Logical_Switch",
                                   "Logical_Switch_Port"]  # fmt: skip
    bare = Port("web.default", "pods", enabled=False)
    update = UpdatePort(PresentPort("11111111-2222-3333-4444-555555555555", bare), PORT)
    row = next(row for row in write(update) if row["op"] == "update")
    assert row["row"]["addresses"] == ["set", ["0a:58:00:00:00:01 10.16.0.9 fd00::9"]]
    assert row["row"]["enabled"] is True


@pytest.mark.parametrize("present", [False, True])
@pytest.mark.parametrize("what", dict(PLACES))
def test_no_hostile_text_is_written_anywhere(what: str, present: bool) -> None:
    make = dict(PLACES)[what]
    for text in filter(None, hostile.TEXTS):  # an empty text leaves the key or the row away
        port = make(text)
        bare = Port(PORT.name, "pods")
        change = UpdatePort(PresentPort("1-2", bare), port) if present else CreatePort(port)
        if text.isprintable() and what in RIGHT and re.fullmatch(RIGHT[what], text):
            write(change)
        elif not present or not what.endswith("name"):  # an update writes no name
            with pytest.raises(UnwritableError) as caught:
                write(change)
            hostile.check_fact(str(caught.value))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(PLACES), hostile.texts)
def test_what_passes_is_of_its_form(place: tuple[str, Any], text: str) -> None:
    try:
        rows = write(CreatePort(place[1](text)))
    except UnwritableError:
        return
    for row in rows:
        if row["op"] == "insert":
            check_row(row["table"], row["row"], printable_names=True)


def check_row(table: str, row: dict[str, Any], printable_names: bool) -> None:
    """By other means than atoms has: what northd splits, splits into the right number of pieces."""
    assert json.dumps(row).isprintable()
    if table == "Logical_Switch_Port":
        assert row["name"].isprintable() is printable_names
        for entry in row["addresses"][1] + row["port_security"][1]:
            assert entry == "router" or (len(entry.split()[0]) == 17 and set(entry) <= set("0123456789abcdef:. "))
        for key, value in row["options"][1]:
            assert key == "router-port" or key in dict(PORT.options) or key in dict(VIRTUAL.options)
            assert " " not in value
            assert key in ("virtual-parents", "requested-chassis") or "," not in value
            assert "%" not in value or key == "requested-chassis"
            assert value.strip('"').isascii()
    if table == "DHCP_Options":
        for _, value in row["options"][1]:
            assert value.count('"') in (0, 2)
            assert not set(value.replace('"x"', "")) & set("();=\\\n") or value[0] == '"'
    if table == "DNS":
        ((name, addresses),) = row["records"][1]
        assert " " not in name
        assert set(addresses) <= set("0123456789abcdef:. ")


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("ACL", "match", "1"),
        ("Logical_Switch", "other_config", {"x": "y"}),
        ("Logical_Switch_Port", "options", {"nat-addresses": "router"}),
        ("Logical_Switch_Port", "external_ids", {"neutron:x": "y"}),
        ("Logical_Switch_Port", "tag", "5"),
        ("Logical_Switch_Port", "enabled", "yes"),
        ("Logical_Switch_Port", "addresses", ("unknown",)),
        ("Logical_Switch_Port", "addresses", ("dynamic",)),
        ("Logical_Switch_Port", "port_security", ("0a:58:00:00:00:01",)),
        ("Logical_Router_Port", "networks", ("10.16.0.1",)),
        ("Logical_Router_Port", "networks", ("10.16.0.1/33",)),
        ("Logical_Router_Port", "networks", ("10.16.0.1/016",)),
    ],
)
def test_what_the_agent_has_no_use_for_cannot_be_written(table: str, column: str, value: Any) -> None:
    with pytest.raises(UnwritableError, match=table):
        atoms.row(table, {column: value})


@pytest.mark.parametrize("text", [text for text in hostile.TEXTS if not re.fullmatch(TITLE, text) or not text.isprintable()])
def test_names_of_switches_and_routers_stand_on_one_line(text: str) -> None:
    with pytest.raises(UnwritableError):
        operations([CreateSwitch(text)], Known({}), "c1")
    with pytest.raises(UnwritableError):
        write(PutRouterPort(replace(ROUTER, router=text, name=f"{text}-pods"), "", False, True))


RIGHT_ADVERTISEMENTS = ((("rdnss", "10.16.0.1"),), (("send_periodic", "true"),))


@pytest.mark.parametrize("text", hostile.TEXTS)
def test_a_router_port_holds_addresses_only(text: str) -> None:
    for bad in (
        replace(ROUTER, mac=text),
        replace(ROUTER, networks=(text,)),
        *(replace(ROUTER, advertisements=((key, text),)) for key, _ in ROUTER.advertisements),
    ):
        if (bad.networks, text) == ((text,), "10.16.0.0/12") or bad.advertisements in RIGHT_ADVERTISEMENTS:
            continue
        with pytest.raises(UnwritableError):
            write(PutRouterPort(bad, "", False, True))
        with pytest.raises(UnwritableError):
            write(PutRouterPort(bad, "1-2", False, True))


def test_a_dhcp_option_is_one_of_its_family() -> None:
    for content in (
        replace(DHCPV6, options=(*DHCPV6.options, ("lease_time", "3600"))),
        replace(DHCPV4, options=(*DHCPV4.options, ("offerip", "10.16.0.1"))),
        replace(DHCPV4, options=(("lease_time = 60); output; //", "1"),)),
        replace(DHCPV4, cidr="10.16.0.1/16"),
        replace(DHCPV4, cidr="fd00::/64"),
    ):
        with pytest.raises(UnwritableError, match="DHCP_Options"):
            write(CreatePort(replace(PORT, dhcpv4=content)))

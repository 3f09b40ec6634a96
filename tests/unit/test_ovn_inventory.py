"""What others use: names and addresses are free when the last of their users has gone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovnagent.core.addresses import Foreign
from ovnagent.ovn.inventory import ForeignPort, Inventory, foreign_port


@pytest.mark.parametrize(
    ("type_", "entries", "options", "ips", "macs"),
    [
        ("", ["0A:00:00:00:00:01 10.0.0.1 FD00::0001"], {}, ("10.0.0.1", "fd00::1"), ("0a:00:00:00:00:01",)),
        ("", ["0a:00:00:00:00:01 10.0.0.1/24"], {}, ("10.0.0.1",), ("0a:00:00:00:00:01",)),
        ("", ["dynamic", "0a:00:00:00:00:02 10.0.0.9"], {}, ("10.0.0.9",), ("0a:00:00:00:00:02",)),
        ("", ["dynamic 10.0.0.9"], {}, ("10.0.0.9",), ()),
        ("", ["0a:00:00:00:00:01 dynamic"], {}, (), ("0a:00:00:00:00:01",)),
        ("", ["unknown", ""], {}, (), ()),
        ("", ["a:0:0:0:0:1 fd00::15%x 10.0.0.300 fd00::1/200/3"], {}, ("fd00::15", "fd00::1"), ("0a:00:00:00:00:01",)),
        ("", ["a:b 10.0.0.1"], {}, ("10.0.0.1",), ()),
        ("router", ["router"], {"router-port": "gw"}, (), ()),
        ("virtual", [], {"virtual-ip": "10.0.0.5", "virtual-parents": "a,b"}, ("10.0.0.5",), ()),
        ("", [], {"virtual-ip": "10.0.0.5"}, (), ()),
    ],
)
def test_addresses_as_ovn_writes_them(
    type_: str, entries: list[str], options: dict[str, str], ips: tuple[str, ...], macs: tuple[str, ...]
) -> None:
    port = foreign_port("p", "s", type_, entries, options)
    assert (port.ips, port.macs) == (ips, macs)


ROWS = st.sampled_from(["row1", "row2", "row3"])
PORTS = st.builds(
    ForeignPort,
    name=st.sampled_from(["a", "b"]),
    switch=st.sampled_from(["", "s1", "s2"]),
    ips=st.lists(st.sampled_from(["10.0.0.1", "10.0.0.2"]), unique=True).map(tuple),
    macs=st.lists(st.sampled_from(["0a:00:00:00:00:01"]), unique=True).map(tuple),
    router_port=st.sampled_from(["", "gw"]),
)
ROUTERS = st.sampled_from([None, ("0A:00:00:00:00:09", ("10.0.0.1/24",)), ("", ("fd00::1/64",))])
STEPS = st.lists(st.one_of(st.tuples(ROWS, PORTS | st.none()), st.tuples(st.just("gw"), ROUTERS)))


@given(STEPS)
def test_the_books_are_those_of_the_rows_that_are_left(steps: list[tuple[str, object]]) -> None:
    inventory = Inventory()
    left: dict[str, object] = {}
    for row, value in steps:
        left[row] = value
        if isinstance(value, ForeignPort):
            inventory.put(row, value)
        elif isinstance(value, tuple):
            inventory.put_router_port(row, *value)
        elif row == "gw":
            inventory.remove_router_port(row)
        else:
            inventory.remove(row)
        assert inventory.refresh() is inventory.refresh()

    router = left.get("gw")
    ips: dict[str, set[str]] = {"s1": set(), "s2": set()}
    macs: dict[str, set[str]] = {"s1": set(), "s2": set()}
    ports = [value for value in left.values() if isinstance(value, ForeignPort)]
    for port in ports:
        if port.switch:
            ips[port.switch] |= set(port.ips)
            macs[port.switch] |= set(port.macs)
            if port.router_port and isinstance(router, tuple):
                ips[port.switch] |= {network.partition("/")[0] for network in router[1]}
                macs[port.switch] |= {router[0].lower()} - {""}
    foreign = inventory.refresh()
    assert {switch: set(foreign.get(switch, Foreign()).ips) for switch in ips} == ips
    assert {switch: set(foreign.get(switch, Foreign()).macs) for switch in macs} == macs
    assert set(inventory.names.now) == {port.name for port in ports}
    assert set(inventory.names.now.values()) <= {port.phrase for port in ports}

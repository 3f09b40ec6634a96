"""Pools, at the desk: where an address comes from, and what is said where there is none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ovnagent.core.vm import VmKey
from tests.desk import Desk, foreign, network
from tests.unit.holding import DUAL, feed, ips


def test_a_pool_is_where_an_address_comes_from_and_what_is_held_in_it_stays() -> None:
    desk = Desk(DUAL)
    feed(desk, "web", ip_pool="10.16.0.50..10.16.0.51,fd00::50")
    desk.look()
    held = ips(desk, "web")
    assert held[0] in ("10.16.0.50", "10.16.0.51")
    assert held[1] == "fd00::50"
    feed(desk, "web", ip_pool="10.16.0.40..10.16.0.60,10.16.0.70,fd00::50,fd00::60")
    desk.look()
    assert ips(desk, "web") == held
    feed(desk, "web", ip_pool="10.16.0.52")
    desk.look()
    assert ips(desk, "web") == ("10.16.0.52", "fd00::50")
    feed(desk, "other", ip_pool="10.16.0.52")
    desk.look()
    assert desk.says("other") == [
        "PoolExhausted: no address is free in the pool of ovn.kubernetes.io/ip_pool; widen it or release addresses"
    ]
    assert desk.problems[VmKey("default", "other")][0].waits_for == ("pods",)
    feed(desk, "web", ip_pool="10.16.0.53")
    desk.look()
    assert ips(desk, "other")[0] == "10.16.0.52"


@pytest.mark.parametrize(
    "pool", ["10.17.0.0..10.17.255.255", "10.16.0.0", "10.16.0.1", "10.16.255.255", "10.16.0.7", "fd00::5"]
)
def test_a_pool_that_has_nothing_to_give(pool: str) -> None:
    desk = Desk()
    desk.foreign["ovn-default"] = foreign({"10.16.0.7": "port theirs"})
    feed(desk, "web", ip_pool=pool)
    desk.look()
    if pool == "fd00::5":  # no pool for the family that there is
        assert ips(desk, "web")
    else:
        assert desk.says("web")[0].startswith("PoolExhausted")


def test_a_foreign_address_that_nobody_counted_is_not_handed_out_either() -> None:
    desk = Desk()
    desk.foreign["ovn-default"] = replace(foreign({}), ips={"10.16.0.50": "port theirs"})
    feed(desk, "web", ip_pool="10.16.0.50..10.16.0.51")
    desk.look()
    assert ips(desk, "web") == ("10.16.0.51",)


def test_a_full_subnet_says_which() -> None:
    desk = Desk(network("10.16.0.0/30"))
    for name in ("a", "b"):
        feed(desk, name)
    desk.look()
    said = desk.says("a") + desk.says("b")
    assert said == [
        "PoolExhausted: no address is free in IPv4 subnet 10.16.0.0/30 of network pods; widen it or release addresses"
    ]


def test_a_name_tends_to_get_its_address_again() -> None:
    desk, other = Desk(), Desk()
    for number in range(20):
        feed(desk, f"vm{number}")
        feed(other, f"vm{19 - number}")
        other.look()
    desk.look()
    found = {name: row.port.addresses for name, row in desk.rows.items()}
    assert {name: row.port.addresses for name, row in other.rows.items()} == found
    assert len({port.ips for port in (row.port for row in desk.rows.values())}) == 20
    assert desk.port("vm0.default").mac == other.port("vm0.default").mac
    assert found["vm0.default"] == ("a6:51:5d:e1:3f:92 10.16.135.76",)
    assert all(int(row.port.mac[:2], 16) & 3 == 2 for row in desk.rows.values())

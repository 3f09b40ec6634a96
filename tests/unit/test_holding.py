"""What a VM holds, and what it is granted, at the desk."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ovnagent.core.networks import Networks
from ovnagent.core.vm import VmKey
from tests.desk import Desk, foreign, network, pod_object, record_text, vm_object, vmi_object
from tests.unit.holding import DUAL, ask, configure, feed, ips, start, stop

# ---- a network's subnets change -------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost_rows", [False, True])
def test_a_network_that_loses_a_subnet_costs_nobody_the_other_address(lost_rows: bool) -> None:
    desk = Desk(DUAL)
    feed(desk, "web", ip_address="10.16.0.50,fd00::50")
    desk.look()
    feed(desk, "web", record=desk.records[VmKey("default", "web")])
    if lost_rows:
        desk.rows.clear()
    configure(desk, network("10.16.0.0/16"))
    desk.look()
    assert ips(desk, "web") == ("10.16.0.50",)
    configure(desk, DUAL)
    desk.look()
    assert ips(desk, "web")[0] == "10.16.0.50"
    assert len(ips(desk, "web")) == 2


@pytest.mark.parametrize("restarted", [False, True])
def test_a_guest_that_runs_keeps_the_address_of_a_subnet_that_is_gone_until_it_stops(restarted: bool) -> None:
    desk = Desk(DUAL)
    feed(desk, "web", ip_address="10.16.0.50,fd00::50")
    desk.look()
    feed(desk, "web")
    start(desk, "web")
    desk.look()
    desk.networks = Networks((network("10.16.0.0/16"),))
    for _ in range(2):
        desk.look()
        assert ips(desk, "web") == ("10.16.0.50", "fd00::50")
        assert desk.says("web") == []
        if restarted:
            desk.forget()
    stop(desk, "web")
    desk.look()
    assert ips(desk, "web") == ("10.16.0.50",)


@pytest.mark.parametrize("restarted", [False, True])
def test_a_subnet_that_is_moved_is_moved_to_at_the_next_start(restarted: bool) -> None:
    desk = Desk()
    for name in ("runs", "stopped"):
        feed(desk, name)
    start(desk, "runs")
    desk.look()
    before = ips(desk, "runs")
    desk.networks = Networks((network("10.20.0.0/16"),))
    if restarted:
        desk.forget()
    desk.look()
    assert ips(desk, "runs") == before
    assert ips(desk, "stopped")[0].startswith("10.20.")
    stop(desk, "runs")
    desk.look()
    assert ips(desk, "runs")[0].startswith("10.20.")


@pytest.mark.parametrize("restarted", [False, True])
def test_an_address_that_is_reserved_now_is_left_at_the_next_start_also_where_it_was_asked_for(restarted: bool) -> None:
    desk = Desk()
    feed(desk, "web", ip_address="10.16.0.50")
    start(desk, "web", ip_address="10.16.0.50")
    feed(desk, "plain", ip_address="10.16.0.51")
    desk.look()
    feed(desk, "plain")
    desk.look()
    desk.networks = Networks((network(reserved=(("10.16.0.50", "10.16.0.59"),)),))
    if restarted:
        desk.forget()
    desk.look()
    assert ips(desk, "web") == ("10.16.0.50",)
    assert desk.says("web") == []
    assert ips(desk, "plain") != ("10.16.0.51",)
    stop(desk, "web")
    desk.look()
    assert desk.says("web")[0].startswith(
        "AddressRefused: ovn.kubernetes.io/ip_address asks for 10.16.0.50, which is reserved"
    )


def test_a_request_that_fails_in_one_family_changes_nothing_in_the_other() -> None:
    desk = Desk(DUAL)
    feed(desk, "web", ip_address="10.16.0.50,fd00::50")
    desk.look()
    for asked, words in (
        ("10.16.0.60,fd01::60", "fd01::60, which lies outside fd00::/64"),
        ("10.16.0.1,fd00::60", "10.16.0.1, which is the gateway"),
        ("10.16.0.60,10.16.0.61", "more than one IPv4 address"),
    ):
        feed(desk, "web", ip_address=asked)
        desk.look()
        assert ips(desk, "web") == ("10.16.0.50", "fd00::50")
        assert words in desk.says("web")[0]


# ---- who goes first -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "winner"),
    [
        ({"created": "2026-01-01T00:00:00Z"}, {"created": "2026-01-02T00:00:00Z"}, "a"),
        ({"created": "2026-01-03T00:00:00Z"}, {"created": "2026-01-02T00:00:00Z"}, "b"),
        ({}, {}, "a"),
        ({}, {"stage": "runs", "created": "2027-01-01T00:00:00Z"}, "b"),
        ({}, {"stage": "starts", "created": "2027-01-01T00:00:00Z"}, "b"),
        ({}, {"stage": "shuts down", "created": "2027-01-01T00:00:00Z"}, "b"),
    ],
)
@pytest.mark.parametrize("by", ["request", "record", "share"])
def test_of_two_who_ask_at_once_the_one_that_runs_then_the_older(
    first: dict[str, Any], second: dict[str, Any], winner: str, by: str
) -> None:
    desk = Desk()
    for name, given in (("a", dict(first)), ("b", dict(second))):
        stage = given.pop("stage", "")
        if by == "request":
            given |= {"ip_address": "10.16.0.50"}
        elif by == "record":
            given["record"] = record_text(name, f"uid-{name}", "10.16.0.50")
        else:
            given |= {"allowed_address_pairs": "0a:00:00:00:00:50 10.16.0.50", "mac_address": "0a:00:00:00:00:50"}
        feed(desk, name, **given)
        if stage:
            start(desk, name, **{key: value for key, value in given.items() if key not in ("record", "created")})
        if stage == "starts":
            desk.feed("DELETED", "pods", pod_object(f"{name}-1", name))
            annotations = ask(**{key: value for key, value in given.items() if key not in ("record", "created")})
            desk.feed("MODIFIED", "virtualmachineinstances", vmi_object(name, phase="Pending", annotations=annotations))
        if stage == "shuts down":
            desk.feed("DELETED", "virtualmachineinstances", vmi_object(name))
    desk.look()
    (port,) = [name for name in desk.rows if name != f"{winner}.default"] or [""]
    loser = "b" if winner == "a" else "a"
    assert port == ""
    assert desk.says(winner) == []
    assert f"VM default/{winner}" in desk.says(loser)[0]


# ---- wishes ---------------------------------------------------------------------------------------------------------


def test_a_wish_of_the_same_name_goes_before_one_of_another() -> None:
    desk = Desk()
    feed(desk, "origin", ip_address="10.16.0.50")
    desk.look()
    record = desk.records[VmKey("default", "origin")]
    desk.feed("DELETED", "virtualmachines", vm_object("origin"))
    desk.look()
    feed(desk, "clone", record=record, created="2020-01-01T00:00:00Z")
    restored = vm_object("origin", "restored", record=record, created="2026-06-01T00:00:00Z")
    desk.feed("ADDED", "virtualmachines", restored)
    desk.look()
    assert ips(desk, "origin") == ("10.16.0.50",)
    assert ips(desk, "clone") != ("10.16.0.50",)


@pytest.mark.parametrize("of", ["web", "another"])
@pytest.mark.parametrize("ip", [f"10.16.0.{number}" for number in range(2, 7)])
def test_a_wish_goes_before_a_free_choice(ip: str, of: str) -> None:
    desk = Desk(network("10.16.0.0/29"))
    for name in ("p", "q", "r", "s"):  # with these the subnet is full
        feed(desk, name, created="2020-01-01T00:00:00Z")
    wish = record_text(of, "old", ip, "0a:00:00:00:00:05")
    feed(desk, "web", record=wish)
    desk.look()
    assert ips(desk, "web") == (ip,)
    assert desk.port("web.default").mac == "0a:00:00:00:00:05"


@pytest.mark.parametrize("ip", ["10.16.0.1", "10.16.0.100", "10.99.0.1", "10.16.0.7", "10.16.0.20", "10.16.0.30"])
def test_a_wish_that_cannot_be_granted_is_passed_over_in_silence(ip: str) -> None:
    desk = Desk(network(reserved=(("10.16.0.100", "10.16.0.100"),)))
    desk.foreign["ovn-default"] = foreign({"10.16.0.7": "port theirs"})
    feed(desk, "holder", ip_address="10.16.0.20")
    feed(desk, "sharer", allowed_address_pairs="10.16.0.30")
    feed(desk, "web", record=record_text("web", "another-uid", ip))
    desk.look()
    assert ips(desk, "web") != (ip,)
    assert desk.says("web") == []


def test_another_interface_s_record_is_no_wish() -> None:
    desk = Desk()
    record = json.loads(record_text("other", "x", "10.16.0.50"))
    record["ports"]["other.default"]["interface"] = "second"
    feed(desk, "web", record=json.dumps(record))
    record["vm"], record["ports"] = "default/own", {"elsewhere": record["ports"]["other.default"]}
    feed(desk, "own", record=json.dumps(record))
    record["uid"] = "uid-right"
    record["vm"] = "default/right"
    feed(desk, "right", record=json.dumps(record))
    desk.look()
    for name in ("web", "own", "right"):
        assert ips(desk, name) != ("10.16.0.50",)


def test_a_record_of_another_network_says_nothing() -> None:
    other = network("10.16.0.0/16", name="other", switch="other", pod_network=False)
    desk = Desk(network(), other)
    feed(desk, "web", record=record_text("web", "uid-web", "10.16.0.50", network="other"))
    feed(desk, "old", record=record_text("old", "uid-old", "10.16.0.51", network="called-so-before"))
    feed(desk, "far", record=record_text("far", "uid-far", "10.99.0.51", network="called-so-before"))
    desk.look()
    assert ips(desk, "web") != ("10.16.0.50",)
    assert ips(desk, "old") == ("10.16.0.51",)
    assert desk.says("far") == []


def test_two_networks_on_one_switch_are_one_world() -> None:
    desk = Desk(network(), network("10.17.0.0/16", name="more", pod_network=False))
    feed(desk, "web", record=record_text("web", "uid-web", "10.16.0.50", network="more"))
    feed(desk, "other", logical_switch="more", mac_address="0a:00:00:00:00:99")
    desk.look()
    assert ips(desk, "web") == ("10.16.0.50",)
    assert "other.default" not in desk.rows
    assert "VM default/web has on this switch" in desk.says("other")[0]


@pytest.mark.parametrize("restarted", [False, True])
def test_a_running_guest_that_is_refused_on_another_switch_keeps_what_it_has(restarted: bool) -> None:
    """Its row stays where it is; so nobody else gets what the row says. (The VMI's annotations ask for another switch, with
    a mistake beside it.)"""
    desk = Desk(network(), network("10.20.0.0/16", name="tenant", switch="tenant", pod_network=False))
    feed(desk, "web", ip_address="10.16.0.50", mac_address="0a:00:00:00:00:50")
    start(desk, "web", ip_address="10.16.0.50", mac_address="0a:00:00:00:00:50")
    desk.look()
    start(desk, "web", logical_switch="tenant", ip_address="10.99.0.1")
    if restarted:
        desk.forget()
    feed(desk, "thief", ip_address="10.16.0.50")
    feed(desk, "twin", mac_address="0a:00:00:00:00:50")
    desk.look()
    kept = desk.port("web.default")
    assert (kept.switch, kept.addresses) == ("ovn-default", ("0a:00:00:00:00:50 10.16.0.50",))
    assert "thief.default" not in desk.rows
    assert "twin.default" not in desk.rows
    assert "10.16.0.50" in desk.records[VmKey("default", "web")]
    start(desk, "web", logical_switch="tenant")
    desk.look()
    assert desk.port("web.default").switch == "tenant"
    desk.look()
    assert ips(desk, "thief") == ("10.16.0.50",)
    assert desk.port("twin.default").mac == "0a:00:00:00:00:50"

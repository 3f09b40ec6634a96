"""What a VM holds, and what it is granted, at the desk."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from ovnagent.core.networks import Network, Networks
from ovnagent.core.ports import PresentPort
from ovnagent.core.virtual_ports import virtual_ports
from ovnagent.core.vm import VmKey
from tests.desk import Desk, foreign, network, pod_object, record_text, vm_object, vmi_object

OVN = "ovn.kubernetes.io"
DUAL = network("10.16.0.0/16", "fd00::/64")


def ask(**asked: str) -> dict[str, str]:
    return {f"{OVN}/{key}": value for key, value in asked.items()}


def feed(desk: Desk, name: str, *, record: str = "", created: str = "2026-01-01T00:00:00Z", **asked: str) -> None:
    made = vm_object(name, annotations=ask(**asked), record=record, created=created)
    desk.feed("MODIFIED", "virtualmachines", made)


def start(desk: Desk, name: str, node: str = "node1", macs: dict[str, str] | None = None, **asked: str) -> None:
    vmi = vmi_object(name, node=node, annotations=ask(**asked), macs=macs)
    desk.feed("MODIFIED", "virtualmachineinstances", vmi)
    desk.feed("MODIFIED", "pods", pod_object(f"{name}-1", name, node=node))


def stop(desk: Desk, name: str) -> None:
    desk.feed("DELETED", "virtualmachineinstances", vmi_object(name))
    desk.feed("DELETED", "pods", pod_object(f"{name}-1", name))


def ips(desk: Desk, name: str) -> tuple[str, ...]:
    return desk.port(f"{name}.default").ips


def configure(desk: Desk, *networks: Network) -> None:
    """The agent is started with another configuration."""
    desk.networks = Networks(networks)
    desk.forget()


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


# ---- pools ----------------------------------------------------------------------------------------------------------


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


# ---- what is on record ----------------------------------------------------------------------------------------------


def test_the_record_on_the_vm_goes_before_the_row_and_a_request_before_both() -> None:
    desk = Desk()
    feed(desk, "web", ip_address="10.16.0.50")
    desk.look()
    feed(desk, "web", record=record_text("web", "uid-web", "10.16.0.60", "0a:00:00:00:00:60"))
    desk.look()
    assert ips(desk, "web") == ("10.16.0.50",)  # the books are the memory of it
    desk.forget()
    desk.look()
    assert desk.port("web.default").addresses == ("0a:00:00:00:00:60 10.16.0.60",)
    feed(desk, "web", record=record_text("web", "uid-web", "10.16.0.70"), ip_address="10.16.0.60")
    desk.forget()
    desk.look()
    assert ips(desk, "web") == ("10.16.0.60",)
    feed(desk, "web", record=record_text("web", "uid-web", "10.16.0.70"), ip_address="10.16.0.80")
    desk.forget()
    desk.look()
    assert ips(desk, "web") == ("10.16.0.80",)


def test_of_two_records_of_one_vm_the_vm_s_goes_first() -> None:
    desk = Desk()
    feed(desk, "web", record=record_text("web", "uid-web", "10.16.0.50"))
    vmi = vmi_object("web", node="node1")
    vmi["metadata"]["annotations"]["ovnagent.io/record"] = record_text("web", "vmi-web", "10.16.0.60")
    desk.feed("ADDED", "virtualmachineinstances", vmi)
    desk.look()
    assert ips(desk, "web") == ("10.16.0.50",)
    feed(desk, "web")
    desk.rows.clear()
    desk.forget()
    desk.look()
    assert ips(desk, "web") == ("10.16.0.60",)


def test_a_record_s_mac_is_believed_where_nobody_has_it_and_a_running_guest_s_row_before_it() -> None:
    desk = Desk()
    desk.networks = Networks((replace(network(), reserved_macs=("0a:00:00:00:00:fe",)),))
    feed(desk, "free", record=record_text("free", "uid-free", "10.16.0.50", "0a:00:00:00:00:50"))
    feed(desk, "bad", record=record_text("bad", "uid-bad", "10.16.0.51", "0a:00:00:00:00:fe"))
    start(desk, "bad")
    desk.look()
    assert desk.port("free.default").mac == "0a:00:00:00:00:50"
    assert desk.port("bad.default").mac != "0a:00:00:00:00:fe"
    assert ips(desk, "bad") == ("10.16.0.51",)


def test_what_is_disputed_is_told_with_the_way_out_and_given_when_it_is_free() -> None:
    desk = Desk()
    desk.foreign["ovn-default"] = foreign({"10.16.0.50": "port theirs"})
    feed(desk, "web", record=record_text("web", "uid-web", "10.16.0.50"))
    desk.look()
    assert "web.default" not in desk.rows
    assert desk.says("web") == [
        "AddressConflict: 10.16.0.50 on record for this VM is held by port theirs; delete that, or ask for another address "
        "with an ip_address annotation"
    ]
    assert desk.problems[VmKey("default", "web")][0].waits_for == ("10.16.0.50",)
    desk.foreign.clear()
    desk.look()
    assert ips(desk, "web") == ("10.16.0.50",)
    desk.foreign["ovn-default"] = foreign({"10.16.0.50": "port theirs"})
    desk.look()
    assert ips(desk, "web") == ("10.16.0.50",)
    assert desk.says("web") == ["AddressConflict: 10.16.0.50 of this VM is also used by port theirs; change it there"]
    assert desk.problems[VmKey("default", "web")][0].waits_for == ("10.16.0.50",)


def test_of_a_record_only_what_another_has_is_disputed_and_only_what_the_network_has_to_give() -> None:
    desk = Desk(network("10.16.0.0/16", "fd00::/64", reserved=(("10.16.0.60", "10.16.0.60"),)))
    feed(desk, "holder", ip_address="fd00::50")
    desk.look()
    for ip in ("10.16.0.50", "10.16.0.60"):
        feed(desk, "web", record=record_text("web", "uid-web", f"{ip},fd00::50"))
        desk.look()
        assert [said for said in desk.says("web") if said.startswith("AddressConflict")] == [
            "AddressConflict: fd00::50 on record for this VM is held by VM default/holder; delete that, or ask for another "
            "address with an ip_address annotation"
        ]
    # A guest that runs has kept the reserved one: no dispute about that.
    start(desk, "keeper")
    row = desk.rows["holder.default"]
    kept = replace(row.port, name="keeper.default", addresses=("0a:00:00:00:00:60 10.16.0.60",))
    ids = dict(row.port.external_ids) | {"ovnagent-vm": "default/keeper", "ovnagent-vm-uid": "uid-keeper"}
    desk.rows["keeper.default"] = PresentPort("k", replace(kept, external_ids=tuple(sorted(ids.items()))))
    feed(desk, "web", record=record_text("web", "uid-web", "10.16.0.60"))
    desk.look()
    assert "10.16.0.60" in ips(desk, "keeper")
    assert "10.16.0.60" not in ips(desk, "web")
    assert [said.partition(":")[0] for said in desk.says("web")] == ["AddressRefused"]
    desk.look()  # it has a row now, and its record is written anew
    assert desk.says("web") == []


def test_of_two_rows_with_one_address_the_older_vm_s_counts_and_the_other_is_told() -> None:
    """The database was restored over a living cluster."""
    desk = Desk()
    feed(desk, "a", ip_address="10.16.0.50")
    feed(desk, "b", ip_address="10.16.0.51", created="2026-02-01T00:00:00Z")
    desk.look()
    row = desk.rows["b.default"]
    desk.rows["b.default"] = replace(row, port=replace(row.port, addresses=("0a:00:00:00:00:0b 10.16.0.50",)))
    for name in ("a", "b"):
        feed(desk, name, created="2026-01-01T00:00:00Z" if name == "a" else "2026-02-01T00:00:00Z")
    desk.forget()
    desk.look()
    assert ips(desk, "a") == ("10.16.0.50",)
    assert desk.says("b")[0].startswith("AddressConflict: 10.16.0.50 on record for this VM is held by VM default/a;")


def test_a_request_that_cannot_be_read_is_judged_no_further() -> None:
    desk = Desk(network("10.16.0.0/30"))
    feed(desk, "a")
    desk.look()
    feed(desk, "b", ip_address="nonsense")
    desk.look()
    assert [said.partition(":")[0] for said in desk.says("b")] == ["InvalidRequest"]


def test_a_request_ends_a_dispute() -> None:
    desk = Desk()
    feed(desk, "holder", ip_address="10.16.0.50")
    desk.look()
    feed(desk, "web", record=record_text("web", "uid-web", "10.16.0.50"))
    desk.look()
    assert "VM default/holder" in desk.says("web")[0]
    feed(desk, "web", record=record_text("web", "uid-web", "10.16.0.50"), ip_address="10.16.0.60")
    desk.look()
    assert ips(desk, "web") == ("10.16.0.60",)
    assert desk.says("web") == []


@pytest.mark.parametrize(
    ("ip", "words"),
    [
        ("10.16.0.50", "AddressConflict: {} VM default/holder holds; choose another address, or delete that VM first"),
        ("10.16.0.60", "AddressConflict: {} is an allowed address pair of VM default/sharer"),
        ("10.16.0.7", "AddressConflict: {} port theirs uses; choose another address"),
        ("10.17.0.7", "AddressRefused: {} lies outside 10.16.0.0/16; choose an address of that subnet"),
        ("fd00::5", "AddressRefused: ovn.kubernetes.io/ip_address asks for fd00::5, but network pods has no IPv6 subnet"),
    ],
)
def test_what_may_not_be_had_is_told(ip: str, words: str) -> None:
    desk = Desk()
    desk.foreign["ovn-default"] = foreign({"10.16.0.7": "port theirs"})
    feed(desk, "holder", ip_address="10.16.0.50")
    feed(desk, "sharer", allowed_address_pairs="10.16.0.60")
    desk.look()
    feed(desk, "web", ip_address=ip)
    desk.look()
    assert desk.says("web") == [words.format(f"ovn.kubernetes.io/ip_address asks for {ip}, which")]
    assert desk.problems[VmKey("default", "web")][0].waits_for == ((ip,) if words.startswith("AddressConflict") else ())


# ---- MACs -----------------------------------------------------------------------------------------------------------


def test_the_mac_that_is_on_the_wire_goes_before_the_one_on_record_and_a_request_before_both() -> None:
    desk = Desk()
    feed(desk, "web", record=record_text("web", "uid-web", "10.16.0.50", "0a:00:00:00:00:01"))
    start(desk, "web", macs={"default": "0a:00:00:00:00:02"})
    desk.look()
    assert desk.port("web.default").mac == "0a:00:00:00:00:02"
    asked = {"mac_address": "0a:00:00:00:00:03"}
    feed(desk, "web", **asked)
    start(desk, "web", macs={"default": "0a:00:00:00:00:02"}, **asked)
    desk.look()
    assert desk.port("web.default").mac == "0a:00:00:00:00:03"
    assert desk.says("web") == [
        "MACMismatch: ovn.kubernetes.io/mac_address asks for MAC 0a:00:00:00:00:03, but the guest runs with "
        "0a:00:00:00:00:02; set macAddress: 0a:00:00:00:00:03 on interface default in "
        "spec.template.spec.domain.devices and restart the VM"
    ]
    start(desk, "web", macs={"default": "0a:00:00:00:00:03"}, **asked)
    desk.look()
    assert desk.says("web") == []
    # stopped: what a status said does not count
    feed(desk, "web")
    vmi = vmi_object("web", phase="Succeeded", macs={"default": "0a:00:00:00:00:09"})
    desk.feed("MODIFIED", "virtualmachineinstances", vmi)
    desk.feed("DELETED", "pods", pod_object("web-1", "web"))
    desk.look()
    assert desk.port("web.default").mac == "0a:00:00:00:00:03"


def test_a_reported_mac_that_another_vm_has_is_not_believed() -> None:
    desk = Desk()
    feed(desk, "victim", mac_address="0a:00:00:00:00:01")
    desk.look()
    feed(desk, "evil", created="2020-01-01T00:00:00Z")
    start(desk, "evil", macs={"default": "0a:00:00:00:00:01"})
    for _ in range(2):
        desk.look()
        assert desk.port("victim.default").mac == "0a:00:00:00:00:01"
        assert desk.port("evil.default").mac != "0a:00:00:00:00:01"
        assert desk.says("evil") == [
            "MACConflict: the running guest is reported with the MAC 0a:00:00:00:00:01, which VM default/victim has on this "
            "switch; it is not believed"
        ]
        desk.forget()
    desk.feed("DELETED", "virtualmachines", vm_object("victim"))
    desk.look()
    assert desk.port("evil.default").mac == "0a:00:00:00:00:01"
    assert desk.says("evil") == []


@pytest.mark.parametrize("restarted", [False, True])
def test_a_foreign_port_takes_no_vm_its_mac(restarted: bool) -> None:
    """Running or stopped: as with addresses. Both are told."""
    desk = Desk()
    feed(desk, "web")
    start(desk, "web")
    desk.look()
    mac = desk.port("web.default").mac
    desk.foreign["ovn-default"] = foreign({}, {mac: "port theirs"})
    told = [f"MACConflict: the MAC {mac} of this VM is also used by port theirs; change it there"]
    for _ in range(2):
        if restarted:
            desk.forget()
        desk.look()
        assert (desk.port("web.default").mac, desk.says("web")) == (mac, told)
        stop(desk, "web")


def test_a_mac_asked_for_that_another_has_is_told_once_also_where_the_guest_runs_with_it() -> None:
    desk = Desk()
    feed(desk, "victim", mac_address="0a:00:00:00:00:01")
    desk.look()
    feed(desk, "web", mac_address="0a:00:00:00:00:01")
    start(desk, "web", macs={"default": "0a:00:00:00:00:01"}, mac_address="0a:00:00:00:00:01")
    desk.look()
    assert desk.says("web") == [
        "MACConflict: ovn.kubernetes.io/mac_address has the MAC 0a:00:00:00:00:01, which VM default/victim has on this "
        "switch; choose another"
    ]


def test_who_leaves_a_mac_leaves_it_to_who_waits_for_it() -> None:
    desk = Desk()
    feed(desk, "a", mac_address="0a:00:00:00:00:01")
    desk.look()
    feed(desk, "b", mac_address="0a:00:00:00:00:01")
    desk.look()
    assert "b.default" not in desk.rows
    feed(desk, "a", mac_address="0a:00:00:00:00:02")
    desk.look()
    assert desk.port("b.default").mac == "0a:00:00:00:00:01"


# ---- shared addresses -----------------------------------------------------------------------------------------------


def test_who_shares_is_on_the_virtual_port() -> None:
    desk = Desk(DUAL)
    for name in ("b", "a"):
        feed(desk, name, allowed_address_pairs="10.16.0.50,fd00::50")
    desk.look()
    found = {port.name: port for port in virtual_ports("lab", desk.books)}
    assert sorted(found) == ["10.16.0.50.ovn-default", "fd00::50.ovn-default"]
    port = found["fd00::50.ovn-default"]
    assert (port.type, port.switch, port.addresses) == ("virtual", "ovn-default", ())
    assert port.options == (("virtual-ip", "fd00::50"), ("virtual-parents", "a.default,b.default"))
    assert port.external_ids == (("ovnagent-cluster", "lab"), ("ovnagent-options", "virtual-ip,virtual-parents"))


def test_who_shares_an_address_no_more_leaves_it_to_who_waits_for_it() -> None:
    desk = Desk()
    feed(desk, "web", allowed_address_pairs="10.16.0.50")
    desk.look()
    feed(desk, "other", ip_address="10.16.0.50")
    desk.look()
    assert "other.default" not in desk.rows
    feed(desk, "web")
    desk.look(VmKey("default", "web"))
    assert ips(desk, "other") == ("10.16.0.50",)


def test_an_address_that_only_the_vm_itself_shares_may_become_its_own() -> None:
    desk = Desk()
    feed(desk, "web", allowed_address_pairs="10.16.0.50")
    desk.look()
    feed(desk, "web", allowed_address_pairs="10.16.0.50", ip_address="10.16.0.50")
    desk.look()
    assert (ips(desk, "web"), desk.says("web")) == (("10.16.0.50",), [])


@pytest.mark.parametrize("restarted", [False, True])
def test_a_share_that_stands_goes_before_an_older_vm_s_request_in_one_batch(restarted: bool) -> None:
    desk = Desk()
    feed(desk, "web", allowed_address_pairs="10.16.0.50")
    desk.look()
    if not restarted:
        desk.virtual.clear()  # the database refused the row: the books know all the same
    else:
        desk.forget()
    feed(desk, "thief", ip_address="10.16.0.50", created="2020-01-01T00:00:00Z")
    feed(desk, "web", allowed_address_pairs="10.16.0.50,10.16.0.51")
    desk.look()
    assert "thief.default" not in desk.rows
    assert sorted(desk.virtual) == ["10.16.0.50.ovn-default", "10.16.0.51.ovn-default"]


def test_a_virtual_port_of_another_switch_or_address_says_nothing_of_this_one() -> None:
    desk = Desk(network(), network("10.17.0.0/16", name="other", switch="other", pod_network=False))
    feed(desk, "web", allowed_address_pairs="10.16.0.50")
    desk.look()
    row = desk.virtual.pop("10.16.0.50.ovn-default")
    for changed in (
        replace(row.port, switch="other"),
        replace(row.port, options=(("virtual-ip", "10.16.0.51"), row.port.options[1])),
        replace(row.port, options=(row.port.options[0], ("virtual-parents", "other.default"))),
    ):
        desk.virtual = {row.port.name: replace(row, port=changed)}
        feed(desk, "first", ip_address="10.16.0.50", created="2020-01-01T00:00:00Z")
        desk.forget()
        desk.look()
        assert ips(desk, "first") == ("10.16.0.50",)
        desk.feed("DELETED", "virtualmachines", vm_object("first"))
        desk.look()


@pytest.mark.parametrize("record_written", [False, True])
def test_what_is_held_on_a_network_that_is_missing_stays_on_record(record_written: bool) -> None:
    """The network is gone from the configuration, the VM stops meanwhile (its port goes), and the network comes back."""
    nad = network("10.20.0.0/16", name="blue", switch="blue", pod_network=False, nads=("default/blue",))
    interfaces: list[dict[str, Any]] = [{"name": "default", "bridge": {}}, {"name": "extra", "bridge": {}}]
    networks = [{"name": "default", "pod": {}}, {"name": "extra", "multus": {"networkName": "blue"}}]
    desk = Desk(network(), nad)
    key, port = VmKey("default", "web"), "web.default.blue.default"

    def put(record: str = "") -> None:
        desk.feed("MODIFIED", "virtualmachines", vm_object("web", interfaces=interfaces, networks=networks, record=record))

    put()
    vmi = vmi_object("web", node="node1", interfaces=interfaces, networks=networks, macs={"extra": "0a:58:0a:00:00:06"})
    desk.feed("MODIFIED", "virtualmachineinstances", vmi)
    desk.feed("MODIFIED", "pods", pod_object("web-1", "web", node="node1"))
    desk.look()
    held = desk.port(port).addresses
    assert held[0].startswith("0a:58:0a:00:00:06 ")
    if record_written:
        put(desk.records[key])
    configure(desk, network())
    desk.look()
    assert desk.port(port).addresses == held
    put(desk.records[key])
    stop(desk, "web")
    desk.look()
    assert port not in desk.rows
    put(desk.records[key])
    configure(desk, network(), nad)
    desk.look()
    assert desk.port(port).addresses == held
    assert desk.says("web") == []

"""Whose network is it: what a network's rules admit, and that a running guest keeps what it has when a rule changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ovnagent.core import limits
from ovnagent.core.dhcp import server_mac
from ovnagent.core.networks import Dhcp, Namespaces, Network, Networks
from ovnagent.core.vm import VmKey
from tests.desk import Desk, foreign, network, pod_object, vm_object, vmi_object

OVN = "ovn.kubernetes.io"
NOBODY = Namespaces(everyone=False)
TEAM = Namespaces(everyone=False, names=frozenset({"team"}))
GOLD = Namespaces(everyone=False, labels=(("tier", "gold"), ("zone", "a")))


def change(desk: Desk, **changes: Any) -> Network:
    """The operator changes the rules of the pod network."""
    known = replace(desk.networks.all[0], **changes)
    desk.networks = Networks((known, *desk.networks.all[1:]))
    return known


def start(desk: Desk, name: str, namespace: str = "default", annotations: dict[str, str] | None = None, **more: Any) -> None:
    desk.feed("MODIFIED", "virtualmachines", vm_object(name, namespace=namespace, annotations=annotations, **more))
    vmi = vmi_object(name, node="node1", namespace=namespace, annotations=annotations)
    desk.feed("MODIFIED", "virtualmachineinstances", vmi)
    desk.feed("MODIFIED", "pods", pod_object(f"{name}-1", name, node="node1", namespace=namespace))


def stop(desk: Desk, name: str, namespace: str = "default") -> None:
    desk.feed("DELETED", "virtualmachineinstances", vmi_object(name, namespace=namespace))
    desk.feed("DELETED", "pods", pod_object(f"{name}-1", name, namespace=namespace))


@pytest.mark.parametrize(
    ("rule", "namespace", "labels", "expected"),
    [
        (Namespaces(), "any", (), True),
        (NOBODY, "any", (), False),
        (NOBODY, "any", (("tier", "gold"),), False),
        (TEAM, "team", (), True),
        (TEAM, "team2", (), False),
        (GOLD, "any", (("tier", "gold"), ("zone", "a"), ("x", "y")), True),
        (GOLD, "any", (("tier", "gold"),), False),
        (GOLD, "any", (("tier", "gold"), ("zone", "b")), False),
    ],
)
def test_whom_a_rule_admits(rule: Namespaces, namespace: str, labels: tuple[tuple[str, str], ...], expected: bool) -> None:
    assert rule.admit(namespace, labels) is expected


def test_who_may_not_attach_gets_no_port_and_is_told_which_rule() -> None:
    desk = Desk()
    change(desk, namespaces=GOLD)
    desk.feed("ADDED", "virtualmachines", vm_object("web"))
    desk.look()
    assert desk.rows == {}
    assert desk.says("web") == [
        "NetworkRefused: interface default is on network pods, to which namespace default may not attach (the network's "
        "rule `namespaces`); choose another network, or ask the cluster's operator to admit the namespace"
    ]
    desk.namespaces["default"] = (("tier", "gold"), ("zone", "a"))
    desk.look()
    assert "web.default" in desk.rows
    assert desk.says("web") == []


def test_a_name_does_not_open_a_network_and_its_name_is_nobody_s_to_learn() -> None:
    secret = network("10.17.0.0/24", name="secret", switch="vault", pod_network=False)
    desk = Desk(network(), replace(secret, namespaces=TEAM))
    for name in ("secret", "vault"):
        desk.feed("MODIFIED", "virtualmachines", vm_object("web", annotations={f"{OVN}/logical_switch": name}))
        desk.look()
        assert desk.rows == {}
        (said,) = desk.says("web")
        assert said.startswith(
            f"NetworkRefused: {OVN}/logical_switch names network secret, to which namespace default may not"
        )
    desk.feed("MODIFIED", "virtualmachines", vm_object("web", annotations={f"{OVN}/logical_switch": "other"}))
    desk.look()
    assert desk.says("web") == [
        f"UnknownNetwork: {OVN}/logical_switch names other, which is not configured; choose one of: pods"
    ]
    desk.feed(
        "ADDED", "virtualmachines", vm_object("ours", namespace="team", annotations={f"{OVN}/logical_switch": "vault"})
    )
    desk.look()
    assert desk.port("ours.team").switch == "vault"


def test_a_nad_is_no_way_in_either() -> None:
    secret = network("10.17.0.0/24", name="secret", switch="vault", pod_network=False, nads=("team/configured",))
    desk = Desk(network(), replace(secret, namespaces=TEAM))
    desk.nads["default/own"] = "secret"
    for nad, words in (
        ("own", "NetworkAttachmentDefinition default/own names network"),
        ("team/configured", "interface n is on"),
    ):
        networks = [{"name": "n", "multus": {"networkName": nad}}]
        interfaces = [{"name": "n", "bridge": {}}]
        desk.feed("MODIFIED", "virtualmachines", vm_object("web", interfaces=interfaces, networks=networks))
        desk.look()
        assert desk.rows == {}
        (said,) = desk.says("web")
        assert said.startswith(f"NetworkRefused: {words}")


def test_a_guest_that_runs_keeps_its_port_until_it_stops() -> None:
    desk = Desk()
    start(desk, "web")
    desk.look()
    before = dict(desk.rows)
    change(desk, namespaces=TEAM)
    for _ in range(2):
        desk.look()
        assert desk.rows == before
        assert desk.says("web")[0].startswith("NetworkRefused")
        desk.forget()
    # nor does anybody get its address meanwhile
    ip = before["web.default"].port.ips[0]
    thief = vm_object("thief", namespace="team", annotations={f"{OVN}/ip_address": ip}, created="2020-01-01T00:00:00Z")
    desk.feed("ADDED", "virtualmachines", thief)
    desk.look()
    assert desk.rows == before
    stop(desk, "web")
    desk.look()
    assert list(desk.rows) == ["thief.team"]


def test_who_may_switch_port_security_off() -> None:
    desk = Desk()
    off = {f"{OVN}/port_security": "false"}
    change(desk, port_security_off=TEAM)
    for name, namespace in (("web", "default"), ("ours", "team")):
        desk.feed("ADDED", "virtualmachines", vm_object(name, namespace=namespace, annotations=off))
    desk.look()
    assert desk.port("ours.team").port_security == ()
    assert desk.says("ours", "team") == []
    assert desk.port("web.default").port_security == desk.port("web.default").addresses
    assert desk.says("web") == [
        "NetworkRefused: port security stays on: on network pods namespace default may not switch it off (the network's "
        "rule `allowPortSecurityOff`); ask the cluster's operator"
    ]


def test_port_security_that_is_off_by_the_network_needs_nobody_s_leave_and_may_be_switched_on() -> None:
    desk = Desk()
    change(desk, port_security=False, port_security_off=NOBODY)
    for name, value in (("on", "true"), ("off", "false"), ("plain", "")):
        annotations = {f"{OVN}/port_security": value} if value else {}
        desk.feed("ADDED", "virtualmachines", vm_object(name, annotations=annotations))
    desk.look()
    assert [bool(desk.port(f"{name}.default").port_security) for name in ("on", "off", "plain")] == [True, False, False]
    assert [desk.says(name) for name in ("on", "off", "plain")] == [[], [], []]


def test_a_guest_that_runs_without_port_security_does_so_until_it_stops() -> None:
    desk = Desk()
    off = {f"{OVN}/port_security": "false"}
    start(desk, "web", annotations=off)
    desk.look()
    change(desk, port_security_off=NOBODY)
    desk.forget()
    desk.look()
    assert desk.port("web.default").port_security == ()
    assert desk.says("web")[0].startswith("NetworkRefused: port security stays on")
    start(desk, "other", annotations=off)  # one that starts now is not let off by its neighbour
    desk.look()
    assert desk.port("other.default").port_security
    stop(desk, "web")
    desk.look()
    assert desk.port("web.default").port_security
    start(desk, "web", annotations=off)
    desk.look()
    assert desk.port("web.default").port_security


def sharing(desk: Desk, name: str, namespace: str, ip: str = "10.16.0.50", created: str = "2026-01-01T00:00:00Z") -> None:
    annotations = {f"{OVN}/allowed_address_pairs": ip}
    made = vm_object(name, namespace=namespace, annotations=annotations, created=created)
    desk.feed("MODIFIED", "virtualmachines", made)


def test_an_address_is_shared_within_a_namespace_unless_the_network_says_otherwise() -> None:
    desk = Desk()
    sharing(desk, "a", "one")
    sharing(desk, "b", "one")
    desk.look()
    sharing(desk, "evil", "two", created="2020-01-01T00:00:00Z")
    for _ in range(2):
        desk.look()
        assert desk.virtual["10.16.0.50.ovn-default"].port.option("virtual-parents") == "a.one,b.one"
        assert desk.says("evil", "two") == [
            f"AddressConflict: {OVN}/allowed_address_pairs asks for 10.16.0.50, which VMs of another namespace share; on "
            "network pods an address is shared within one namespace only (the network's rule `sharedAddresses`)"
        ]
        assert "10.16.0.50" not in " ".join(desk.port("evil.two").port_security)
        assert desk.says("a", "one") == []
        desk.forget()
    change(desk, shared_addresses="network")
    desk.look()
    assert desk.virtual["10.16.0.50.ovn-default"].port.option("virtual-parents") == "a.one,b.one,evil.two"


def test_so_many_may_share_an_address_and_who_comes_later_waits() -> None:
    desk = Desk()
    names = [f"vm{number:02}" for number in range(limits.SHARERS)]
    for name in names:
        sharing(desk, name, "one")
    desk.look()
    sharing(desk, "first", "one", created="2020-01-01T00:00:00Z")
    told = f"AddressConflict: {OVN}/allowed_address_pairs asks for 10.16.0.50, which 64 ports share already, the "
    told += "most that may"
    for _ in range(2):
        desk.look()
        assert desk.says("first", "one") == [told]
        assert desk.port("first.one").ips
        assert desk.says("vm00", "one") == []
        desk.forget()
    sharing(desk, "vm07", "one", ip="10.16.0.51")
    desk.look()
    assert "first.one" in desk.virtual["10.16.0.50.ovn-default"].port.option("virtual-parents").split(",")


@pytest.mark.parametrize(
    ("ip", "words"),
    [
        ("10.17.0.5", "AddressRefused: {} asks for 10.17.0.5, which no subnet of network pods contains"),
        ("10.16.0.1", "AddressRefused: {} asks for 10.16.0.1, which is the gateway of 10.16.0.0/16; choose another address"),
        ("10.16.0.7", "AddressConflict: {} asks for 10.16.0.7, which port theirs uses"),
        ("10.16.0.20", "AddressConflict: {} asks for 10.16.0.20, which VM default/holder holds as its own"),
        ("0a:00:00:00:00:07 10.16.0.9", "MACConflict: {} asks for 10.16.0.9, which may not have the MAC 0a:00:00:00:00:07: "
         "port theirs has it on this switch"),
        ("0a:00:00:00:00:20 10.16.0.9", "MACConflict: {} asks for 10.16.0.9, which may not have the MAC 0a:00:00:00:00:20: "
         "VM default/holder has it on this switch"),
    ],
)  # fmt: skip
def test_what_may_not_be_shared(ip: str, words: str) -> None:
    desk = Desk()
    desk.foreign["ovn-default"] = foreign({"10.16.0.7": "port theirs"}, {"0a:00:00:00:00:07": "port theirs"})
    own = {f"{OVN}/ip_address": "10.16.0.20", f"{OVN}/mac_address": "0a:00:00:00:00:20"}
    desk.feed("ADDED", "virtualmachines", vm_object("holder", annotations=own))
    sharing(desk, "web", "default", ip)
    desk.look()
    assert desk.says("web") == [words.format(f"{OVN}/allowed_address_pairs")]
    assert desk.virtual == {}
    waits = desk.problems[VmKey("default", "web")][0].waits_for
    assert waits == tuple(reversed(ip.split()))


def test_a_reserved_range_is_where_shared_addresses_come_from() -> None:
    desk = Desk(network(reserved=(("10.16.0.50", "10.16.0.60"),)))
    sharing(desk, "a", "default")
    desk.look()
    assert "10.16.0.50.ovn-default" in desk.virtual
    assert desk.says("a") == []


def test_a_shared_address_that_others_use_now_is_nobody_s() -> None:
    desk = Desk()
    sharing(desk, "a", "default")
    desk.look()
    desk.foreign["ovn-default"] = foreign({"10.16.0.50": "port theirs"})
    desk.look()
    assert desk.virtual == {}
    desk.foreign.clear()
    desk.look()
    assert list(desk.virtual) == ["10.16.0.50.ovn-default"]


# ---- MACs that are nobody's -----------------------------------------------------------------------------------------

GATEWAY = "0a:00:00:00:00:fe"


@pytest.mark.parametrize(
    ("mac", "who"),
    [
        (GATEWAY, "the network's operator (reservedMacs)"),
        (server_mac(network()), "OVN's DHCP server"),
        ("0a:00:00:00:00:07", "port theirs"),
    ],
)
def test_a_mac_that_is_nobody_s_is_refused_reported_or_asked_for(mac: str, who: str) -> None:
    desk = Desk()
    desk.foreign["ovn-default"] = foreign({}, {"0a:00:00:00:00:07": "port theirs"})
    change(desk, reserved_macs=(GATEWAY,))
    desk.feed("ADDED", "virtualmachines", vm_object("asks", annotations={f"{OVN}/mac_address": mac}))
    desk.feed(
        "ADDED", "virtualmachines", vm_object("says", interfaces=[{"name": "default", "bridge": {}, "macAddress": mac}])
    )
    desk.feed("ADDED", "virtualmachines", vm_object("web"))
    vmi = vmi_object("web", node="node1", macs={"default": mac})
    desk.feed("ADDED", "virtualmachineinstances", vmi)
    desk.feed("ADDED", "pods", pod_object("p1", "web", node="node1"))
    desk.look()
    assert list(desk.rows) == ["web.default"]
    assert desk.port("web.default").mac != mac
    assert desk.says("asks") == [
        f"MACConflict: {OVN}/mac_address has the MAC {mac}, which {who} has on this switch; choose another"
    ]
    assert desk.says("says") == [
        f"MACConflict: macAddress of interface default has the MAC {mac}, which {who} has on this switch; choose another"
    ]
    assert desk.says("web") == [
        f"MACConflict: the running guest is reported with the MAC {mac}, which {who} has on this switch; it is not believed"
    ]
    for name in ("asks", "says", "web"):
        assert desk.problems[VmKey("default", name)][0].waits_for == (mac,)


def test_a_guest_that_runs_keeps_its_mac_when_it_is_reserved_and_has_another_at_the_next_start() -> None:
    desk = Desk()
    asked = {f"{OVN}/mac_address": GATEWAY}
    start(desk, "asked", annotations=asked)
    start(desk, "plain")
    desk.look()
    plain = desk.port("plain.default").mac
    change(desk, reserved_macs=(GATEWAY, plain))
    for _ in range(2):
        desk.look()
        assert desk.port("plain.default").mac == plain
        assert desk.port("asked.default").mac == GATEWAY
        assert desk.says("asked")[0].startswith("MACConflict")
        desk.forget()
    for name in ("asked", "plain"):
        stop(desk, name)
    desk.forget()
    desk.look()
    assert desk.port("plain.default").mac not in (plain, GATEWAY)


def test_a_wish_brings_no_mac_that_another_has() -> None:
    desk = Desk()
    desk.feed("ADDED", "virtualmachines", vm_object("origin", annotations={f"{OVN}/mac_address": "0a:00:00:00:00:01"}))
    desk.look()
    record = desk.records[VmKey("default", "origin")]
    desk.feed("ADDED", "virtualmachines", vm_object("clone", record=record))
    desk.look()
    assert desk.port("clone.default").mac != "0a:00:00:00:00:01"
    desk.feed("DELETED", "virtualmachines", vm_object("origin"))
    desk.look()
    desk.feed("ADDED", "virtualmachines", vm_object("heir", record=record))
    desk.look()
    assert desk.port("heir.default").mac == "0a:00:00:00:00:01"


def test_a_network_of_which_nothing_more_is_said() -> None:
    """It is not the network of pods, no router has its gateways, nobody answers DNS on it, and leases last an hour."""
    bare = Network("x", "x", network().subnets)
    assert Networks((bare,)).pod is None
    assert (bare.router, bare.dns_domain, Dhcp().lease_seconds) == ("", "", 3600)

"""What a port claims by what was seen of it last, and what stays on record of networks that are not configured now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from ovnagent.core.addresses import Claim
from ovnagent.core.attachments import Rules, attachments
from ovnagent.core.claims import claims, unconfigured
from ovnagent.core.identity import lease_of
from ovnagent.core.owner import Owner, owner
from ovnagent.core.placement import locate
from ovnagent.core.ports import INTERFACE, NETWORK, VM_UID, Port, PresentPort
from ovnagent.core.records import Lease, Record, render
from ovnagent.core.vm import VmKey
from tests.desk import Desk, record_text, vm_object

MAC = "0a:00:00:00:00:01"
SWITCHES = {"pods": "ovn-default"}


def row(
    ip: str,
    name: str = "web.default",
    net: str = "pods",
    switch: str = "ovn-default",
    interface: str = "default",
    uid: str = "uid-web",
) -> PresentPort:
    ids = ((INTERFACE, interface), (NETWORK, net), (VM_UID, uid))
    return PresentPort(name, Port(name, switch, (f"{MAC} {ip}",), external_ids=ids))


def lease(ip: str, name: str = "web.default", net: str = "pods", interface: str = "default") -> Lease:
    found = lease_of(row(ip, name, net, interface=interface).port)
    assert found is not None
    return found


def record(*leases: Lease, vm: str = "default/web", uid: str = "uid-web") -> str:
    return render(Record(VmKey(*vm.split("/")), uid, leases))


def machine(*records: str, state: str = "") -> Owner:
    """VM web with an interface on the pod network, and one beside it."""
    desk = Desk()
    nics = [{"name": "default", "bridge": {}}, {"name": "n", "bridge": {}, **({"state": state} if state else {})}]
    nets = [{"name": "default", "pod": {}}, {"name": "n", "multus": {"networkName": "d/c"}}]
    desk.feed("ADDED", "virtualmachines", vm_object("web", interfaces=nics, networks=nets))
    found = owner(desk.store.facts(VmKey("default", "web")))
    assert found is not None
    return replace(found, records=records)


def claimed(before: PresentPort | None, *records: str) -> Claim:
    desk = Desk()
    desk.feed("ADDED", "virtualmachines", vm_object("web"))
    facts = desk.store.facts(VmKey("default", "web"))
    whose = replace(machine(*records), interfaces=machine().interfaces[:1])
    found, _ = attachments(whose, facts, (), Rules(desk.networks, {}, {}))
    lost = {} if before is None else {"web.default": before}
    (claim,) = claims(whose, facts, locate(facts), (), found, desk.networks.switches, lost)
    return claim


def ips(leases: Sequence[Lease]) -> list[str]:
    return [str(ip) for each in leases for ip in each.ips]


# ---- the row as it was seen last ------------------------------------------------------------------------------------


def test_what_was_seen_last_is_the_agent_s_word_where_a_record_of_the_vm_s_own_says_the_same() -> None:
    said = record_text("web", "uid-web", "10.16.0.5")
    for records in ((said,), (record_text("web", "uid-web", "10.16.0.9"), said)):
        claim = claimed(row("10.16.0.5"), *records)
        assert (claim.last_row, claim.wishes) == (lease("10.16.0.5"), ())


def test_what_was_seen_last_counts_for_nothing_where_the_vm_s_own_record_says_another() -> None:
    claim = claimed(row("10.16.0.5"), record_text("web", "uid-web", "10.16.0.9"))
    assert (claim.last_row, ips(claim.records), claim.wishes) == (None, ["10.16.0.9"], ())


def test_what_was_seen_last_is_the_first_wish_where_no_record_was_written_yet() -> None:
    earlier = record_text("web", "uid-earlier", "10.16.0.9")
    claim = claimed(row("10.16.0.5"), earlier)
    assert (claim.last_row, ips(claim.wishes)) == (None, ["10.16.0.5", "10.16.0.9"])
    assert ips(claimed(None, earlier).wishes) == ["10.16.0.9"]


@pytest.mark.parametrize("seen", [row("10.16.0.5", switch="elsewhere"), row("10.16.0.5", uid="uid-earlier")])
def test_what_was_seen_on_another_switch_or_of_an_earlier_vm_is_nobody_s_word(seen: PresentPort) -> None:
    for records in ((), (record_text("web", "uid-web", "10.16.0.5"),)):
        claim = claimed(seen, *records)
        assert (claim.last_row, claim.wishes) == (None, ())


# ---- networks that are not configured now ---------------------------------------------------------------------------

HERE = lease("10.16.0.5")
LOST = lease("10.99.0.5", "web.default.c.d", "gone", "n")


def test_what_an_interface_held_on_a_network_that_is_gone_stays_on_record_once() -> None:
    kept = row("10.99.0.5", "web.default.c.d", "gone", "gone", "n")
    whose = machine(record(HERE, LOST), record(LOST))
    assert unconfigured(whose, (), [HERE], SWITCHES) == [LOST]
    assert unconfigured(whose, [kept], [HERE], SWITCHES) == [LOST]
    assert unconfigured(machine(), [kept], [HERE], SWITCHES) == [LOST]
    assert unconfigured(machine(), (), [HERE], SWITCHES) == []


def test_what_somebody_makes_of_a_row_whose_network_is_gone_does_not_get_on_record() -> None:
    """Nobody puts such a row right; the VM's own record has the address that it had."""
    changed = row("10.99.0.66", "web.default.c.d", "gone", "gone", "n")
    assert unconfigured(machine(record(HERE, LOST)), [changed], [HERE], SWITCHES) == [LOST]


def test_a_row_in_use_stays_on_record_also_where_its_interface_has_a_lease_elsewhere() -> None:
    kept = row("10.99.0.5", "web.default.c.d", "gone", "gone", "n")
    elsewhere = lease("10.17.0.5", "web.default.e.d", "tenant", "n")
    assert unconfigured(machine(), [kept], [HERE, elsewhere], SWITCHES) == [LOST]


def test_a_row_in_use_counts_by_what_it_says_of_an_interface_that_is_there() -> None:
    absent = row("10.99.0.5", "web.default.c.d", "gone", "gone", "unheard-of")
    good = row("10.99.0.5", "web.default.c.d", "gone", "gone", "n")
    mangled = replace(good, port=replace(good.port, addresses=("nonsense",)))
    assert unconfigured(machine(), [absent, mangled], [HERE], SWITCHES) == []
    assert unconfigured(machine(), [mangled, good], [HERE], SWITCHES) == [LOST]


def test_an_interface_s_lost_lease_does_not_hang_on_whether_another_has_one() -> None:
    """What has a lease now keeps no other by a record."""
    elsewhere = lease("10.17.0.5", "web.default.e.d", "tenant", "n")
    assert unconfigured(machine(record(HERE, LOST)), (), [elsewhere], SWITCHES) == []


def test_where_each_interface_has_its_lease_no_record_adds_to_them() -> None:
    elsewhere = lease("10.17.0.5", "web.default.e.d", "tenant", "n")
    assert unconfigured(machine(record(HERE, LOST)), (), [HERE, elsewhere], SWITCHES) == []


def test_an_interface_that_is_absent_keeps_nothing_on_record() -> None:
    assert unconfigured(machine(record(LOST), state="absent"), (), [], SWITCHES) == []
    assert unconfigured(machine(record(LOST), state="down"), (), [], SWITCHES) == [LOST]


@pytest.mark.parametrize(
    "text",
    [
        record(LOST, vm="default/another"),
        record(LOST, uid="uid-earlier"),
        record(replace(LOST, interface="unheard-of")),
        record(replace(LOST, network="pods")),  # which is configured, and gave it nothing
        record(replace(LOST, port="web.default")),  # which has a lease
    ],
)
def test_what_keeps_nothing_on_record(text: str) -> None:
    assert unconfigured(machine(text), (), [HERE], SWITCHES) == []

"""What is on record, against rows, requests and other records, at the desk."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ovnagent.core.networks import Networks
from ovnagent.core.ports import PresentPort
from ovnagent.core.vm import VmKey
from tests.desk import Desk, foreign, network, pod_object, record_text, vm_object, vmi_object
from tests.unit.holding import configure, feed, ips, start, stop


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

"""The MAC of a port: on the wire, on record, asked for, somebody else's."""

from __future__ import annotations

import pytest

from tests.desk import Desk, foreign, pod_object, record_text, vm_object, vmi_object
from tests.unit.holding import feed, start, stop


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

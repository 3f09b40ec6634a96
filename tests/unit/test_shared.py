"""Addresses that several VMs share, at the desk."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ovnagent.core.virtual_ports import virtual_ports
from ovnagent.core.vm import VmKey
from tests.desk import Desk, network, vm_object
from tests.unit.holding import DUAL, feed, ips


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

"""Rows that somebody mangled are written anew, and nobody else notices."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ovnagent.core.ports import PresentPort
from ovnagent.core.vm import VmKey
from tests.desk import Desk, network, pod_object, vm_object, vmi_object
from tests.unit.planning import OVN, feed, running


@pytest.mark.parametrize(
    "addresses",
    [(), ("",), (" ",), ("dynamic",), ("unknown",), ("0a:00:00:00:00:01",), ("router",), ("0a:00:00:00:00:01 10.16.0.500",),
     ("01:00:00:00:00:01 10.16.0.5",), ("unknown 10.16.0.5",), ("0a:00:00:00:00:01 fd00::5%x",)],
)  # fmt: skip
@pytest.mark.parametrize("runs", [False, True])
def test_a_mangled_row_is_written_anew_and_nobody_else_notices(addresses: tuple[str, ...], runs: bool) -> None:
    desk = Desk()
    running(desk, "web") if runs else feed(desk, "web")
    feed(desk, "other", "10.16.0.77")
    desk.look()
    text = desk.records[VmKey("default", "web")]
    right = desk.rows["web.default"]
    desk.rows["web.default"] = PresentPort(right.uuid, replace(right.port, addresses=addresses))
    feed(desk, "web", record=text)
    desk.forget()
    desk.look()
    assert desk.port("web.default").addresses == right.port.addresses
    assert desk.port("other.default").ips == ("10.16.0.77",)


def test_a_second_address_that_somebody_added_to_a_row_is_not_the_agent_s_word() -> None:
    desk = Desk(network("10.16.0.0/16", "fd00::/64"))
    running(desk, "web", "10.16.0.50,fd00::50")
    desk.look()
    right = desk.rows["web.default"]
    (entry,) = right.port.addresses
    for mangled in ((f"{entry} 10.16.0.51",), (entry, "0a:00:00:00:00:02 10.16.0.51 fd00::51"), (f"{entry} 10.16.0.50",)):
        desk.rows["web.default"] = PresentPort(right.uuid, replace(right.port, addresses=mangled))
        desk.forget()
        desk.look()
        assert desk.port("web.default").addresses == (entry,)
        feed(desk, "other", "10.16.0.51")
        desk.look()
        assert "10.16.0.51" in desk.port("other.default").ips
        desk.feed("DELETED", "virtualmachines", vm_object("other"))
        desk.look()
    desk.feed("DELETED", "virtualmachines", vm_object("web"))
    desk.feed("DELETED", "virtualmachineinstances", vmi_object("web"))
    desk.feed("DELETED", "pods", pod_object("web-1", "web"))
    desk.look()
    assert not desk.rows


def test_a_mangled_virtual_port_is_written_anew() -> None:
    desk = Desk()
    for name in ("a", "b"):
        desk.feed("ADDED", "virtualmachines", vm_object(name, annotations={f"{OVN}/allowed_address_pairs": "10.16.0.50"}))
    desk.look()
    right = desk.virtual["10.16.0.50.ovn-default"]
    odd = replace(right.port, options=(("virtual-ip", "mangled"), ("virtual-parents", "a.default")))
    desk.virtual["10.16.0.50.ovn-default"] = PresentPort(right.uuid, odd)
    desk.unsure[VmKey("default", "b")] = "?"
    desk.forget()
    desk.look()
    assert desk.virtual["10.16.0.50.ovn-default"].port.option("virtual-ip") == "10.16.0.50"


def test_a_vm_of_which_nothing_is_known_any_more_goes_on_sharing() -> None:
    """Its rows stay (a launcher lives), and so does its part in the shared address."""
    desk = Desk()
    pairs = {f"{OVN}/allowed_address_pairs": "10.16.0.50"}
    for name in ("a", "b"):
        desk.feed("ADDED", "virtualmachines", vm_object(name, annotations=pairs))
    desk.feed("ADDED", "pods", pod_object("a-1", "a", node="node1"))
    desk.look()
    desk.feed("DELETED", "virtualmachines", vm_object("a"))
    feed(desk, "thief", "10.16.0.50", created="2020-01-01T00:00:00Z")
    for _ in range(2):
        desk.writes.clear()
        desk.look()
        assert desk.virtual["10.16.0.50.ovn-default"].port.option("virtual-parents") == "a.default,b.default"
        assert sorted(desk.rows) == ["a.default", "b.default"]
        desk.forget()

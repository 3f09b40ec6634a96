"""The sentences beside a grant: whom they name, and when there is nothing to be said."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

from ovnagent.core.ports import Port, PresentPort
from ovnagent.core.virtual_ports import shared_by
from tests.desk import Desk, foreign, pod_object, record_text, vm_object, vmi_object

OVN = "ovn.kubernetes.io"
MAC = "0a:00:00:00:00:07"


def feed(desk: Desk, name: str, record: str = "", **asked: str) -> None:
    annotations = {f"{OVN}/{key}": value for key, value in asked.items()}
    desk.feed("MODIFIED", "virtualmachines", vm_object(name, annotations=annotations, record=record))


def test_those_who_share_an_address_are_named_in_order() -> None:
    desk = Desk()
    names = [f"vm{letter}" for letter in "hgfedcba"]
    for name in names:
        feed(desk, name, allowed_address_pairs="10.16.0.50")
    desk.look()
    feed(desk, "late", ip_address="10.16.0.50")
    desk.look()
    sharers = ", ".join(f"default/{name}" for name in sorted(names))
    assert f"which is an allowed address pair of VM {sharers}" in desk.says("late")[0]


def test_a_virtual_port_that_somebody_mangled_hides_none_behind_it() -> None:
    def row(ip: str, parents: str) -> PresentPort:
        return PresentPort(ip, Port(ip, "s", type="virtual", options=(("virtual-ip", ip), ("virtual-parents", parents))))

    rows = {row.uuid: row for row in (row("mangled", "x"), row("10.16.0.50", "a,b"), row("10.16.0.51", "b"))}
    first, second = map(ip_address, ("10.16.0.50", "10.16.0.51"))
    assert shared_by(rows) == {("s", "a"): [first], ("s", "b"): [first, second]}


def test_a_mac_that_a_guest_has_and_another_took_is_believed_all_the_same() -> None:
    desk = Desk()
    feed(desk, "web")
    more: dict[str, Any] = {"node": "node1", "macs": {"default": MAC}}
    desk.feed("MODIFIED", "virtualmachineinstances", vmi_object("web", **more))
    desk.feed("MODIFIED", "pods", pod_object("web-1", "web", node="node1"))
    desk.look()
    assert desk.port("web.default").mac == MAC
    desk.foreign["ovn-default"] = foreign({}, {MAC: "port theirs"})
    desk.look()
    assert desk.port("web.default").mac == MAC
    assert desk.says("web") == [f"MACConflict: the MAC {MAC} of this VM is also used by port theirs; change it there"]


def test_that_the_port_has_another_address_than_the_record_is_said_only_where_there_is_a_port() -> None:
    desk = Desk()
    desk.foreign["ovn-default"] = foreign({"10.16.0.7": "port theirs"})
    feed(desk, "web", record_text("web", "uid-web", "10.16.0.7"), ip_address="10.16.0.9")
    desk.look()
    desk.look()
    (said,) = desk.says("web")
    assert said.endswith("10.16.0.7 on record for this VM is used by port theirs; it has the address of its port: 10.16.0.9")
    del desk.rows["web.default"]
    desk.look()
    assert desk.says("web") == []
    assert desk.port("web.default").ips == ("10.16.0.9",)

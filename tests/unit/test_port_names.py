"""Whose a port's name is, where two would have it, at the desk."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ovnagent.core.vm import VmKey
from tests.desk import Desk, network, pod_object, vm_object, vmi_object
from tests.unit.planning import NADS, OVN, TENANT, feed


def twins(desk: Desk, first_created: str = "2026-01-01T00:00:00Z") -> tuple[dict[str, Any], dict[str, Any]]:
    """VM `a.b.c` on the pod network of d, and VM `a` of b on NAD d/c: one name."""
    pods = vm_object("a.b.c", namespace="d", created=first_created)
    nads = vm_object("a", namespace="b", interfaces=[{"name": "n", "bridge": {}}], networks=NADS)
    return pods, nads


def twins_desk() -> Desk:
    return Desk(network(), TENANT)


@pytest.mark.parametrize(
    ("created", "winner", "loser"), [("2025-01-01T00:00:00Z", "d/a.b.c", "b/a"), ("2027-01-01T00:00:00Z", "b/a", "d/a.b.c")]
)
def test_of_two_vms_whose_names_make_one_the_older_has_the_port(created: str, winner: str, loser: str) -> None:
    desk = twins_desk()
    for made in twins(desk, created):
        desk.feed("ADDED", "virtualmachines", made)
    desk.look()
    check_twins(desk, winner, loser)


def check_twins(desk: Desk, winner: str, loser: str) -> None:
    assert list(desk.rows) == ["a.b.c.d"]
    assert str(desk.port("a.b.c.d").vm) == winner
    namespace, name = loser.split("/")
    (said,) = desk.says(name, namespace)
    assert said.startswith(f"PortRefused: logical switch port a.b.c.d exists already and belongs to VM {winner}; it is left")
    namespace, name = winner.split("/")
    assert desk.says(name, namespace) == []
    # and it holds nothing
    assert sum(len(book.leases) for book in desk.books.by_switch.values()) == 1


@pytest.mark.parametrize("first", [0, 1])
def test_whose_row_is_there_has_the_port_also_after_a_restart_and_beside_an_older_that_runs(first: int) -> None:
    desk = twins_desk()
    both = twins(desk, "2026-06-01T00:00:00Z" if first == 0 else "2025-01-01T00:00:00Z")
    keys = ("d/a.b.c", "b/a")
    desk.feed("ADDED", "virtualmachines", both[first])
    desk.look()
    desk.feed("ADDED", "virtualmachines", both[1 - first])
    interfaces = ([{"name": "default", "bridge": {}}], None) if first else ([{"name": "n", "bridge": {}}], NADS)
    namespace, name = keys[1 - first].split("/")
    vmi = vmi_object(name, node="node1", namespace=namespace, interfaces=interfaces[0], networks=interfaces[1])
    desk.feed("ADDED", "virtualmachineinstances", vmi)
    desk.feed("ADDED", "pods", pod_object("p", name, node="node1", namespace=namespace))
    for _ in range(2):
        desk.look()
        check_twins(desk, keys[first], keys[1 - first])
        desk.forget()
    # The first goes: the second has the port.
    desk.look()
    desk.feed("DELETED", "virtualmachines", both[first])
    desk.look()
    assert str(desk.port("a.b.c.d").vm) == keys[1 - first]
    assert desk.says(name, namespace) == []


@pytest.mark.parametrize("running_one", [0, 1])
def test_in_one_batch_the_one_that_runs_goes_before_an_older_one(running_one: int) -> None:
    desk = twins_desk()
    both = twins(desk, "2025-01-01T00:00:00Z" if running_one else "2027-01-01T00:00:00Z")
    for made in both:
        desk.feed("ADDED", "virtualmachines", made)
    namespace, name = ("d/a.b.c", "b/a")[running_one].split("/")
    interfaces = ([{"name": "n", "bridge": {}}], NADS) if running_one else (None, None)
    vmi = vmi_object(name, node="node1", namespace=namespace, interfaces=interfaces[0], networks=interfaces[1])
    desk.feed("ADDED", "virtualmachineinstances", vmi)
    desk.look()
    check_twins(desk, ("d/a.b.c", "b/a")[running_one], ("d/a.b.c", "b/a")[1 - running_one])


@pytest.mark.parametrize(
    ("whose", "said"),
    [("router port edge-web", "router port edge-web"), ("logical switch port web.default", "somebody else")],
)
def test_a_name_that_is_somebody_else_s_is_left_alone_and_the_way_out_is_told(whose: str, said: str) -> None:
    desk = Desk()
    desk.names["web.default"] = whose
    feed(desk, "web")
    desk.look()
    assert desk.rows == {}
    assert desk.says("web") == [
        f"PortRefused: logical switch port web.default exists already and belongs to {said}; it is left alone. "
        "Delete it (ovn-nbctl lsp-del) or rename the VM"
    ]
    (problem,) = desk.problems[VmKey("default", "web")]
    assert problem.waits_for == ("port web.default",)
    del desk.names["web.default"]
    desk.look()
    assert "web.default" in desk.rows


@pytest.mark.parametrize("vm_first", [True, False])
def test_a_vm_that_is_named_like_a_virtual_port(vm_first: bool) -> None:
    desk = Desk()
    vip = vm_object("10.16.0.50", namespace="ovn-default")
    sharer = vm_object("web", annotations={f"{OVN}/allowed_address_pairs": "10.16.0.50"})
    for made in (vip, sharer) if vm_first else (sharer, vip):
        desk.feed("ADDED", "virtualmachines", made)
        desk.look()
    name = "10.16.0.50@ovn-default" if vm_first else "10.16.0.50.ovn-default"
    for _ in range(2):
        assert list(desk.virtual) == [name]
        assert desk.virtual[name].port.option("virtual-parents") == "web.default"
        if vm_first:
            assert str(desk.port("10.16.0.50.ovn-default").vm) == "ovn-default/10.16.0.50"
        else:
            assert "belongs to an address that VMs share" in desk.says("10.16.0.50", "ovn-default")[0]
        desk.writes.clear()
        desk.forget()
        desk.look()
        assert not desk.writes
    # An older thief of the shared address finds it under either name.
    feed(desk, "thief", "10.16.0.50", created="2020-01-01T00:00:00Z")
    desk.forget()
    desk.look()
    assert "thief.default" not in desk.rows
    assert desk.virtual[name].port.option("virtual-parents") == "web.default"


def test_two_interfaces_of_one_vm_whose_names_make_one() -> None:
    """NAD `c` of d, twice, with an interface `x`; and NAD `c.d` of x."""
    desk = Desk(
        network(),
        replace(TENANT, nads=("d/c",)),
        network("10.18.0.0/24", name="other", switch="other", pod_network=False, nads=("x/c.d",)),
    )
    interfaces = [{"name": name, "bridge": {}} for name in ("x", "y", "z")]
    networks = [{"name": name, "multus": {"networkName": nad}} for name, nad in (("x", "d/c"), ("y", "d/c"), ("z", "x/c.d"))]
    desk.feed("ADDED", "virtualmachines", vm_object("a", namespace="b", interfaces=interfaces, networks=networks))
    for _ in range(2):
        desk.look()
        assert sorted(desk.rows) == ["a.b.c.d.x", "a.b.c.d.y"]
        assert desk.says("a", "b") == [
            "PortRefused: interface z would have the logical switch port a.b.c.d.x, which is interface x's; rename an "
            "interface or a NetworkAttachmentDefinition"
        ]
        desk.forget()
    # The row says whose it is, also where the order of the interfaces is another.
    desk.writes.clear()
    desk.feed("MODIFIED", "virtualmachines", vm_object("a", namespace="b", interfaces=interfaces[::-1], networks=networks))
    desk.look()
    assert not desk.writes

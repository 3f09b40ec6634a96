"""When ports are deleted, and when an operator has to give his word first."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ovnagent.core.deletion import NO_BRAKE, Brake, brake, go_ahead, homeless, obsolete, too_many
from ovnagent.core.networks import Networks
from ovnagent.core.ports import CLUSTER, NETWORK, VM, Port, PresentPort
from ovnagent.core.vm import VmKey
from tests.desk import Desk, migration_object, network, pod_object, vm_object, vmi_object

PODS = Networks((network(), network("10.17.0.0/16", name="second", switch="second", pod_network=False)))


def row(name: str, net: str = "pods", switch: str = "ovn-default", ip: str = "10.16.0.9") -> PresentPort:
    ids = ((CLUSTER, "lab"), (NETWORK, net), (VM, f"default/{name}"))
    return PresentPort(name, Port(f"{name}.default", switch, (f"0a:00:00:00:00:01 {ip}",), external_ids=ids))


def rows(count: int, net: str = "pods", ip: str = "10.16.0.9") -> dict[VmKey, tuple[PresentPort, ...]]:
    return {VmKey("default", f"{net}{number}"): (row(f"{net}{number}", net, ip=ip),) for number in range(count)}


@pytest.mark.parametrize(
    ("ports", "owned", "held"),
    [(10, 10, False), (11, 11, True), (11, 21, True), (11, 22, False), (500, 999, True), (0, 0, False)],
)
def test_more_than_ten_and_more_than_half(ports: int, owned: int, held: bool) -> None:
    assert too_many(ports, owned) is held
    by_vm = rows(ports)
    found = brake(list(by_vm), by_vm, PODS, owned, False, "lab")
    assert (found.vms == frozenset(by_vm)) is held or not ports
    assert bool(found.message) is held
    assert found.held_ports == (ports if held else 0)
    assert not found.ports
    assert not found.approved


def test_what_is_held_is_told_with_the_way_out() -> None:
    by_vm = rows(12) | rows(13, "gone", "172.16.0.9")
    found = brake(list(rows(12)), by_vm, PODS, 20, False, "lab")
    assert found == Brake(
        vms=frozenset(rows(12)),
        ports=frozenset(f"gone{number}.default" for number in range(13)),
        message="12 of 20 ports belong to VMs that Kubernetes does not list, and nobody saw them deleted. "
        "13 of 20 ports are on networks that the configuration does not name: gone. "
        "They stay; nothing of them is deleted. If they are really to go: "
        "ovn-nbctl set NB_Global . external_ids:ovnagent-approve-sweep=lab",
        held_ports=25,
    )
    assert go_ahead("lab") in found.message


def test_the_one_is_held_without_the_other() -> None:
    few_vms, few_ports = rows(3), {**rows(2, "old", "172.16.0.9"), **rows(1, "gone", "172.16.0.9")}
    many_vms, many_ports = rows(12), rows(13, "gone", "172.16.0.9")
    only = brake(list(few_vms), few_vms | many_ports, PODS, 20, False, "lab")
    assert (only.vms, len(only.ports), only.held_ports) == (frozenset(), 13, 13)
    assert only.message.startswith("13 of 20 ports are on networks")
    most = brake(list(many_vms), many_vms | few_ports, PODS, 20, False, "lab")
    assert (len(most.vms), most.ports, most.held_ports) == (12, frozenset(), 12)
    assert "networks" not in most.message
    for names in (("alpha", "beta", "gamma", "delta"), ("delta", "gamma", "beta", "alpha")):
        lost = {key: held for name in names for key, held in rows(3, name, "172.16.0.9").items()}
        assert "does not name: alpha, beta, delta, gamma. They" in brake([], lost, PODS, 12, False, "lab").message


def test_an_operator_s_word_is_used_up_only_where_it_was_needed() -> None:
    by_vm = rows(12)
    assert brake(list(by_vm), by_vm, PODS, 12, True, "lab") == Brake(approved=True)
    assert brake(list(by_vm)[:3], by_vm, PODS, 12, True, "lab") == NO_BRAKE
    assert brake([], rows(12, "gone", "172.16.0.9"), PODS, 12, True, "lab") == Brake(approved=True)
    assert brake([], rows(3), PODS, 12, False, "lab") == NO_BRAKE


def test_a_vm_without_rows_counts_for_nothing() -> None:
    assert brake([VmKey("default", f"x{number}") for number in range(50)], {}, PODS, 12, False, "lab") == NO_BRAKE


@pytest.mark.parametrize(
    ("port", "expected"),
    [
        (row("a"), False),
        (row("a", "gone", ip="172.16.0.9"), True),
        (row("a", "renamed", ip="10.16.0.9"), False),  # its switch and its addresses are there under another name
        (row("a", "renamed", "elsewhere", "10.16.0.9"), True),
        (row("a", ""), False),
        (row("a", "", "elsewhere", "172.16.0.9"), False),
        (row("a", "second", "second", "172.16.0.9"), False),
        (row("a", "gone", ip="mangled"), True),
        (row("a", "gone", ip=""), True),
        (row("a", "gone", ip="10.16.0.9 fd00::9"), True),
        (row("a", "pods", "elsewhere", "172.16.0.9"), False),
    ],
)
def test_a_port_that_no_configured_network_is_for(port: PresentPort, expected: bool) -> None:
    assert homeless(port.port, PODS) is expected


# ---- at the desk ----------------------------------------------------------------------------------------------------


def held(desk: Desk) -> Brake:
    return desk.view().brake


def populated(count: int = 20) -> Desk:
    desk = Desk()
    for number in range(count):
        desk.feed("ADDED", "virtualmachines", vm_object(f"vm{number}"))
        desk.feed("ADDED", "virtualmachineinstancemigrations", migration_object(f"m{number}", f"vm{number}", "Succeeded"))
    desk.look()
    assert len(desk.rows) == count
    return desk


def test_an_empty_list_of_vms_deletes_nothing_though_migration_objects_are_left() -> None:
    desk = populated()
    for number in range(20):
        desk.feed("DELETED", "virtualmachines", vm_object(f"vm{number}"))
    desk.brake = held(desk)
    assert desk.brake.held_ports == 20
    before = dict(desk.rows)
    desk.look()
    assert desk.rows == before
    # nobody gets what they hold meanwhile
    ip = desk.port("vm3.default").ips[0]
    desk.feed("ADDED", "virtualmachines", vm_object("new", annotations={"ovn.kubernetes.io/ip_address": ip}))
    desk.forget()
    desk.look()
    assert "new.default" not in desk.rows
    assert "default/vm3" in desk.says("new")[0]
    # an operator gives his word
    desk.brake = Brake(approved=True)
    desk.look()
    assert sorted(desk.rows) == ["new.default"]


def test_few_ports_go_by_themselves() -> None:
    desk = populated()
    for number in range(10):
        desk.feed("DELETED", "virtualmachines", vm_object(f"vm{number}"))
    desk.brake = held(desk)
    assert desk.brake == NO_BRAKE
    desk.look()
    assert len(desk.rows) == 10


def test_ports_on_networks_that_are_missing_from_the_configuration_stay_and_are_nobody_s() -> None:
    desk = populated()
    for number in range(20):
        annotations = {"ovn.kubernetes.io/logical_switch": "nowhere"}  # no attachment asks for the row any more
        desk.feed("MODIFIED", "virtualmachines", vm_object(f"vm{number}", annotations=annotations))
    desk.networks = Networks((network("172.16.0.0/16", name="other", switch="other"),))
    desk.brake = held(desk)
    assert desk.brake.held_ports == 20
    before = dict(desk.rows)
    desk.look()
    assert desk.rows == before
    desk.brake = Brake(approved=True)
    desk.look()
    assert not desk.rows


def test_a_port_that_is_held_is_asked_for_again() -> None:
    """The brake spares rows, it wants none: a row that the VM asks for is what the VM asks for."""
    desk = populated(1)
    desk.brake = Brake(ports=frozenset({"vm0.default"}))
    asked = {"ovn.kubernetes.io/ip_address": "10.16.0.77"}
    desk.feed("MODIFIED", "virtualmachines", vm_object("vm0", annotations=asked))
    desk.look()
    assert desk.port("vm0.default").ips == ("10.16.0.77",)


def test_a_port_that_is_held_stays_also_where_nothing_can_be_granted() -> None:
    desk = populated(1)
    desk.brake = Brake(ports=frozenset({"vm0.default"}))
    row = desk.rows["vm0.default"]
    desk.rows["vm0.default"] = replace(row, port=replace(row.port, addresses=("unknown",)))
    desk.feed("MODIFIED", "virtualmachines", vm_object("vm0", annotations={"ovn.kubernetes.io/ip_address": "nonsense"}))
    desk.forget()
    desk.look()
    assert list(desk.rows) == ["vm0.default"]
    desk.brake = NO_BRAKE
    desk.look()
    assert not desk.rows


def running(desk: Desk, name: str = "web") -> None:
    desk.feed("ADDED", "virtualmachines", vm_object(name))
    desk.feed("ADDED", "virtualmachineinstances", vmi_object(name, node="node1"))
    desk.feed("ADDED", "pods", pod_object(f"{name}-1", name, node="node1"))
    desk.look()


def test_an_empty_list_of_pods_leaves_rows_and_pins_alone() -> None:
    desk = Desk()
    running(desk)
    desk.writes.clear()
    desk.feed("DELETED", "pods", pod_object("web-1", "web", node="node1"))
    desk.look()
    assert not desk.writes
    # also of a VM that is not listed any more, and of an interface that nobody asks for
    desk.feed("DELETED", "virtualmachines", vm_object("web"))
    desk.look()
    assert not desk.writes
    desk.feed("MODIFIED", "virtualmachineinstances", vmi_object("web", node="node1", interfaces=[], networks=[]))
    desk.look()
    assert not desk.writes


def test_a_living_launcher_keeps_the_rows_of_a_vm_that_is_gone_from_view() -> None:
    desk = Desk()
    running(desk)
    desk.feed("DELETED", "virtualmachines", vm_object("web"))
    desk.feed("DELETED", "virtualmachineinstances", vmi_object("web", node="node1"))
    desk.writes.clear()
    desk.look()
    assert not desk.writes
    assert desk.placed("web.default") == "chassis1"
    desk.feed("MODIFIED", "pods", pod_object("web-1", "web", node="node1", phase="Failed"))
    desk.look()
    assert not desk.rows


def test_the_end_of_an_older_vmi_s_launcher_says_nothing() -> None:
    """A launcher of another VMI keeps no row of this one, once that one says which launchers are its own."""
    desk = Desk()
    running(desk)
    desk.feed("ADDED", "pods", pod_object("old-1", "web", node="node2", vmi_uid="old"))
    desk.feed("MODIFIED", "virtualmachineinstances", vmi_object("web", node="node1", interfaces=[], networks=[]))
    desk.feed("MODIFIED", "virtualmachines", vm_object("web", interfaces=[], networks=[]))
    desk.feed("MODIFIED", "pods", pod_object("web-1", "web", node="node1", phase="Succeeded"))
    desk.look()
    assert not desk.rows


def test_what_is_spared_does_not_go_though_nobody_wants_it() -> None:
    """A row on a network that the configuration lacks, of a VM that was seen to be deleted."""
    lost, wanted, goes = row("lost"), row("wanted"), row("goes")
    assert obsolete((lost, wanted, goes), {"wanted.default"}, {"lost.default"}) == (goes,)

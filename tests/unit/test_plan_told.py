"""What a plan remembers, tells and sets free."""

from __future__ import annotations

import json
from dataclasses import replace

from ovnagent.core.deletion import Brake
from ovnagent.core.networks import Networks
from ovnagent.core.ports import PresentPort
from ovnagent.core.vm import VmKey
from tests.desk import Desk, network, pod_object, vm_object, vmi_object
from tests.unit.planning import NADS, OVN, TENANT, asking, feed, running


def test_an_interface_that_is_granted_nothing_costs_no_other_its_port() -> None:
    desk = Desk(network(), TENANT)
    interfaces = [{"name": "default", "bridge": {}}, {"name": "n", "bridge": {}}]
    networks = [{"name": "default", "pod": {}}, *NADS]
    made = vm_object("web", annotations=asking("10.99.0.1"), interfaces=interfaces, networks=networks)
    desk.feed("ADDED", "virtualmachines", made)
    desk.look()
    assert list(desk.rows) == ["web.default.c.d"]
    assert list(json.loads(desk.records[VmKey("default", "web")])["ports"]) == ["web.default.c.d"]


def test_of_two_ports_on_one_switch_one_goes_and_leaves_nothing_to_the_other() -> None:
    desk = Desk(replace(network(), nads=("d/c",)))
    nics = [{"name": "default", "bridge": {}}, {"name": "n", "bridge": {}}]
    networks = [{"name": "default", "pod": {}}, *NADS]
    desk.feed("ADDED", "virtualmachines", vm_object("web", interfaces=nics, networks=networks))
    desk.look()
    stays, goes = desk.port("web.default"), desk.port("web.default.c.d")
    desk.feed("MODIFIED", "virtualmachines", vm_object("web", interfaces=nics[:1], networks=networks))
    (result,) = desk.look()
    assert [row.port.addresses for row in desk.rows.values()] == [stays.addresses]
    assert result.freed == (*goes.ips, goes.mac, "pods", "port web.default.c.d")
    assert list(map(str, desk.books["ovn-default"].ips)) == list(stays.ips)


def test_who_moves_to_another_network_holds_nothing_on_the_old_one() -> None:
    desk = Desk(network(), TENANT)
    feed(desk, "web", "10.16.0.50")
    desk.look()
    desk.feed("MODIFIED", "virtualmachines", vm_object("web", annotations={f"{OVN}/logical_switch": "tenant"}))
    (result,) = desk.look()
    assert desk.port("web.default").switch == "tenant"
    assert not desk.books["ovn-default"].leases
    assert "10.16.0.50" in result.freed


def test_a_record_is_written_for_who_is_there() -> None:
    desk = Desk()
    running(desk, "web", "10.16.0.50")
    (result,) = desk.look()
    entry = json.loads(result.record)["ports"]["web.default"]
    assert (entry["ips"], entry["network"], entry["interface"]) == (["10.16.0.50"], "pods", "default")
    desk.feed("DELETED", "virtualmachines", vm_object("web"))
    (result,) = desk.look()
    assert (result.record, [port.ips for port in result.wanted]) == ("", [("10.16.0.50",)])
    feed(desk, "none", "10.16.0.50")
    desk.look()
    assert VmKey("default", "none") not in desk.records


def test_a_row_that_stays_for_a_launcher_s_sake_gives_nothing_free() -> None:
    desk = Desk()
    running(desk, "web", "10.16.0.50")
    desk.look()
    desk.feed("DELETED", "virtualmachines", vm_object("web"))
    desk.feed("DELETED", "virtualmachineinstances", vmi_object("web"))
    (result,) = desk.look()
    assert ([port.ips for port in result.wanted], result.freed) == ([("10.16.0.50",)], ())
    assert len(desk.books["ovn-default"].leases) == 1


def test_a_port_that_goes_is_told() -> None:
    desk = Desk()
    feed(desk, "web", "10.16.0.50")
    desk.look()
    mac = desk.port("web.default").mac
    desk.feed("DELETED", "virtualmachines", vm_object("web"))
    (result,) = desk.look()
    assert result.freed == ("10.16.0.50", mac, "pods", "port web.default")


def test_what_becomes_free_is_told_and_nothing_else() -> None:
    desk = Desk(network("10.16.0.0/16", "fd00::/64"))
    ips, mac = f"{OVN}/ip_address", f"{OVN}/mac_address"
    desk.feed("ADDED", "virtualmachines", vm_object("web", annotations={ips: "10.16.0.50,fd00::50"}))
    desk.look()
    first = desk.port("web.default").mac
    for asked, freed in (
        ({ips: "10.16.0.51,fd00::50"}, ("10.16.0.50", "pods")),
        ({ips: "10.16.0.51,fd00::50", mac: "0a:00:00:00:00:01"}, (first,)),
        ({ips: "10.16.0.51,fd00::51", mac: "0a:00:00:00:00:02"}, ("fd00::50", "pods", "0a:00:00:00:00:01")),
        ({}, ()),
    ):
        desk.feed("MODIFIED", "virtualmachines", vm_object("web", annotations=asked))
        (result,) = desk.look()
        assert result.freed == freed


def test_a_network_under_another_name_changes_nobody_s_address() -> None:
    desk = Desk(network("10.16.0.0/28"))
    names = [f"vm{number}" for number in range(10)]
    for number, name in enumerate(names):
        (running if number % 2 else feed)(desk, name)
    desk.look()
    before = {name: row.port.addresses for name, row in desk.rows.items()}
    for name in names:
        feed(desk, name, record=desk.records[VmKey("default", name)], created=f"20{10 + int(name[2:])}-01-01T00:00:00Z")
    desk.networks = Networks((network("10.16.0.0/28", name="renamed"),))
    for lost in (False, True):
        desk.forget()
        if lost:
            desk.rows.clear()
        desk.look()
        assert {name: row.port.addresses for name, row in desk.rows.items()} == before
        assert list(desk.books.used(desk.networks.all[0])) == [(4, 10)]


def test_a_grant_that_fails_while_a_launcher_lives_keeps_the_row_and_its_place() -> None:
    """A foreign port took the address in the record, which is not the row's: with Multus or without."""
    for status in (
        {},
        {"k8s.v1.cni.cncf.io/network-status": '[{"interface":"eth0","default":true,"mac":"0a:00:00:00:00:05"}]'},
    ):
        desk = Desk()
        running(desk, "web")
        desk.feed("MODIFIED", "pods", pod_object("web-1", "web", node="node1", annotations=status))
        desk.look()
        feed(desk, "web", "nonsense")
        desk.feed("MODIFIED", "virtualmachineinstances", vmi_object("web", node="node1", annotations=asking("nonsense")))
        row = desk.rows["web.default"]
        desk.rows["web.default"] = PresentPort(row.uuid, replace(row.port, addresses=("unknown",)))
        desk.forget()
        desk.look()
        assert desk.port("web.default").addresses == ("unknown",)  # nothing is known that could be written
        assert desk.placed("web.default") == "chassis1"
        assert desk.says("web")[0].startswith("InvalidRequest")
        desk.feed("MODIFIED", "pods", pod_object("web-2", "web", node="node2"))
        desk.feed("DELETED", "pods", pod_object("web-1", "web", node="node1"))
        desk.feed("MODIFIED", "virtualmachineinstances", vmi_object("web", node="node2", annotations=asking("nonsense")))
        desk.look()
        assert desk.placed("web.default") == "chassis2"
        desk.feed("DELETED", "pods", pod_object("web-2", "web", node="node2"))
        desk.feed("DELETED", "virtualmachineinstances", vmi_object("web"))
        desk.look()
        assert "web.default" not in desk.rows


def test_the_brake_spares_a_row_beside_those_that_are_asked_for() -> None:
    desk = Desk()
    feed(desk, "web", "10.16.0.50")
    desk.look()
    old = desk.rows["web.default"]
    ids = tuple(sorted((dict(old.port.external_ids) | {"ovnagent-network": "gone", "ovnagent-interface": "x"}).items()))
    lost = replace(old.port, name="web.default.gone.default", switch="gone", external_ids=ids)
    desk.rows[lost.name] = PresentPort("lost", lost)
    desk.brake = Brake(ports=frozenset({lost.name}))
    desk.writes.clear()
    desk.forget()
    desk.look()
    assert not desk.writes
    desk.brake = Brake()
    desk.look()
    assert list(desk.rows) == ["web.default"]


def test_what_could_not_be_read_of_any_of_its_objects_is_said_once() -> None:
    desk = Desk()
    odd = {"k8s.v1.cni.cncf.io/network-status": "["}
    made = vm_object("web")
    made["spec"]["template"]["spec"]["hostname"] = "no name"
    desk.feed("ADDED", "virtualmachines", made)
    vmi = vmi_object("web", node="node1")
    vmi["spec"]["hostname"] = "no name"
    desk.feed("ADDED", "virtualmachineinstances", vmi)
    for name in ("p1", "p2"):
        desk.feed("ADDED", "pods", pod_object(name, "web", node="node1", annotations=odd))
    desk.look()
    assert [line.split(":")[1].strip() for line in desk.says("web")] == ["hostname", "k8s.v1.cni.cncf.io/network-status"]
    assert all(line.startswith("Unreadable: ") for line in desk.says("web"))

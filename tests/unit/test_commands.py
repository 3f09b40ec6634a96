"""What the commands for people find and how they show it, of facts and rows at a desk."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from ovnagent.commands import cli
from ovnagent.commands.findings import Finding, findings, lasting
from ovnagent.commands.report import POOL_COLUMNS, PORT_COLUMNS, holders, news, pool_lines, port_lines, render, table
from ovnagent.core.addresses import Foreign
from ovnagent.core.placement import Binding
from ovnagent.core.ports import Port, PresentPort, with_options
from ovnagent.core.vm import VmKey
from ovnagent.ovn.changes import CreateSwitch
from tests.desk import Desk, migration_object, network, pod_object, vm_object, vmi_object

WEB = {"ovn.kubernetes.io/ip_address": "10.16.0.15"}


def running(desk: Desk, name: str = "web", **annotations: Any) -> None:
    """A VM that runs on node1, with its row, its record and its binding."""
    desk.feed("ADDED", "virtualmachines", vm_object(name, annotations=annotations or WEB))
    desk.feed("ADDED", "virtualmachineinstances", vmi_object(name, node="node1", annotations=annotations or WEB))
    desk.feed("ADDED", "pods", pod_object(f"{name}-1", name, node="node1"))
    desk.look()
    desk.feed("MODIFIED", "virtualmachines", recorded(desk, name, annotations or WEB))
    desk.bindings[f"{name}.default"] = Binding("chassis1")


def recorded(desk: Desk, name: str, annotations: Any) -> dict[str, Any]:
    return vm_object(name, annotations=annotations, record=desk.records[VmKey("default", name)])


def change(desk: Desk, name: str, make: Callable[[Port], Port]) -> None:
    """Somebody else writes the row."""
    row = desk.rows[name]
    desk.rows[name] = PresentPort(row.uuid, make(row.port))


def found(desk: Desk) -> dict[str, Finding]:
    return {finding.kind: finding for finding in findings(desk.view())}


@pytest.fixture
def desk() -> Desk:
    desk = Desk()
    running(desk)
    return desk


def test_nothing_is_found_where_all_is_well(desk: Desk) -> None:
    assert findings(desk.view()) == []


def test_a_row_that_is_missing(desk: Desk) -> None:
    del desk.rows["web.default"]
    assert found(desk)["missing"].what == "web.default"
    assert [line.trouble for line in port_lines(desk.view())] == [("missing",)]


def test_a_key_that_somebody_added_to_ours(desk: Desk) -> None:
    change(desk, "web.default", lambda port: with_options(port, activation_strategy="rarp"))
    assert "options:activation-strategy is rarp, should not be set;" in found(desk)["drift"].message


def test_drift_says_what_is_and_what_should_be(desk: Desk) -> None:
    change(desk, "web.default", lambda port: with_options(port, requested_chassis="chassis2"))
    (finding,) = findings(desk.view())
    assert (finding.kind, finding.what) == ("drift", "web.default")
    assert "options:requested-chassis is chassis2, should be chassis1; a running agent" in finding.message


def test_a_key_that_was_taken_away(desk: Desk) -> None:
    change(desk, "web.default", lambda port: with_options(port, requested_chassis=""))
    assert "options:requested-chassis is not set, should be chassis1" in found(desk)["drift"].message


def test_a_leftover_of_a_vm_that_is_gone(desk: Desk) -> None:
    running(desk, "gone", **{"ovn.kubernetes.io/ip_address": "10.16.0.16"})
    desk.feed("DELETED", "virtualmachines", vm_object("gone"))
    desk.feed("DELETED", "virtualmachineinstances", vmi_object("gone"))
    desk.feed("DELETED", "pods", pod_object("gone-1", "gone"))
    (finding,) = findings(desk.view())
    assert finding.kind == "leftover"
    assert finding.message.startswith("there is no VM default/gone; a running agent")


def test_so_many_leftovers_need_an_operators_word() -> None:
    desk = Desk()
    for number in range(11):
        desk.feed("ADDED", "virtualmachines", vm_object(f"vm{number}"))
    desk.look()
    for number in range(11):
        desk.feed("DELETED", "virtualmachines", vm_object(f"vm{number}"))
    lines = findings(desk.view())
    assert len(lines) == 11
    assert all("ovn-nbctl set NB_Global . external_ids:ovnagent-approve-sweep=lab" in line.message for line in lines)


def test_a_network_that_is_not_configured_any_more() -> None:
    desk = Desk()
    desk.feed("ADDED", "virtualmachines", vm_object("web"))
    desk.look()
    desk.networks = Desk(network(name="other", pod_network=False)).networks
    assert "its network pods is not configured; a running agent" in found(desk)["leftover"].message


def test_a_record_that_somebody_took_away(desk: Desk) -> None:
    desk.feed("MODIFIED", "virtualmachines", vm_object("web", annotations=WEB))
    (finding,) = findings(desk.view())
    assert (finding.kind, finding.what) == ("record", "default/web")


def test_an_address_and_a_mac_used_twice(desk: Desk) -> None:
    mac = desk.port("web.default").mac
    desk.foreign["ovn-default"] = Foreign({"10.16.0.15": "logical switch port thief"}, {mac: "logical switch port twin"})
    lines = [finding for finding in findings(desk.view()) if finding.kind == "duplicate"]
    assert {line.what for line in lines} == {"10.16.0.15", mac}
    assert "by logical switch port thief, web.default" in lines[0].message


def test_a_pin_on_a_chassis_that_is_gone(desk: Desk) -> None:
    del desk.chassis["node1"]
    kinds = found(desk)
    assert "names chassis1, which the Southbound" in kinds["stale-pin"].message
    assert "no chassis in OVN's Southbound has the hostname node1" in kinds["ChassisUnknown"].message


@pytest.mark.parametrize("binding", [None, Binding(""), Binding("chassis2")])
def test_a_guest_that_runs_and_is_bound_elsewhere(desk: Desk, binding: Binding | None) -> None:
    desk.bindings.pop("web.default")
    if binding:
        desk.bindings["web.default"] = binding
    where = "on chassis2" if binding and binding.chassis else "nowhere"
    assert f"runs on chassis chassis1, but the port is bound {where};" in found(desk)["unbound"].message


@pytest.mark.parametrize(
    ("status", "why"),
    [
        ("", "no CNI has attached eth0 of pod virt-launcher-web on node node1"),
        ('[{"name":"ovn","interface":"eth0","default":true}]', "is attached and not plugged into it"),
    ],
)
def test_why_a_guest_is_not_bound_as_far_as_that_can_be_seen_from_here(desk: Desk, status: str, why: str) -> None:
    desk.bindings.pop("web.default")
    annotations = {"k8s.v1.cni.cncf.io/network-status": status}
    desk.feed("MODIFIED", "pods", pod_object("virt-launcher-web", "web", "node1", annotations=annotations))
    assert why in found(desk)["unbound"].message


def test_why_ovnagent_plug_would_leave_an_interface_alone(desk: Desk) -> None:
    """By the rule that it uses itself: here the record that grants the port is not on the VM."""
    desk.bindings.pop("web.default")
    attached = {"k8s.v1.cni.cncf.io/network-status": '[{"name":"ovn","interface":"eth0","default":true}]'}
    desk.feed("MODIFIED", "pods", pod_object("virt-launcher-web", "web", "node1", annotations=attached))
    assert "whether ovnagent-plug runs on that node" in found(desk)["unbound"].message
    desk.feed("MODIFIED", "virtualmachines", vm_object("web", annotations=WEB))
    assert "the agent has granted no port to interface default of VM default/web" in found(desk)["unbound"].message


def test_a_guest_that_does_not_run_yet_need_not_be_bound(desk: Desk) -> None:
    desk.bindings.clear()
    desk.feed("MODIFIED", "virtualmachineinstances", vmi_object("web", node="node1", phase="Scheduled", annotations=WEB))
    assert findings(desk.view()) == []


def test_a_migration_is_no_finding(desk: Desk) -> None:
    desk.feed("ADDED", "virtualmachineinstancemigrations", migration_object("m1", "web", "Scheduling"))
    desk.feed("ADDED", "pods", pod_object("web-2", "web", node="node2", migration="m1"))
    desk.look()
    assert findings(desk.view()) == []
    (line,) = port_lines(desk.view())
    assert (line.wanted, line.bound, line.situation) == (("chassis1", "chassis2"), ("chassis1",), "migrating")


def test_a_conflict_is_found_and_shown(desk: Desk) -> None:
    desk.feed("ADDED", "virtualmachines", vm_object("clone", annotations=WEB))
    desk.look()
    assert "which VM default/web holds" in found(desk)["AddressConflict"].message
    line = port_lines(desk.view(), vm="clone")[0]
    assert (line.port, line.trouble) == ("", ("AddressConflict",))


def test_switches_that_are_missing() -> None:
    view = replace(Desk().view(), infrastructure=[CreateSwitch("ovn-default")])
    assert [(each.kind, each.what) for each in findings(view)] == [("missing", "ovn-default")]


def test_only_what_every_look_finds_counts(desk: Desk) -> None:
    well = desk.view()
    change(desk, "web.default", lambda port: with_options(port, requested_chassis="chassis2"))
    ill = desk.view()
    change(desk, "web.default", lambda port: with_options(port, requested_chassis="chassis3"))
    other = desk.view()
    assert [finding.kind for finding in lasting(lambda: ill, 0.1)] == ["drift"]
    for second in (well, other):
        views = iter((ill, second))
        assert lasting(lambda views=views: next(views), 60) == []  # and does not look again
    views = iter((well,))
    assert lasting(lambda: next(views), 60) == []


def test_the_row_is_shown_as_it_is_and_its_trouble(desk: Desk) -> None:
    change(desk, "web.default", lambda port: replace(port, addresses=("0a:00:00:00:00:01 10.16.9.9",)))
    (line,) = port_lines(desk.view(), "default", "web")
    assert (line.addresses, line.trouble) == (("10.16.9.9",), ("drift",))
    assert port_lines(desk.view(), "other") == []


def test_news_are_what_changed_and_what_is_gone(desk: Desk) -> None:
    before = port_lines(desk.view())
    assert news(before, before, PORT_COLUMNS) == []
    desk.bindings["web.default"] = Binding("chassis2")
    now = port_lines(desk.view())
    assert [line.bound for line in news(before, now, PORT_COLUMNS)] == [("chassis2",)]
    assert news(before, now, ("vm", "wanted")) == []
    assert [line.trouble for line in news(before, [], PORT_COLUMNS)] == [("gone",)]


def test_pools_count_what_others_have(desk: Desk) -> None:
    foreign = {"10.16.0.15": "port thief", "10.16.0.20": "port a", "10.16.0.1": "router port r", "10.17.0.1": "port b"}
    desk.foreign["ovn-default"] = Foreign(foreign, {})
    (line,) = pool_lines(desk.view())
    assert (line.size, line.used, line.others, line.free) == (65533, 1, 1, 65531)
    assert holders([line]).splitlines()[1].split() == ["pods", "10.16.0.15", "default/web", "web.default"]


def test_formats_parse(desk: Desk) -> None:
    lines = port_lines(desk.view())
    (entry,) = json.loads(render(lines, "json"))
    assert entry["addresses"] == ["10.16.0.15"]
    assert yaml.safe_load(render(lines, "yaml")) == [entry]
    head, line = render(lines, "table", PORT_COLUMNS).splitlines()
    assert line.split() == ["default", "web", "default", "web.default", "10.16.0.15", "chassis1", "chassis1", "-"]
    assert [head.index(name) for name in ("VM", "PORT")] == [line.index(name) for name in ("web", "web.default")]
    assert json.loads(render(pool_lines(desk.view()), "json"))[0]["holders"] == [
        {"address": "10.16.0.15", "vm": "default/web", "port": "web.default"}
    ]
    assert render([], "table", POOL_COLUMNS).split() == ["NETWORK", "FAMILY", "CIDR", "SIZE", "USED", "OTHERS", "FREE"]


def test_columns_are_as_wide_as_they_have_been() -> None:
    assert table([{"a": "x", "b": "y"}], "ab", [{"a": "long", "b": "y"}]).splitlines() == ["A     B", "x     y"]


@pytest.mark.parametrize("command", ["ports", "check", "pools"])
def test_a_configuration_that_cannot_be_used_is_wrong_usage(command: str, tmp_path: Path) -> None:
    assert cli.main([command, "--config", str(tmp_path / "none.yaml")]) == 2


def test_the_default_configuration_is_the_environments(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("OVNAGENT_CONFIG", "/nowhere/at/all.yaml")
    assert cli.main(["check"]) == 2
    said = "/nowhere/at/all.yaml: there is no such file; name the configuration with --config or OVNAGENT_CONFIG\n"
    assert capsys.readouterr().err == said

"""The plan at its edges: what stays where a VM fails, moves, is held by the brake, or is made anew under its name."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from ovnagent.core import plan as planning
from ovnagent.core.books import NO_BOOKS
from ovnagent.core.deletion import Brake
from ovnagent.core.networks import Network, Networks
from ovnagent.core.placement import locate
from ovnagent.core.plan import Case, plan
from ovnagent.core.ports import INTERFACE, NETWORK, VM_UID, VMI_UID, PresentPort
from ovnagent.core.problems import Problem
from ovnagent.core.vm import VmKey
from tests.desk import Desk, network, pod_object, vm_object, vmi_object

WEB = VmKey("default", "web")
OVN = "ovn.kubernetes.io"
TENANT = network("10.17.0.0/16", name="tenant", switch="tenant", pod_network=False, nads=("d/c",))
NICS = [{"name": "default", "bridge": {}}, {"name": "n", "bridge": {}}]
NETS = [{"name": "default", "pod": {}}, {"name": "n", "multus": {"networkName": "d/c"}}]


def asking(ip: str) -> dict[str, str]:
    return {f"{OVN}/ip_address": ip} if ip else {}


def feed(desk: Desk, name: str, ip: str = "", **more: Any) -> None:
    desk.feed("MODIFIED", "virtualmachines", vm_object(name, **{"annotations": asking(ip), **more}))


def running(
    desk: Desk,
    name: str,
    ip: str = "",
    nics: list[dict[str, Any]] | None = None,
    annotations: Mapping[str, str] | None = None,
    uid: str = "",
) -> None:
    """On node1, with the first of the interfaces unless told otherwise."""
    asked, nics = annotations if annotations is not None else asking(ip), nics or NICS[:1]
    feed(desk, name, annotations=asked, interfaces=nics, networks=NETS, uid=uid)
    made = vmi_object(name, owner=uid or None, node="node1", annotations=asked, interfaces=nics, networks=NETS)
    desk.feed("MODIFIED", "virtualmachineinstances", made)
    desk.feed("MODIFIED", "pods", pod_object(f"{name}-1", name, node="node1"))


def gone(desk: Desk, name: str, *but: str) -> None:
    """Its objects are deleted, but for those of these resources."""
    for resource, obj in (
        ("virtualmachines", vm_object(name)),
        ("virtualmachineinstances", vmi_object(name)),
        ("pods", pod_object(f"{name}-1", name)),
    ):
        if resource not in but:
            desk.feed("DELETED", resource, obj)


def pods_on(desk: Desk, networks: Sequence[Network], name: str) -> None:
    """The operator makes this one the network of pods."""
    desk.networks = Networks(tuple(replace(each, pod_network=each.name == name) for each in networks))


def with_ids(row: PresentPort, **changes: str) -> PresentPort:
    """A row whose external_ids somebody changed; an empty value takes a key away."""
    ids = dict(row.port.external_ids) | changes
    return replace(row, port=replace(row.port, external_ids=tuple(sorted((k, v) for k, v in ids.items() if v))))


# ---- the brake ------------------------------------------------------------------------------------------------------


def test_a_row_that_the_brake_spares_follows_its_guest() -> None:
    desk = Desk()
    feed(desk, "web")
    desk.look()
    made = with_ids(desk.rows["web.default"], **{INTERFACE: "x", NETWORK: "gone"})
    lost = replace(made, uuid="lost", port=replace(made.port, name="web.default.gone.default", switch="gone"))
    desk.rows[lost.port.name] = lost
    desk.brake = Brake(ports=frozenset({lost.port.name}))
    running(desk, "web")
    desk.look()
    assert desk.placed("web.default") == desk.placed(lost.port.name) == "chassis1"


def test_a_port_that_the_brake_spares_and_that_moves_is_wanted_once_and_leaves_nothing_behind() -> None:
    desk = Desk(network(), TENANT)
    feed(desk, "web", annotations={f"{OVN}/logical_switch": "tenant"})
    desk.look()
    (old,) = desk.port("web.default").ips
    desk.brake = Brake(ports=frozenset({"web.default"}))
    feed(desk, "web")
    (result,) = desk.look()
    assert [port.switch for port in result.wanted] == ["ovn-default"]
    assert not desk.books["tenant"].leases
    assert old in result.freed


def test_rows_of_a_vm_that_the_brake_holds_stay_pinned_as_they_are() -> None:
    """Kubernetes lists none of its objects: that is no word on where its guest is."""
    desk = Desk()
    running(desk, "web")
    desk.look()
    gone(desk, "web")
    desk.brake = Brake(vms=frozenset({WEB}))
    desk.writes.clear()
    desk.look()
    assert not desk.writes
    assert desk.placed("web.default") == "chassis1"


@pytest.mark.parametrize("held", [False, True])
def test_rows_of_a_launcher_that_is_all_that_is_left_follow_it(held: bool) -> None:
    desk = Desk()
    running(desk, "web")
    desk.look()
    gone(desk, "web")
    desk.feed("ADDED", "pods", pod_object("web-2", "web", node="node2"))
    desk.brake = Brake(vms=frozenset({VmKey("default", "another")} if held else ()))
    desk.look()
    assert desk.placed("web.default") == "chassis2"


def test_a_vm_that_is_back_is_held_by_no_brake_that_still_names_it() -> None:
    desk = Desk(network(), TENANT)
    running(desk, "web", nics=NICS)
    desk.look()
    desk.networks = Networks((network(),))
    desk.brake = Brake(vms=frozenset({WEB}))
    desk.feed("DELETED", "pods", pod_object("web-1", "web"))
    desk.feed("ADDED", "pods", pod_object("web-2", "web", node="node2"))
    desk.feed("MODIFIED", "virtualmachineinstances", vmi_object("web", node="node2", interfaces=NICS, networks=NETS))
    desk.look()
    assert desk.placed("web.default") == desk.placed("web.default.c.d") == "chassis2"


# ---- what is held meanwhile -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("why", ["it fails", "it cannot be read"])
def test_who_fails_while_its_row_is_missing_keeps_its_address(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody deleted the row: the books alone know what the guest has."""
    desk = Desk()
    running(desk, "web", "10.16.0.50")
    desk.look()
    del desk.rows["web.default"]
    feed(desk, "heir", "10.16.0.50", created="2020-01-01T00:00:00Z")
    found = planning.attachments

    def sick(owner: Any, *more: Any) -> Any:
        if owner.key == WEB:
            raise RuntimeError("a fault of the agent's")
        return found(owner, *more)

    if why == "it fails":
        monkeypatch.setattr(planning, "attachments", sick)
    else:
        desk.unsure[WEB] = "?"
    desk.look()
    assert desk.books["ovn-default"].ips[ip_address("10.16.0.50")].key == WEB
    assert "heir.default" not in desk.rows


def test_a_running_guest_that_is_granted_nothing_on_its_new_network_has_given_nothing_free() -> None:
    networks = replace(network(), nads=("d/c",)), replace(TENANT, nads=())
    desk = Desk(*networks)
    running(desk, "web", "10.16.0.50", NICS)
    desk.look()
    stays, goes = desk.port("web.default"), desk.port("web.default.c.d")
    pods_on(desk, networks, "tenant")
    running(desk, "web", "10.16.0.50", NICS)
    (result,) = desk.look()
    assert desk.port("web.default") == stays
    assert result.freed == ()
    # An interface that is unplugged at the same time gives its own free.
    pods_on(desk, networks, "pods")
    desk.look()
    pods_on(desk, networks, "tenant")
    running(desk, "web", "10.16.0.50")
    (result,) = desk.look()
    assert [row.port for row in desk.rows.values()] == [stays]
    assert result.freed == (*goes.ips, goes.mac, "pods", "port web.default.c.d")


def test_who_goes_on_under_another_uid_gives_free_what_it_has_no_more() -> None:
    """A VM adopts an orphaned VMI, and an interface is unplugged in the same moment."""
    desk = Desk(replace(network(), nads=("d/c",)))
    running(desk, "web", nics=NICS)
    desk.look()
    stays, goes = desk.port("web.default"), desk.port("web.default.c.d")
    running(desk, "web", uid="second")
    (result,) = desk.look()
    assert desk.port("web.default").addresses == stays.addresses
    assert result.freed == (*goes.ips, goes.mac, "pods", "port web.default.c.d")
    assert [(holder.uid, holder.port) for holder in desk.books["ovn-default"].leases] == [("second", "web.default")]


def test_a_vm_that_is_made_anew_under_a_name_has_no_right_to_what_the_old_one_held() -> None:
    desk = Desk()
    feed(desk, "web", "10.16.0.50")
    desk.look()
    gone(desk, "web")
    feed(desk, "web", uid="second")
    feed(desk, "older", "10.16.0.50", created="2020-01-01T00:00:00Z")
    desk.look()
    assert desk.port("older.default").ips == ("10.16.0.50",)
    assert desk.port("web.default").ips != ("10.16.0.50",)


# ---- grants that fail -----------------------------------------------------------------------------------------------


def test_a_guest_keeps_a_port_that_somebody_took_the_uids_from_though_its_grant_fails() -> None:
    desk = Desk()
    running(desk, "web")
    desk.look()
    row = desk.rows["web.default"]
    desk.rows["web.default"] = with_ids(row, **{VM_UID: "", VMI_UID: ""})
    running(desk, "web", "nonsense")
    desk.forget()
    desk.look()
    assert desk.port("web.default").addresses == row.port.addresses
    assert desk.says("web")[0].startswith("InvalidRequest")


def test_what_a_guest_has_stays_on_record_while_another_holds_it() -> None:
    """Somebody wrote the address of one running VM into the row of another; the agent takes no port from either."""
    desk = Desk()
    for name in ("a", "b"):
        running(desk, name)
    desk.look()
    (ip,) = desk.port("a.default").ips
    row = desk.rows["b.default"]
    desk.rows["b.default"] = replace(row, port=replace(row.port, addresses=(f"{row.port.mac} {ip}",)))
    desk.forget()
    desk.look()
    assert desk.port("b.default").ips == (ip,)
    assert f"{ip} on record for this VM is held by VM default/a" in desk.says("b")[0]
    assert json.loads(desk.records[VmKey("default", "b")])["ports"]["b.default"]["ips"] == [ip]


# ---- what comes of it -----------------------------------------------------------------------------------------------


def test_a_vm_that_is_as_it_should_be_is_not_looked_at_again_and_its_rows_are_held_once() -> None:
    desk = Desk()
    running(desk, "web")
    desk.look()
    (result,) = desk.look()
    assert result.look_again is None
    assert [port is desk.port("web.default") for port in result.wanted] == [True]


def test_facts_are_whole_unless_something_is_said_against_them() -> None:
    desk = Desk()
    feed(desk, "web", "10.16.0.50")
    facts = desk.store.facts(WEB)
    (result,) = plan([Case(facts, locate(facts), 0.0)], NO_BOOKS, desk.world()).results
    assert [port.ips for port in result.wanted] == [("10.16.0.50",)]


def test_one_sentence_about_several_interfaces_is_told_once() -> None:
    desk = Desk()
    desk.nads["d/c"] = "nowhere"
    nics = [{"name": name, "bridge": {}} for name in ("a", "b")]
    nets = [{"name": name, "multus": {"networkName": "d/c"}} for name in ("a", "b")]
    feed(desk, "web", interfaces=nics, networks=nets)
    desk.look()
    (problem,) = desk.problems[WEB]
    assert problem.message.startswith("NetworkAttachmentDefinition d/c names nowhere")
    assert (problem.interface, Problem(problem.reason, problem.message).interface) == ("a", "")


def test_a_node_whose_chassis_is_not_known_is_told_under_the_reason_that_the_manual_has() -> None:
    desk = Desk()
    desk.chassis.clear()
    running(desk, "web")
    desk.look()
    assert desk.says("web")[0].startswith("ChassisUnknown: no chassis in OVN's Southbound has the hostname node1")

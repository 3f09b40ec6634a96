"""The plan as a whole: a VM that fails costs nobody else, nothing of the caller's is changed, the order says nothing."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ovnagent.core import grants as granting
from ovnagent.core import plan as planning
from ovnagent.core import settle as settling
from ovnagent.core.books import NO_BOOKS, Books
from ovnagent.core.deletion import Brake
from ovnagent.core.networks import Networks
from ovnagent.core.plan import FAILED_SECONDS, Case, Result, plan
from ovnagent.core.ports import Port, PresentPort
from ovnagent.core.vm import VmKey
from tests.desk import Desk, network, pod_object, record_text, vm_object, vmi_object

KEY = VmKey("default", "sick")
OVN = "ovn.kubernetes.io"


def asking(ip: str) -> dict[str, str]:
    return {f"{OVN}/ip_address": ip} if ip else {}


def feed(desk: Desk, name: str, ip: str = "", **more: Any) -> None:
    desk.feed("MODIFIED", "virtualmachines", vm_object(name, annotations=asking(ip), **more))


def running(desk: Desk, name: str, ip: str = "", **more: Any) -> None:
    feed(desk, name, ip, **more)
    desk.feed("MODIFIED", "virtualmachineinstances", vmi_object(name, node="node1", annotations=asking(ip)))
    desk.feed("MODIFIED", "pods", pod_object(f"{name}-1", name, node="node1"))


def cases(desk: Desk) -> list[Case]:
    keys = desk.store.keys() | {row.port.vm for row in desk.rows.values()}
    return [desk._case(key) for key in sorted(keys)]


def rows(results: tuple[Result, ...]) -> dict[str, Port]:
    return {port.name: port for result in results for port in result.wanted}


def of(results: tuple[Result, ...], name: str) -> Result:
    return next(result for result in results if result.key.name == name)


# ---- a VM that fails ------------------------------------------------------------------------------------------------


def sick(function: Callable[..., Any], find: Callable[..., VmKey]) -> Callable[..., Any]:
    """The function, which raises where it is about the sick VM."""

    def wrapper(*arguments: Any) -> Any:
        if find(*arguments) == KEY:
            raise RuntimeError("a fault of the agent's")
        return function(*arguments)

    return wrapper


FAULTS = {
    "planning.attachments": lambda owner, *_: owner.key,
    "planning.claims": lambda owner, *_: owner.key,
    "planning.wanted_port": lambda _, owner, *__: owner.key,
    "settling._hold_by_row": lambda claim, *_: claim.holder.key,
    "settling._go_on_sharing": lambda claim, *_: claim.holder.key,
    "settling._hold_by_record": lambda claim, *_: claim.holder.key,
    "granting.grant": lambda claim, *_: claim.holder.key,
    "granting.share": lambda claim, *_: claim.holder.key,
}


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_vm_that_fails_keeps_its_rows_and_nobody_gets_its_addresses(
    fault: str, restarted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk()
    feed(desk, "neighbour", "10.16.0.20")
    running(desk, "sick", "10.16.0.50")
    desk.look()
    # It asks for another address now, and shares one; both VMs that wait for its old one are older than it is.
    pairs = {f"{OVN}/allowed_address_pairs": "10.16.0.90", **asking("10.16.0.51")}
    desk.feed(
        "MODIFIED",
        "virtualmachines",
        vm_object("sick", annotations=pairs, record=record_text("sick", "uid-sick", "10.16.0.52")),
    )
    desk.feed("MODIFIED", "virtualmachineinstances", vmi_object("sick", node="node1", annotations=pairs))
    feed(desk, "heir", "10.16.0.50", created="2025-01-01T00:00:00Z")
    forged = record_text("thief", "uid-thief", "10.16.0.50")
    feed(desk, "thief", created="2025-01-01T00:00:00Z", record=forged)
    books = NO_BOOKS if restarted else desk.books
    module, name = fault.split(".")
    where = {"planning": planning, "settling": settling, "granting": granting}[module]
    with monkeypatch.context() as patch:
        patch.setattr(where, name, sick(getattr(where, name), FAULTS[fault]))
        made = plan(cases(desk), books, desk.world())
    result = of(made.results, "sick")
    reached = fault != "settling._hold_by_record" or restarted  # the books know what it holds: no record is asked
    if not reached:
        assert not result.failure
        return
    assert result.failure == "RuntimeError: a fault of the agent's"
    assert result.owner is None
    assert result.wanted == (desk.port("sick.default"),)
    assert (result.obsolete, result.record, result.look_again) == ((), "", FAILED_SECONDS)
    (problem,) = result.problems
    assert problem.reason == "InternalError"
    assert "RuntimeError: a fault of the agent's" in problem.message
    assert rows(made.results)["neighbour.default"] == desk.port("neighbour.default")
    assert {"heir.default", "thief.default"}.isdisjoint(rows(made.results))
    assert "which VM default/sick holds" in of(made.results, "heir").problems[0].message
    held = [ip for port in rows(made.results).values() for ip in port.ips]
    assert len(held) == len(set(held))
    # It is well again.
    after = plan(cases(desk), made.books, desk.world())
    assert rows(after.results)["sick.default"].ips == ("10.16.0.51",)
    assert "10.16.0.50" in of(after.results, "sick").freed


def test_a_long_error_is_told_in_short(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk()
    feed(desk, "web")

    def fail(*_: Any) -> Any:
        raise ValueError("x" * 999)

    monkeypatch.setattr(planning, "attachments", fail)
    (result,) = plan(cases(desk), NO_BOOKS, desk.world()).results
    assert result.failure == "ValueError: " + "x" * 288


def test_all_that_fail_in_one_batch_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk()
    for number in range(6):
        feed(desk, f"vm{number}")
    grant, attempts = granting.grant, []

    def some(claim: Any, *arguments: Any) -> Any:
        attempts.append(claim.holder.key.name)
        if claim.holder.key.name in ("vm1", "vm3", "vm4"):
            raise ValueError("odd")
        return grant(claim, *arguments)

    monkeypatch.setattr(granting, "grant", some)
    made = plan(cases(desk), NO_BOOKS, desk.world())
    assert sorted(rows(made.results)) == ["vm0.default", "vm2.default", "vm5.default"]
    assert [bool(result.failure) for result in made.results] == [False, True, False, True, True, False]
    assert len(attempts) == 6 + 3  # planned twice, not once for each that fails


# ---- facts that may lack something ----------------------------------------------------------------------------------


def test_facts_that_are_not_sure_leave_rows_and_addresses_alone() -> None:
    desk = Desk()
    running(desk, "web", "10.16.0.50")
    desk.look()
    desk.unsure[VmKey("default", "web")] = "a pod of it cannot be read"
    before = dict(desk.rows)
    feed(desk, "web", "10.16.0.51")
    desk.feed("DELETED", "virtualmachineinstances", vmi_object("web"))
    desk.feed("DELETED", "pods", pod_object("web-1", "web"))
    feed(desk, "other", "10.16.0.50", created="2025-01-01T00:00:00Z")
    for _ in range(2):
        (result,) = [each for each in desk.look() if each.key.name == "web"]
        assert desk.rows == before
        assert desk.says("web") == ["Unreadable: a pod of it cannot be read"]
        assert result.look_again == FAILED_SECONDS
        assert result.record == ""
        assert "which VM default/web holds" in desk.says("other")[0]
        desk.forget()
    desk.unsure.clear()
    desk.look()
    assert desk.port("web.default").ips == ("10.16.0.51",)
    assert desk.port("other.default").ips == ("10.16.0.50",)


def test_facts_that_are_not_sure_give_nothing_back_that_is_not_written_yet() -> None:
    desk = Desk()
    feed(desk, "web", "10.16.0.50")
    made = plan(cases(desk), NO_BOOKS, desk.world())  # and the database refuses the row
    desk.unsure[VmKey("default", "web")] = "?"
    feed(desk, "other", "10.16.0.50")
    after = plan(cases(desk), made.books, desk.world())
    assert rows(after.results) == {}


# ---- pure -----------------------------------------------------------------------------------------------------------


def crowd() -> Desk:
    """VMs of every kind."""
    desk = Desk(network(), network("10.17.0.0/24", "fd00::/64", name="tenant", switch="tenant", pod_network=False))
    running(desk, "runs", "10.16.0.30")
    feed(desk, "stopped")
    for name in ("one", "two"):
        feed(desk, name, "10.16.0.40")
    annotations = {f"{OVN}/allowed_address_pairs": "10.16.0.60"}
    for name in ("s1", "s2", "s3"):
        desk.feed("ADDED", "virtualmachines", vm_object(name, annotations=annotations))
    desk.look()
    desk.feed("DELETED", "virtualmachines", vm_object("stopped"))
    feed(desk, "runs", "10.16.0.31")
    feed(desk, "two", "10.16.0.41")
    feed(desk, "new", "10.16.0.40", created="2024-01-01T00:00:00Z")
    desk.feed("ADDED", "virtualmachines", vm_object("t1", annotations={f"{OVN}/logical_switch": "tenant"}))
    return desk


@pytest.mark.parametrize("restarted", [False, True])
def test_a_plan_changes_nothing_of_its_caller_s_and_is_the_same_every_time(restarted: bool) -> None:
    desk = crowd()
    given, world, books = cases(desk), desk.world(), NO_BOOKS if restarted else desk.books
    before = repr((given, world)), snapshot(books)
    made = plan(given, books, world)
    assert (repr((given, world)), snapshot(books)) == before
    again = plan(given, books, world)
    assert made.results == again.results
    assert snapshot(made.books) == snapshot(again.books)


def snapshot(books: Books) -> str:
    """All that books say."""
    return repr(
        sorted(
            (
                switch,
                sorted(book.leases.items()),
                sorted((holder, sorted(map(str, ips))) for holder, ips in book.shares.items()),
            )
            for switch, book in books.by_switch.items()
        )
    )


@pytest.mark.parametrize("restarted", [False, True])
def test_the_order_of_the_vms_says_nothing(restarted: bool) -> None:
    desk = crowd()
    given, world, books = cases(desk), desk.world(), NO_BOOKS if restarted else desk.books
    made = plan(given, books, world)
    by_key = {result.key: result for result in made.results}
    for order in (given[::-1], given[1::2] + given[::2]):
        other = plan(order, books, world)
        assert {result.key: result for result in other.results} == by_key
        assert snapshot(other.books) == snapshot(made.books)
        assert [result.key for result in other.results] == [case.facts.key for case in order]


def test_a_plan_that_is_dropped_never_was() -> None:
    desk = crowd()
    plan(cases(desk), desk.books, desk.world())
    kept = plan(cases(desk), desk.books, desk.world())
    assert kept.results == tuple(crowd().look())


# ---- names of ports -------------------------------------------------------------------------------------------------

NADS = [{"name": "n", "multus": {"networkName": "d/c"}}]
TENANT = network("10.17.0.0/24", name="tenant", switch="tenant", pod_network=False, nads=("d/c",))


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


# ---- rows that somebody mangled -------------------------------------------------------------------------------------


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


# ---- what is remembered and told ------------------------------------------------------------------------------------


def test_an_interface_that_is_granted_nothing_costs_no_other_its_port() -> None:
    desk = Desk(network(), TENANT)
    interfaces = [{"name": "default", "bridge": {}}, {"name": "n", "bridge": {}}]
    networks = [{"name": "default", "pod": {}}, *NADS]
    made = vm_object("web", annotations=asking("10.99.0.1"), interfaces=interfaces, networks=networks)
    desk.feed("ADDED", "virtualmachines", made)
    desk.look()
    assert list(desk.rows) == ["web.default.c.d"]
    assert list(json.loads(desk.records[VmKey("default", "web")])["ports"]) == ["web.default.c.d"]


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


def test_permutations_of_twins_and_claims_end_alike() -> None:
    made = [
        vm_object(name, annotations=asking("10.16.0.40"), created=f"2026-01-0{n}T00:00:00Z")
        for n, name in enumerate("abc", 1)
    ]
    for order in itertools.permutations(made):
        desk = Desk()
        for each in order:
            desk.feed("ADDED", "virtualmachines", each)
        desk.look()
        assert list(desk.rows) == ["a.default"]

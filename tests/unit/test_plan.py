"""The plan as a whole: a VM that fails costs nobody else, nothing of the caller's is changed, the order says nothing."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from ovnagent.core import grants as granting
from ovnagent.core import plan as planning
from ovnagent.core import settle as settling
from ovnagent.core.books import NO_BOOKS, Books
from ovnagent.core.plan import FAILED_SECONDS, plan
from ovnagent.core.vm import VmKey
from tests.desk import Desk, network, pod_object, record_text, vm_object, vmi_object
from tests.unit.planning import KEY, OVN, asking, cases, feed, of, rows, running

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

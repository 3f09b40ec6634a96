"""The migration table, line by line: where a VM is, and which chassis its ports ask for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ovnagent.core.placement import (
    GRACE_SECONDS,
    LOOK_AGAIN_SECONDS,
    RESCUE_SECONDS,
    Binding,
    ChassisTable,
    Line,
    Placement,
    Situation,
    Whereabouts,
    locate,
    place,
)
from ovnagent.core.ports import MIGRATION, Port
from ovnagent.core.vm import Facts, Instance, Launcher, Migration, MigrationState, VmKey

KEY = VmKey("default", "web")
CHASSIS = ChassisTable(
    {"n1": ("A",), "n2": ("B",), "n3": ("C",), "two": ("Y", "X"), "odd": ("Z",)}, {"odd": "A", "lost": "none"}
)
PLACED, MIGRATING, SWITCHED = Situation.PLACED, Situation.MIGRATING, Situation.SWITCHED
STOPPED, UNCLEAR = Whereabouts(Situation.STOPPED), Whereabouts(Situation.UNCLEAR)


def row(*chassis: str, strategy: str = "", migration: str = "") -> Port:
    options = {"requested-chassis": ",".join(chassis), "activation-strategy": strategy}
    ids = ((MIGRATION, migration),) if migration else ()
    return Port("web.default", "s", options=tuple(sorted((k, v) for k, v in options.items() if v)), external_ids=ids)


def both(first: str, second: str) -> Port:
    return row(first, second, strategy="rarp", migration="m1")


def asks(placement: Placement) -> str:
    return " ".join((",".join(placement.requested) or "-", placement.strategy, placement.migration)).strip()


# ---- which chassis a node is ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("node", "name", "words"),
    [
        ("n1", "A", ""),
        ("odd", "A", ""),  # the Node's annotation goes before the host name
        ("nowhere", "", "no chassis in OVN's Southbound has the hostname nowhere"),
        ("two", "", "2 chassis have the hostname two: X, Y; delete the stale one"),
        ("lost", "", "node lost is annotated with chassis none, which OVN's Southbound does not know"),
    ],
)
def test_the_chassis_of_a_node(node: str, name: str, words: str) -> None:
    found, problem = CHASSIS.of(node)
    assert found == name
    assert problem.startswith(words)
    assert bool(problem) == bool(words)


# ---- which chassis a port asks for ----------------------------------------------------------------------------------

AB, BA = "A,B rarp m1", "B,A rarp m1"
MOVING = Whereabouts(MIGRATING, "n1", "n2", "m1")
READY = Whereabouts(SWITCHED, "n1", "n2", "m1")
OVER = Whereabouts(PLACED, "n2", migration="m1")
ON_A, ALSO_B = Binding("A"), Binding("A", ("B",))
ACTIVE = Binding("A", ("B",), ("B",))
ON_B, GONE = Binding("B", (), ("B",)), None


@pytest.mark.parametrize(
    ("where", "present", "binding", "elapsed", "expected", "again"),
    [
        # no launcher counts
        (STOPPED, row("A"), ON_A, 0.0, "-", None),
        (STOPPED, None, None, 0.0, "-", None),
        # one place only
        (Whereabouts(PLACED, "n1"), None, None, 0.0, "A", None),
        (Whereabouts(PLACED, "n1"), row("B"), ON_B, 0.0, "A", None),
        # facts that contradict each other
        (UNCLEAR, both("A", "B"), ALSO_B, 99.0, AB, LOOK_AGAIN_SECONDS),
        (UNCLEAR, row("A"), None, 0.0, "A", LOOK_AGAIN_SECONDS),
        (UNCLEAR, None, None, 0.0, "-", LOOK_AGAIN_SECONDS),
        # an open migration, its target has a node
        (MOVING, row("A"), ON_A, 0.0, AB, None),
        (MOVING, both("A", "B"), ACTIVE, 99.0, AB, None),
        (MOVING, both("B", "A"), ACTIVE, 0.0, AB, None),
        # its domain is ready, and SB has seen the announcement
        (READY, both("A", "B"), ACTIVE, 0.0, AB, None),
        (READY, both("A", "B"), ACTIVE, 99.0, AB, None),
        (READY, both("A", "B"), ON_B, 99.0, AB, None),
        (READY, both("A", "B"), Binding("B"), 99.0, AB, None),
        # the announcement may be under way; then it was lost
        (READY, both("A", "B"), ALSO_B, 0.1, AB, RESCUE_SECONDS - 0.1),
        (READY, both("A", "B"), GONE, 0.1, AB, RESCUE_SECONDS - 0.1),
        (READY, both("A", "B"), ALSO_B, RESCUE_SECONDS, BA, None),
        (READY, both("A", "B"), Binding("A", ("B",), ("C",)), 1.0, BA, None),
        # once B stands first it stays first; the list was never written
        (READY, both("B", "A"), ACTIVE, 0.0, BA, None),
        (READY, row("A"), ON_A, 0.0, BA, None),
        (READY, None, None, 0.0, BA, None),
        # the guest is on the target, and that is all that OVN knows
        (READY, row("B"), ON_B, 0.0, "B", None),
        (replace(READY, node=""), None, None, 0.0, "B", None),
        (replace(READY, node=""), both("A", "B"), ACTIVE, 0.0, AB, None),
        (replace(READY, node=""), row("A"), ON_A, 0.0, BA, None),
        (replace(READY, node=""), both("B", "A"), ACTIVE, 0.0, BA, None),
        # over, and the source has not let go
        (OVER, both("A", "B"), ALSO_B, 1.0, AB, GRACE_SECONDS - 1),
        (OVER, both("A", "B"), Binding("B", ("A",)), 1.0, AB, GRACE_SECONDS - 1),
        (OVER, both("B", "A"), ALSO_B, 1.0, BA, GRACE_SECONDS - 1),
        (OVER, both("A", "B"), GONE, 1.0, AB, GRACE_SECONDS - 1),
        # it has, or the grace period is over
        (OVER, both("A", "B"), ON_B, 0.0, "B", None),
        (OVER, both("A", "B"), ALSO_B, GRACE_SECONDS, "B", None),
        # another migration, or none, brought it there: at once
        (replace(OVER, migration="m2"), both("A", "B"), ALSO_B, 0.0, "B", None),
        (replace(OVER, migration=""), both("A", "B"), ALSO_B, 0.0, "B", None),
        (replace(OVER, node="n3"), both("A", "B"), ALSO_B, 0.0, "C", None),
        (OVER, row("A", migration="m1"), ALSO_B, 0.0, "B", None),
        (OVER, row("B", migration="m1"), ALSO_B, 0.0, "B", None),
        (replace(OVER, migration=""), row("A", "B", strategy="rarp"), ALSO_B, 0.0, "B", None),
        (OVER, both("B", "A"), ON_B, 0.0, "B", None),
        # failed, cancelled, the target gone
        (Whereabouts(PLACED, "n1"), both("A", "B"), ALSO_B, 0.0, "A", None),
        # two nodes with one chassis
        (replace(MOVING, target="odd"), row("A"), ON_A, 0.0, "A", None),
    ],
)
def test_the_table(
    where: Whereabouts, present: Port | None, binding: Binding | None, elapsed: float, expected: str, again: float | None
) -> None:
    made = place(where, present, binding, CHASSIS, "bridge", elapsed)
    assert (asks(made), made.look_again, made.problem) == (expected, again, "")


@pytest.mark.parametrize("binding_method", ["masquerade", "passt"])
def test_where_nothing_announces_the_target_it_is_opened_at_once(binding_method: str) -> None:
    assert asks(place(READY, both("A", "B"), ALSO_B, CHASSIS, binding_method, 0.0)) == BA


@pytest.mark.parametrize("binding_method", ["masquerade", "passt"])
def test_an_agent_that_has_just_started_first_hears_whether_it_is_open_already(binding_method: str) -> None:
    made = place(READY, both("A", "B"), None, CHASSIS, binding_method, 0.0)
    assert (asks(made), made.look_again) == (AB, RESCUE_SECONDS)
    assert asks(place(READY, both("A", "B"), None, CHASSIS, binding_method, RESCUE_SECONDS)) == BA


@pytest.mark.parametrize(
    ("where", "present", "expected", "words"),
    [
        (Whereabouts(PLACED, "x"), row("A"), "A", "hostname x"),
        (Whereabouts(PLACED, "x"), None, "-", "hostname x"),
        (Whereabouts(PLACED, "x", migration="m1"), both("A", "B"), AB, "hostname x"),
        # the target is not known: no partial list
        (replace(MOVING, target="x"), row("A"), "A", "hostname x"),
        (replace(MOVING, target="x"), None, "A", "hostname x"),
        (replace(MOVING, target="x"), row("C"), "A", "hostname x"),
        (replace(MOVING, target="x"), both("A", "B"), AB, "hostname x"),
        (replace(MOVING, target="x"), both("B", "A"), "A", "hostname x"),
        (replace(READY, target="x", node=""), both("B", "A"), BA, "hostname x"),
        # the source is not
        (replace(MOVING, node="x"), both("A", "B"), AB, "hostname x"),
        (replace(MOVING, node="x"), row("A"), "A", "hostname x"),
        (replace(READY, node="x"), row("A"), "B", "hostname x"),
        (replace(READY, node="x"), row("B"), "B", "hostname x"),
        # neither is
        (replace(MOVING, node="x", target="y"), row("C"), "C", "hostname y"),
    ],
)
def test_a_chassis_that_is_not_known(where: Whereabouts, present: Port | None, expected: str, words: str) -> None:
    made = place(where, present, None, CHASSIS, "bridge", 0.0)
    assert (asks(made), made.look_again) == (expected, None)
    assert words in made.problem


# ---- where a VM is --------------------------------------------------------------------------------------------------


def vmi(node: str = "", phase: str = "Running", state: MigrationState | None = None) -> Instance:
    return Instance("default", "web", "v1", "", False, "u1", phase, node, (), (), "", "", state, ())


def pod(
    name: str, node: str, migration: str = "", phase: str = "Running", vmi_uid: str = "v1", created: str = ""
) -> Launcher:
    return Launcher("default", name, name, created or name, False, "web", vmi_uid, node, phase, migration, False, ())


def migration(uid: str, phase: str = "Running") -> Migration:
    return Migration("default", uid, uid, "", False, "web", phase)


def state(uid: str, ready: bool = False, failed: bool = False, source: str = "n1", target: str = "n2") -> MigrationState:
    return MigrationState(uid, source, target, ready, failed)


def facts(*objects: Instance | Launcher | Migration) -> Facts:
    return Facts(
        KEY,
        vmi=next((each for each in objects if isinstance(each, Instance)), None),
        migrations=tuple(each for each in objects if isinstance(each, Migration)),
        launchers=tuple(each for each in objects if isinstance(each, Launcher)),
    )


P1, P2 = pod("p1", "n1"), pod("p2", "n2", "m1")
HERE = Whereabouts(PLACED, "n1")
THERE = Whereabouts(PLACED, "n2", migration="m1")
MOVING_ON = Whereabouts(MIGRATING, "n1", "n3", "m2")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        # without a VMI: a launcher that shuts down
        (facts(), STOPPED),
        (facts(P1), HERE),
        (facts(P1, pod("p3", "n1")), HERE),
        (facts(P1, P2), UNCLEAR),
        (facts(pod("p1", "")), STOPPED),
        (facts(replace(P1, phase="Succeeded"), P2), Whereabouts(PLACED, "n2")),
        # without a launcher that counts
        (facts(vmi()), STOPPED),
        (facts(vmi("n1")), UNCLEAR),
        (facts(vmi("n1", "Succeeded")), STOPPED),
        (facts(vmi("n1"), replace(P1, phase="Failed")), STOPPED),
        (facts(vmi("n1"), replace(P1, ephemeral=True)), STOPPED),
        (facts(vmi("n1"), replace(P1, vmi_uid="other")), UNCLEAR),
        (facts(vmi("n1"), replace(P2, phase="Failed")), UNCLEAR),
        # before the VMI has a node
        (facts(vmi(), P1), HERE),
        (facts(vmi(), P1, P2), UNCLEAR),
        (facts(vmi(), P1, replace(P2, vmi_uid="other")), HERE),
        # it runs
        (facts(vmi("n1"), P1), HERE),
        (facts(vmi("n1"), P1, P2), HERE),  # the pod is seen before its migration
        (facts(vmi("n1"), P1, pod("p2", "", "m1"), migration("m1")), HERE),
        # an open migration, its target has a node
        (facts(vmi("n1"), P1, P2, migration("m1")), MOVING),
        (facts(vmi("n1"), P1, P2, migration("m1", "Failed")), HERE),
        (facts(vmi("n1"), P1, replace(P2, phase="Failed"), migration("m1")), HERE),
        (facts(vmi("n1", state=state("m1")), P1, P2, migration("m1")), MOVING),
        (facts(vmi("n1", state=state("m0", ready=True)), P1, P2, migration("m1")), MOVING),
        (facts(vmi("n1", state=state("m0", failed=True)), P1, P2, migration("m1")), MOVING),
        (facts(vmi("n1", state=state("m1", failed=True)), P1, P2, migration("m1")), HERE),
        (facts(vmi("n2", state=state("m1", failed=True)), P1, P2, migration("m1")), replace(THERE, migration="")),
        # its domain is ready
        (facts(vmi("n1", state=state("m1", ready=True)), P1, P2, migration("m1")), READY),
        (facts(vmi("n2", state=state("m1", ready=True)), P1, P2, migration("m1")), READY),
        (facts(vmi("n2", state=state("m0")), P1, P2, migration("m1")), replace(READY, node="")),
        (facts(vmi("n2"), P1, P2, migration("m1")), replace(READY, node="")),
        # the migration's object is missing while the VMI tells of it
        (facts(vmi("n1", state=state("m1", ready=True)), P1, P2), READY),
        (facts(vmi("n1", state=state("m1")), P1, P2), MOVING),
        (facts(vmi("n1", state=state("m1", failed=True)), P1, P2), HERE),
        (facts(vmi("n1", state=state("m0", ready=True)), P1, P2), HERE),
        (facts(vmi("n1", state=state("")), P1, pod("p2", "n2")), HERE),
        # its end is seen before the VMI's new node
        (facts(vmi("n1"), P1, P2, migration("m1", "Succeeded")), READY),
        (facts(vmi("n1"), replace(P1, created="p2"), P2, migration("m1", "Succeeded")), HERE),
        (facts(vmi("n1", state=state("m1")), replace(P1, created="p2"), P2, migration("m1", "Succeeded")), READY),
        (facts(vmi("n1"), replace(P1, created="p3"), P2, migration("m1", "Succeeded")), HERE),  # an older one, of before
        (facts(vmi("n1"), P2, migration("m1", "Succeeded")), READY),
        (facts(vmi("n1"), P2), UNCLEAR),
        (facts(vmi("n1"), replace(P1, phase="Succeeded"), P2), UNCLEAR),
        # over
        (facts(vmi("n2"), P1, P2, migration("m1", "Succeeded")), THERE),
        (facts(vmi("n2"), P2, migration("m1", "Failed")), replace(THERE, migration="")),
        (facts(vmi("n2", state=state("m1", ready=True)), P2), THERE),
        (facts(vmi("n2", state=state("m1", failed=True)), P2), replace(THERE, migration="")),
        (facts(vmi("n2", state=state("m0")), P2), replace(THERE, migration="")),
        (facts(vmi("n2"), P2), replace(THERE, migration="")),
        (facts(vmi("n2"), replace(P2, migration_uid="")), replace(THERE, migration="")),
        # two launchers on the node (there and back again): the younger is the guest's
        (facts(vmi("n2"), pod("p0", "n2"), P2, migration("m1", "Succeeded")), THERE),
        (facts(vmi("n2"), P2, pod("p9", "n2"), migration("m1", "Succeeded")), replace(THERE, migration="")),
        (facts(vmi("n2"), replace(P2, created="p"), pod("p9", "n2", created="p"), migration("m1", "Succeeded")),
         replace(THERE, migration="")),
        # of two targets the newer
        (facts(vmi("n1"), P1, P2, pod("p3", "n3", "m2"), migration("m1"), migration("m2")), MOVING_ON),
        (facts(vmi("n1"), P1, P2, pod("p3", "n3", "m2"), migration("m1"), migration("m2", "Failed")), MOVING),
        (facts(vmi("n1"), P1, replace(P2, created="p"), pod("p3", "n3", "m2", created="p"),
               migration("m1"), migration("m2")), MOVING_ON),
    ],
)  # fmt: skip
def test_where_it_is(given: Facts, expected: Whereabouts) -> None:
    assert locate(given) == expected


def test_the_next_migration_may_begin_before_the_vmi_tells_of_the_last_one_s_end() -> None:
    """Its source is where the last one led; so the guest's own chassis stays in the list."""
    third = pod("p3", "n3", "m2")
    told = facts(vmi("n1"), P1, P2, third, migration("m1", "Succeeded"), migration("m2"))
    assert locate(told) == Whereabouts(MIGRATING, "n2", "n3", "m2")


def test_where_a_migration_of_before_led_is_no_source_once_the_guest_has_come_back() -> None:
    """Its launcher is on its way out there; on the guest's own node there may be an older one, too."""
    back, third = pod("p3", "n1", "m2"), pod("p4", "n3", "m3")
    for here in ((back,), (P1, back)):
        told = facts(
            vmi("n1"), *here, P2, third, migration("m1", "Succeeded"), migration("m2", "Succeeded"), migration("m3")
        )
        assert locate(told) == Whereabouts(MIGRATING, "n1", "n3", "m3")


def test_an_open_migration_is_younger_than_one_that_is_over_whatever_the_clock_has_said() -> None:
    """The API server's clock was set back between the two: the younger launcher has the older date."""
    was, came = pod("p9", "n1", "m1"), pod("p2", "n2", "m2")
    there = vmi("n2", state=state("m2", ready=True))
    told = facts(there, was, came, migration("m1", "Succeeded"), migration("m2"))
    assert locate(told) == Whereabouts(SWITCHED, "n1", "n2", "m2")
    over = facts(there, was, came, migration("m1", "Succeeded"), migration("m2", "Failed"))
    assert locate(over) == Whereabouts(SWITCHED, "n2", "n1", "m1")


# ---- what is told of it ---------------------------------------------------------------------------------------------


def test_why_a_port_is_placed_as_it_is_makes_no_other_placement_of_it() -> None:
    assert Placement(("A",), line=Line.TARGET_ALONE) == Placement(("A",), line=Line.ONE_PLACE)


def test_the_words_for_where_a_vm_is() -> None:
    assert [each.value for each in Situation] == ["stopped", "placed", "migrating", "switched", "unclear"]


def test_who_is_nowhere_has_no_node() -> None:
    nowhere = locate(facts())
    assert (nowhere.node, nowhere.target, nowhere.migration) == ("", "", "")


def test_a_binding_is_not_up_before_that_is_said() -> None:
    assert not Binding("A").up


def test_the_source_is_waited_for_as_long_as_the_manual_says() -> None:
    manual = Path(__file__).parents[2] / "docs" / "live-migration.md"
    assert f"for {GRACE_SECONDS:.0f} s at most" in manual.read_text()

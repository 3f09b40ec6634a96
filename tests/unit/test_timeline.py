"""A migration as one agent sees it: looks at facts and rows in, times out."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from immutables import Map

from ovnagent.core.placement import Binding
from ovnagent.core.plan import plan
from ovnagent.core.timeline import Outcome, Step, Timeline, late, summary
from ovnagent.core.vm import VmKey
from ovnagent.timelines import KEPT, Timelines
from tests.desk import Desk, migration_object, pod_object, vm_object, vmi_object

WEB = VmKey("default", "web")
PORT = "web.default"
READY = {"migrationUid": "m1", "sourceNode": "node1", "targetNode": "node2", "targetNodeDomainReadyTimestamp": "2026-01-01"}
NEWS, WRITTEN = 0.0, 0.01
"""A look is asked for when the desk's clock says so, and written so many seconds later."""


class Watched:
    """A desk whose every look goes into timelines."""

    def __init__(self, name: str = "web") -> None:
        self.desk = Desk()
        self.timelines = Timelines()
        self.desk.feed("ADDED", "virtualmachines", vm_object("web"))
        self.desk.feed("ADDED", "virtualmachineinstances", vmi_object("web", node="node1"))
        self.desk.feed("ADDED", "pods", pod_object("web-1", "web", node="node1"))
        self.look(0.0, "chassis1", first=True)

    def look(
        self, now: float, chassis: str | None, *additional: str, activated: str = "", first: bool = False
    ) -> Timeline | None:
        """`chassis`: None where the Southbound has no such port."""
        desk = self.desk
        desk.now = now
        desk.bindings.pop(PORT, None)
        if chassis is not None:
            desk.bindings[PORT] = Binding(chassis, additional, tuple(filter(None, (activated,))))
        case = desk._case(WEB)
        (result,) = plan([case], desk.books, desk.world()).results
        desk.look(WEB)
        return self.timelines.look(case, result, now + NEWS, now + WRITTEN, first)

    def migration(self, phase: str = "Running", name: str = "m1") -> None:
        self.desk.feed("MODIFIED", "virtualmachineinstancemigrations", migration_object(name, "web", phase))

    def target(self, name: str = "m1") -> None:
        self.migration("Scheduling", name)
        self.desk.feed("ADDED", "pods", pod_object(f"web-{name}", "web", node="node2", migration=name))

    def vmi(self, node: str, **state: object) -> None:
        self.desk.feed("MODIFIED", "virtualmachineinstances", vmi_object("web", node=node, migration=state or None))


def times(timeline: Timeline) -> dict[str, float]:
    return {step.value: round(at, 2) for (step, _), at in timeline.steps.items()}


def whole(lab: Watched) -> Timeline:
    lab.target()
    lab.look(10.0, "chassis1")
    lab.look(11.0, "chassis1", "chassis2")
    lab.look(12.0, "chassis1", "chassis2", activated="chassis2")
    lab.vmi("node1", **READY)
    lab.look(12.1, "chassis1", "chassis2", activated="chassis2")
    lab.vmi("node2", **READY)
    lab.migration("Succeeded")
    lab.look(13.0, "chassis1", "chassis2", activated="chassis2")
    timeline = lab.look(13.5, "chassis2")
    assert timeline is not None
    return timeline


def test_every_step_has_its_time() -> None:
    timeline = whole(Watched())
    assert times(timeline) == {
        "target bound": 0.0,
        "options committed": 0.01,
        "bound on both": 1.0,
        "activated": 2.0,
        "domain ready": 2.1,
        "VMI moved": 3.0,
        "migration over": 3.0,
        "source let go": 3.5,
        "last write": 3.51,
    }
    assert (timeline.outcome, timeline.source, timeline.target, timeline.unseen) == (
        Outcome.DONE,
        "node1",
        "node2",
        frozenset(),
    )
    assert late(timeline) == []
    assert summary(timeline, PORT) == (
        "the target was named 10 ms after its launcher had a node; opened after 2.00 s; last write after 3.51 s, "
        "10 ms after it was due"
    )


def test_no_migration_no_timeline() -> None:
    lab = Watched()
    assert lab.look(1.0, "chassis1") is None
    assert json.loads(lab.timelines.document())["migrations"] == []


def test_an_announcement_that_was_lost() -> None:
    lab = Watched()
    lab.target()
    lab.look(10.0, "chassis1")
    lab.look(11.0, "chassis1", "chassis2")
    lab.vmi("node1", **READY)
    lab.look(12.0, "chassis1", "chassis2")
    timeline = lab.look(12.5, "chassis1", "chassis2")
    assert timeline is not None
    assert times(timeline)["opened"] == 2.51
    assert late(timeline) == [
        f"{PORT}: no announcement was seen, and the target was opened 0.51 s after the target's domain was ready"
    ]


def test_a_source_that_is_away_for_a_moment_has_not_let_go() -> None:
    lab = Watched()
    lab.target()
    lab.look(10.0, "chassis1", "chassis2")
    lab.vmi("node1", **READY)
    lab.look(11.0, "chassis2")
    timeline = lab.look(11.1, "chassis2", "chassis1")
    assert timeline is not None
    assert timeline.at(Step.LET_GO, PORT) is None
    timeline = lab.look(12.0, "chassis2")
    assert timeline is not None
    assert timeline.at(Step.LET_GO, PORT) == 2.0


def test_a_binding_that_names_no_chassis_for_a_moment_says_nothing_of_the_source() -> None:
    lab = Watched()
    lab.target()
    lab.look(10.0, "chassis1", "chassis2")
    lab.vmi("node1", **READY)
    timeline = lab.look(11.0, "")
    assert timeline is not None
    assert timeline.at(Step.LET_GO, PORT) is None


def test_a_target_that_is_plugged_too_late() -> None:
    lab = Watched()
    lab.target()
    lab.look(10.0, "chassis1")
    lab.vmi("node1", **READY)
    lab.look(11.0, "chassis1")
    timeline = lab.look(13.0, "chassis1", "chassis2")
    assert timeline is not None
    assert late(timeline)[0].startswith(f"{PORT}: the target was plugged 2.00 s after the target's domain was ready")


def test_a_migration_that_fails() -> None:
    lab = Watched()
    lab.target()
    lab.look(10.0, "chassis1")
    lab.migration("Failed")
    timeline = lab.look(14.0, "chassis1", "chassis2")
    assert timeline is not None
    assert timeline.outcome is Outcome.ROLLED_BACK
    assert times(timeline) == {
        "target bound": 0.0,
        "options committed": 0.01,
        "migration over": 4.0,
        "last write": 4.01,
        "bound on both": 4.0,
    }
    assert late(timeline) == []


def test_a_standby_makes_up_no_times() -> None:
    lab = Watched()
    lab.target()
    lab.look(10.0, "chassis1")
    lab.timelines = Timelines()  # another agent
    timeline = lab.look(11.0, "chassis1", "chassis2", first=True)
    assert timeline is not None
    assert times(timeline) == {}
    assert {step for step, _ in timeline.unseen} == {Step.TARGET_BOUND, Step.COMMITTED, Step.BOUND}
    timeline = lab.look(12.0, "chassis1", "chassis2", activated="chassis2")
    assert timeline is not None
    assert times(timeline) == {"activated": 1.0}
    assert "this agent did not see the beginning" in summary(timeline, PORT)


def test_what_another_agent_ended_is_not_said_to_be_done() -> None:
    lab = Watched()
    lab.target()
    lab.look(10.0, "chassis1")
    lab.vmi("node1")
    lab.migration("Failed")
    lab.desk.look()  # the other agent's
    timeline = lab.look(60.0, "chassis1", first=True)
    assert timeline is not None
    assert timeline.outcome is Outcome.UNKNOWN
    assert timeline.at(Step.LAST, PORT) is None


def test_a_target_whose_chassis_is_not_known_is_named_when_it_is() -> None:
    lab = Watched()
    chassis = lab.desk.chassis.pop("node2")
    lab.target()
    timeline = lab.look(10.0, "chassis1")
    assert timeline is not None
    assert (timeline.uid, timeline.outcome, timeline.chassis) == ("m1", Outcome.RUNNING, Map())
    assert times(timeline) == {"target bound": 0.0}
    lab.desk.chassis["node2"] = chassis
    timeline = lab.look(11.0, "chassis1")
    assert timeline is not None
    assert times(timeline) == {"target bound": 0.0, "options committed": 1.01}


def test_a_row_that_is_lost_meanwhile_is_written_with_both_chassis() -> None:
    lab = Watched()
    lab.target()
    lab.desk.rows.clear()
    timeline = lab.look(10.0, "chassis1")
    assert timeline is not None
    assert times(timeline) == {"target bound": 0.0, "options committed": 0.01}


def test_a_vm_that_is_deleted_while_it_moves_moves_no_more() -> None:
    lab = Watched()
    lab.target()
    lab.look(10.0, "chassis1")
    for resource, gone in (
        ("virtualmachines", vm_object("web")),
        ("virtualmachineinstances", vmi_object("web")),
        ("pods", pod_object("web-1", "web")),
        ("pods", pod_object("web-m1", "web")),
    ):
        lab.desk.feed("DELETED", resource, gone)
    timeline = lab.look(11.0, None)
    assert timeline is not None
    assert timeline.outcome is Outcome.ROLLED_BACK
    assert lab.look(12.0, None) is None


def test_a_vmi_that_is_gone_says_nothing_of_the_nodes() -> None:
    """Its two launchers still end, and the row still names both chassis."""
    lab = Watched()
    lab.target()
    lab.look(10.0, "chassis1")
    lab.timelines = Timelines()  # another agent
    lab.desk.feed("DELETED", "virtualmachineinstances", vmi_object("web"))
    timeline = lab.look(11.0, "chassis1", first=True)
    assert timeline is not None
    assert (timeline.uid, timeline.source, timeline.target, timeline.over) == ("m1", "", "", False)
    assert timeline.chassis == Map({PORT: ("chassis1", "chassis2")})


def swapped(lab: Watched) -> Timeline:
    """No announcement is seen: the target is put first."""
    lab.target()
    lab.look(10.0, "chassis1", "chassis2")
    lab.vmi("node1", **READY)
    lab.look(11.0, "chassis1", "chassis2")
    timeline = lab.look(11.5, "chassis1", "chassis2")
    assert timeline is not None
    assert lab.desk.placed(PORT) == "chassis2,chassis1 rarp"
    return timeline


def test_whose_chassis_is_whose_stays_known_when_the_target_stands_first() -> None:
    lab = Watched()
    assert swapped(lab).chassis == Map({PORT: ("chassis1", "chassis2")})
    lab.vmi("node2", **READY)
    lab.migration("Succeeded")
    timeline = lab.look(12.0, "chassis2", "chassis1")
    assert timeline is not None
    assert timeline.chassis == Map({PORT: ("chassis1", "chassis2")})
    assert timeline.at(Step.LET_GO, PORT) is None
    timeline = lab.look(13.0, "chassis2")
    assert timeline is not None
    assert (timeline.outcome, timeline.at(Step.LET_GO, PORT)) == (Outcome.DONE, 3.0)


def test_that_another_agent_opened_the_target_is_not_made_up_to_be_this_one_s() -> None:
    lab = Watched()
    swapped(lab)
    lab.timelines = Timelines()  # another agent
    timeline = lab.look(12.0, "chassis1", "chassis2", first=True)
    assert timeline is not None
    assert timeline.chassis == Map({PORT: ("chassis1", "chassis2")})
    assert (Step.OPENED, PORT) in timeline.unseen
    assert timeline.at(Step.OPENED, PORT) is None


def test_a_vm_whose_facts_may_lack_something_is_watched_all_the_same() -> None:
    """Its rows stay as they are, and nothing is placed."""
    lab = Watched()
    lab.target()
    lab.look(10.0, "chassis1")
    lab.timelines = Timelines()  # another agent
    lab.desk.unsure[WEB] = "a launcher cannot be read"
    timeline = lab.look(11.0, "chassis1", "chassis2", first=True)
    assert timeline is not None
    assert timeline.chassis == Map({PORT: ("chassis1", "chassis2")})
    assert {step for step, _ in timeline.unseen} == {Step.TARGET_BOUND, Step.COMMITTED, Step.BOUND}


def test_a_source_lets_go_once_also_where_the_port_is_not_bound_later() -> None:
    lab = Watched()
    lab.target()
    lab.look(10.0, "chassis1", "chassis2")
    lab.vmi("node1", **READY)
    for now, chassis in ((11.0, "chassis2"), (12.0, "chassis2"), (13.0, None)):
        timeline = lab.look(now, chassis)
        assert timeline is not None
        assert timeline.at(Step.LET_GO, PORT) == 1.0


def test_a_target_that_is_the_main_chassis_is_open() -> None:
    lab = Watched()
    lab.target()
    lab.look(10.0, "chassis1", "chassis2")
    lab.vmi("node1", **READY)
    timeline = lab.look(11.0, "chassis2", "chassis1")
    assert timeline is not None
    assert timeline.at(Step.ACTIVATED, PORT) == 1.0


def test_the_end_of_an_earlier_migration_is_not_this_one_s() -> None:
    lab = Watched()
    lab.migration("Failed", "m0")
    lab.target()
    timeline = lab.look(10.0, "chassis1")
    assert timeline is not None
    assert timeline.at(Step.OVER) is None
    lab.migration("Failed")
    timeline = lab.look(11.0, "chassis1")
    assert timeline is not None
    assert timeline.at(Step.OVER) == 1.0


def test_one_that_is_under_way_is_shown_too() -> None:
    lab = Watched()
    lab.target()
    lab.look(10.0, "chassis1")
    (shown,) = json.loads(lab.timelines.document())["migrations"]
    assert (shown["outcome"], [step["step"] for step in shown["steps"]]) == (
        "running",
        ["target bound", "options committed"],
    )


def test_so_many_are_kept() -> None:
    lab = Watched()
    for number in range(KEPT + 20):
        name = f"m{number}"
        lab.target(name)
        lab.look(number * 10.0, "chassis1")
        lab.migration("Failed", name)
        lab.look(number * 10.0 + 1, "chassis1")
        lab.desk.feed("DELETED", "virtualmachineinstancemigrations", migration_object(name, "web", "Failed"))
        lab.desk.feed("DELETED", "pods", pod_object(f"web-{name}", "web", node="node2", migration=name))
    document = json.loads(lab.timelines.document())
    assert len(document["migrations"]) == KEPT
    assert document["migrations"][-1]["uid"] == f"m{KEPT + 19}"


def test_the_document_holds_what_people_are_shown() -> None:
    lab = Watched()
    timeline = whole(lab)
    (shown,) = json.loads(lab.timelines.document())["migrations"]
    assert (shown["vm"], shown["migration"], shown["outcome"]) == ("web", "m1", "done")
    assert [step["step"] for step in shown["steps"]][-1] == "last write"
    assert shown["chassis"] == {PORT: ["chassis1", "chassis2"]}
    assert replace(timeline, steps=timeline.steps.delete((Step.OVER, ""))).at(Step.OVER) is None


def test_what_the_beginning_says_of_it() -> None:
    lab = Watched()
    migration = migration_object("m1", "web", "Running")
    migration["metadata"]["name"] = "evacuation"
    lab.desk.feed("ADDED", "virtualmachineinstancemigrations", migration)
    for before in ("a", "z"):
        lab.migration("Failed", before)
    lab.desk.feed("ADDED", "pods", pod_object("web-m1", "web", node="node2", migration="m1"))
    timeline = lab.look(10.0, "chassis1")
    assert timeline is not None
    assert (timeline.vm, timeline.uid, timeline.name, timeline.source, timeline.target, timeline.began) == (
        WEB,
        "m1",
        "evacuation",
        "node1",
        "node2",
        10.0,
    )
    assert timeline.chassis == Map({PORT: ("chassis1", "chassis2")})


@pytest.mark.parametrize(
    ("told", "nodes"), [(READY, ("node1", "node2")), ({**READY, "migrationUid": "m0"}, ("", "")), ({}, ("", ""))]
)
def test_one_that_is_about_to_be_over_when_it_is_first_seen(told: dict[str, str], nodes: tuple[str, str]) -> None:
    """The nodes are those that the VMI tells of this migration; two chassis still stand in the row."""
    lab = Watched()
    lab.target()
    lab.look(10.0, "chassis1")
    lab.timelines = Timelines()  # another agent
    lab.vmi("node2", **told)
    lab.migration("Succeeded")
    timeline = lab.look(11.0, "chassis1", "chassis2", first=True)
    assert timeline is not None
    assert (timeline.uid, timeline.source, timeline.target, timeline.over) == ("m1", *nodes, False)
    assert (Step.TARGET_BOUND, "") not in timeline.unseen, "no migration is under way any more"
    timeline = lab.look(12.0, "chassis2")
    assert timeline is not None
    assert timeline.outcome is Outcome.DONE


def test_a_target_that_is_not_known_is_nowhere() -> None:
    lab = Watched()
    lab.target()
    lab.look(10.0, "chassis1")
    lab.timelines = Timelines()  # another agent
    lab.vmi("")
    timeline = lab.look(11.0, "chassis1", first=True)
    assert timeline is not None
    assert timeline.target == ""
    assert Step.MOVED not in {step for step, _ in timeline.unseen}


def test_a_target_is_ready_when_kubevirt_says_so_of_this_migration() -> None:
    for told in ({**READY, "targetNodeDomainReadyTimestamp": ""}, {**READY, "migrationUid": "m0"}):
        lab = Watched()
        lab.target()
        lab.vmi("node1", **told)
        timeline = lab.look(10.0, "chassis1")
        assert timeline is not None
        assert timeline.at(Step.READY) is None

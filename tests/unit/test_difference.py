"""What is against what should be, beside the plan."""

from __future__ import annotations

from dataclasses import replace

from immutables import Map

from ovnagent.core import ports
from ovnagent.core.books import NO_BOOKS
from ovnagent.core.placement import locate
from ovnagent.core.plan import Case, plan
from ovnagent.core.ports import PresentPort
from ovnagent.core.vm import Facts, VmKey
from ovnagent.difference import Present, changes, virtual_changes
from ovnagent.ovn.changes import UpdatePort
from ovnagent.ovn.snapshot import NorthboundSnapshot
from tests.desk import Desk, vm_object

WEB = VmKey("default", "web")


def test_a_row_that_names_its_vm_no_more_is_put_right_in_place() -> None:
    """Somebody took external_ids:ovnagent-vm away: the guest's port is neither deleted nor made a second time."""
    desk = Desk()
    desk.feed("ADDED", "virtualmachines", vm_object("web"))
    desk.look()
    row = desk.rows.pop("web.default")
    left = tuple((key, value) for key, value in row.port.external_ids if key != ports.VM)
    stray = PresentPort(row.uuid, replace(row.port, external_ids=left))
    present = Present(NorthboundSnapshot(virtual=Map({"web.default": stray})))
    facts = desk.store.facts(WEB)
    assert present.of(facts) == (stray,)
    assert present.strays_of(lambda: [facts]) == {"web.default"}
    assert virtual_changes([], {"web.default": stray}, present.strays_of(lambda: [facts])) == []
    desk.virtual["web.default"] = stray
    case = Case(facts, locate(facts), 0.0, present.of(facts))
    (result,) = plan([case], NO_BOOKS, desk.world()).results
    assert changes(result, present.of(facts)) == [UpdatePort(stray, row.port)]


def test_a_row_that_names_nobody_and_is_nobody_s_goes() -> None:
    desk = Desk()
    desk.feed("ADDED", "virtualmachines", vm_object("web"))
    desk.look()
    row = desk.rows["web.default"]
    left = tuple((key, value) for key, value in row.port.external_ids if key != ports.VM)
    stray = PresentPort(row.uuid, replace(row.port, name="old.default", external_ids=left))
    present = Present(NorthboundSnapshot(virtual=Map({"old.default": stray})))
    nobody = Facts(VmKey("default", "other"))
    assert present.of(nobody) == ()
    assert [change for _, change in virtual_changes([], {"old.default": stray}, present.strays_of(lambda: [nobody]))]

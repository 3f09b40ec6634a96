"""The agent's own ports by name and by VM, whatever somebody writes into their rows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ovnagent.core.ports import CLUSTER, VM, Port, PresentPort
from ovnagent.core.vm import VmKey
from ovnagent.ovn.own import OwnPorts, vm_of


def row(row_id: str, name: str, vm: str | None, type_: str = "") -> PresentPort:
    external_ids = ((CLUSTER, "c1"), *([(VM, vm)] if vm is not None else []))
    return PresentPort(row_id, Port(name, "pods", type=type_, external_ids=external_ids))


def test_whose_a_row_is() -> None:
    assert vm_of(row("1", "a", "default/vm1").port) == VmKey("default", "vm1")
    assert vm_of(row("1", "a", "default/vm.with.dots-1").port) == VmKey("default", "vm.with.dots-1")
    assert vm_of(row("1", "a", "default/vm1", "virtual").port) is None
    for nonsense in (
        None,
        "",
        "/",
        "default/",
        "/vm1",
        "vm1",
        "a/b/c",
        "Default/vm",
        "default/vm\n",
        "d/" + "x" * 254,
        "d/\x00",
    ):
        assert vm_of(row("1", "a", nonsense).port) is None


ROWS = st.builds(
    row,
    st.sampled_from("123"),
    st.sampled_from("abc"),
    st.sampled_from([None, "d/vm1", "d/vm2", "nonsense"]) | st.text(max_size=5),
    st.sampled_from(["", "virtual"]),
)


@given(st.lists(ROWS | st.sampled_from("123")))
def test_the_maps_are_those_of_the_rows_that_are_left(steps: list[PresentPort | str]) -> None:
    own, left = OwnPorts(), dict[str, PresentPort]()
    for step in steps:
        before = dict(left)
        if isinstance(step, str):
            left.pop(step, None)
            concerned = own.remove(step)
        else:
            concerned = own.put(step)
            # A name is unique in NB: who had it is gone in the same update, in which he may come last.
            for other in [
                each.uuid for each in left.values() if each.port.name == step.port.name and each.uuid != step.uuid
            ]:
                del left[other]
                concerned |= own.remove(other)
            left[step.uuid] = step
        changed = {row for row_id in left.keys() | before.keys() for row in {before.get(row_id)} ^ {left.get(row_id)} if row}
        assert concerned == {vm_of(each.port) for each in changed}
    mine = {each.port.name: each for each in left.values() if vm_of(each.port) is not None}
    assert dict(own.ports) == mine
    assert dict(own.virtual) == {each.port.name: each for each in left.values() if vm_of(each.port) is None}
    assert sorted(each.port.name for rows in own.by_vm.values() for each in rows) == sorted(mine)
    for key, rows in own.by_vm.items():
        assert list(rows) == sorted(rows, key=lambda each: each.port.name)
        assert {vm_of(each.port) for each in rows} == {key}

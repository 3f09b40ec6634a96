"""Every recorded stream, event by event: what must hold after each, and the rows at its end."""

from __future__ import annotations

from pathlib import Path

import pytest

from ovnagent.core.placement import Binding
from ovnagent.core.vm import VmKey
from tests.scenarios.traces import desk, replay

POD, NAD = "{}.demo", "{}.demo.tenant-net.demo"
ENDS = {
    "create-and-start": ("vm1", "chassis2"),
    "start": ("vm1", "chassis1"),
    "stop": ("vm1", "-"),
    "restart": ("vm1", "chassis2"),
    "delete": ("vm1", None),
    "delete-foreground": ("vm2", None),
    "delete-orphan": ("vm2", "chassis2"),
    "recreate-adopts-orphan": ("vm2", "chassis2"),
    "halted-then-started": ("vm2", "chassis2"),
    "template-edited-while-running": ("vm1", "chassis2"),
    "standalone-vmi": ("vmi3", "chassis1"),
    "standalone-vmi-powers-off": ("vmi3", None),
    "migration-fails": ("vm1", "chassis1"),
    "migration-cancelled-while-running": ("vm1", "chassis1"),
    "migration-pending-then-cancelled": ("vm1", "chassis1"),
    # Its last row is written when SB says that the source has let go, or after the grace period.
    "migration-succeeds": ("vm1", "chassis2,chassis1 rarp"),
}


@pytest.mark.parametrize("name", ENDS)
def test_a_recorded_stream_ends_in_the_right_rows(name: str, traces: Path) -> None:
    vm, end = ENDS[name]
    made = desk()
    if name == "migration-succeeds":
        made.bindings[POD.format(vm)] = Binding("chassis2", ("chassis1",))
    addresses: dict[str, tuple[str, ...]] = {}
    for event in replay(traces / f"{name}.jsonl", made):
        key = VmKey("demo", vm)
        facts = made.store.facts(key)
        ports = [POD.format(vm), NAD.format(vm)]
        assert facts.empty == all(port not in made.rows for port in ports), f"after {event.type} {event.resource}"
        for port in ports:
            if port in made.rows:
                assert addresses.setdefault(port, made.port(port).ips) == made.port(port).ips, "an address changed"
        alive = {pod.node for pod in facts.launchers if pod.alive and pod.node}
        if facts.vmi is not None and facts.vmi.node in alive:
            chassis = made.chassis[facts.vmi.node][0]
            assert chassis in made.port(ports[0]).requested_chassis, "the guest's own chassis is not in the list"
    if end is None:
        assert not made.rows
    else:
        assert made.placed(NAD.format(vm) if NAD.format(vm) in made.rows else POD.format(vm)) == end
        if name != "migration-succeeds":
            assert {made.placed(port) for port in made.rows} == {end}
        else:  # masquerade: nothing announces the target, so it was opened when its domain was ready
            assert made.placed(POD.format(vm)) == "chassis1,chassis2 rarp"
    assert len({ip for ips in addresses.values() for ip in ips}) == len(addresses)


def test_a_migration_as_recorded(traces: Path) -> None:
    """The list is written when the target pod is bound, and the last word when the source has let go."""
    made = desk()
    seen: list[str] = []
    for _ in replay(traces / "migration-succeeds.jsonl", made):
        placed = made.placed("vm1.demo.tenant-net.demo")
        if not seen or seen[-1] != placed:
            seen.append(placed)
    assert seen[-1] == "chassis2,chassis1 rarp"
    assert "chassis1" not in seen[1:]
    made.now += 31
    made.look()
    assert made.placed("vm1.demo.tenant-net.demo") == "chassis1"


@pytest.mark.parametrize("name", ENDS)
def test_a_restart_at_any_event_writes_nothing(name: str, traces: Path) -> None:
    made = desk()
    for _ in replay(traces / f"{name}.jsonl", made):
        made.writes.clear()
        made.forget()
        made.look()
        assert not made.writes

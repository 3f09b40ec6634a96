"""A Northbound database that is brought back from a backup of any moment, or emptied: every VM has what it had."""

from __future__ import annotations

from typing import Any

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from ovnagent.core.vm import RECORD_ANNOTATION, VmKey
from tests.desk import Desk, network, pod_object, vm_object, vmi_object

NAMES = [f"vm{number}" for number in range(5)]
ADDRESSES = ["", *(f"10.16.0.{number}" for number in range(2, 8))]
STEPS = st.lists(
    st.tuples(st.sampled_from(["ask", "ask", "ask", "delete", "run"]), st.sampled_from(NAMES), st.sampled_from(ADDRESSES)),
    max_size=25,
)
Steps = list[tuple[str, str, str]]


class Yard:
    """VMs that come, change their addresses, and go. Records are written at once."""

    def __init__(self) -> None:
        self.desk = Desk(network("10.16.0.0/28"))
        self.vms: dict[str, dict[str, Any]] = {}
        self.running: set[str] = set()
        self.generation = 0

    def do(self, action: str, name: str, ip: str) -> None:
        if action == "ask" and name not in self.running:
            old = self.vms.get(name)
            self.generation += old is None
            uid = old["metadata"]["uid"] if old else f"{name}-{self.generation}"
            created = old["metadata"]["creationTimestamp"] if old else f"2026-01-01T00:{self.generation:02d}:00Z"
            annotations = {"ovn.kubernetes.io/ip_address": ip} if ip else {}
            self.vms[name] = vm_object(name, uid, annotations, created=created)
        elif action == "delete" and name in self.vms and name not in self.running:
            self.desk.feed("DELETED", "virtualmachines", self.vms.pop(name))
        elif action == "run" and name in self.vms and name not in self.running:
            self.running.add(name)
            annotations = self.vms[name]["spec"]["template"]["metadata"]["annotations"]
            uid = self.vms[name]["metadata"]["uid"]
            self.desk.feed("ADDED", "virtualmachineinstances", vmi_object(name, "", uid, "node1", annotations=annotations))
            self.desk.feed("ADDED", "pods", pod_object(f"pod-{name}", name, "node1"))
        self.write_records()
        self.desk.look()
        self.write_records()

    def write_records(self) -> None:
        for name, made in self.vms.items():
            if text := self.desk.records.get(VmKey("default", name), ""):
                made["metadata"]["annotations"][RECORD_ANNOTATION] = text
            self.desk.feed("MODIFIED", "virtualmachines", made)

    def ask_for_nothing(self) -> None:
        """Requests of VMs that do not run are taken back: by then only records and rows say who has what."""
        for name in self.vms.keys() - self.running:
            self.do("ask", name, "")

    def all_have_what_they_ask_for(self) -> bool:
        held = self.addresses()
        asked = {name: made["spec"]["template"]["metadata"]["annotations"] for name, made in self.vms.items()}
        ips = {name: ip for name, keys in asked.items() if (ip := keys.get("ovn.kubernetes.io/ip_address"))}
        return all(ip in map(str, held.get(f"{name}.default", ())) for name, ip in ips.items())

    def addresses(self) -> dict[str, tuple[str, ...]]:
        return {name: row.port.ips for name, row in self.desk.rows.items()}


def bring_back(before: Steps, after: Steps, silent: bool, seen: bool) -> None:
    """`silent`: nobody asks for anything any more; `seen`: by an agent that had its copy until then."""
    yard = Yard()
    for step in before:
        yard.do(*step)
    backup = dict(yard.desk.rows)
    for step in after:
        yard.do(*step)
    if silent:
        yard.ask_for_nothing()
    expected, rows = yard.addresses(), yard.desk.rows
    # A row in the backup with what its VM asks for again, in vain, is taken for younger than the VM's record: it looks like
    # that of an agent that died between writing the two.
    assume(seen or yard.all_have_what_they_ask_for())
    for content in (backup, {}):
        yard.desk.rows = dict(content)
        yard.desk.forget()
        if seen:
            yard.desk.before |= {name: row for name, row in rows.items() if row != content.get(name)}
        yard.desk.look()
        assert yard.addresses() == expected
        yard.desk.forget()
        yard.desk.writes.clear()
        yard.desk.look()
        assert not yard.desk.writes


@settings(max_examples=150, deadline=None)
@given(STEPS, STEPS, st.booleans())
def test_who_has_seen_the_rows_gives_everybody_the_same(before: Steps, after: Steps, silent: bool) -> None:
    bring_back(before, after, silent, seen=True)


@settings(max_examples=150, deadline=None)
@given(STEPS, STEPS, st.booleans())
@example([("ask", "vm0", "10.16.0.2"), ("ask", "vm1", "10.16.0.3")],
         [("ask", "vm1", "10.16.0.4"), ("ask", "vm0", "10.16.0.3"), ("ask", "vm1", "10.16.0.2")], True)  # fmt: skip
def test_who_has_only_the_records_does_too(before: Steps, after: Steps, silent: bool) -> None:
    bring_back(before, after, silent, seen=False)

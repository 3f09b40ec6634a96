"""Tenants, friendly and hostile, at the desk: whatever they do in whatever order, it costs only themselves.

A VM `vmN` belongs to the tenant N % 3, who may write all of its objects. After each step three things must hold: no address
and no MAC is had twice on the switch; no row of another tenant's running guest is deleted or readdressed; and an agent
that forgets everything at that moment writes nothing.
"""

from __future__ import annotations

import os
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ovnagent.core.vm import VmKey
from tests.desk import Desk, foreign, network, pod_object, record_text, vm_object, vmi_object

NUMBERS = st.integers(0, 5)
IPS = st.sampled_from(["", *(f"10.16.0.{number}" for number in range(1, 16)), "10.99.0.1", "nonsense", "fd00::5"])
MACS = st.sampled_from(
    ["", *(f"0a:00:00:00:00:0{number}" for number in (0, 1, 2, 3, 7)), "01:00:00:00:00:01", "0a:00:00:00:00:01 x"]
)
NODES = st.sampled_from(["", "node1", "node2"])
POOLS = st.sampled_from(["", "", "10.16.0.3..10.16.0.6", "0.0.0.0..255.255.255.255"])
PAIRS = st.sampled_from(["", "", "10.16.0.12", "10.16.0.12,10.16.0.13", "0a:00:00:00:00:09 10.16.0.13", "10.16.0.3"])
RECORDS = st.sampled_from(["agent's", "agent's", "forged", "forged under another uid", "stolen", "none", "nonsense"])
OVN = "ovn.kubernetes.io"
EXAMPLES = int(os.environ.get("TENANTS_EXAMPLES", "30"))
"""More of them find more: some thousand were played when this was written."""


class Tenants(RuleBasedStateMachine):
    """Six VMs on eleven free addresses."""

    @initialize()
    def begin(self) -> None:
        self.desk = Desk(network("10.16.0.0/28", reserved=(("10.16.0.2", "10.16.0.2"),)))
        self.desk.foreign["ovn-default"] = foreign({"10.16.0.14": "port theirs"}, {"0a:00:00:00:00:07": "port theirs"})
        self.annotations: dict[int, dict[str, str]] = {}
        self.records: dict[int, str] = {}
        self.generation = dict.fromkeys(range(6), 0)
        self.node: dict[int, str] = {}
        self.actor = -1
        self.before: dict[str, tuple[Any, ...]] = {}

    # -- what tenants do

    @rule(
        number=NUMBERS, ip=IPS, mac=MACS, pool=POOLS, pairs=PAIRS, record=RECORDS, other=NUMBERS, forged=IPS,
        forged_mac=MACS, look=st.booleans(),
    )  # fmt: skip
    def write_vm(
        self,
        number: int,
        ip: str,
        mac: str,
        pool: str,
        pairs: str,
        record: str,
        other: int,
        forged: str,
        forged_mac: str,
        look: bool,
    ) -> None:
        """Create or change a VM: what it asks for, and the record on it."""
        self.act(number)
        asked = {"ip_address": ip, "mac_address": mac, "ip_pool": pool, "allowed_address_pairs": pairs}
        self.annotations[number] = {f"{OVN}/{key}": value for key, value in asked.items() if value}
        own = self.desk.records.get(VmKey("default", f"vm{number}"), "")
        self.records[number] = {
            "agent's": own,
            "forged": record_text(f"vm{number}", self.uid(number), forged or "10.16.0.3", forged_mac),
            "forged under another uid": record_text(f"vm{number}", "other", forged or "10.16.0.3", forged_mac),
            "stolen": self.desk.records.get(VmKey("default", f"vm{other}"), ""),
            "none": "",
            "nonsense": "[" * 3,
        }[record]
        self.feed_vm(number)
        self.look(look)

    @rule(number=NUMBERS, node=NODES, reported=MACS, adopt=st.booleans(), look=st.booleans())
    def start(self, number: int, node: str, reported: str, adopt: bool, look: bool) -> None:
        """A VMI, with a status that a guest agent may have made up, and with it a launcher or none."""
        self.act(number)
        annotations = self.annotations.get(number, {})
        vmi = vmi_object(
            f"vm{number}",
            f"vmi{number}-{self.generation[number]}",
            owner=self.uid(number) if adopt else "",
            node=node,
            annotations=annotations,
            macs={"default": reported} if reported else None,
        )
        self.desk.feed("MODIFIED", "virtualmachineinstances", vmi)
        if node:
            pod = pod_object(f"pod{number}", f"vm{number}", node=node, vmi_uid=f"vmi{number}-{self.generation[number]}")
            self.desk.feed("MODIFIED", "pods", pod)
        self.node[number] = node
        self.look(look)

    @rule(number=NUMBERS, vm=st.booleans(), vmi=st.booleans(), pod=st.booleans(), look=st.booleans())
    def end(self, number: int, vm: bool, vmi: bool, pod: bool, look: bool) -> None:
        """Any of its objects go."""
        self.act(number)
        name = f"vm{number}"
        if vm and number in self.annotations:
            self.desk.feed("DELETED", "virtualmachines", vm_object(name, self.uid(number)))
            del self.annotations[number]
        if vmi:
            self.desk.feed("DELETED", "virtualmachineinstances", vmi_object(name, f"vmi{number}-{self.generation[number]}"))
        if pod:
            self.desk.feed("DELETED", "pods", pod_object(f"pod{number}", name))
        if vm and vmi and pod:
            self.generation[number] += 1
            self.node.pop(number, None)
        self.look(look)

    def write_records(self) -> None:
        """The agent does, behind each look; a tenant may have written others meanwhile."""
        for number in self.annotations:
            self.records[number] = self.desk.records.get(VmKey("default", f"vm{number}"), "")
            self.feed_vm(number)
        self.look(True)

    @rule(settle=st.booleans())
    def restart(self, settle: bool) -> None:
        """At any moment, also with news that nobody has looked at."""
        if settle:
            self.look(True)
        self.act(-1)
        # (Who wrote another record has what it says, once it counts.)
        self.before = {name: had for name, had in self.before.items() if self.recorded(name)}
        self.desk.forget()
        self.look(True)

    # -- how

    def uid(self, number: int) -> str:
        return f"uid{number}-{self.generation[number]}"

    def feed_vm(self, number: int) -> None:
        name = f"vm{number}"
        created = f"20{20 + (number * 5) % 6}-01-01T00:00:00Z"  # who is older has nothing to do with who was first
        made = vm_object(name, self.uid(number), self.annotations[number], record=self.records[number], created=created)
        self.desk.feed("MODIFIED", "virtualmachines", made)

    def act(self, number: int) -> None:
        """What others have now they must have afterwards."""
        if self.actor not in (-1, number % 3) or self.desk.dirty:
            self.look(True)  # one tenant's news at a time: what two do at once has two authors
        self.actor = number % 3 if number >= 0 else -1
        self.before = {
            name: row.port.addresses
            for name, row in self.desk.rows.items()
            if self.actor != int(row.port.vm.name[2:]) % 3 and self.guest_runs(row.port.vm) and self.content(row.port.vm)
        }

    def guest_runs(self, key: VmKey) -> bool:
        return any(pod.alive for pod in self.desk.store.facts(key).launchers)

    def recorded(self, name: str) -> bool:
        key = self.desk.port(name).vm
        return self.records.get(int(key.name[2:]), "") == self.desk.records.get(key, "")

    def content(self, key: VmKey) -> bool:
        """It waits for nothing that it would be given when it is free, and asks for what it has."""
        return not self.desk.says(key.name)

    def look(self, now: bool) -> None:
        if now:
            self.desk.look()
            self.desk.look()
            self.compare()

    def compare(self) -> None:
        for name, addresses in self.before.items():
            assert name in self.desk.rows, f"{name} is gone, whose guest runs"
            assert self.desk.port(name).addresses == addresses, f"{name} has other addresses"
        self.before = {}

    # -- what must hold

    @invariant()
    def nothing_is_had_twice(self) -> None:
        ports = [row.port for row in self.desk.rows.values()]
        ips = [ip for port in ports for ip in port.ips]
        assert len(ips) == len(set(ips)), f"an address is had twice: {ips}"
        macs = [port.mac for port in ports]
        assert len(macs) == len(set(macs)), f"a MAC is had twice: {macs}"
        for row in self.desk.virtual.values():
            ip, parents = row.port.option("virtual-ip"), row.port.option("virtual-parents").split(",")
            assert not any(ip in port.ips and [port.name] != parents for port in ports), "somebody's own address is shared"
        assert not {"10.16.0.1", "10.16.0.2", "10.16.0.14", "10.16.0.15", "10.16.0.0"} & {*ips}
        assert "0a:00:00:00:00:07" not in macs

    @rule()
    def a_restart_writes_nothing(self) -> None:
        self.look(True)
        self.write_records()
        desk = self.desk
        kept = desk.books, dict(desk.seen), dict(desk.problems)
        self.desk.writes.clear()
        desk.forget()
        desk.look()
        desk.look()
        assert not desk.writes, desk.writes
        desk.books, desk.seen, desk.problems = kept


TestTenants = Tenants.TestCase
TestTenants.settings = settings(max_examples=EXAMPLES, stateful_step_count=15, deadline=None)

"""What must hold: after each of the agent's writes, after each step, and at rest. The world's truth is what counts, as far
as the agent has been told of it: nobody can act on news that has not come."""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from ovnagent.core.books import NO_BOOKS
from ovnagent.core.placement import GRACE_SECONDS, locate
from ovnagent.core.plan import Case, plan
from ovnagent.core.ports import CLUSTER, EXTRA_OPTIONS, OWN_EXTERNAL_IDS, PLACEMENT_OPTIONS
from ovnagent.core.problems import INTERNAL_ERROR
from ovnagent.core.records import parse
from ovnagent.difference import Present, changes, world_of
from tests.integration.nb_history import Row
from tests.random_machine.cluster import NAMESPACE, Cluster, Machine, Pod, chassis_of
from tests.random_machine.driver import Clock, Driver
from tests.random_machine.fabric import Northbound, Southbound, entries, owned, requested
from tests.random_machine.users import OVN

LIST = 2
"""Chassis in a list, while a guest moves."""


Identity = tuple[int, str, str, str]
"""(life, VM, interface, switch); life 0 is nobody's."""


class ViolationError(AssertionError):
    """Something that must hold does not."""


@dataclass(frozen=True)
class Held:
    """What an interface of a VM was last seen to have."""

    ips: tuple[str, ...]
    mac: str


class Invariants:
    """`listener` hears of each write of the agent's."""

    def __init__(self, cluster: Cluster, driver: Driver, nb: Northbound, sb: Southbound, clock: Clock) -> None:
        self.cluster, self.driver, self.nb, self.sb, self.clock = cluster, driver, nb, sb, clock
        self.held: dict[Identity, Held] = {}
        self.tampered: set[str] = set()
        """UUIDs of rows that somebody changed, until the next rest."""
        self.lost: set[str] = set()
        """VMs of whose addresses there was no evidence any more, until the next rest."""
        self.edited: set[str] = set()
        """VMs of which somebody changed or deleted a row, until the next rest."""
        self.rows_had: defaultdict[str, set[str]] = defaultdict(set)
        """Port -> all addresses that its row ever had by the agent's hand."""
        self.writes = 0
        self.say: Callable[[str], None] = lambda _: None
        """Told of each write, in words."""

    # -- each write

    def on_write(self, before: Row | None, after: Row | None) -> None:
        self.writes += 1
        self.say(difference(before, after))
        if before is not None and not owned(before):
            raise ViolationError(f"a foreign row was touched: {before} became {after}")
        row = after or before
        assert row is not None
        if after is not None:
            if not owned(after):
                raise ViolationError(f"a row that is not the agent's was written: {after}")
            self.rows_had[after["name"]] |= set(words(after))
            self._not_taken(before, after)
        if before is not None and after is not None and (theirs(before) != theirs(after)):
            raise ViolationError(f"foreign keys of {row['name']} were touched: {theirs(before)} became {theirs(after)}")
        machine = self.cluster.machine_of(row["external_ids"].get("ovnagent-vm", ""))
        if (
            machine is not None
            and after is None
            and not self._in_spec(machine, row["external_ids"].get("ovnagent-interface"))
        ):
            self.held.pop(self.identity(row), None)
        if machine is not None and before is not None and not self._known_by(machine, before):
            self.lost.add(machine.name)
        if machine is not None:
            self._placed(machine, row["external_ids"].get("ovnagent-interface", ""), before, after)

    def _known_by(self, machine: Machine, row: Row) -> bool:
        """The row names an object that is there: else nobody who was away meanwhile can know that they belong together."""
        uids = {each.uid for each in (machine.vm, machine.vmi) if each is not None}
        ids = row["external_ids"]
        orphan = machine.vm is None and machine.vmi is not None and ids.get("ovnagent-vmi-uid") != ids.get("ovnagent-vm-uid")
        return orphan or bool(uids & {ids.get("ovnagent-vm-uid"), ids.get("ovnagent-vmi-uid")})

    def _not_taken(self, before: Row | None, after: Row) -> None:
        new = set(words(after)) - set(words(before) if before is not None else ())
        had = self.held.get(self.identity(after))
        for other in self.nb.rows.values():
            both = new & set(words(other))
            if other is after or not both or self._switch(other) != self._switch(after):
                continue
            if owned(other) and other["uuid"] not in self.tampered:
                raise ViolationError(f"{after['name']} was given {both}, which {other['name']} has")
            if not owned(other) and not (had and both <= {*had.ips, had.mac}):
                raise ViolationError(f"{after['name']} was given {both}, which the foreign port {other['name']} has")

    def _placed(self, machine: Machine, interface: str, before: Row | None, after: Row | None) -> None:
        plugged = [pod for pod in machine.pods if pod.plugged and any(nic.name == interface for nic in pod.nics)]
        told = [pod for pod in plugged if self.told(machine, pod)]
        guest, name = machine.guest, (after or before or {})["name"]
        old, new = requested(before) if before else (), requested(after) if after else ()
        if after is not None and not new and len(told) > 1:
            raise ViolationError(f"{name} asks for no chassis, while {', '.join(pod.name for pod in told)} are plugged")
        if before is None or guest not in plugged or not (guest in told or self._told_by_vmi(machine, guest)):
            return
        here = chassis_of(guest.node)
        if after is None:
            uid = before["external_ids"].get("ovnagent-vm-uid")
            if uid not in (machine.vm and machine.vm.uid, machine.vmi and machine.vmi.uid):
                return  # an earlier VM's of the same name, which was never this guest's
            raise ViolationError(f"{name} was deleted, whose guest runs on {here}")
        ends = machine.vmi is None or machine.vmi.deleting
        if here in old and here not in new and not ends:
            raise ViolationError(f"{name} went from {old} to {new}, and its guest runs on {here}")
        if len(old) == LIST and len(new) == 1 and after["uuid"] not in self.tampered:
            self._let_go(machine, name, old, new)

    def _in_spec(self, machine: Machine, interface: str | None) -> bool:
        """The VM, of which the agent has been told, has the interface."""
        known = self.driver.told_of(machine.name).vm is not None
        return (
            known
            and machine.vm is not None
            and any(nic.name == interface and nic.state != "absent" for nic in machine.vm.nics)
        )

    def _let_go(self, machine: Machine, name: str, old: tuple[str, ...], new: tuple[str, ...]) -> None:
        """The last word of a migration waits for the source to go, or for the grace period."""
        move = next((each for each in machine.moves if each.switched and each.target is machine.guest), None)
        if move is None or machine.vmi is None or machine.vmi.deleting or not move.succeeded_at:
            return
        if new[0] not in old:
            return
        (source,) = set(old) - set(new)
        failed = [each.target for each in machine.moves if each.target and not each.switched and not each.open]
        if source in {chassis_of(target.node) for target in failed}:
            return  # another migration has begun since, and failed
        chassis, additional, _ = self.sb.bindings.get(name, ("", "", ""))
        if source in (chassis, additional) and self.clock.now < move.succeeded_at + GRACE_SECONDS:
            raise ViolationError(f"{name} went from {old} to {new} before {source} has let go")

    def told(self, machine: Machine, pod: Pod) -> bool:
        """The agent knows of this launcher, and where it is."""
        facts = self.driver.told_of(machine.name)
        return any(each.name == pod.name and each.node and each.alive for each in facts.launchers)

    def _told_by_vmi(self, machine: Machine, guest: Pod) -> bool:
        """The agent knows by the VMI where this guest runs, also where it has not heard of the launcher."""
        vmi = self.driver.told_of(machine.name).vmi
        return vmi is not None and machine.vmi is not None and (vmi.uid, vmi.node) == (machine.vmi.uid, guest.node)

    def row_lost(self, row: Row) -> None:
        """Somebody is about to change or delete it. Unless what it says is on record, it was the only word for it."""
        self.tampered.add(row["uuid"])
        life, name, *_ = self.identity(row)
        self.edited.add(name)
        record = parse(self.cluster.server.record(NAMESPACE, name)) if name in self.cluster.machines else None
        known = {str(ip) for lease in record.leases for ip in lease.ips} if record is not None else set()
        if not set(words(row)[1:]) <= known or self.cluster.lives.get(record.uid if record else "", 0) != life:
            self.lost.add(name)

    # -- each record

    def on_record(self, name: str) -> None:
        """What is on record was on a row before."""
        record, vm = parse(self.cluster.server.record(NAMESPACE, name)), self.cluster.machines[name].vm
        if record is None or vm is None or record.uid != vm.uid:
            return  # one that its user has brought along
        for lease in record.leases:
            if missing := {str(ip) for ip in lease.ips} - self.rows_had[lease.port]:
                raise ViolationError(f"{missing} is on record for {lease.port}, whose row never had it")

    # -- each step

    def after_step(self) -> None:
        self._unique()
        for key, found in self.driver.living.reconciler.notes.problems.items():
            if failed := [problem.message for problem in found if problem.reason == INTERNAL_ERROR]:
                raise ViolationError(f"{key} could not be planned: {failed}")
        for row in self.nb.own():
            identity = self.identity(row)
            if identity[0] == 0:
                continue
            if row["uuid"] in self.tampered and row["external_ids"].get("ovnagent-network") not in self._configured():
                continue  # nobody puts it right before its network is back
            now, before = Held(tuple(sorted(words(row)[1:])), words(row)[0]), self.held.get(identity)
            if before is not None and before != now:
                self._may_change(identity, before, now)
            for other in [each for each in self.held if each[1:] == identity[1:]]:
                del self.held[other]  # of an earlier life
            self.held[identity] = now

    def _configured(self) -> set[str]:
        return {network.name for network in self.driver.living.config.networks.all}

    def _unique(self) -> None:
        had: dict[tuple[str, str], str] = {}
        for row in self.nb.own():
            for word in words(row):
                other = had.setdefault((self._switch(row), word), row["name"])
                if other != row["name"]:
                    raise ViolationError(f"{word} is had twice, by {other} and {row['name']}")

    def _may_change(self, identity: Identity, before: Held, now: Held) -> None:
        life, name, interface, _ = identity
        machine = self.cluster.machines[name]
        if name in self.lost or (name in self.edited and machine.vm is None):  # its record has gone with it
            return
        foreign = {word for row in self.nb.rows.values() if not owned(row) for word in words(row)}
        tampered = (row for row in self.nb.own() if row["uuid"] in self.tampered)
        if foreign & set(before.ips) and any(self.identity(row) == identity for row in tampered):
            return  # what was on record is somebody else's now, and the row is all that is left
        if before.ips != now.ips and not foreign & set(before.ips):
            gone, new = set(before.ips) - set(now.ips), set(now.ips) - set(before.ips)
            # A VMI without a VM is its namesake's until the agent hears that that VM is gone: it would adopt it.
            vmi = machine.vmi
            lives = {life, self.cluster.lives[vmi.uid]} if vmi is not None and not vmi.owner else {life}
            if not any(self._asked(asked, gone, new) for each in lives for asked, _ in self.cluster.asked[each]):
                raise ViolationError(f"{name} {interface} had {before.ips}, and now {now.ips}, for which nobody has asked")
        if before.mac != now.mac and before.mac not in foreign and now.mac not in self._macs(machine, life, interface):
            raise ViolationError(f"{name} {interface} had the MAC {before.mac}, and now {now.mac}, which nobody has")

    def _asked(self, annotations: dict[str, str], gone: set[str], new: set[str]) -> bool:
        ips = annotations.get(f"{OVN}/ip_address", "").split(",")
        if new & set(ips):
            return True
        pool = annotations.get(f"{OVN}/ip_pool", "")
        return bool(pool) and any(_within(ip, pool) for ip in new) and not any(_within(ip, pool) for ip in gone)

    def _macs(self, machine: Machine, life: int, interface: str) -> set[str]:
        found = set(machine.wire)
        for asked, nics in self.cluster.asked[life]:
            found |= {nic.mac for nic in nics if nic.name == interface}
            found.add(asked.get(f"{OVN}/mac_address", ""))
        return found - {""}

    # -- at rest

    def at_rest(self) -> None:
        self.after_step()
        self._as_computed_from_nothing()
        for machine in self.cluster.machines.values():
            rows = [row for row in self.nb.own() if row["external_ids"].get("ovnagent-vm") == f"{NAMESPACE}/{machine.name}"]
            for row in rows:
                self._right_place(machine, row)
            if machine.vm is None and machine.vmi is None and not machine.living() and rows:
                raise ViolationError(f"nothing is left of {machine.name}, but {[row['name'] for row in rows]}")
            self._complete(machine, rows)
        known = self._configured()
        kept = [row for row in self.nb.own() if row["external_ids"].get("ovnagent-network") not in known]
        self.tampered &= {row["uuid"] for row in kept}
        self.lost.clear()
        self.edited.clear()

    def _as_computed_from_nothing(self) -> None:
        agent = self.driver.living
        nb, sb, kube = agent.northbound.snapshot, agent.southbound.snapshot, agent.kube
        world = world_of(agent.config, kube, nb, sb, agent.reconciler.status.brake)
        present = Present(nb)
        facts = [kube.facts(key) for key in sorted({*kube.keys(), *nb.by_vm})]
        cases = [Case(each, locate(each), GRACE_SECONDS, present.of(each), sb.bindings) for each in facts]
        for result, case in zip(plan(cases, NO_BOOKS, world).results, cases, strict=True):
            if found := changes(result, case.present):
                raise ViolationError(f"computed from nothing, {result.key} would have other rows: {found}")

    def _right_place(self, machine: Machine, row: Row) -> None:
        asked, strategy = requested(row), row["options"].get("activation-strategy", "")
        guest, move, vmi = machine.guest, machine.move, machine.vmi
        nodes = [pod.node for pod in machine.living() if pod.node]
        if not machine.living():
            if vmi is not None and not vmi.final and vmi.node and not any(pod.node == vmi.node for pod in machine.pods):
                return  # the VMI tells of a guest, and its launcher is missing: nothing is done on incomplete knowledge
            want = [((), "")]
        elif guest is None or vmi is None or vmi.deleting or vmi.final:
            return
        elif move is not None and move.target is not None and move.target.node:
            if move.doomed or (move.deleting and not move.switched):
                return
            here, target = chassis_of(guest.node), chassis_of(move.target.node)
            if move.switched:
                if target in asked:
                    return
                want = [(("...", target), "rarp")]
            else:
                want = [((here, target), "rarp")]
        elif len(nodes) == 1:
            want = [((chassis_of(guest.node),), "")]
        else:
            return
        if (asked, strategy) not in want:
            raise ViolationError(f"{row['name']} is at {asked} {strategy}; right would be one of {want}")

    def _complete(self, machine: Machine, rows: list[Row]) -> None:
        """Each interface has its row, or its VM has been told why not; and what the rows say is on record."""
        agent = self.driver.living
        facts = self.driver.told_of(machine.name)
        vmi = machine.vmi
        spec = vmi if vmi is not None and (not vmi.final or machine.living()) else machine.vm
        if spec is None or agent.reconciler.notes.problems.get(facts.key):
            return
        configured = {nad for network in agent.config.networks.all for nad in network.nads} | {"", *agent.kube.nads()}
        wanted = {nic.name for nic in spec.nics if nic.state != "absent" and nic.nad in configured}
        missing = wanted - {row["external_ids"].get("ovnagent-interface") for row in rows}
        if missing:
            raise ViolationError(f"{machine.name} has no port for {missing}, and nobody says why")
        if machine.vm is not None and not machine.vm.deleting and machine.vmi is None:
            record = parse(self.cluster.server.record(NAMESPACE, machine.name))
            on_rows = {row["name"]: set(words(row)) for row in rows}
            # What is held on a network that is missing now stays on record.
            known = self._configured()
            leases = record.leases if record else ()
            counting = [lease for lease in leases if lease.network in known or lease.port in on_rows]
            on_record = {lease.port: {lease.mac, *map(str, lease.ips)} for lease in counting}
            if on_record != on_rows:
                raise ViolationError(f"{machine.name}'s record says {on_record}, its rows {on_rows}")

    # -- how

    def identity(self, row: Row) -> Identity:
        ids = row["external_ids"]
        life = self.cluster.lives.get(ids.get("ovnagent-vm-uid", ""), 0)
        return life, ids.get("ovnagent-vm", "").partition("/")[2], ids.get("ovnagent-interface", ""), self._switch(row)

    def _switch(self, row: Row) -> str:
        return self.nb.switches.get(row["uuid"], "")


def words(row: Row) -> list[str]:
    """MAC and addresses."""
    return [word for entry in entries(row) for word in entry.split()] or [""]


def difference(before: Row | None, after: Row | None) -> str:
    """A write in words."""
    if before is None or after is None:
        row = after or before or {}
        verb = "creates" if before is None else "deletes"
        return f"the agent {verb} {row['name']} {row['addresses']} at {row['options'].get('requested-chassis', '-')}"
    found = []
    for column in before:
        old, new = before[column], after[column]
        if isinstance(old, dict):
            keys = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
            found += [f"{column}:{key} {old.get(key, '-')} -> {new.get(key, '-')}" for key in keys]
        elif old != new and column != "_version":
            found.append(f"{column} {old} -> {new}")
    return f"the agent changes {before['name']}: {'; '.join(found) or 'nothing'}"


def theirs(row: Row) -> dict[str, str]:
    """What others keep in a row's maps."""
    own = PLACEMENT_OPTIONS | set(row["external_ids"].get(EXTRA_OPTIONS, "").split(","))
    found = {key: value for key, value in row["options"].items() if key not in own}
    return found | {key: value for key, value in row["external_ids"].items() if key not in {*OWN_EXTERNAL_IDS, CLUSTER}}


def _within(ip: str, pool: str) -> bool:
    for part in pool.split(","):
        first, _, last = part.partition("..")
        low, high, each = ipaddress.ip_address(first), ipaddress.ip_address(last or first), ipaddress.ip_address(ip)
        if each.version == low.version and int(low) <= int(each) <= int(high):
            return True
    return False

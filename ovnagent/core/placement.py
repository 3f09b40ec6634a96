"""Which chassis a port asks for: `options:requested-chassis` and `options:activation-strategy`, live migration included.

Two steps, both functions of facts. `locate` reads from the Kubernetes objects where the VM is; it is the same for all
interfaces of a VM. `place` makes of that the two options of one port, with what OVN reports of this port in SB.

    facts                                                            requested-chassis   activation-strategy
    no launcher counts (stopped)                                     absent              absent
    one place only                                                   A                   absent
    open migration, its target launcher has a node                   A,B                 rarp
    target domain ready (or VMI.nodeName is the target already):
        SB reports B as activated                                    A,B unchanged       rarp
        it does not: the announcement was lost                       B,A                 rarp
    migration over, the guest on B:
        A has let go in SB, or the grace period is over              B                   absent
        before that                                                  unchanged           rarp
    migration failed or cancelled, its target gone                   A at once           absent
    facts that contradict each other (watches are not ordered, or
    a list was not complete)                                         unchanged           unchanged

Why so: `rarp` keeps the target's interface shut until QEMU announces the guest there, so the target can stand in the
list from the moment its pod is bound, long before it is plugged, and traffic moves with the guest whatever the agent's
lag. The last write waits for the source to let go because the source's release can overwrite the target's claim for
some milliseconds while its interface is still plugged (measured: 14 of 51 runs lost 1-14 ms; unplugged first, 0 of 37).
`rarp` alone, never a list with `garp` or `na`: OVN before 25.09 takes a list for unknown and then blocks nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from ovnagent.core.owner import guest_unaccounted
from ovnagent.core.ports import MIGRATION, Port
from ovnagent.core.vm import Facts, Instance, Launcher, Migration

GRACE_SECONDS = 30.0
"""How long the end of a migration waits for the source's interface to go before it is written all the same."""
RESCUE_SECONDS = 0.4
"""How long a target whose domain is ready may stay shut before it is opened without an announcement. QEMU announces
the guest at 0, 50, 200, 450 and 800 ms after it resumes; SB shows the activation some 10-40 ms after the first."""
LOOK_AGAIN_SECONDS = 1.0

SILENT_BINDINGS = frozenset({"masquerade", "passt"})
"""Bindings with which the guest's RARP never leaves the pod: nothing announces the target, so it is opened at once when
its domain is ready."""


class Situation(Enum):
    STOPPED = "stopped"
    PLACED = "placed"
    MIGRATING = "migrating"
    SWITCHED = "switched"
    """The guest runs on the target, or is about to; the migration is not over, or the VMI does not say so yet."""
    UNCLEAR = "unclear"


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """Where a VM is. `node` is the guest's (under MIGRATING and SWITCHED the source's); `migration` is the UID of the
    migration under way, or under PLACED of the one that brought the guest to `node`."""

    situation: Situation
    node: str = ""
    target: str = ""
    migration: str = ""


@dataclass(frozen=True, slots=True)
class Binding:
    """What SB's Port_Binding says of a port, in chassis names."""

    chassis: str
    additional: tuple[str, ...] = ()
    activated: tuple[str, ...] = ()
    """`options:additional-chassis-activated`: additional chassis that saw the announcement."""
    up: bool = False


@dataclass(frozen=True, slots=True)
class ChassisTable:
    """The chassis known to SB, for the lookup of a node's chassis name."""

    by_hostname: Mapping[str, tuple[str, ...]]
    by_node: Mapping[str, str]
    """node name -> chassis name, where the Node's annotation says so."""

    def of(self, node: str) -> tuple[str, str]:
        """(chassis name, ""), or ("", a sentence that says what is missing). An unknown name is never written: OVN would
        skip it and make the next in the list the main chassis."""
        names = self.by_hostname.get(node, ())
        if named := self.by_node.get(node):
            if any(named in known for known in self.by_hostname.values()):
                return named, ""
            return "", f"node {node} is annotated with chassis {named}, which OVN's Southbound does not know"
        if len(names) == 1:
            return names[0], ""
        if not names:
            return "", (
                f"no chassis in OVN's Southbound has the hostname {node}; "
                "start ovn-controller there, or annotate the Node with ovnagent.io/chassis"
            )
        return "", (
            f"{len(names)} chassis have the hostname {node}: {', '.join(sorted(names))}; "
            "delete the stale one with ovn-sbctl chassis-del, or annotate the Node with ovnagent.io/chassis"
        )


class Line(Enum):
    """The line of the table that was taken, in words for people."""

    STOPPED = "no launcher counts: the VM is stopped"
    ONE_PLACE = "one place only"
    TARGET_BOUND = "a migration is open, its target launcher has a node: the target is named, and opens with its RARP"
    ACTIVATED = "the guest runs on the target, and the Southbound reports the target's chassis as activated"
    ANNOUNCEMENT_DUE = "the guest runs on the target, and its announcement is waited for"
    ANNOUNCEMENT_LOST = "the guest runs on the target, but no announcement was seen: the target stands first, which opens it"
    SOURCE_HOLDS_ON = "the migration is over, and the source's interface has not gone yet"
    TARGET_ALONE = "the guest runs on the target, and the Northbound knows of no other place"
    CONTRADICTION = "the facts contradict each other: the row stays as it is"
    CHASSIS_UNKNOWN = "a node's chassis is not known"


@dataclass(frozen=True, slots=True)
class Placement:
    requested: tuple[str, ...] = ()
    """Chassis names, main chassis first."""
    strategy: str = ""
    migration: str = ""
    """The migration to note on the row while it names two chassis."""
    look_again: float | None = None
    """Seconds after which the same facts may give another answer."""
    problem: str = ""
    line: Line = field(default=Line.ONE_PLACE, compare=False)
    """Why it is so."""


def locate(facts: Facts) -> Whereabouts:
    """Where the VM is, from Kubernetes' facts alone."""
    vmi = facts.vmi
    if vmi is None:
        return _without_vmi(facts)
    pods = [pod for pod in facts.launchers if pod.vmi_uid == vmi.uid and pod.alive and pod.node]
    if not pods:
        return Whereabouts(Situation.UNCLEAR if guest_unaccounted(facts) else Situation.STOPPED)
    if not vmi.node:
        nodes = {pod.node for pod in pods}
        return Whereabouts(Situation.PLACED, nodes.pop()) if len(nodes) == 1 else Whereabouts(Situation.UNCLEAR)

    migrations = {migration.uid: migration for migration in facts.migrations}
    here = [pod for pod in pods if pod.node == vmi.node]
    elsewhere = sorted((pod for pod in pods if pod.node != vmi.node), key=lambda pod: (pod.created, pod.name), reverse=True)
    arriving = any(_in_progress(migrations.get(pod.migration_uid), vmi) for pod in here)
    for pod in elsewhere:  # the newest first: there is one open migration of a VMI at a time
        migration = migrations.get(pod.migration_uid)
        if _in_progress(migration, vmi) or (migration is None and _told_of(vmi, pod.migration_uid)):
            switched = _domain_ready(vmi, pod.migration_uid)
            situation = Situation.SWITCHED if switched else Situation.MIGRATING
            # The next migration may begin before the VMI tells of the last one's end: its source is where that one led.
            led = (
                other.node
                for other in elsewhere
                if _succeeded(migrations.get(other.migration_uid)) and all(_newer(other, each, vmi) for each in here)
            )
            return Whereabouts(situation, next(led, vmi.node), pod.node, pod.migration_uid)
        if _succeeded(migration) and not arriving and all(_newer(pod, other, vmi) for other in here):
            # The end of this migration came before the VMI's new nodeName: the watches are not ordered. (But migrations are
            # among themselves: one that is over was before one that is open, whatever the API server's clock has said.)
            return Whereabouts(Situation.SWITCHED, vmi.node, pod.node, pod.migration_uid)
    if not here:
        return Whereabouts(Situation.UNCLEAR)
    arrived = max(here, key=lambda pod: (pod.created, pod.name)).migration_uid
    if _in_progress(migrations.get(arrived), vmi):
        source = vmi.migration.source_node if vmi.migration and vmi.migration.uid == arrived else ""
        return Whereabouts(Situation.SWITCHED, source, vmi.node, arrived)
    return Whereabouts(
        Situation.PLACED, vmi.node, migration=arrived if _brought(migrations.get(arrived), vmi, arrived) else ""
    )


def place(
    where: Whereabouts,
    present: Port | None,
    binding: Binding | None,
    chassis: ChassisTable,
    binding_method: str,
    elapsed: float,
) -> Placement:
    """The two options of one port.

    `present` is its row in NB, `binding` what SB says of it (None: nothing, or SB is not reachable), `binding_method`
    the interface's binding, `elapsed` the seconds for which the whereabouts have been what they are.
    """
    unchanged = Placement(
        requested=present.requested_chassis if present else (),
        strategy=present.option("activation-strategy") if present else "",
        migration=present.external_id(MIGRATION) if present else "",
    )
    match where.situation:
        case Situation.STOPPED:
            return Placement(line=Line.STOPPED)
        case Situation.UNCLEAR:
            return _later(unchanged, LOOK_AGAIN_SECONDS, Line.CONTRADICTION)
        case Situation.PLACED:
            return _placed(where, unchanged, binding, chassis, elapsed)
        case Situation.MIGRATING | Situation.SWITCHED:
            return _migrating(where, unchanged, binding, chassis, binding_method, elapsed)


def _placed(
    where: Whereabouts, unchanged: Placement, binding: Binding | None, chassis: ChassisTable, elapsed: float
) -> Placement:
    name, problem = chassis.of(where.node)
    if problem:
        return _unknown(unchanged, problem)
    ended = len(unchanged.requested) == 2 and unchanged.migration and unchanged.migration == where.migration
    if ended and name in unchanged.requested and elapsed < GRACE_SECONDS:
        source = next(other for other in unchanged.requested if other != name)
        if binding is None or source == binding.chassis or source in binding.additional:
            return _later(unchanged, GRACE_SECONDS - elapsed, Line.SOURCE_HOLDS_ON)
    return Placement((name,))


def _migrating(
    where: Whereabouts,
    unchanged: Placement,
    binding: Binding | None,
    chassis: ChassisTable,
    binding_method: str,
    elapsed: float,
) -> Placement:
    target, problem = chassis.of(where.target)
    source, source_problem = _source(where, target, unchanged, chassis)
    if problem:  # no partial list: the guest's own chassis alone, or what stands there
        if not source or unchanged.requested[:1] == (source,):
            return _unknown(unchanged, problem)
        return _unknown(Placement((source,)), problem)
    if where.situation is Situation.SWITCHED and (not source or unchanged.requested == (target,)):
        # The guest is there, and nothing else is known to OVN.
        return Placement((target,), problem=source_problem, line=Line.TARGET_ALONE)
    if source_problem:
        return _unknown(unchanged, source_problem)
    if source == target:  # two nodes annotated with one chassis: nothing moves for OVN
        return Placement((target,))
    forward = Placement((source, target), "rarp", where.migration, line=Line.TARGET_BOUND)
    if where.situation is Situation.MIGRATING:
        return forward
    swapped = Placement((target, source), "rarp", where.migration, line=Line.ANNOUNCEMENT_LOST)
    if unchanged.requested != forward.requested:
        # Swapped before, and it stays so; or the list was never written and the guest already runs on the target.
        return swapped
    if binding is not None and (target in binding.activated or target == binding.chassis):
        return replace(forward, line=Line.ACTIVATED)
    # (An agent that has just started has not heard of the binding yet.)
    patience = 0.0 if binding_method in SILENT_BINDINGS and binding is not None else RESCUE_SECONDS
    return swapped if elapsed >= patience else _later(forward, patience - elapsed, Line.ANNOUNCEMENT_DUE)


def _source(where: Whereabouts, target: str, unchanged: Placement, chassis: ChassisTable) -> tuple[str, str]:
    if where.node:
        return chassis.of(where.node)
    return next((name for name in unchanged.requested if name != target), ""), ""


def _later(placement: Placement, seconds: float, line: Line) -> Placement:
    return replace(placement, look_again=seconds, line=line)


def _unknown(placement: Placement, problem: str) -> Placement:
    return replace(placement, problem=problem, line=Line.CHASSIS_UNKNOWN)


def _without_vmi(facts: Facts) -> Whereabouts:
    """The VMI is gone (or not seen yet) but a launcher may still hold the guest while it shuts down."""
    nodes = {pod.node for pod in facts.launchers if pod.alive and pod.node}
    if not nodes:
        return Whereabouts(Situation.STOPPED)
    return Whereabouts(Situation.PLACED, nodes.pop()) if len(nodes) == 1 else Whereabouts(Situation.UNCLEAR)


def _in_progress(migration: Migration | None, vmi: Instance) -> bool:
    """Open, and the VMI does not say already that it failed (KubeVirt writes that before the migration's own phase)."""
    if migration is None or not migration.open:
        return False
    return not (vmi.migration and vmi.migration.uid == migration.uid and vmi.migration.failed)


def _told_of(vmi: Instance, migration_uid: str) -> bool:
    """The VMI tells of this migration, which has not failed; its object is missing. While its target lives, a list that
    was not complete is the likelier reason: KubeVirt ends the one before it deletes the other."""
    state = vmi.migration
    return state is not None and state.uid == migration_uid != "" and not state.failed


def _domain_ready(vmi: Instance, migration_uid: str) -> bool:
    state = vmi.migration
    return state is not None and state.uid == migration_uid and state.target_ready


def _succeeded(migration: Migration | None) -> bool:
    return migration is not None and migration.phase == "Succeeded"


def _brought(migration: Migration | None, vmi: Instance, uid: str) -> bool:
    """This migration brought the guest to where it is; its object may be gone (KubeVirt keeps five)."""
    if migration is not None:
        return migration.phase == "Succeeded"
    return vmi.migration is not None and vmi.migration.uid == uid and not vmi.migration.failed


def _newer(pod: Launcher, other: Launcher, vmi: Instance) -> bool:
    """A guest only ever moves to a younger pod. Time stamps count whole seconds: VMI's own word breaks a tie."""
    return pod.created > other.created or (vmi.migration is not None and vmi.migration.uid == pod.migration_uid)

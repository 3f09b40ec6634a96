"""The one idea as code: facts of some VMs in, the rows they should have out.

`plan` is computed from nothing each time anything about a VM changes, and it is pure: it takes frozen values and returns
rows *and* new books; nothing that another thread changes is read in it, and nothing of its caller's is changed. So a plan
that could not be committed is dropped and never was, and a VM whose plan raises is left out: its rows stay as they are, and
the rest is planned.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from immutables import Map

from ovnagent.core import deletion, identity, problems
from ovnagent.core.addresses import Claim, Foreign, Standing
from ovnagent.core.attachments import Attachment, Labels, Rules, attachments
from ovnagent.core.books import Books
from ovnagent.core.claims import claims, pod_macs, unconfigured
from ovnagent.core.deletion import NO_BRAKE, Brake
from ovnagent.core.networks import Networks
from ovnagent.core.owner import Owner, owner
from ovnagent.core.placement import Binding, ChassisTable, Placement, Whereabouts, place
from ovnagent.core.ports import Port, PresentPort
from ovnagent.core.problems import Problem
from ovnagent.core.records import Lease, Record, render
from ovnagent.core.settle import Settlement, settle
from ovnagent.core.vm import Facts, VmKey
from ovnagent.core.wanted import dhcp_trouble, placed, wanted_port

FAILED_SECONDS = 120.0
"""When a VM whose plan has failed is looked at again without any news of it."""


@dataclass(frozen=True, slots=True)
class World:
    """Everything that a plan needs besides the VMs' own facts and the books. Its mappings never change."""

    cluster: str
    networks: Networks
    chassis: ChassisTable
    foreign: Mapping[str, Foreign] = Map()
    """Logical switch -> what others use there."""
    names: Mapping[str, str] = Map()
    """Port name -> phrase naming the owner, of ports that are not the agent's."""
    holders: Mapping[str, PresentPort] = Map()
    """Port name -> row, of the agent's own ports of VMs."""
    before: Mapping[str, PresentPort] = Map()
    """Port name -> row as it was seen last, of those that the database has lost since."""
    virtual: Mapping[str, PresentPort] = Map()
    """Port name -> row, of the agent's ports that belong to no VM."""
    nads: Mapping[str, str] = Map()
    """`namespace/name` of a NAD -> the network that the NAD itself names."""
    namespaces: Mapping[str, Labels] = Map()
    """Namespace -> its labels."""
    brake: Brake = NO_BRAKE
    """What must not be deleted now."""


@dataclass(frozen=True, slots=True)
class Case:
    """One VM: Kubernetes' facts, its rows in NB, and what SB says of its ports."""

    facts: Facts
    where: Whereabouts
    elapsed: float
    """Seconds for which `where` has been what it is."""
    present: tuple[PresentPort, ...] = ()
    bindings: Mapping[str, Binding] = Map()
    unsure: str = ""
    """Why the facts may lack something that is there but cannot be read: the rows stay as they are."""


@dataclass(frozen=True, slots=True)
class Result:
    """What should be, for one VM."""

    key: VmKey
    owner: Owner | None
    wanted: tuple[Port, ...] = ()
    obsolete: tuple[PresentPort, ...] = ()
    problems: tuple[Problem, ...] = ()
    record: str = ""
    """The text that the owner's record annotation should have; empty where it should have none."""
    look_again: float | None = None
    freed: tuple[str, ...] = ()
    """Addresses, MACs, networks and port names of which something became free: see Problem.waits_for."""
    failure: str = ""
    """The agent's own error, on this VM's plan; its rows stay as they are."""
    placements: Mapping[str, Placement] = Map()
    """Port name -> why it is placed as it is."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What should be, and the books as they are if it is committed."""

    results: tuple[Result, ...]
    books: Books


@dataclass(frozen=True, slots=True)
class _Draft:
    """One VM, before anything is granted to it."""

    case: Case
    owner: Owner | None
    attachments: tuple[Attachment, ...] = ()
    retained: tuple[PresentPort, ...] = ()
    claims: tuple[Claim, ...] = ()
    moving: tuple[PresentPort, ...] = ()
    """Rows in use that are on another logical switch than the one that is claimed now. Each stays what it is until something
    is granted there, and until then nobody else gets what it says."""
    problems: tuple[Problem, ...] = ()
    failure: str = ""

    @property
    def key(self) -> VmKey:
        return self.case.facts.key


def plan(cases: Sequence[Case], books: Books, world: World) -> Plan:
    """The wanted rows of these VMs. Where a VM fails late, all is planned anew with its rows as what stays: by then others
    may have been granted what its rows still say."""
    failures: dict[VmKey, Exception] = {}
    while True:
        known = len(failures)
        made = _attempt(cases, books, world, failures)
        if len(failures) == known:
            return made


def _attempt(cases: Sequence[Case], books: Books, world: World, failures: dict[VmKey, Exception]) -> Plan:
    """A plan that is worth something unless it adds to the failures."""
    rules = Rules(world.networks, world.nads, world.namespaces)
    drafts = deque(_first_come([_guarded(case, rules, world, failures.get(case.facts.key)) for case in cases], world))
    freed: dict[VmKey, tuple[str, ...]] = {}
    for draft in drafts:
        books, freed[draft.key] = _released(draft, books)
    settled = settle(
        [claim for draft in drafts for claim in draft.claims],
        [standing for draft in drafts for standing in _standing(draft)],
        books,
        world.foreign,
        world.virtual,
    )
    failures |= settled.failed
    results: list[Result] = []
    while drafts:
        draft = drafts.popleft()  # so that 10,000 drafts and their results are never held beside each other
        try:
            if draft.failure or draft.key in failures:
                results.append(_failed_result(draft, freed[draft.key]))
            else:
                results.append(_rows(draft, freed[draft.key], settled, world))
        except Exception as error:
            failures[draft.key] = error
    return Plan(tuple(results), settled.books)


# ---- before anything is granted -------------------------------------------------------------------------------------


def _guarded(case: Case, rules: Rules, world: World, failure: Exception | None) -> _Draft:
    """A VM on which anything fails is a failure of its own, whose rows stay as they are. `failure`: one that is known."""
    if failure is None:
        try:
            return _draft(case, rules, world)
        except Exception as error:
            failure = error
    return _Draft(case, None, retained=case.present, failure=f"{type(failure).__name__}: {failure}"[:300])


def _draft(case: Case, rules: Rules, world: World) -> _Draft:
    facts, present = case.facts, case.present
    if case.unsure:
        return _Draft(case, None, retained=present, problems=(Problem(problems.UNREADABLE, case.unsure),))
    machine = owner(facts)
    if machine is None:
        held = facts.key in world.brake.vms
        return _Draft(case, None, retained=present if held or not facts.empty else ())
    found, troubles = attachments(machine, facts, present, rules)
    switches = {each.port: each.network.logical_switch for each in found} if identity.guest_may_run(facts, machine) else {}
    return _Draft(
        case,
        machine,
        attachments=found,
        retained=_retained(case, machine, found, world),
        claims=tuple(claims(machine, facts, case.where, present, found, world.networks.switches, world.before)),
        moving=tuple(row for row in present if switches.get(row.port.name, row.port.switch) != row.port.switch),
        problems=(*_complaints(facts), *troubles),
    )


def _retained(case: Case, machine: Owner, found: Sequence[Attachment], world: World) -> tuple[PresentPort, ...]:
    attached = [(attachment.port, attachment.interface.name) for attachment in found]
    kept = identity.retained(case.facts, machine, case.present, attached)
    return tuple(row for row in case.present if row in kept or row.port.name in world.brake.ports)


def _complaints(facts: Facts) -> list[Problem]:
    """What of its objects could not be read."""
    told = [text for each in (facts.vm, facts.vmi, *facts.launchers) for text in getattr(each, "complaints", ())]
    return [Problem(problems.UNREADABLE, text) for text in dict.fromkeys(told)]


def _first_come(drafts: Sequence[_Draft], world: World) -> list[_Draft]:
    """Port names belong to who has them: a foreign port, another VM's row, or in this batch the one that comes first.
    (`a.b.c` on the pod network of d, and VM `a` of b on NAD `d/c`, make one name.) The others are refused."""
    first: dict[str, VmKey] = {}

    def order(draft: _Draft) -> tuple[bool, str, VmKey]:
        assert draft.owner is not None
        return not draft.owner.running, draft.owner.created, draft.key

    for draft in sorted((draft for draft in drafts if draft.attachments), key=order):
        for attachment in draft.attachments:
            first.setdefault(attachment.port, draft.key)
    return [_without_taken_names(draft, first, world) for draft in drafts]


def _without_taken_names(draft: _Draft, first: Mapping[str, VmKey], world: World) -> _Draft:
    refused: dict[str, Problem] = {}
    for attachment in draft.attachments:
        name = attachment.port
        if user := _user(name, draft, first, world):
            text = (
                f"logical switch port {name} exists already and belongs to {user}; it is left alone. "
                "Delete it (ovn-nbctl lsp-del) or rename the VM"
            )
            refused[name] = Problem(problems.PORT_REFUSED, text, (f"port {name}",), attachment.interface.name)
    if not refused:
        return draft
    return replace(
        draft,
        attachments=tuple(each for each in draft.attachments if each.port not in refused),
        claims=tuple(claim for claim in draft.claims if claim.holder.port not in refused),
        problems=(*draft.problems, *refused.values()),
    )


def _user(name: str, draft: _Draft, first: Mapping[str, VmKey], world: World) -> str:
    """Who has a port's name, if not this VM; empty if it may have it."""
    if (phrase := world.names.get(name)) is not None:
        return phrase if phrase != f"logical switch port {name}" else "somebody else"  # that is all that is known of it
    if (row := world.holders.get(name)) is not None:
        return f"VM {row.port.vm}" if row.port.vm != draft.key else ""
    if name in world.virtual and world.virtual[name] not in draft.case.present:
        return "an address that VMs share"
    return f"VM {first[name]}" if first[name] != draft.key else ""


# ---- addresses ------------------------------------------------------------------------------------------------------


def _released(draft: _Draft, books: Books) -> tuple[Books, tuple[str, ...]]:
    """Free what ports of this VM hold that it no longer has: deleted, re-created, unplugged, moved."""
    if draft.failure or draft.case.unsure:
        return books, ()
    keep = {(claim.network.logical_switch, claim.holder) for claim in draft.claims}
    kept_ports = {holder.port for _, holder in keep}
    retained = {row.port.name for row in draft.retained}
    moving = {(row.port.switch, row.port.name) for row in draft.moving}
    freed: list[str] = []
    for switch, holder in books.of(draft.key):
        if (switch, holder) in keep or (holder.port in retained and holder.port not in kept_ports):
            continue
        if (switch, holder.port) in moving:
            continue
        book = books[switch]
        heir = next((each for at, each in keep if at == switch and each.port == holder.port), None)
        if heir is not None and identity.continues(draft.owner, draft.case.present, holder.uid):
            books = books.put(switch, book.rename(holder, heir))
            continue
        book, free = book.release(holder)
        books = books.put(switch, book)
        freed += free
    return books, tuple(freed)


def _standing(draft: _Draft) -> list[Standing]:
    """Rows that stay without a claim hold what they say."""
    claimed = {claim.holder.port for claim in draft.claims}
    staying = [row for row in draft.retained if row.port.name not in claimed]
    return [
        Standing(identity.holder_of(row, draft.key), row.port.switch, identity.lease_of(row.port))
        for row in (*staying, *draft.moving)
    ]


# ---- rows -----------------------------------------------------------------------------------------------------------


def _failed_result(draft: _Draft, freed: tuple[str, ...]) -> Result:
    trouble = Problem(
        problems.INTERNAL_ERROR, f"the agent could not plan this VM ({draft.failure}); its ports stay as they are"
    )
    rows = tuple(row.port for row in draft.case.present)
    return Result(draft.key, None, rows, problems=(trouble,), look_again=FAILED_SECONDS, freed=freed, failure=draft.failure)


def _rows(draft: _Draft, freed: tuple[str, ...], settled: Settlement, world: World) -> Result:
    case, machine = draft.case, draft.owner
    rows = {row.port.name: row.port for row in case.present}
    troubles = list(draft.problems)
    wanted: list[Port] = []
    leases: list[Lease] = []
    placements: dict[str, Placement] = {}

    def located(name: str, binding_method: str) -> Placement:
        placement = place(case.where, rows.get(name), case.bindings.get(name), world.chassis, binding_method, case.elapsed)
        if placement.problem:
            troubles.append(Problem(problems.CHASSIS_UNKNOWN, placement.problem))
        placements[name] = placement
        return placement

    for attachment, claim in zip(draft.attachments, draft.claims, strict=True):
        assert machine is not None
        name = attachment.port
        grant = settled.grants[claim.holder]
        troubles += (replace(each, interface=attachment.interface.name) for each in grant.problems)
        if grant.lease is None:
            if name in rows and identity.may_be_in_use(case.facts, machine, rows[name], case.present):
                # No guest loses its port because a grant failed.
                wanted.append(placed(rows[name], located(name, attachment.interface.binding)))
                leases += filter(None, (identity.lease_of(rows[name]),))
            continue
        if trouble := dhcp_trouble(attachment):
            troubles.append(replace(trouble, interface=attachment.interface.name))
        leases.append(grant.lease)
        placement = located(name, attachment.interface.binding)
        macs = pod_macs(machine, case.facts, attachment.interface).values()
        wanted.append(wanted_port(world.cluster, machine, attachment, grant, placement, rows.get(name), macs))
    names = {port.name for port in wanted}
    untouched = bool(case.unsure) or (machine is None and draft.key in world.brake.vms)
    for row in draft.retained:
        if row.port.name not in names:
            wanted.append(row.port if untouched else placed(row.port, located(row.port.name, "")))
    text = ""
    if machine is not None and machine.present:
        leases += unconfigured(machine, draft.retained, leases, world.networks.switches)
        text = render(Record(machine.key, machine.uid, tuple(leases))) if leases else ""
    obsolete = deletion.obsolete(case.present, {port.name for port in wanted}, world.brake.ports)
    return Result(
        key=draft.key,
        owner=machine,
        wanted=tuple(rows[port.name] if rows.get(port.name) == port else port for port in wanted),  # held once
        obsolete=obsolete,
        problems=tuple(dict.fromkeys(troubles)),
        record=text,
        look_again=min(
            (each.look_again for each in placements.values() if each.look_again is not None),
            default=FAILED_SECONDS if case.unsure else None,
        ),
        freed=(*freed, *settled.freed.get(draft.key, ()), *(f"port {row.port.name}" for row in obsolete)),
        placements=placements,
    )

"""Who is granted what: claims against the books. The steps are the contract, in its order:

    1. what rows say         what a running guest has, and what a VM has by its row; by those that are there, then by those
                             that were there before the database was emptied or restored
    2. shares that stand     addresses that several use already: by the agent's own rows, too
    3. what records say      read as what they are: text that a tenant can write
    4. requests
    5. shares asked for
    6. wishes                of the same name first, then of others
    7. free addresses

A refused request gets a sentence and nothing else: no silent second choice. What a VM already holds it keeps until something
else is granted, so no port ever loses its address to a mistake in an annotation. Each step takes books and returns books; a
claim on which a step fails is left out, and the others go on with the books as they were before it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

from ovnagent.core import grants
from ovnagent.core.addresses import NO_FOREIGN, Claim, Foreign, Grant, Holder, Standing
from ovnagent.core.books import Book, Books
from ovnagent.core.networks import IPAddress
from ovnagent.core.ports import PresentPort
from ovnagent.core.problems import Problem
from ovnagent.core.records import Lease
from ovnagent.core.requests import Pair
from ovnagent.core.virtual_ports import shared_by, shares
from ovnagent.core.vm import VmKey

Step = Callable[[Claim, Book, Foreign], Book]
Evidence = Mapping[tuple[str, IPAddress | str], Holder]
"""(logical switch, address or MAC) -> whose row has it, of those who hold nothing yet."""


@dataclass(slots=True)
class Settlement:
    """What came out."""

    books: Books
    grants: dict[Holder, Grant] = field(default_factory=dict)
    failed: dict[VmKey, Exception] = field(default_factory=dict)
    """VMs on whose claims a step failed: an error of the agent's own. Nothing of this is worth anything then: others may
    have been granted what the rows of these still say."""
    freed: defaultdict[VmKey, list[str]] = field(default_factory=lambda: defaultdict(list))
    """VM -> what it does not hold any more, for it was granted something else (see Problem.waits_for)."""


def settle(
    claims: Sequence[Claim],
    standing: Sequence[Standing],
    books: Books,
    foreign: Mapping[str, Foreign],
    virtual: Mapping[str, PresentPort],
) -> Settlement:
    """Grant what can be granted. `standing`: rows for which nobody claims anything and that stay all the same; `virtual`:
    name -> row, of the agent's virtual ports."""
    result = Settlement(books)
    _enter_standing(result, standing, virtual)
    ordered = sorted(claims, key=lambda claim: claim.order)
    asking: list[Claim] = []
    wishing: list[Claim] = []
    for claim in ordered:
        (asking if _asks(claim) else wishing).append(claim)
    sharing = [each for each in ordered if each.request.pairs or each.holder in books[each.network.logical_switch].shares]

    _each(result, ordered, foreign, _hold_by_row)
    _each(result, ordered, foreign, _hold_by_last_row)
    _each(result, sharing, foreign, lambda claim, book, others: _go_on_sharing(claim, book, others, virtual))
    turns, evidence, rounds = _in_turn([each for each in ordered if not _settled(result, each)])
    for each in rounds:
        try:
            _move_round(result, each, foreign, evidence)
        except Exception as error:
            result.failed |= dict.fromkeys((claim.holder.key for claim in each), error)
    _each(result, turns, foreign, lambda claim, book, others: _hold_by_record(claim, book, others, evidence))
    _grants(result, asking, foreign)
    pairs: dict[Holder, tuple[tuple[Pair, ...], tuple[Problem, ...]]] = {}

    def share(claim: Claim, book: Book, others: Foreign) -> Book:
        before = book.shares.get(claim.holder, frozenset())
        book, granted, troubles = grants.share(claim, claim.request.pairs, book, others)
        pairs[claim.holder] = granted, troubles
        result.freed[claim.holder.key] += map(str, before - {pair.ip for pair in granted})
        return book

    _each(result, sharing, foreign, share)
    _grants(result, sorted(wishing, key=_rank), foreign)
    for holder, (granted, troubles) in pairs.items():
        if holder in result.grants:
            grant = result.grants[holder]
            result.grants[holder] = replace(grant, pairs=granted, problems=(*grant.problems, *troubles))
    return result


def _each(result: Settlement, claims: Sequence[Claim], foreign: Mapping[str, Foreign], step: Step) -> None:
    for claim in claims:
        switch = claim.network.logical_switch
        try:
            result.books = result.books.put(switch, step(claim, result.books[switch], foreign.get(switch, NO_FOREIGN)))
        except Exception as error:
            result.failed[claim.holder.key] = error


def _grants(result: Settlement, claims: Sequence[Claim], foreign: Mapping[str, Foreign]) -> None:
    def step(claim: Claim, book: Book, others: Foreign) -> Book:
        grant, before = grants.grant(claim, book, others), book.leases.get(claim.holder)
        if grant.lease != before:
            assert grant.lease is not None  # a grant that fails takes nothing away
            book = book.hold(claim.holder, grant.lease)
            if before is not None:
                left = [str(ip) for ip in before.ips if ip not in grant.lease.ips]
                left += [before.network] * bool(left) + [before.mac] * (before.mac != grant.lease.mac)
                result.freed[claim.holder.key] += left
        result.grants[claim.holder] = grant
        return book

    _each(result, claims, foreign, step)


# ---- 1 and 2: what is held by right ---------------------------------------------------------------------------------


def _settled(result: Settlement, claim: Claim) -> bool:
    return claim.holder in result.books[claim.network.logical_switch].leases


def _enter_standing(result: Settlement, standing: Sequence[Standing], virtual: Mapping[str, PresentPort]) -> None:
    new = [each for each in standing if each.holder not in result.books[each.switch].leases]
    shared = shared_by(virtual) if new else {}
    for each in sorted(new, key=lambda each: each.holder):
        book, lease = result.books[each.switch], each.lease
        if lease is not None and not book.conflict(each.holder, lease.ips, lease.mac):
            book = book.hold(each.holder, lease)
        if each.holder not in book.shares:
            ips = shared.get((each.switch, each.holder.port), ())
            book = book.share(each.holder, frozenset(ip for ip in ips if ip not in book.ips))
        result.books = result.books.put(each.switch, book)


def _hold_by_row(claim: Claim, book: Book, foreign: Foreign) -> Book:
    """A row is the agent's own word. It goes before all records but the VM's own, which may be younger (the Northbound
    database was restored from a backup): so a row with which that record does not agree waits for that step."""
    row = _standing_row(claim)
    if claim.holder in book.leases or row is None:
        return book
    told = [lease for record in claim.records if (lease := _for_us(claim, record)) is not None]
    if any(set(record.ips) != set(row.ips) for record in told):
        return book
    return _hold(claim, (row.mac,), row, book, foreign)


def _hold_by_last_row(claim: Claim, book: Book, foreign: Foreign) -> Book:
    """The row that is there now is older than the one that was seen before it."""
    last = claim.last_row if claim.running or claim.last_row is None else _for_us(claim, claim.last_row)
    return book if claim.holder in book.leases or last is None else _hold(claim, (last.mac,), last, book, foreign)


def _in_turn(claims: Sequence[Claim]) -> tuple[list[Claim], Evidence, list[list[Claim]]]:
    """The claims in their order, but whose row has an address that another's record names goes before that other: he may
    move on by a record of his own. What those rows say. And the rounds: each's record names what the next one's row has,
    and the last one's what the first one's has."""
    evidence: dict[tuple[str, IPAddress | str], Holder] = {}
    for claim in claims:
        row = _standing_row(claim)
        for each in (*row.ips, row.mac) if row is not None else ():
            evidence.setdefault((claim.network.logical_switch, each), claim.holder)
    waiting = {claim.holder: claim for claim in claims}
    turns: list[Claim] = []
    rounds: list[list[Claim]] = []
    for claim in claims:
        path = [waiting.pop(claim.holder)] if claim.holder in waiting else []
        while path:
            tip = path[-1]
            named = [evidence.get((tip.network.logical_switch, ip)) for each in tip.records for ip in each.ips]
            first = next((waiting.pop(holder) for holder in named if holder in waiting), None)
            if first is not None:
                path.append(first)
                continue
            again = next((number for number, each in enumerate(path[:-1]) if each.holder in named), None)
            if again is not None:
                rounds.append(path[again:])
            turns.append(path.pop())
    return turns, evidence, rounds


def _move_round(result: Settlement, claims: Sequence[Claim], foreign: Mapping[str, Foreign], evidence: Evidence) -> None:
    """Several VMs have exchanged their addresses since the rows were written. All move on by their records, or none: each
    has left by its own record what another takes, and nobody from outside has a row with any of it."""
    switch = claims[0].network.logical_switch
    book, others = result.books[switch], foreign.get(switch, NO_FOREIGN)
    leases: dict[Holder, Lease] = {}
    for claim in claims:
        lease = next(filter(None, (_for_us(claim, each) for each in claim.records)), None)
        if lease is None or claim.holder in book.leases:
            return
        leases[claim.holder] = lease
    for claim in claims:
        lease = leases[claim.holder]
        for ip in lease.ips:
            if str(ip) in others.ips or grants.sharers(claim, ip, book):
                return
            if evidence.get((switch, ip), claim.holder) not in leases:
                return
        had = evidence.get((switch, lease.mac), claim.holder)
        left = had in leases and (had == claim.holder or leases[had].mac != lease.mac)
        book = _hold(claim, (lease.mac,) if left else (), lease, book, others)
        if claim.holder not in book.leases:
            return
    result.books = result.books.put(switch, book)


def _hold_by_record(claim: Claim, book: Book, foreign: Foreign, evidence: Evidence) -> Book:
    """Once; after that the books are the memory of it. The request before the record, the record before the row."""
    row = _standing_row(claim)
    candidates = [(False, lease) for each in claim.records if (lease := _for_us(claim, each)) is not None]
    candidates += [(True, row)] if row is not None else []
    for by_row, lease in sorted(candidates, key=lambda each: not _has_what_is_asked(claim, each[1])):
        if claim.holder in book.leases:
            return book
        if by_row or not any(
            str(ip) in foreign.ips or grants.sharers(claim, ip, book) or _another_s_row(claim, ip, book, evidence)
            for ip in lease.ips
        ):
            macs = () if _another_s_row(claim, lease.mac, book, evidence) else (lease.mac,)
            book = _hold(claim, macs, lease, book, foreign)
    return book


def _another_s_row(claim: Claim, address: IPAddress | str, book: Book, evidence: Evidence) -> bool:
    """The row of another who holds nothing yet has it: no record takes it away from him."""
    holder = evidence.get((claim.network.logical_switch, address))
    return holder is not None and holder != claim.holder and holder not in book.leases


def _standing_row(claim: Claim) -> Lease | None:
    """What a running guest has it keeps. A stopped VM's addresses have to be such as the configuration allows."""
    return claim.row if claim.row is None or claim.running else _for_us(claim, claim.row)


def _for_us(claim: Claim, lease: Lease) -> Lease | None:
    """Of the lease what the network has to give (it may have lost one of its subnets); None where that is nothing."""
    ips = tuple(ip for ip in lease.ips if not grants.not_for_us(claim, ip))
    if ips == lease.ips:
        return lease
    return replace(lease, ips=ips) if ips else None


def _hold(claim: Claim, macs: Iterable[str], lease: Lease, book: Book, foreign: Foreign) -> Book:
    """With this lease, if nobody has one of its addresses; with one of these MACs, or another if somebody has those. The
    row is evidence for its MAC; a record is none."""
    if book.conflict(claim.holder, lease.ips) is not None:
        return book
    proven = {row.mac for row in (claim.row, claim.last_row) if row is not None}
    mac = next(
        mac
        for mac in chain(macs, grants.derived_macs(claim))
        if (
            book.conflict(claim.holder, (), mac) is None if mac in proven else not grants.mac_user(claim, mac, book, foreign)
        )
    )
    return book.hold(claim.holder, Lease(claim.holder.port, claim.interface, claim.network.name, lease.ips, mac))


def _has_what_is_asked(claim: Claim, lease: Lease) -> bool:
    """A row with what is asked for is younger than a record without: the agent died between writing the two. (Where nothing
    is asked for, both have it.)"""
    return set(claim.request.ips) <= set(lease.ips)


# ---- 3 and 5: shared addresses --------------------------------------------------------------------------------------


def _go_on_sharing(claim: Claim, book: Book, foreign: Foreign, virtual: Mapping[str, PresentPort]) -> Book:
    """What it shares by the books (the rows may lag behind them) or by the rows that are there."""
    switch, known = claim.network.logical_switch, book.shares.get(claim.holder, frozenset())
    more = {
        pair.ip
        for pair in claim.request.pairs
        if shares(virtual, switch, pair.ip, claim.holder.port) and grants.pair_refusal(claim, pair, book, foreign) is None
    }
    return book.share(claim.holder, known | more)


# ---- 4, 6 and 7: in which order --------------------------------------------------------------------------------------


def _asks(claim: Claim) -> bool:
    return bool(claim.request.ips or claim.request.pool)


def _rank(claim: Claim) -> tuple[bool, bool]:
    first = next((wish.port for wish in claim.wishes), None)
    return first is None, first != claim.holder.port

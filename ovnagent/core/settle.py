"""Who is granted what: claims against the books. The steps are the contract, in its order:

    1. what rows say         what a running guest has, and what a VM has by its row
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

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

from ovnagent.core import problems
from ovnagent.core.addresses import NO_FOREIGN, Claim, Foreign, Grant, Holder, Standing
from ovnagent.core.books import Book, Books
from ovnagent.core.dhcp import server_mac
from ovnagent.core.free import allocatable, free_addresses, within
from ovnagent.core.networks import IPAddress, Subnet
from ovnagent.core.ports import PresentPort
from ovnagent.core.problems import Problem
from ovnagent.core.records import Lease
from ovnagent.core.requests import Pair
from ovnagent.core.virtual_ports import shared_by, shares
from ovnagent.core.vm import VmKey

Step = Callable[[Claim, Book, Foreign], Book]
Evidence = Mapping[tuple[str, IPAddress], Holder]
"""(logical switch, address) -> whose row has it, of those who hold nothing yet."""


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
    asking = [claim for claim in ordered if _asks(claim)]
    sharing = [each for each in ordered if each.request.pairs or each.holder in books[each.network.logical_switch].shares]
    wishing = sorted((claim for claim in ordered if not _asks(claim)), key=_rank)

    _each(result, ordered, foreign, _hold_by_row)
    _each(result, sharing, foreign, lambda claim, book, others: _go_on_sharing(claim, book, others, virtual))
    turns, evidence = _in_turn([each for each in ordered if not _settled(result, each)])
    _each(result, turns, foreign, lambda claim, book, others: _hold_by_record(claim, book, others, evidence))
    _grants(result, asking, foreign)
    pairs: dict[Holder, tuple[tuple[Pair, ...], tuple[Problem, ...]]] = {}

    def share(claim: Claim, book: Book, others: Foreign) -> Book:
        before = book.shares.get(claim.holder, frozenset())
        book, granted, troubles = _share(claim, claim.request.pairs, book, others)
        pairs[claim.holder] = granted, troubles
        result.freed[claim.holder.key] += sorted(map(str, before - {pair.ip for pair in granted}))
        return book

    _each(result, sharing, foreign, share)
    _grants(result, wishing, foreign)
    for holder, (granted, troubles) in pairs.items():
        if holder in result.grants:
            grant = result.grants[holder]
            result.grants[holder] = replace(grant, pairs=granted, problems=(*grant.problems, *troubles))
    return result


def _each(result: Settlement, claims: Sequence[Claim], foreign: Mapping[str, Foreign], step: Step) -> None:
    for claim in claims:
        if claim.holder.key in result.failed:
            continue
        switch = claim.network.logical_switch
        try:
            result.books = result.books.put(switch, step(claim, result.books[switch], foreign.get(switch, NO_FOREIGN)))
        except Exception as error:
            result.failed[claim.holder.key] = error


def _grants(result: Settlement, claims: Sequence[Claim], foreign: Mapping[str, Foreign]) -> None:
    def step(claim: Claim, book: Book, others: Foreign) -> Book:
        grant, before = _grant(claim, book, others), book.leases.get(claim.holder)
        if grant.lease is not None and grant.lease != before:
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
    if any(set(record.ips) != set(row.ips) for record in told) and not _has_what_is_asked(claim, row):
        return book
    return _hold(claim, row, book, foreign)


def _in_turn(claims: Sequence[Claim]) -> tuple[list[Claim], Evidence]:
    """The claims in their order, but whose row has an address that another's record names goes before that other: he may
    move on by a record of his own. And what those rows say."""
    evidence: dict[tuple[str, IPAddress], Holder] = {}
    for claim in claims:
        row = _standing_row(claim)
        for ip in row.ips if row is not None else ():
            evidence.setdefault((claim.network.logical_switch, ip), claim.holder)
    waiting = {claim.holder: claim for claim in claims}
    turns: list[Claim] = []
    for claim in claims:
        path = [claim] if waiting.pop(claim.holder, None) is not None else []
        while path:
            named = (evidence.get((path[-1].network.logical_switch, ip)) for each in path[-1].records for ip in each.ips)
            first = next((waiting.pop(holder) for holder in named if holder is not None and holder in waiting), None)
            if first is None:
                turns.append(path.pop())
            else:
                path.append(first)
    return turns, evidence


def _hold_by_record(claim: Claim, book: Book, foreign: Foreign, evidence: Evidence) -> Book:
    """Once; after that the books are the memory of it. The request before the record, the record before the row."""
    row = _standing_row(claim)
    candidates = [(False, lease) for each in claim.records if (lease := _for_us(claim, each)) is not None]
    candidates += [(True, row)] if row is not None else []
    for by_row, lease in sorted(candidates, key=lambda each: not _has_what_is_asked(claim, each[1])):
        if claim.holder in book.leases:
            return book
        if by_row or not any(
            str(ip) in foreign.ips or _sharers(claim, ip, book) or _another_s_row(claim, ip, book, evidence)
            for ip in lease.ips
        ):
            book = _hold(claim, lease, book, foreign)
    return book


def _another_s_row(claim: Claim, ip: IPAddress, book: Book, evidence: Evidence) -> bool:
    """The row of another who holds nothing yet has it: no record takes it away from him."""
    holder = evidence.get((claim.network.logical_switch, ip))
    return holder is not None and holder != claim.holder and holder not in book.leases


def _standing_row(claim: Claim) -> Lease | None:
    """What a running guest has it keeps. A stopped VM's addresses have to be such as the configuration allows."""
    return claim.row if claim.row is None or claim.running else _for_us(claim, claim.row)


def _for_us(claim: Claim, lease: Lease) -> Lease | None:
    """Of the lease what the network has to give (it may have lost one of its subnets); None where that is nothing."""
    ips = tuple(ip for ip in lease.ips if not _not_for_us(claim, ip))
    return replace(lease, ips=ips) if ips else None


def _hold(claim: Claim, lease: Lease, book: Book, foreign: Foreign) -> Book:
    """With this lease, if nobody has one of its addresses; with another MAC, if somebody has that. A running guest's row is
    evidence for its MAC; a record is none."""
    if book.conflict(claim.holder, lease.ips, "") is not None:
        return book
    proven = claim.row.mac if claim.row is not None and claim.running else ""
    mac = next(
        mac
        for mac in chain((lease.mac,), _derived_macs(claim))
        if (book.conflict(claim.holder, (), mac) is None if mac == proven else not _mac_user(claim, mac, book, foreign))
    )
    return book.hold(claim.holder, Lease(claim.holder.port, claim.interface, claim.network.name, lease.ips, mac))


def _has_what_is_asked(claim: Claim, lease: Lease) -> bool:
    """A row with what is asked for is younger than a record without: the agent died between writing the two."""
    return bool(claim.request.ips) and set(claim.request.ips) <= set(lease.ips)


def _not_for_us(claim: Claim, ip: IPAddress) -> str:
    """Why the network has no such address to give, as the rest of a sentence; empty if it has."""
    subnet = _subnet_of(claim, ip)
    if subnet is None:
        return f"lies outside network {claim.network.name}; choose an address of its subnets"
    return subnet.refuse(ip) or ""


def _subnet_of(claim: Claim, ip: IPAddress) -> Subnet | None:
    return next((subnet for subnet in claim.network.subnets if ip in subnet), None)


# ---- 3 and 5: shared addresses --------------------------------------------------------------------------------------


def _go_on_sharing(claim: Claim, book: Book, foreign: Foreign, virtual: Mapping[str, PresentPort]) -> Book:
    """What it shares by the books (the rows may lag behind them) or by the rows that are there."""
    switch, known = claim.network.logical_switch, book.shares.get(claim.holder, frozenset())
    more = {
        pair.ip
        for pair in claim.request.pairs
        if pair.ip not in known
        and shares(virtual, switch, pair.ip, claim.holder.port)
        and _pair_refusal(claim, pair, book, foreign) is None
    }
    return book.share(claim.holder, known | more)


def _share(
    claim: Claim, asked: Sequence[Pair], book: Book, foreign: Foreign
) -> tuple[Book, tuple[Pair, ...], tuple[Problem, ...]]:
    """Those of the further addresses that the guest may use, and why not the others."""
    granted, troubles = [], []
    for pair in asked:
        if (refused := _pair_refusal(claim, pair, book, foreign)) is None:
            granted.append(pair)
        else:
            reason, sentence = refused
            text = f"{claim.request.pairs_key} asks for {pair.ip}, which {sentence}"
            troubles.append(Problem(reason, text, (str(pair.ip), pair.mac) if pair.mac else (str(pair.ip),)))
    return book.share(claim.holder, frozenset(pair.ip for pair in granted)), tuple(granted), tuple(troubles)


def _pair_refusal(claim: Claim, pair: Pair, book: Book, foreign: Foreign) -> tuple[str, str] | None:
    """(reason, the rest of a sentence), or None."""
    network = claim.network
    subnet = _subnet_of(claim, pair.ip)
    if subnet is None:
        return problems.ADDRESS_REFUSED, f"no subnet of network {network.name} contains"
    if sentence := subnet.refuse(pair.ip, reserved=False):
        return problems.ADDRESS_REFUSED, sentence
    if holder := book.conflict(claim.holder, (pair.ip,), ""):
        return problems.ADDRESS_CONFLICT, f"VM {holder.key} holds as its own"
    if user := foreign.ips.get(str(pair.ip)):
        return problems.ADDRESS_CONFLICT, f"{user} uses"
    strangers = {
        sharer.key.namespace for sharer in book.shared.get(pair.ip, ()) if sharer.key.namespace != claim.holder.key.namespace
    }
    if strangers and network.shared_addresses == "namespace":
        return problems.ADDRESS_CONFLICT, (
            f"VMs of another namespace share; on network {network.name} an address is shared within one namespace only "
            "(the network's rule `sharedAddresses`)"
        )
    if pair.mac and (other := _mac_user(claim, pair.mac, book, foreign)):
        return problems.MAC_CONFLICT, f"may not have the MAC {pair.mac}: {other} has it on this switch"
    return None


def _sharers(claim: Claim, ip: IPAddress, book: Book) -> str:
    """VMs, but for this one, that share an address."""
    return ", ".join(sorted({str(sharer.key) for sharer in book.shared.get(ip, ()) if sharer != claim.holder}))


# ---- 4, 6 and 7: what is granted ------------------------------------------------------------------------------------


def _asks(claim: Claim) -> bool:
    return bool(claim.request.ips or claim.request.pool)


def _rank(claim: Claim) -> int:
    if claim.wishes:
        return 1 if claim.wishes[0].port == claim.holder.port else 2
    return 3


def _grant(claim: Claim, book: Book, foreign: Foreign) -> Grant:
    current = book.leases.get(claim.holder)
    kept = current
    if current is not None and not claim.running:
        kept = replace(current, ips=tuple(ip for ip in current.ips if not _not_for_us(claim, ip)))
    troubles = [Problem(problems.INVALID_REQUEST, error) for error in claim.request.errors]
    granted: list[IPAddress] = []
    if not troubles:
        troubles += _absent_families(claim)
        for subnet in claim.network.subnets:
            ip, trouble = _address(claim, subnet, kept, book, foreign)
            if ip is not None:
                granted.append(ip)
            if trouble is not None:
                troubles.append(trouble)
        if current is not None and claim.running:
            # Nor because the network has lost one.
            versions = {subnet.version for subnet in claim.network.subnets}
            granted += [ip for ip in current.ips if ip.version not in versions]
    mac, trouble = _mac(claim, current, book, foreign)
    if trouble is not None:
        troubles.append(trouble)
    disputed = _disputed(claim, current, book, foreign)
    troubles += disputed
    warnings = tuple(_warnings(claim, book, foreign, mac))
    if troubles:
        return Grant(current, (*troubles, *warnings))
    warnings += tuple(
        Problem(
            problems.ADDRESS_CONFLICT,
            f"{ip} of this VM is also used by {foreign.ips[str(ip)]}; change it there",
            (str(ip),),
        )
        for ip in granted
        if str(ip) in foreign.ips
    )
    return Grant(Lease(claim.holder.port, claim.interface, claim.network.name, tuple(granted), mac), warnings)


def _disputed(claim: Claim, current: Lease | None, book: Book, foreign: Foreign) -> Iterator[Problem]:
    """Two claims by right on one address (a database restored over a living cluster, a record that somebody wrote): no
    silent second choice."""
    if claim.request.ips or current is not None:
        return
    for lease in (*claim.records, *((claim.row,) if claim.row is not None else ())):
        for ip in lease.ips:
            if _not_for_us(claim, ip):
                continue
            other = book.conflict(claim.holder, (ip,), "")
            user = f"VM {other.key}" if other is not None else foreign.ips.get(str(ip)) or ""
            if not user and (sharers := _sharers(claim, ip, book)):
                user = f"VM {sharers} (as an allowed address pair)"
            if user:
                yield Problem(
                    problems.ADDRESS_CONFLICT,
                    f"{ip} on record for this VM is held by {user}; delete that, or ask for another address with an "
                    "ip_address annotation",
                    (str(ip),),
                )
                return


def _warnings(claim: Claim, book: Book, foreign: Foreign, mac: str) -> Iterator[Problem]:
    for warning in claim.request.warnings:
        yield Problem(problems.MAC_MISMATCH, warning)
    for lease in claim.records if claim.row is None else ():
        for ip in lease.ips:
            if sentence := _not_for_us(claim, ip):
                yield Problem(problems.ADDRESS_REFUSED, f"the record on this VM says {ip}, which {sentence}")
    asked, reported = claim.request.mac, claim.reported_mac
    if asked and reported and asked != reported:
        yield Problem(
            problems.MAC_MISMATCH,
            f"{claim.request.mac_key} asks for MAC {asked}, but the guest runs with {reported}; set macAddress: {asked} "
            f"on interface {claim.interface} in spec.template.spec.domain.devices and restart the VM",
        )
    elif not asked and reported and mac != reported and (other := _mac_user(claim, reported, book, foreign)):
        yield Problem(
            problems.MAC_CONFLICT,
            f"the running guest is reported with the MAC {reported}, which {other} has on this switch; it is not believed",
            (reported,),
        )


def _absent_families(claim: Claim) -> Iterator[Problem]:
    versions = {subnet.version for subnet in claim.network.subnets}
    for ip in claim.request.ips:
        if ip.version not in versions:
            yield Problem(
                problems.ADDRESS_REFUSED,
                f"{claim.request.ips_key} asks for {ip}, but network {claim.network.name} has no IPv{ip.version} subnet",
            )


def _address(
    claim: Claim, subnet: Subnet, current: Lease | None, book: Book, foreign: Foreign
) -> tuple[IPAddress | None, Problem | None]:
    request, version = claim.request, subnet.version
    asked = next((ip for ip in request.ips if ip.version == version), None)
    if asked is not None:
        # What it has by right already it keeps while its guest runs, also where the configuration has changed since.
        if current is not None and claim.running and asked in current.ips:
            return asked, None
        return (asked, None) if (trouble := _refusal(claim, asked, subnet, book, foreign)) is None else (None, trouble)
    pool = tuple(span for span in request.pool if span.first.version == version)
    for lease in (*((current,) if current else ()), *claim.wishes):
        for ip in lease.ips:
            if ip.version != version or (pool and not any(ip in span for span in pool)):
                continue
            # Nobody takes a running guest its address because a subnet was changed.
            if lease is current and (claim.running or ip in subnet):
                return ip, None
            if lease is not current and ip in subnet and _refusal(claim, ip, subnet, book, foreign) is None:
                return ip, None
    spans = allocatable(subnet)
    found = free_addresses(within(spans, pool) if pool else spans, version, _seed(claim), book.taken, foreign.taken)
    # Foreign addresses that nobody counted into `taken` are passed over one by one.
    ip = next((ip for ip in found if str(ip) not in foreign.ips), None)
    if ip is not None:
        return ip, None
    where = (
        f"the pool of {request.pool_key}" if pool else f"IPv{version} subnet {subnet.cidr} of network {claim.network.name}"
    )
    return None, Problem(
        problems.POOL_EXHAUSTED, f"no address is free in {where}; widen it or release addresses", (claim.network.name,)
    )


def _refusal(claim: Claim, ip: IPAddress, subnet: Subnet, book: Book, foreign: Foreign) -> Problem | None:
    """Why this address cannot be granted, or None."""
    key = claim.request.ips_key or "the record"
    if sentence := subnet.refuse(ip):
        return Problem(problems.ADDRESS_REFUSED, f"{key} asks for {ip}, which {sentence}")
    if (holder := book.conflict(claim.holder, (ip,), "")) is not None:
        return Problem(
            problems.ADDRESS_CONFLICT,
            f"{key} asks for {ip}, which VM {holder.key} holds; choose another address, or delete that VM first",
            (str(ip),),
        )
    if names := _sharers(claim, ip, book):
        return Problem(
            problems.ADDRESS_CONFLICT, f"{key} asks for {ip}, which is an allowed address pair of VM {names}", (str(ip),)
        )
    if (user := foreign.ips.get(str(ip))) is not None:
        return Problem(
            problems.ADDRESS_CONFLICT, f"{key} asks for {ip}, which {user} uses; choose another address", (str(ip),)
        )
    return None


# ---- MAC addresses --------------------------------------------------------------------------------------------------


def _mac(claim: Claim, current: Lease | None, book: Book, foreign: Foreign) -> tuple[str, Problem | None]:
    """Asked for, else what the running guest has, else what is on record, else a wish, else derived from the identity."""
    asked = claim.request.mac
    if asked:
        if other := _mac_user(claim, asked, book, foreign):
            return "", Problem(
                problems.MAC_CONFLICT,
                f"{claim.request.mac_key} has the MAC {asked}, which {other} has on this switch; choose another",
                (asked,),
            )
        return asked, None
    if claim.reported_mac and not _mac_user(claim, claim.reported_mac, book, foreign):
        return claim.reported_mac, None
    if current is not None and (claim.running or not _mac_user(claim, current.mac, book, foreign)):
        return current.mac, None
    for lease in claim.wishes:
        if not _mac_user(claim, lease.mac, book, foreign):
            return lease.mac, None
    return next(mac for mac in _derived_macs(claim) if not _mac_user(claim, mac, book, foreign)), None


def _mac_user(claim: Claim, mac: str, book: Book, foreign: Foreign) -> str:
    """Who has a MAC on this switch, besides this port; empty if nobody."""
    if (holder := book.conflict(claim.holder, (), mac)) is not None:
        return f"VM {holder.key}"
    if mac in claim.network.reserved_macs:
        return "the network's operator (reservedMacs)"
    if mac == server_mac(claim.network):
        return "OVN's DHCP server"
    return foreign.macs.get(mac, "")


def _derived_macs(claim: Claim) -> Iterator[str]:
    """Locally administered unicast MACs that follow from namespace, name and interface."""
    seed = _digest(claim)
    while True:
        yield ":".join(f"{octet:02x}" for octet in ((seed[0] & 0xFC) | 0x02, *seed[1:6]))
        seed = hashlib.sha256(seed).digest()


def _seed(claim: Claim) -> int:
    return int.from_bytes(_digest(claim), "big")


def _digest(claim: Claim) -> bytes:
    return hashlib.sha256(f"{claim.holder.key}/{claim.interface}".encode()).digest()

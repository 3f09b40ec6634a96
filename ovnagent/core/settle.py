"""Who is granted what: claims against the books.

The order is the contract: what a VM holds by right, then requests, then wishes of the same name, then other wishes, then
free addresses. A refused request gets a sentence and nothing else: no silent second choice. What a VM already holds it
keeps until something else is granted, so no port ever loses its address to a mistake in an annotation.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import replace

from ovnagent.core import problems
from ovnagent.core.addresses import Book, Books, Claim, Foreign, Grant, Holder
from ovnagent.core.networks import AddressRange, IPAddress, Subnet
from ovnagent.core.problems import Problem
from ovnagent.core.records import Lease
from ovnagent.core.requests import Pair
from ovnagent.core.shared import virtual_name

PROBE_LIMIT = 1 << 20
"""Addresses looked at for a free one: more than any IPv4 pool in use has; an IPv6 pool is never that full."""


def settle(
    claims: Sequence[Claim], books: Books, foreign: Mapping[str, Foreign], ports: Container[str] = ()
) -> dict[Holder, Grant]:
    """Grant what can be granted and enter it into the books (one per logical switch). `ports`: the names of the ports that
    are there; an address that has a virtual port is shared already."""
    for claim in sorted(claims, key=lambda claim: (len(claim.held) > 1, claim.order)):
        _take_possession(claim, books[claim.network.logical_switch])
    sharing = [
        claim for claim in claims if claim.request.pairs or claim.holder in books[claim.network.logical_switch].shares
    ]
    for claim in sharing:
        switch = claim.network.logical_switch
        _share(claim, [pair for pair in claim.request.pairs if virtual_name(pair.ip, switch) in ports], books, foreign)
    grants: dict[Holder, Grant] = {}
    ranked = sorted(claims, key=lambda claim: (_rank(claim), claim.order))
    asking = [claim for claim in ranked if _rank(claim) == 0]
    for claim in asking:
        grants[claim.holder] = _grant(claim, books, foreign)
    shares = {claim.holder: _share(claim, claim.request.pairs, books, foreign) for claim in sharing}
    for claim in ranked[len(asking) :]:
        grants[claim.holder] = _grant(claim, books, foreign)
    for holder, (pairs, troubles) in shares.items():
        grants[holder] = replace(grants[holder], pairs=pairs, problems=(*grants[holder].problems, *troubles))
    return grants


def _share(
    claim: Claim, asked: Sequence[Pair], books: Books, foreign: Mapping[str, Foreign]
) -> tuple[tuple[Pair, ...], list[Problem]]:
    """Those of the further addresses that the guest may use, and why not the others."""
    switch = claim.network.logical_switch
    book, others = books[switch], foreign.get(switch, Foreign())
    granted, troubles = [], []
    for pair in asked:
        subnet = next((subnet for subnet in claim.network.subnets if pair.ip in subnet), None)
        reason, conflict = problems.ADDRESS_REFUSED, ""
        if subnet is None:
            conflict = f"which no subnet of network {claim.network.name} contains"
        elif sentence := subnet.refuse(pair.ip, reserved=False):
            conflict = f"which {sentence}"
        elif holder := book.conflict(claim.holder, (pair.ip,), ""):
            reason, conflict = problems.ADDRESS_CONFLICT, f"which VM {holder.key} holds as its own"
        elif user := others.ips.get(str(pair.ip)):
            reason, conflict = problems.ADDRESS_CONFLICT, f"which {user} uses"
        if conflict:
            troubles.append(Problem(reason, f"{claim.request.pairs_key} asks for {pair.ip}, {conflict}", (str(pair.ip),)))
        else:
            granted.append(pair)
    books.shares_changed |= book.share(claim.holder, frozenset(pair.ip for pair in granted))
    return tuple(granted), troubles


def _take_possession(claim: Claim, book: Book) -> None:
    """Enter what a VM holds by right, once (after that the books are the memory of it)."""
    if claim.holder in book.leases:
        return
    for lease in claim.held:
        if book.conflict(claim.holder, lease.ips, lease.mac) is None:
            book.hold(claim.holder, lease)
            return


def _rank(claim: Claim) -> int:
    if claim.request.ips or claim.request.pool:
        return 0
    if claim.wishes:
        return 1 if claim.wishes[0].port == claim.holder.port else 2
    return 3


def _grant(claim: Claim, books: Books, all_foreign: Mapping[str, Foreign]) -> Grant:
    book = books[claim.network.logical_switch]
    foreign = all_foreign.get(claim.network.logical_switch, Foreign())
    current = book.leases.get(claim.holder)
    troubles = [Problem(problems.INVALID_REQUEST, error) for error in claim.request.errors]
    granted: list[IPAddress] = []
    if not troubles:
        troubles += _absent_families(claim)
        for subnet in claim.network.subnets:
            ip, trouble = _address(claim, subnet, current, book, foreign)
            if ip is not None:
                granted.append(ip)
            if trouble is not None:
                troubles.append(trouble)
    mac, trouble = _mac(claim, current, book, foreign)
    if trouble is not None:
        troubles.append(trouble)
    if not claim.request.ips and current is None and claim.held:
        # Two claims by right on one address (a database restored over a living cluster): no silent second choice.
        ips = claim.held[0].ips
        if other := book.conflict(claim.holder, ips, ""):
            text = f"{', '.join(map(str, ips))} on record for this VM is held by VM {other.key}"
            remedy = "delete that VM, or ask for another address with an ip_address annotation"
            troubles.append(Problem(problems.ADDRESS_CONFLICT, f"{text}; {remedy}", tuple(map(str, ips))))
    warnings = tuple(Problem(problems.MAC_MISMATCH, warning) for warning in _mac_warnings(claim))
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
    lease = Lease(claim.holder.port, claim.interface, claim.network.name, tuple(granted), mac)
    if lease != current:
        book.hold(claim.holder, lease)
    return Grant(lease, warnings)


# ---- addresses ------------------------------------------------------------------------------------------------------


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
        return (asked, None) if (trouble := _refusal(claim, asked, subnet, book, foreign)) is None else (None, trouble)
    pool = tuple(span for span in request.pool if span.first.version == version)
    former = (*((current,) if current else ()), *claim.wishes)
    for lease in former:
        for ip in lease.ips:
            # What is held stays held, even where the configuration has reserved it since; and nobody takes a running
            # guest its address because a subnet was changed.
            here = ip in subnet or (lease is current and claim.running)
            if ip.version != version or (pool and not any(ip in span for span in pool)) or not here:
                continue
            if lease is current or _refusal(claim, ip, subnet, book, foreign) is None:
                return ip, None
    for ip in _candidates(claim, subnet, pool):
        if ip not in book.ips and ip not in book.shared and str(ip) not in foreign.ips and subnet.refuse(ip) is None:
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
    if sharers := book.shared.get(ip, set()) - {claim.holder}:
        names = ", ".join(sorted({str(sharer.key) for sharer in sharers}))
        return Problem(
            problems.ADDRESS_CONFLICT, f"{key} asks for {ip}, which is an allowed address pair of VM {names}", (str(ip),)
        )
    if (user := foreign.ips.get(str(ip))) is not None:
        return Problem(
            problems.ADDRESS_CONFLICT, f"{key} asks for {ip}, which {user} uses; choose another address", (str(ip),)
        )
    return None


def _candidates(claim: Claim, subnet: Subnet, pool: tuple[AddressRange, ...]) -> Iterator[IPAddress]:
    """Addresses to try, from a start that follows from the VM's name: a VM deleted and created again under its name
    tends to get its old address, and a released one is not handed to the next comer."""
    spans = [(int(span.first), int(span.last)) for span in pool] or [(subnet.first, subnet.last)]
    sizes = [last - first + 1 for first, last in spans]
    total = sum(sizes)
    make = ipaddress.IPv4Address if subnet.version == 4 else ipaddress.IPv6Address
    start = int.from_bytes(_digest(claim.holder, claim.interface), "big") % total
    for step in range(min(total, PROBE_LIMIT)):
        offset = (start + step) % total
        for (first, _), size in zip(spans, sizes, strict=True):
            if offset < size:
                yield make(first + offset)
                break
            offset -= size


# ---- MAC addresses --------------------------------------------------------------------------------------------------


def _mac(claim: Claim, current: Lease | None, book: Book, foreign: Foreign) -> tuple[str, Problem | None]:
    """Asked for, else what the running guest has, else what is on record, else a wish, else derived from the identity."""

    def user(mac: str) -> str | None:
        if (holder := book.conflict(claim.holder, (), mac)) is not None:
            return f"VM {holder.key}"
        return foreign.macs.get(mac)

    asked = claim.request.mac
    if asked or claim.reported_mac:
        mac = asked or claim.reported_mac
        if other := user(mac):
            source = claim.request.mac_key or "the running guest"
            return "", Problem(
                problems.MAC_CONFLICT,
                f"{source} has the MAC {mac}, which {other} has on this switch; choose another",
                (mac,),
            )
        return mac, None
    for lease in (*((current,) if current else ()), *claim.wishes):
        if user(lease.mac) is None:
            return lease.mac, None
    return next(mac for mac in _derived_macs(claim.holder, claim.interface) if user(mac) is None), None


def _mac_warnings(claim: Claim) -> Iterator[str]:
    yield from claim.request.warnings
    if claim.request.mac and claim.reported_mac and claim.request.mac != claim.reported_mac:
        yield (
            f"{claim.request.mac_key} asks for MAC {claim.request.mac}, but the guest runs with {claim.reported_mac}; "
            f"set macAddress: {claim.request.mac} on interface {claim.interface} in spec.template.spec.domain.devices and "
            "restart the VM"
        )


def _derived_macs(holder: Holder, interface: str) -> Iterator[str]:
    """Locally administered unicast MACs that follow from namespace, name and interface."""
    seed = _digest(holder, interface)
    while True:
        yield ":".join(f"{octet:02x}" for octet in ((seed[0] & 0xFC) | 0x02, *seed[1:6]))
        seed = hashlib.sha256(seed).digest()


def _digest(holder: Holder, interface: str) -> bytes:
    return hashlib.sha256(f"{holder.key}/{interface}".encode()).digest()

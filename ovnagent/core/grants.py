"""What one claim is granted, against the books as they are: an address of each family, a MAC, and further addresses that it
may share; or the sentence that says why not. core/settle.py says in which order claims have their turn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

from ovnagent.core import limits, problems
from ovnagent.core.addresses import Claim, Foreign, Grant
from ovnagent.core.books import NOBODY, Book
from ovnagent.core.dhcp import server_mac
from ovnagent.core.free import allocatable, free_addresses, within
from ovnagent.core.networks import IPAddress, Subnet
from ovnagent.core.problems import Problem
from ovnagent.core.records import Lease
from ovnagent.core.requests import Pair

# ---- what a network has to give ------------------------------------------------------------------------------------


def not_for_us(claim: Claim, ip: IPAddress) -> str:
    """Why the network has no such address to give, as the rest of a sentence; empty if it has."""
    subnet = _subnet_of(claim, ip)
    if subnet is None:
        return f"lies outside network {claim.network.name}; choose an address of its subnets"
    return subnet.refuse(ip)


def _subnet_of(claim: Claim, ip: IPAddress) -> Subnet | None:
    return next((subnet for subnet in claim.network.subnets if ip in subnet), None)


# ---- shared addresses ------------------------------------------------------------------------------------------------


def share(
    claim: Claim, asked: Sequence[Pair], book: Book, foreign: Foreign
) -> tuple[Book, tuple[Pair, ...], tuple[Problem, ...]]:
    """Those of the further addresses that the guest may use, and why not the others."""
    granted, troubles = [], []
    for pair in asked:
        if (refused := pair_refusal(claim, pair, book, foreign)) is None:
            granted.append(pair)
        else:
            reason, sentence = refused
            text = f"{claim.request.pairs_key} asks for {pair.ip}, which {sentence}"
            troubles.append(Problem(reason, text, (str(pair.ip), pair.mac) if pair.mac else (str(pair.ip),)))
    return book.share(claim.holder, frozenset(pair.ip for pair in granted)), tuple(granted), tuple(troubles)


def pair_refusal(claim: Claim, pair: Pair, book: Book, foreign: Foreign) -> tuple[str, str] | None:
    """(reason, the rest of a sentence), or None."""
    network = claim.network
    subnet = _subnet_of(claim, pair.ip)
    if subnet is None:
        return problems.ADDRESS_REFUSED, f"no subnet of network {network.name} contains"
    if sentence := subnet.refuse(pair.ip, reserved=False):
        return problems.ADDRESS_REFUSED, sentence
    if holder := book.conflict(claim.holder, (pair.ip,)):
        return problems.ADDRESS_CONFLICT, f"VM {holder.key} holds as its own"
    if user := foreign.ips.get(str(pair.ip)):
        return problems.ADDRESS_CONFLICT, f"{user} uses"
    sharing = book.shared.get(pair.ip, NOBODY)
    strangers = any(sharer.key.namespace != claim.holder.key.namespace for sharer in sharing)
    if strangers and network.shared_addresses == "namespace":
        return problems.ADDRESS_CONFLICT, (
            f"VMs of another namespace share; on network {network.name} an address is shared within one namespace only "
            "(the network's rule `sharedAddresses`)"
        )
    if len(sharing) >= limits.SHARERS and claim.holder not in sharing:
        return problems.ADDRESS_CONFLICT, f"{limits.SHARERS} ports share already, the most that may"
    if other := mac_user(claim, pair.mac, book, foreign):
        return problems.MAC_CONFLICT, f"may not have the MAC {pair.mac}: {other} has it on this switch"
    return None


def sharers(claim: Claim, ip: IPAddress, book: Book) -> str:
    """VMs, but for this one, that share an address."""
    return ", ".join(sorted({str(sharer.key) for sharer in book.shared.get(ip, ()) if sharer != claim.holder}))


# ---- what is granted -------------------------------------------------------------------------------------------------


def grant(claim: Claim, book: Book, foreign: Foreign) -> Grant:
    current = book.leases.get(claim.holder)
    kept = current  # a running guest's address also where a subnet was changed: nobody takes it away
    if current is not None and not claim.running:
        kept = replace(current, ips=tuple(ip for ip in current.ips if not not_for_us(claim, ip)))
    troubles = [Problem(problems.INVALID_REQUEST, error) for error in claim.request.errors]
    granted: list[IPAddress] = []
    if not troubles:
        troubles += _absent_families(claim)
        for subnet in claim.network.subnets:
            found = _address(claim, subnet, kept, book, foreign)
            if isinstance(found, Problem):
                troubles.append(found)
            else:
                granted.append(found)
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
    if mac in foreign.macs:
        text = f"the MAC {mac} of this VM is also used by {foreign.macs[mac]}; change it there"
        warnings += (Problem(problems.MAC_CONFLICT, text, (mac,)),)
    return Grant(Lease(claim.holder.port, claim.interface, claim.network.name, tuple(granted), mac), warnings)


def _disputed(claim: Claim, current: Lease | None, book: Book, foreign: Foreign) -> Iterator[Problem]:
    """Two claims by right on one address (a database restored over a living cluster, a record that somebody wrote): no
    silent second choice."""
    if claim.request.ips or current is not None:
        return
    for lease in (*claim.records, *((claim.row,) if claim.row is not None else ())):
        for ip in lease.ips:
            if not_for_us(claim, ip):
                continue
            other = book.conflict(claim.holder, (ip,))
            user = f"VM {other.key}" if other is not None else foreign.ips.get(str(ip), "")
            if names := sharers(claim, ip, book):
                user = f"VM {names} (as an allowed address pair)"
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
            if sentence := not_for_us(claim, ip):
                yield Problem(problems.ADDRESS_REFUSED, f"the record on this VM says {ip}, which {sentence}")
    if (held := book.leases.get(claim.holder)) is not None and claim.row is not None:
        for ip in (ip for lease in claim.records for ip in lease.ips if ip not in held.ips):
            if user := foreign.ips.get(str(ip)):
                text = f"{ip} on record for this VM is used by {user}; it has the address of its port: {held.ips[0]}"
                yield Problem(problems.ADDRESS_CONFLICT, text, (str(ip),))
    asked, reported = claim.request.mac, claim.reported_mac
    if asked and reported and asked != reported:
        yield Problem(
            problems.MAC_MISMATCH,
            f"{claim.request.mac_key} asks for MAC {asked}, but the guest runs with {reported}; set macAddress: {asked} "
            f"on interface {claim.interface} in spec.template.spec.domain.devices and restart the VM",
        )
    elif not asked and mac != reported and (other := mac_user(claim, reported, book, foreign)):
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


def _address(claim: Claim, subnet: Subnet, current: Lease | None, book: Book, foreign: Foreign) -> IPAddress | Problem:
    request, version = claim.request, subnet.version
    asked = next((ip for ip in request.ips if ip.version == version), None)
    if asked is not None:
        # What it has by right already it keeps.
        if current is not None and asked in current.ips:
            return asked
        return _refusal(claim, asked, subnet, book, foreign) or asked
    pool = tuple(span for span in request.pool if span.first.version == version)
    leases: list[Lease] = [*((current,) if current else ()), *claim.wishes]
    for lease in leases:
        for ip in lease.ips:
            if ip.version != version or (pool and not any(ip in span for span in pool)):
                continue
            if lease is current or _refusal(claim, ip, subnet, book, foreign) is None:
                return ip
    spans = allocatable(subnet)
    found = free_addresses(within(spans, pool) if pool else spans, version, _seed(claim), book.taken, foreign.taken)
    # Foreign addresses that nobody counted into `taken` are passed over one by one.
    free = next((ip for ip in found if str(ip) not in foreign.ips), None)
    if free is not None:
        return free
    where = (
        f"the pool of {request.pool_key}" if pool else f"IPv{version} subnet {subnet.cidr} of network {claim.network.name}"
    )
    return Problem(
        problems.POOL_EXHAUSTED, f"no address is free in {where}; widen it or release addresses", (claim.network.name,)
    )


def _refusal(claim: Claim, ip: IPAddress, subnet: Subnet, book: Book, foreign: Foreign) -> Problem | None:
    """Why this address cannot be granted, or None."""
    key = claim.request.ips_key
    if sentence := subnet.refuse(ip):
        return Problem(problems.ADDRESS_REFUSED, f"{key} asks for {ip}, which {sentence}")
    if (holder := book.conflict(claim.holder, (ip,))) is not None:
        return Problem(
            problems.ADDRESS_CONFLICT,
            f"{key} asks for {ip}, which VM {holder.key} holds; choose another address, or delete that VM first",
            (str(ip),),
        )
    if names := sharers(claim, ip, book):
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
        if other := mac_user(claim, asked, book, foreign):
            return "", Problem(
                problems.MAC_CONFLICT,
                f"{claim.request.mac_key} has the MAC {asked}, which {other} has on this switch; choose another",
                (asked,),
            )
        return asked, None
    if claim.reported_mac and not mac_user(claim, claim.reported_mac, book, foreign):
        return claim.reported_mac, None
    if current is not None and (claim.running or not _nobody_may_have(claim, current.mac)):
        return current.mac, None  # also where a foreign port has taken it: that takes it from nobody
    for lease in claim.wishes:
        if not mac_user(claim, lease.mac, book, foreign):
            return lease.mac, None
    return next(mac for mac in derived_macs(claim) if not mac_user(claim, mac, book, foreign)), None


def mac_user(claim: Claim, mac: str, book: Book, foreign: Foreign) -> str:
    """Who has a MAC on this switch, besides this port; empty if nobody."""
    if (holder := book.conflict(claim.holder, (), mac)) is not None:
        return f"VM {holder.key}"
    return _nobody_may_have(claim, mac) or foreign.macs.get(mac, "")


def _nobody_may_have(claim: Claim, mac: str) -> str:
    """Whose it is, of MACs that no guest may have; empty if it is none of those."""
    if mac in claim.network.reserved_macs:
        return "the network's operator (reservedMacs)"
    return "OVN's DHCP server" if mac == server_mac(claim.network) else ""


def derived_macs(claim: Claim) -> Iterator[str]:
    """Locally administered unicast MACs that follow from namespace, name and interface."""
    seed = _digest(claim)
    while True:
        yield ":".join(f"{octet:02x}" for octet in ((seed[0] & 0xFC) | 0x02, *seed[1:6]))
        seed = hashlib.sha256(seed).digest()


def _seed(claim: Claim) -> int:
    return int.from_bytes(_digest(claim), "big")


def _digest(claim: Claim) -> bytes:
    return hashlib.sha256(f"{claim.holder.key}/{claim.interface}".encode()).digest()

"""Free addresses, found in time that grows neither with what is asked nor with what is free.

What is taken is a persistent map of bit fields, 1024 addresses each; a look-up skips a field that is full in one step. A
/16 with 65,000 addresses taken is 64 fields; an IPv6 subnet has as many fields as are in use.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator

from immutables import Map

from ovnagent.core.networks import AddressRange, IPAddress, Subnet

SHIFT = 10
FULL = (1 << (1 << SHIFT)) - 1

Taken = Map[tuple[int, int], int]
"""(IP version, address >> SHIFT) -> a bit for each address that is taken; no field is empty."""
NONE_TAKEN: Taken = Map()

Spans = tuple[tuple[int, int], ...]
"""First and last address, as numbers, of ranges of one family: sorted, apart from each other."""


def taken_with(taken: Taken, ip: IPAddress) -> Taken:
    """What is taken, and this address."""
    field, bit = _place(ip)
    return taken.set(field, taken.get(field, 0) | bit)


def taken_without(taken: Taken, ip: IPAddress) -> Taken:
    """What is taken, but for this address."""
    field, bit = _place(ip)
    bits = taken.get(field, 0) & ~bit
    if bits:
        return taken.set(field, bits)
    return taken.delete(field) if field in taken else taken


def _place(ip: IPAddress) -> tuple[tuple[int, int], int]:
    number = int(ip)
    return (ip.version, number >> SHIFT), 1 << (number & ((1 << SHIFT) - 1))


def allocatable(subnet: Subnet) -> Spans:
    """What a subnet has to give: all but the network and broadcast address, the gateway and what is reserved."""
    barred = [(int(span.first), int(span.last)) for span in subnet.reserved]
    barred += [(int(ip), int(ip)) for ip in (subnet.gateway, subnet.dhcp_server) if ip is not None]
    found, reached = [], subnet.first
    for first, last in sorted(barred):
        found.append((reached, min(first - 1, subnet.last)))  # empty where the two overlap or touch
        reached = max(reached, last + 1)
    return tuple(span for span in (*found, (reached, subnet.last)) if span[0] <= span[1])


def within(spans: Spans, pool: Iterable[AddressRange]) -> Spans:
    """The part of the spans that lies in a pool (ranges of the same family, in any order, overlapping or not)."""
    asked: list[tuple[int, int]] = []
    for first, last in sorted((int(span.first), int(span.last)) for span in pool):
        if asked and first <= asked[-1][1] + 1:
            asked[-1] = (asked[-1][0], max(asked[-1][1], last))
        else:
            asked.append((first, last))
    return tuple(
        (max(first, low), min(last, high))
        for low, high in asked
        for first, last in spans
        if max(first, low) <= min(last, high)
    )


def free_addresses(spans: Spans, version: int, seed: int, *taken: Taken) -> Iterator[IPAddress]:
    """Addresses of the spans that are in none of these, from a start that follows from `seed`, once around."""
    total = sum(last - first + 1 for first, last in spans)
    if not total:
        return
    make = ipaddress.IPv4Address if version == 4 else ipaddress.IPv6Address
    offset = seed % total
    for index, (first, last) in enumerate(spans):
        if offset <= last - first:
            start = first + offset
            around = ((start, last), *spans[index + 1 :], *spans[:index], (first, start - 1))
            for low, high in around:
                while (number := _next_free(low, high, version, taken)) is not None:
                    yield make(number)
                    low = number + 1
            return
        offset -= last - first + 1


def _next_free(first: int, last: int, version: int, taken: Iterable[Taken]) -> int | None:
    """The lowest address from `first` to `last` that is not taken."""
    while first <= last:
        field = first >> SHIFT
        bits = (1 << (first & ((1 << SHIFT) - 1))) - 1
        for each in taken:
            bits |= each.get((version, field), 0)
        free = FULL & ~bits
        if free:
            number = (field << SHIFT) + (free & -free).bit_length() - 1
            return number if number <= last else None
        first = (field + 1) << SHIFT
    return None

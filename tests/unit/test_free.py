"""Free addresses: which there are, in which order, and in how many steps."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovnagent.core import free
from ovnagent.core.free import FULL, NONE_TAKEN, SHIFT, Taken, allocatable, free_addresses, taken_with, taken_without, within
from ovnagent.core.networks import AddressRange, IPAddress, Subnet


def ip(text: str) -> IPAddress:
    return ipaddress.ip_address(text)


def span(first: str, last: str = "") -> AddressRange:
    return AddressRange(ip(first), ip(last or first))


def subnet(cidr: str, *reserved: AddressRange, gateway: str = "", dhcp_server: str = "") -> Subnet:
    return Subnet(
        ipaddress.ip_network(cidr), ip(gateway) if gateway else None, reserved, ip(dhcp_server) if dhcp_server else None
    )


def taken(*addresses: IPAddress) -> Taken:
    found = NONE_TAKEN
    for address in addresses:
        found = taken_with(found, address)
    return found


def texts(spans: free.Spans, version: int = 4) -> list[str]:
    make = ipaddress.IPv4Address if version == 4 else ipaddress.IPv6Address
    return [f"{make(first)}..{make(last)}" for first, last in spans]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (subnet("10.0.0.0/29"), ["10.0.0.1..10.0.0.6"]),
        (subnet("10.0.0.0/29", gateway="10.0.0.1"), ["10.0.0.2..10.0.0.6"]),
        (subnet("10.0.0.0/29", gateway="10.0.0.6"), ["10.0.0.1..10.0.0.5"]),
        (subnet("10.0.0.0/29", gateway="10.0.0.3", dhcp_server="10.0.0.4"), ["10.0.0.1..10.0.0.2", "10.0.0.5..10.0.0.6"]),
        (subnet("10.0.0.0/29", span("10.0.0.2", "10.0.0.4"), span("10.0.0.3", "10.0.0.3")),
         ["10.0.0.1..10.0.0.1", "10.0.0.5..10.0.0.6"]),
        (subnet("10.0.0.0/29", span("10.0.0.2", "10.0.0.3"), span("10.0.0.3", "10.0.0.5")),
         ["10.0.0.1..10.0.0.1", "10.0.0.6..10.0.0.6"]),
        (subnet("10.0.0.0/29", span("10.0.0.5"), span("10.0.0.2")),
         ["10.0.0.1..10.0.0.1", "10.0.0.3..10.0.0.4", "10.0.0.6..10.0.0.6"]),
        (subnet("10.0.0.0/29", span("10.0.0.0", "10.0.0.7")), []),
        (subnet("10.0.0.0/29", span("10.0.0.5", "10.0.0.7")), ["10.0.0.1..10.0.0.4"]),
        (subnet("10.0.0.0/29", span("10.0.0.7")), ["10.0.0.1..10.0.0.6"]),
        (subnet("10.0.0.0/30", span("9.255.255.0", "10.0.0.1")), ["10.0.0.2..10.0.0.2"]),
    ],
)  # fmt: skip
def test_what_a_subnet_has_to_give(given: Subnet, expected: list[str]) -> None:
    assert texts(allocatable(given)) == expected
    assert sum(last - first + 1 for first, last in allocatable(given)) == given.size
    everything = [str(each) for each in given.cidr if not given.refuse(each)]
    assert [str(each) for each in free_addresses(allocatable(given), 4, 0)] == everything


def test_an_ipv6_subnet_gives_all_but_its_first() -> None:
    spans = allocatable(subnet("fd00::/126", gateway="fd00::2"))
    assert texts(spans, 6) == ["fd00::1..fd00::1", "fd00::3..fd00::3"]
    assert subnet("fd00::/126", gateway="fd00::2").size == 2


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        ([span("10.0.0.3", "10.0.0.4")], ["10.0.0.3..10.0.0.4"]),
        ([span("10.0.0.9", "10.0.0.12"), span("10.0.0.3", "10.0.0.4")], ["10.0.0.3..10.0.0.4", "10.0.0.9..10.0.0.10"]),
        ([span("10.0.0.2", "10.0.0.3"), span("10.0.0.3", "10.0.0.4"), span("10.0.0.4")], ["10.0.0.2..10.0.0.4"]),
        ([span("10.0.0.2", "10.0.0.4"), span("10.0.0.3")], ["10.0.0.2..10.0.0.4"]),
        ([span("10.0.0.2"), span("10.0.0.3")], ["10.0.0.2..10.0.0.3"]),
        ([span("10.0.0.2"), span("10.0.0.4")], ["10.0.0.2..10.0.0.2", "10.0.0.4..10.0.0.4"]),
        ([span("10.0.0.4", "10.0.0.7")], ["10.0.0.4..10.0.0.4", "10.0.0.7..10.0.0.7"]),
        ([span("10.0.0.5", "10.0.0.6")], []),
        ([span("0.0.0.0", "255.255.255.255")], ["10.0.0.1..10.0.0.4", "10.0.0.7..10.0.0.10"]),
        ([span("192.168.0.1", "192.168.0.9")], []),
    ],
)
def test_a_pool_counts_only_where_the_subnet_has_it(pool: list[AddressRange], expected: list[str]) -> None:
    spans = tuple((int(ip(first)), int(ip(last))) for first, last in (("10.0.0.1", "10.0.0.4"), ("10.0.0.7", "10.0.0.10")))
    assert texts(within(spans, pool)) == expected


def test_once_around_from_a_start_that_follows_from_the_seed() -> None:
    spans = ((10, 12), (20, 21))
    for seed, expected in enumerate([[10, 11, 12, 20, 21], [11, 12, 20, 21, 10], [12, 20, 21, 10, 11], [20, 21, 10, 11, 12],
                                     [21, 10, 11, 12, 20], [10, 11, 12, 20, 21]]):  # fmt: skip
        assert [int(each) for each in free_addresses(spans, 4, seed)] == expected
    assert list(free_addresses((), 4, 7)) == []
    full = NONE_TAKEN.set((4, 0), FULL)
    assert next(free_addresses(((0, 5000),), 4, 0, full), None) == ip("0.0.4.0")
    assert [int(each) for each in free_addresses(((1022, 1025),), 4, 0, NONE_TAKEN)] == [1022, 1023, 1024, 1025]
    assert {type(each) for each in free_addresses(((1, 2),), 6, 0)} == {ipaddress.IPv6Address}


ADDRESSES = st.integers(0, 40).map(lambda number: ipaddress.IPv4Address((1 << SHIFT) - 20 + number))


@settings(max_examples=200, deadline=None)
@given(st.frozensets(ADDRESSES), st.frozensets(ADDRESSES), st.integers(0, 100), ADDRESSES, ADDRESSES)
def test_as_counted_by_hand(
    ours: frozenset[IPAddress], theirs: frozenset[IPAddress], seed: int, one: IPAddress, other: IPAddress
) -> None:
    """Around the border of two fields."""
    first, last = sorted((int(one), int(other)))
    found = list(free_addresses(((first, last),), 4, seed, taken(*ours), taken(*theirs)))
    start = seed % (last - first + 1)
    all_around = [ipaddress.IPv4Address(first + (start + step) % (last - first + 1)) for step in range(last - first + 1)]
    assert found == [each for each in all_around if each not in ours | theirs]


def test_what_is_taken_and_given_back() -> None:
    one, two, six = ip("10.0.0.1"), ip("10.0.0.2"), ip("::a00:1")
    both = taken(one, two, six)
    assert taken_without(taken_without(taken_without(both, one), two), six) == NONE_TAKEN
    assert taken_without(NONE_TAKEN, one) is NONE_TAKEN
    assert taken_without(both, one) == taken(two, six)
    assert taken_with(both, one) == both
    assert taken_without(taken(one), two) == taken(one)
    assert FULL.bit_length() == 1 << SHIFT
    assert (FULL & (FULL + 1)) == 0


class Counting:
    """What is taken, counting the fields that are asked for."""

    def __init__(self, fields: Taken) -> None:
        self.fields, self.steps = fields, 0

    def get(self, field: tuple[int, int], default: int) -> int:
        self.steps += 1
        return self.fields.get(field, default)


def full(cidr: str) -> Counting:
    net = ipaddress.ip_network(cidr)
    first, last = int(net[0]) >> SHIFT, int(net[-1]) >> SHIFT
    fields = NONE_TAKEN
    for number in range(first, last + 1):
        fields = fields.set((net.version, number), FULL)
    return Counting(fields)


@pytest.mark.parametrize(
    ("given", "pool", "steps"),
    [
        (subnet("10.16.0.0/16"), [], 66),
        (subnet("10.16.0.0/16"), [span("0.0.0.0", "255.255.255.255")], 66),
        (subnet("10.16.0.0/16"), [span(f"10.16.{n}.0", f"10.16.{n}.255") for n in range(0, 128, 2)], 66),
        (subnet("10.16.0.0/16"), [span("10.16.0.0", "10.16.255.255")] * 64, 66),
        (subnet("10.16.0.0/12"), [], 1026),
    ],
)
def test_that_nothing_is_free_is_known_after_a_look_at_each_field(
    given: Subnet, pool: list[AddressRange], steps: int
) -> None:
    """1024 addresses a step: not one by one, and not once a range that was asked for."""
    counting = full(str(given.cidr))
    spans = allocatable(given)
    found = free_addresses(within(spans, pool) if pool else spans, 4, 12345, counting)  # type: ignore[arg-type]
    assert next(found, None) is None
    assert 0 < counting.steps <= steps


def test_one_that_is_free_in_a_wide_subnet_takes_a_step() -> None:
    counting = Counting(NONE_TAKEN)
    found: Iterator[IPAddress] = free_addresses(allocatable(subnet("fd00::/48")), 6, 3 << 90, counting)  # type: ignore[arg-type]
    assert len(list(islice(found, 10))) == 10
    assert counting.steps <= 20

"""The books: what is held, by whom, and what that leaves."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovnagent.core.addresses import Holder
from ovnagent.core.books import NO_BOOK, NO_BOOKS, Book
from ovnagent.core.networks import IPAddress
from ovnagent.core.records import Lease
from ovnagent.core.vm import VmKey
from tests.desk import network

A, B = VmKey("default", "a"), VmKey("default", "b")
ONE, TWO, OTHER = Holder(A, "u1", "a.default"), Holder(A, "u1", "a.default.net.default"), Holder(B, "u2", "b.default")
PODS = network("10.16.0.0/16", "fd00::/64")


def ips(*texts: str) -> tuple[IPAddress, ...]:
    return tuple(map(ipaddress.ip_address, texts))


def lease(holder: Holder, mac: str, *texts: str, net: str = "pods") -> Lease:
    return Lease(holder.port, "default", net, ips(*texts), mac)


def bits(book: Book) -> int:
    return sum(field.bit_count() for field in book.taken.values())


def check(book: Book) -> None:
    """Every map says the same as the leases and shares."""
    assert {ip: holder for holder, held in book.leases.items() for ip in held.ips} == dict(book.ips)
    assert {held.mac: holder for holder, held in book.leases.items()} == dict(book.macs)
    users: dict[IPAddress, set[Holder]] = {}
    for holder, shared in book.shares.items():
        assert shared
        for ip in shared:
            users.setdefault(ip, set()).add(holder)
    assert {ip: frozenset(holders) for ip, holders in users.items()} == dict(book.shared)
    by_key: dict[VmKey, set[Holder]] = {}
    for holder in {*book.leases, *book.shares}:
        by_key.setdefault(holder.key, set()).add(holder)
    assert {key: frozenset(holders) for key, holders in by_key.items()} == dict(book.by_key)
    assert bits(book) == len({*book.ips, *book.shared})
    assert 0 not in book.taken.values()
    used: dict[tuple[str, int], int] = {}
    for held in book.leases.values():
        for ip in held.ips:
            used[held.network, ip.version] = used.get((held.network, ip.version), 0) + 1
    assert {key: count for key, count in book.used.items() if count} == used


def test_a_lease_is_held_by_one_and_leaves_nothing_behind() -> None:
    book = NO_BOOK.hold(ONE, lease(ONE, "0a:00:00:00:00:01", "10.16.0.5", "fd00::5"))
    check(book)
    assert book.conflict(OTHER, ips("10.16.0.5")) == ONE
    assert book.conflict(OTHER, ips("10.16.0.9", "fd00::5")) == ONE
    assert book.conflict(OTHER, (), "0a:00:00:00:00:01") == ONE
    assert book.conflict(OTHER, ips("10.16.0.6"), "0a:00:00:00:00:02") is None
    assert book.conflict(ONE, ips("10.16.0.5"), "0a:00:00:00:00:01") is None
    gone, freed = book.release(ONE)
    assert freed == ("10.16.0.5", "fd00::5", "0a:00:00:00:00:01", "pods")
    check(gone)
    assert [len(each) for each in (gone.leases, gone.ips, gone.macs, gone.by_key, gone.taken)] == [0] * 5
    assert book.leases  # whoever has the old books still has what was true


@pytest.mark.parametrize(
    "held", [lease(OTHER, "0a:00:00:00:00:02", "10.16.0.5"), lease(OTHER, "0a:00:00:00:00:01", "10.16.0.6")]
)
def test_nobody_is_given_what_another_has(held: Lease) -> None:
    book = NO_BOOK.hold(ONE, lease(ONE, "0a:00:00:00:00:01", "10.16.0.5"))
    with pytest.raises(ValueError, match="overlaps with what another port holds"):
        book.hold(OTHER, held)


def test_a_new_lease_takes_the_place_of_the_old_one() -> None:
    book = NO_BOOK.hold(ONE, lease(ONE, "0a:00:00:00:00:01", "10.16.0.5", net="old"))
    book = book.hold(ONE, lease(ONE, "0a:00:00:00:00:02", "10.16.0.6"))
    check(book)
    assert book.conflict(OTHER, ips("10.16.0.5"), "0a:00:00:00:00:01") is None
    books = NO_BOOKS.put("ovn-default", book)
    assert list(books.used(PODS)) == [(4, 1), (6, 0)]


def test_a_shared_address_is_taken_while_one_is_left_who_shares_it() -> None:
    vip = frozenset(ips("10.16.0.50"))
    book = NO_BOOK.share(ONE, vip).share(OTHER, vip)
    check(book)
    assert bits(book) == 1
    assert book.share(ONE, vip) is book
    book = book.share(ONE, frozenset())
    check(book)
    assert bits(book) == 1
    assert list(book.shared.values()) == [frozenset({OTHER})]
    book, freed = book.release(OTHER)
    assert freed == ("10.16.0.50",)
    check(book)
    assert not book.taken


def test_an_address_held_and_shared_is_taken_until_both_have_ended() -> None:
    """(Its own guest may announce it by a MAC of its own.)"""
    own = frozenset(ips("10.16.0.5"))
    book = NO_BOOK.hold(ONE, lease(ONE, "0a:00:00:00:00:01", "10.16.0.5")).share(ONE, own)
    check(book)
    assert bits(book.share(ONE, frozenset())) == 1
    moved = book.hold(ONE, lease(ONE, "0a:00:00:00:00:01", "10.16.0.6"))
    check(moved)
    assert bits(moved) == 2
    check(moved.release(ONE)[0])


def test_a_machine_under_a_new_identity_has_all_it_had() -> None:
    heir = Holder(A, "u9", "a.default")
    book = NO_BOOK.hold(ONE, lease(ONE, "0a:00:00:00:00:01", "10.16.0.5")).share(ONE, frozenset(ips("10.16.0.50")))
    renamed = book.rename(ONE, heir)
    check(renamed)
    assert renamed.leases[heir] == lease(heir, "0a:00:00:00:00:01", "10.16.0.5")
    assert renamed.shares[heir] == frozenset(ips("10.16.0.50"))
    assert ONE not in renamed.leases
    assert renamed.by_key[A] == frozenset({heir})


def test_the_books_of_all_switches() -> None:
    books = NO_BOOKS.put("s1", NO_BOOK.hold(ONE, lease(ONE, "0a:00:00:00:00:01", "10.16.0.5")))
    books = books.put("s2", NO_BOOK.hold(TWO, lease(TWO, "0a:00:00:00:00:01", "10.16.0.5")))  # another switch, another world
    books = books.put("s2", books["s2"].share(OTHER, frozenset(ips("10.16.0.50"))))
    assert sorted(books.of(A)) == [("s1", ONE), ("s2", TWO)]
    assert books.of(VmKey("default", "c")) == []
    many = [Holder(A, f"u{number}", f"{number}.default") for number in range(8)]
    crowd = NO_BOOK
    for holder in many:
        crowd = crowd.share(holder, frozenset(ips("10.16.0.50")))
    assert NO_BOOKS.put("s", crowd).of(A) == [("s", holder) for holder in many]
    assert list(books.shared()) == [("s2", ips("10.16.0.50")[0], frozenset({OTHER}))]
    assert books["nowhere"] is NO_BOOK
    assert books.put("nowhere", NO_BOOK) is books
    assert books.put("s1", books["s1"]) is books
    more = books.put("s1", books["s1"].hold(OTHER, lease(OTHER, "0a:00:00:00:00:02", "10.16.0.6")))
    assert books.same_shares(more)
    assert not books.same_shares(NO_BOOKS)
    assert not NO_BOOKS.same_shares(books)


HOLDERS = st.sampled_from([ONE, TWO, OTHER])
SOME = st.sampled_from(ips("10.16.0.5", "10.16.0.6", "10.16.4.5", "fd00::5"))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["hold", "share", "release", "rename"]), HOLDERS, st.frozensets(SOME), HOLDERS)))
def test_every_map_says_the_same_after_every_change(steps: list[tuple[str, Holder, frozenset[IPAddress], Holder]]) -> None:
    book = NO_BOOK
    for step, holder, some, other in steps:
        mac = f"0a:00:00:00:00:{len(some):02x}"
        match step:
            case "hold":
                wanted = Lease(holder.port, "default", "pods", tuple(some), mac)
                if some and book.conflict(holder, wanted.ips, wanted.mac) is None:
                    book = book.hold(holder, wanted)
            case "share":
                book = book.share(holder, some)
            case "release":
                book, _ = book.release(holder)
            case "rename":
                book = book.rename(holder, other)
        check(book)

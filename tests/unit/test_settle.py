"""Who is granted what, claim against claim: rows, records, requests, wishes."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from ovnagent.core.addresses import Claim, Foreign, Holder, Standing
from ovnagent.core.books import NO_BOOKS, Books
from ovnagent.core.networks import AddressRange
from ovnagent.core.ports import Port, PresentPort
from ovnagent.core.records import Lease
from ovnagent.core.requests import Pair, Request
from ovnagent.core.settle import Settlement, settle
from ovnagent.core.vm import VmKey
from tests.desk import foreign, network

NET = network("10.16.0.0/24", "fd00::/64", reserved=(("10.16.0.100", "10.16.0.100"),))
SWITCH = NET.logical_switch
MACS = {"a": "0a:00:00:00:00:0a", "b": "0a:00:00:00:00:0b", "c": "0a:00:00:00:00:0c"}


def lease(name: str, ips: str, mac: str = "") -> Lease:
    return Lease(f"{name}.default", "default", "pods", tuple(map(ip_address, ips.split(","))), mac or MACS[name])


def claim(
    name: str,
    *records: str,
    row: str = "",
    last: str = "",
    ask: str = "",
    pool: str = "",
    wish: str = "",
    pairs: str = "",
    created: str = "",
    running: bool = False,
    namespace: str = "default",
) -> Claim:
    """Of VM a, b or c, of which a is the oldest unless told otherwise. Addresses: commas between those of one lease."""
    request = Request(
        ips=tuple(map(ip_address, filter(None, ask.split(",")))),
        ips_key="ip_address",
        pool=tuple(AddressRange(ip_address(ip), ip_address(ip)) for ip in filter(None, [pool])),
        pairs=tuple(Pair(ip_address(ip), "") for ip in filter(None, [pairs])),
    )
    return Claim(
        holder=Holder(VmKey(namespace, name), f"uid-{name}", f"{name}.default"),
        interface="default",
        network=NET,
        request=request,
        row=lease(name, row) if row else None,
        last_row=lease(name, last) if last else None,
        records=tuple(lease(name, ips) for ips in records),
        wishes=(lease("c", wish),) if wish else (),
        reported_mac="",
        running=running,
        created=created or name,
    )


def settled(
    *claims: Claim,
    books: Books = NO_BOOKS,
    others: Foreign | None = None,
    standing: tuple[Standing, ...] = (),
    virtual: tuple[PresentPort, ...] = (),
) -> Settlement:
    result = settle(claims, standing, books, {SWITCH: others or Foreign()}, {row.port.name: row for row in virtual})
    assert not result.failed
    return result


def has(result: Settlement, name: str, namespace: str = "default") -> str:
    """Its addresses; empty where no port is granted."""
    given = result.grants[Holder(VmKey(namespace, name), f"uid-{name}", f"{name}.default")].lease
    return ",".join(map(str, given.ips)) if given is not None else ""


def macs_of(result: Settlement, claimed: Claim) -> str:
    given = result.grants[claimed.holder].lease
    return given.mac if given is not None else ""


def v4(result: Settlement, name: str) -> str:
    return has(result, name).partition(",")[0]


def shared_row(ip: str, *parents: str) -> PresentPort:
    options = (("virtual-ip", ip), ("virtual-parents", ",".join(f"{name}.default" for name in parents)))
    return PresentPort("v", Port(f"{ip}.{SWITCH}", SWITCH, type="virtual", options=options))


# ---- rows and records -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        # the record before the row, also where only one of two records says otherwise; the VM's own record first
        ([claim("a", "10.16.0.60", row="10.16.0.50")], {"a": "10.16.0.60"}),
        ([claim("a", "10.16.0.60", "10.16.0.50", row="10.16.0.50")], {"a": "10.16.0.60"}),
        ([claim("a", "10.16.0.50", "10.16.0.60", row="10.16.0.50")], {"a": "10.16.0.50"}),
        # an older VM's record does not take what another's row has...
        ([claim("a", "10.16.0.50"), claim("b", row="10.16.0.50")], {"a": "", "b": "10.16.0.50"}),
        # ...also where that other has a record of its own, if that one gives him nothing
        (
            [claim("a", "10.16.0.50"), claim("b", "10.16.0.60", row="10.16.0.50"), claim("c", row="10.16.0.60")],
            {"a": "", "b": "10.16.0.50", "c": "10.16.0.60"},
        ),
        # he may move on by it, and then the address is free
        ([claim("a", "10.16.0.50"), claim("b", "10.16.0.60", row="10.16.0.50")], {"a": "10.16.0.50", "b": "10.16.0.60"}),
        # each has the other's: they have exchanged them since the rows were written (a database was restored)
        (
            [claim("a", "10.16.0.60", row="10.16.0.50"), claim("b", "10.16.0.50", row="10.16.0.60")],
            {"a": "10.16.0.60", "b": "10.16.0.50"},
        ),
        # unless a third one has a row with one of them
        (
            [
                claim("a", "10.16.0.60,fd00::7", row="10.16.0.50"),
                claim("b", "10.16.0.50", row="10.16.0.60"),
                claim("c", row="fd00::7", running=True),
            ],
            {"a": "10.16.0.50", "b": "10.16.0.60"},
        ),
        # a row with what is asked for is younger than a record without, and nobody who asks takes it
        (
            [claim("a", ask="10.16.0.50"), claim("b", "10.16.0.60", row="10.16.0.50", ask="10.16.0.50")],
            {"a": "", "b": "10.16.0.50"},
        ),
        (
            [claim("a", "10.16.0.50"), claim("b", "10.16.0.60", row="10.16.0.50", ask="10.16.0.50")],
            {"a": "", "b": "10.16.0.50"},
        ),
        # two have exchanged theirs, and the record of a third, older one brings up the first of them
        (
            [
                claim("a", "10.16.0.50"),
                claim("b", "10.16.0.60", row="10.16.0.50"),
                claim("c", "10.16.0.50", row="10.16.0.60"),
            ],
            {"a": "", "b": "10.16.0.60", "c": "10.16.0.50"},
        ),
        # none of two moves where the record of one names what the row of an outsider has, who has not had his turn
        (
            [
                claim("a", "10.16.0.60,fd00::7", row="10.16.0.50"),
                claim("b", "10.16.0.50", row="10.16.0.60"),
                claim("c", "10.16.0.70", row="fd00::7"),
            ],
            {"a": "10.16.0.50", "b": "10.16.0.60", "c": "10.16.0.70"},
        ),
        # a stopped VM's row counts as far as the network has its address to give
        ([claim("a", "10.16.0.50", row="10.16.0.100"), claim("b", row="10.16.0.50")], {"a": "", "b": "10.16.0.50"}),
        ([claim("a", row="10.16.0.100", running=True)], {"a": "10.16.0.100"}),
    ],
)
def test_rows_and_records(claims: list[Claim], expected: dict[str, str]) -> None:
    for order in (claims, claims[::-1]):
        result = settled(*order)
        assert {name: v4(result, name) for name in expected} == expected


@pytest.mark.parametrize("ip", ["10.16.0.1", "10.16.0.0", "10.16.0.100", "10.99.0.1"])
def test_a_running_guest_has_no_right_to_what_only_its_record_says(ip: str) -> None:
    result = settled(claim("a", ip, running=True))
    assert v4(result, "a") not in (ip, "")
    (grant,) = result.grants.values()
    assert grant.lease is not None
    assert grant.lease.mac != MACS["a"]  # nor to the MAC beside it
    assert [problem.reason for problem in grant.problems] == ["AddressRefused"]


def test_an_older_vm_s_record_does_not_take_the_mac_that_another_s_row_has() -> None:
    """Also where that other's record is behind his row, which waits for it."""
    victim = claim("b", "10.16.0.60", row="10.16.0.50", running=True)
    forged = replace(claim("a", running=True), records=(lease("a", "10.16.0.70", MACS["b"]),))
    result = settled(forged, victim)
    assert v4(result, "a") == "10.16.0.70"
    assert {name: result.grants[each.holder].lease.mac == MACS["b"] for name, each in (("a", forged), ("b", victim))} == {  # type: ignore[union-attr]
        "a": False,
        "b": True,
    }


def test_what_others_use_is_no_record_s_to_give_but_a_row_s() -> None:
    others = foreign({"10.16.0.50": "port theirs", "fd00::50": "port theirs"})
    assert has(settled(claim("a", "10.16.0.40,fd00::50"), others=others), "a") == ""
    assert v4(settled(claim("a", "10.16.0.60", row="10.16.0.50"), claim("b", row="10.16.0.60"), others=others), "a") == (
        "10.16.0.50"
    )


def test_the_books_are_younger_than_the_row() -> None:
    holder = claim("a").holder
    books = NO_BOOKS.put(SWITCH, NO_BOOKS[SWITCH].hold(holder, lease("a", "10.16.0.51,fd00::51")))
    assert has(settled(claim("a", row="10.16.0.50"), books=books), "a") == "10.16.0.51,fd00::51"
    stands = Standing(holder, SWITCH, lease("a", "10.16.0.50"))
    assert ip_address("10.16.0.51") in settled(standing=(stands,), books=books).books[SWITCH].ips


EXCHANGED = (claim("a", "10.16.0.60", row="10.16.0.50"), claim("b", "10.16.0.50", row="10.16.0.60"))


def test_who_exchanges_addresses_keeps_the_macs_of_the_records() -> None:
    result = settled(*EXCHANGED)
    assert {each.holder.key.name: macs_of(result, each) for each in EXCHANGED} == {"a": MACS["a"], "b": MACS["b"]}


def test_what_one_of_them_would_take_from_somebody_else_none_of_them_takes() -> None:
    stays = {"a": "10.16.0.50", "b": "10.16.0.60"}
    others = foreign({"10.16.0.60": "port theirs"})
    result = settled(*EXCHANGED, others=others)
    assert {name: v4(result, name) for name in stays} == stays
    sharer = claim("c").holder
    shared = NO_BOOKS.put(SWITCH, NO_BOOKS[SWITCH].share(sharer, frozenset({ip_address("10.16.0.60")})))
    result = settled(*EXCHANGED, books=shared)
    assert {name: v4(result, name) for name in stays} == stays


def test_the_mac_of_somebody_s_row_is_not_taken_from_him_by_an_exchange() -> None:
    first, second = EXCHANGED
    first = replace(first, records=(lease("a", "10.16.0.60", MACS["c"]),))
    victim = claim("c", "10.16.0.70", row="10.16.0.80", running=True)
    result = settled(first, second, victim)
    assert (v4(result, "a"), v4(result, "b"), v4(result, "c")) == ("10.16.0.60", "10.16.0.50", "10.16.0.70")
    assert macs_of(result, victim) == MACS["c"]
    assert macs_of(result, first) != MACS["c"]


def test_no_record_takes_the_mac_of_another_in_the_round_that_keeps_it() -> None:
    """A forged one: what the other's row, record and guest have is his, whoever is looked at first."""
    for first, second in (("a", "b"), ("b", "a")):
        forged = replace(claim(first, row="10.16.0.50", running=True), records=(lease(first, "10.16.0.60", MACS[second]),))
        victim = replace(claim(second, "10.16.0.50", row="10.16.0.60", running=True), reported_mac=MACS[second])
        result = settled(forged, victim)
        assert (v4(result, first), v4(result, second)) == ("10.16.0.60", "10.16.0.50")
        assert (macs_of(result, victim), macs_of(result, forged) == MACS[second]) == (MACS[second], False)


def test_who_is_in_two_rounds_moves_once() -> None:
    """a -> b -> c -> a, and by a second record b -> a: there c would be an outsider, and its MAC not a's to take."""
    first = replace(claim("a", row="10.16.0.50,fd00::5"), records=(lease("a", "10.16.0.60", MACS["c"]),))
    claims = (
        first,
        claim("b", "10.16.0.90", "10.16.0.70,fd00::5", row="10.16.0.60"),
        replace(claim("c", row="10.16.0.70"), records=(lease("c", "10.16.0.50", "0a:00:00:00:00:0d"),)),
    )
    result = settled(*claims)
    assert [v4(result, name) for name in "abc"] == ["10.16.0.60", "10.16.0.90", "10.16.0.50"]
    assert [macs_of(result, each) for each in claims] == [MACS["c"], MACS["b"], "0a:00:00:00:00:0d"]


def test_in_a_round_with_one_whose_record_gives_it_nothing_nobody_moves() -> None:
    """Its row has what a third one holds already."""
    books = NO_BOOKS.put(SWITCH, NO_BOOKS[SWITCH].hold(claim("c").holder, lease("c", "10.16.0.50")))
    result = settled(
        claim("a", "10.16.0.100", row="10.16.0.50", running=True),
        claim("b", "10.16.0.50", row="10.16.0.100", running=True),
        claim("c"),
        books=books,
    )
    assert [v4(result, name) for name in "abc"] == ["", "10.16.0.100", "10.16.0.50"]


def test_a_round_on_which_the_agent_fails_is_a_failure_of_all_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no good")

    monkeypatch.setattr("ovnagent.core.settle._move_round", fail)
    outsider = claim("c", row="10.16.0.80")
    result = settle((*EXCHANGED, outsider), (), NO_BOOKS, {}, {})
    assert {key: str(error) for key, error in result.failed.items()} == {each.holder.key: "no good" for each in EXCHANGED}
    assert v4(result, "c") == "10.16.0.80"


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        # the database was emptied: what was seen before, as far as the network has it to give; a guest that runs keeps it
        ([claim("a", "10.16.0.50", last="10.16.0.50")], {"a": "10.16.0.50"}),
        ([claim("a", "10.16.0.100", last="10.16.0.100", running=True)], {"a": "10.16.0.100"}),
        # a row that is there goes before one that was
        (
            [claim("a", "10.16.0.50", last="10.16.0.50"), claim("b", "10.16.0.50", row="10.16.0.50")],
            {"a": "", "b": "10.16.0.50"},
        ),
        # of one VM's, the one that was seen before is the younger
        ([claim("a", "10.16.0.60", row="10.16.0.50", last="10.16.0.60", running=True)], {"a": "10.16.0.60"}),
    ],
)
def test_the_row_that_was_seen_before(claims: list[Claim], expected: dict[str, str]) -> None:
    for order in (claims, claims[::-1]):
        result = settled(*order)
        assert {name: v4(result, name) for name in expected} == expected


def test_a_stopped_vm_does_not_get_back_what_is_reserved_since_its_row_was_seen_but_the_rest() -> None:
    told = "10.16.0.100,fd00::50"
    older, its = claim("a", "fd00::50"), claim("b", told, last=told)
    result = settled(older, its, claim("c", row="10.16.0.100", running=True))
    assert has(result, "a") == ""
    v4_of_it, _, v6_of_it = has(result, "b").partition(",")
    assert (v4_of_it == "10.16.0.100", v6_of_it) == (False, "fd00::50")


def test_the_books_are_younger_than_the_row_that_was_seen_before() -> None:
    holder = claim("a").holder
    books = NO_BOOKS.put(SWITCH, NO_BOOKS[SWITCH].hold(holder, lease("a", "10.16.0.51,fd00::51")))
    for last in ("10.16.0.50", ""):
        assert has(settled(claim("a", last=last, running=True), books=books), "a") == "10.16.0.51,fd00::51"


# ---- rows that stand without a claim ---------------------------------------------------------------------------------


def test_of_two_rows_that_stand_with_one_address_it_is_always_the_same_one_that_counts() -> None:
    rows = [Standing(claim(name).holder, SWITCH, lease(name, "10.16.0.50")) for name in ("a", "b")]
    rows.append(Standing(claim("c").holder, SWITCH, None))  # somebody mangled its addresses
    for order in (rows, rows[::-1]):
        book = settled(standing=tuple(order)).books[SWITCH]
        assert {holder.key.name for holder in book.leases} == {"a"}


def test_what_stands_goes_on_sharing_what_nobody_holds() -> None:
    stands = Standing(claim("a").holder, SWITCH, lease("a", "10.16.0.40"))
    rows = (shared_row("10.16.0.50", "a", "b"), shared_row("10.16.0.60", "a"))
    books = NO_BOOKS.put(SWITCH, NO_BOOKS[SWITCH].hold(claim("b").holder, lease("b", "10.16.0.60")))
    book = settled(standing=(stands,), books=books, virtual=rows).books[SWITCH]
    assert book.shares[stands.holder] == {ip_address("10.16.0.50")}
    known = NO_BOOKS.put(SWITCH, NO_BOOKS[SWITCH].share(stands.holder, frozenset({ip_address("10.16.0.70")})))
    book = settled(standing=(stands,), books=known, virtual=rows).books[SWITCH]
    assert book.shares[stands.holder] == {ip_address("10.16.0.70")}  # the rows lag behind the books


# ---- requests, shares, wishes ----------------------------------------------------------------------------------------


def test_a_pool_is_a_request_and_goes_before_an_older_wish() -> None:
    result = settled(claim("a", wish="10.16.0.50"), claim("b", pool="10.16.0.50"))
    assert v4(result, "b") == "10.16.0.50"
    assert v4(result, "a") not in ("", "10.16.0.50")


def test_of_two_namespaces_that_share_against_the_rule_the_first_goes_on() -> None:
    """The rule was changed while they did."""
    first, second = claim("a", pairs="10.16.0.50"), claim("b", pairs="10.16.0.50", namespace="other")
    result = settled(first, second, virtual=(shared_row("10.16.0.50", "a", "b"),))
    assert [len(result.grants[each.holder].pairs) for each in (first, second)] == [1, 0]

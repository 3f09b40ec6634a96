"""The books: who holds which address and MAC on each logical switch. Values: a change makes new books, and whoever has the
old ones still has what was true.

They know nothing of Kubernetes or OVN. What they hold follows from rows and records alone, so a restarted agent writes the
same books again (core/settle.py with all VMs at once). Persistent maps (a copy that shares all but what differs): a change
costs a few microseconds at 10,000 ports, and books of a plan that was never committed are simply dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from immutables import Map

from ovnagent.core.addresses import Holder
from ovnagent.core.free import NONE_TAKEN, Taken, taken_with, taken_without
from ovnagent.core.networks import IPAddress, Network
from ovnagent.core.records import Lease
from ovnagent.core.vm import VmKey

NOBODY: frozenset[Holder] = frozenset()
_EMPTY: Map[Any, Any] = Map()


@dataclass(frozen=True, slots=True)
class Book:
    """The addresses and MACs held on one logical switch. No address and no MAC is ever held twice."""

    leases: Map[Holder, Lease] = _EMPTY
    by_key: Map[VmKey, frozenset[Holder]] = _EMPTY
    """Who of a VM holds or shares anything."""
    ips: Map[IPAddress, Holder] = _EMPTY
    macs: Map[str, Holder] = _EMPTY
    shares: Map[Holder, frozenset[IPAddress]] = _EMPTY
    shared: Map[IPAddress, frozenset[Holder]] = _EMPTY
    """Addresses that several may use in turn, which nobody is given as his own -> who may."""
    taken: Taken = NONE_TAKEN
    """All addresses of `ips` and `shared`."""
    used: Map[tuple[str, int], int] = _EMPTY
    """(network name, IP version) -> addresses held."""

    def hold(self, holder: Holder, lease: Lease) -> Book:
        """With a lease in place of the holder's old one.

        Raises ValueError where another holder has one of its addresses: ask `conflict` first."""
        if self.conflict(holder, lease.ips, lease.mac) is not None:
            raise ValueError(f"{lease} overlaps with what another port holds")
        book = self._without_lease(holder)
        ips, taken, used = book.ips, book.taken, book.used
        for ip in lease.ips:
            ips = ips.set(ip, holder)
            taken = taken_with(taken, ip)
            used = used.set((lease.network, ip.version), used.get((lease.network, ip.version), 0) + 1)
        return replace(
            book,
            leases=book.leases.set(holder, lease),
            by_key=book.by_key.set(holder.key, book.by_key.get(holder.key, NOBODY) | {holder}),
            ips=ips,
            macs=book.macs.set(lease.mac, holder),
            taken=taken,
            used=used,
        )

    def share(self, holder: Holder, ips: frozenset[IPAddress]) -> Book:
        """With these as the addresses that the holder may use besides its own, with others."""
        before = self.shares.get(holder, frozenset())
        if before == ips:
            return self
        shared, taken = self.shared, self.taken
        for ip in before - ips:
            users = shared[ip] - {holder}
            shared = shared.set(ip, users) if users else shared.delete(ip)
            if not users and ip not in self.ips:
                taken = taken_without(taken, ip)
        for ip in ips - before:
            shared = shared.set(ip, shared.get(ip, NOBODY) | {holder})
            taken = taken_with(taken, ip)
        shares = self.shares.set(holder, ips) if ips else self.shares.delete(holder)
        by_key = self.by_key.set(holder.key, self.by_key.get(holder.key, NOBODY) | {holder})
        return replace(self, shares=shares, shared=shared, taken=taken, by_key=by_key)._forgetting(holder)

    def release(self, holder: Holder) -> tuple[Book, tuple[str, ...]]:
        """Without anything that the holder has; and what became free by that (see Problem.waits_for)."""
        lease, shared = self.leases.get(holder), self.shares.get(holder, frozenset())
        freed = (*map(str, lease.ips), lease.mac, lease.network) if lease is not None else ()
        return self.share(holder, frozenset())._without_lease(holder), (*freed, *map(str, shared))

    def rename(self, holder: Holder, to: Holder) -> Book:
        """All handed on to another identity of the same machine (a VM adopts an orphaned VMI)."""
        lease, shared = self.leases.get(holder), self.shares.get(holder, frozenset())
        book, _ = self.release(holder)
        if lease is not None:
            book = book.hold(to, replace(lease, port=to.port))
        return book.share(to, shared)

    def conflict(self, holder: Holder, ips: Iterable[IPAddress], mac: str = "") -> Holder | None:
        """Another holder of one of these, or None."""
        for other in (*(self.ips.get(ip) for ip in ips), self.macs.get(mac)):
            if other is not None and other != holder:
                return other
        return None

    def _without_lease(self, holder: Holder) -> Book:
        lease = self.leases.get(holder)
        if lease is None:
            return self
        ips, taken, used = self.ips, self.taken, self.used
        for ip in lease.ips:
            ips = ips.delete(ip)
            if ip not in self.shared:
                taken = taken_without(taken, ip)
            used = used.set((lease.network, ip.version), used[lease.network, ip.version] - 1)
        book = replace(
            self, leases=self.leases.delete(holder), ips=ips, macs=self.macs.delete(lease.mac), taken=taken, used=used
        )
        return book._forgetting(holder)

    def _forgetting(self, holder: Holder) -> Book:
        if holder in self.leases or holder in self.shares:
            return self
        left = self.by_key.get(holder.key, NOBODY) - {holder}
        if left:
            return replace(self, by_key=self.by_key.set(holder.key, left))
        return replace(self, by_key=self.by_key.delete(holder.key))


NO_BOOK = Book()


@dataclass(frozen=True, slots=True)
class Books:
    """The books of all logical switches."""

    by_switch: Map[str, Book] = _EMPTY

    def __getitem__(self, switch: str) -> Book:
        """A switch's book; an empty one where nobody holds anything."""
        return self.by_switch.get(switch, NO_BOOK)

    def put(self, switch: str, book: Book) -> Books:
        """With this book for a switch."""
        return self if self.by_switch.get(switch, NO_BOOK) is book else Books(self.by_switch.set(switch, book))

    def of(self, key: VmKey) -> list[tuple[str, Holder]]:
        """(logical switch, holder) of all that a VM's ports hold, under whatever UID."""
        return [
            (switch, holder) for switch, book in self.by_switch.items() for holder in sorted(book.by_key.get(key, NOBODY))
        ]

    def shared(self) -> Iterator[tuple[str, IPAddress, frozenset[Holder]]]:
        """(logical switch, address, who may use it in turn)."""
        for switch, book in self.by_switch.items():
            for ip, holders in book.shared.items():
                yield switch, ip, holders

    def same_shares(self, other: Books) -> bool:
        """Nothing about shared addresses differs (told by identity: at worst a difference too many)."""
        switches = {*self.by_switch, *other.by_switch}
        return all(self[switch].shared is other[switch].shared for switch in switches)

    def used(self, network: Network) -> Iterator[tuple[int, int]]:
        """(IP version, addresses held) of a network."""
        for subnet in network.subnets:
            yield subnet.version, self[network.logical_switch].used.get((network.name, subnet.version), 0)


NO_BOOKS = Books()

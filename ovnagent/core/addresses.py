"""Who holds which address: the books of the logical switches, and what a VM is granted.

An address is held by a port of a VM for as long as the VM exists. The books know nothing of Kubernetes or OVN; what they
hold follows from the rows and the records alone, so a restarted agent writes the same books again (`settle` with all VMs
at once).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from ovnagent.core.networks import IPAddress, Network
from ovnagent.core.problems import Problem
from ovnagent.core.records import Lease
from ovnagent.core.requests import Pair, Request
from ovnagent.core.vm import VmKey


class Holder(NamedTuple):
    """A port of a VM, as the holder of addresses."""

    key: VmKey
    uid: str
    port: str


@dataclass(frozen=True, slots=True)
class Foreign:
    """Addresses of a switch that others use: address -> a phrase that names the user (`port x`, `router port y`)."""

    ips: Mapping[str, str] = field(default_factory=dict)
    macs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Claim:
    """One interface's case: what it asks for, what it holds by right, and what it would like."""

    holder: Holder
    interface: str
    network: Network
    request: Request
    held: tuple[Lease, ...]
    """From record and row with the owner's own UID, the one that counts first. They differ where the agent died between
    writing the one and the other, or where a database was restored."""
    wishes: tuple[Lease, ...]
    """From records and rows with another UID, those of the same namespace/name first."""
    reported_mac: str
    """What KubeVirt says the running guest has on the wire, or empty."""
    running: bool
    created: str

    @property
    def order(self) -> tuple[bool, str, VmKey, str]:
        """Who goes first where two ask for the same: the running one, then the older one."""
        return not self.running, self.created, self.holder.key, self.holder.port


@dataclass(frozen=True, slots=True)
class Grant:
    """The lease (None: no port is written) and what could not be granted."""

    lease: Lease | None
    problems: tuple[Problem, ...] = ()
    pairs: tuple[Pair, ...] = ()
    """Those of the further addresses asked for that it may use."""


class Book:
    """The addresses and MACs held on one logical switch. No address and no MAC is ever held twice."""

    def __init__(self) -> None:
        self.leases: dict[Holder, Lease] = {}
        self.by_key: defaultdict[VmKey, set[Holder]] = defaultdict(set)
        self.ips: dict[IPAddress, Holder] = {}
        self.macs: dict[str, Holder] = {}
        self.shares: dict[Holder, frozenset[IPAddress]] = {}
        self.shared: defaultdict[IPAddress, set[Holder]] = defaultdict(set)
        """Addresses that several may use in turn, which nobody is given as his own -> who may."""
        self.used: Counter[tuple[str, int]] = Counter()
        """(network name, IP version) -> addresses held."""

    def hold(self, holder: Holder, lease: Lease) -> None:
        """Enter a lease in place of the holder's old one.

        Raises ValueError where another holder has one of its addresses: ask `conflict` first."""
        if self.conflict(holder, lease.ips, lease.mac):
            raise ValueError(f"{lease} overlaps with what another port holds")
        self._drop(holder)
        self.leases[holder] = lease
        self.by_key[holder.key].add(holder)
        self.macs[lease.mac] = holder
        for ip in lease.ips:
            self.ips[ip] = holder
            self.used[lease.network, ip.version] += 1

    def share(self, holder: Holder, ips: frozenset[IPAddress]) -> bool:
        """Enter which addresses the holder may use besides its own, with others; whether that is news."""
        before = self.shares.pop(holder, frozenset())
        for ip in before - ips:
            self.shared[ip].discard(holder)
            if not self.shared[ip]:
                del self.shared[ip]
        for ip in ips:
            self.shared[ip].add(holder)
        if ips:
            self.shares[holder] = ips
            self.by_key[holder.key].add(holder)
        else:
            self._forget(holder)
        return ips != before

    def release(self, holder: Holder) -> tuple[str, ...]:
        """Free what the holder has; returns what may be waited for (see Problem.waits_for)."""
        shared = self.shares.get(holder, frozenset())
        self.share(holder, frozenset())
        return (*self._drop(holder), *map(str, shared))

    def _drop(self, holder: Holder) -> tuple[str, ...]:
        lease = self.leases.pop(holder, None)
        if lease is None:
            return ()
        self._forget(holder)
        del self.macs[lease.mac]
        for ip in lease.ips:
            del self.ips[ip]
            self.used[lease.network, ip.version] -= 1
        return (*map(str, lease.ips), lease.mac, lease.network)

    def _forget(self, holder: Holder) -> None:
        if holder not in self.leases and holder not in self.shares:
            self.by_key[holder.key].discard(holder)
            if not self.by_key[holder.key]:
                del self.by_key[holder.key]

    def rename(self, holder: Holder, to: Holder) -> None:
        """Hand all on to another identity of the same machine (a VM adopts an orphaned VMI)."""
        lease, shared = self.leases.get(holder), self.shares.get(holder, frozenset())
        self.release(holder)
        if lease is not None:
            self.hold(to, lease)
        self.share(to, shared)

    def conflict(self, holder: Holder, ips: Iterable[IPAddress], mac: str) -> Holder | None:
        """Another holder of one of these, or None."""
        for other in (*(self.ips.get(ip) for ip in ips), self.macs.get(mac)):
            if other is not None and other != holder:
                return other
        return None


class Books:
    """The books of all logical switches."""

    def __init__(self, switches: Iterable[str]) -> None:
        self._books = {switch: Book() for switch in switches}
        self.shares_changed = False
        """Since somebody last looked at `shared` and set it back."""

    def __getitem__(self, switch: str) -> Book:
        return self._books[switch]

    def of(self, key: VmKey) -> list[tuple[str, Holder]]:
        """(logical switch, holder) of all that a VM's ports hold, under whatever UID."""
        return [(switch, holder) for switch, book in self._books.items() for holder in sorted(book.by_key.get(key, ()))]

    def shared(self) -> Iterator[tuple[str, IPAddress, set[Holder]]]:
        """(logical switch, address, who may use it in turn)."""
        for switch, book in self._books.items():
            for ip, holders in book.shared.items():
                yield switch, ip, holders

    def used(self, network: Network) -> Iterator[tuple[int, int]]:
        """(IP version, addresses held) of a network."""
        for subnet in network.subnets:
            yield subnet.version, self._books[network.logical_switch].used[network.name, subnet.version]

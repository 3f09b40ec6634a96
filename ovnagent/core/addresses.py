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
from ovnagent.core.requests import Request
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


class Book:
    """The addresses and MACs held on one logical switch. No address and no MAC is ever held twice."""

    def __init__(self) -> None:
        self.leases: dict[Holder, Lease] = {}
        self.by_key: defaultdict[VmKey, set[Holder]] = defaultdict(set)
        self.ips: dict[IPAddress, Holder] = {}
        self.macs: dict[str, Holder] = {}
        self.used: Counter[tuple[str, int]] = Counter()
        """(network name, IP version) -> addresses held."""

    def hold(self, holder: Holder, lease: Lease) -> None:
        """Enter a lease in place of the holder's old one.

        Raises ValueError where another holder has one of its addresses: ask `conflict` first."""
        if self.conflict(holder, lease.ips, lease.mac):
            raise ValueError(f"{lease} overlaps with what another port holds")
        self.release(holder)
        self.leases[holder] = lease
        self.by_key[holder.key].add(holder)
        self.macs[lease.mac] = holder
        for ip in lease.ips:
            self.ips[ip] = holder
            self.used[lease.network, ip.version] += 1

    def release(self, holder: Holder) -> tuple[str, ...]:
        """Free what the holder has; returns what may be waited for (see Problem.waits_for)."""
        lease = self.leases.pop(holder, None)
        if lease is None:
            return ()
        self.by_key[holder.key].discard(holder)
        if not self.by_key[holder.key]:
            del self.by_key[holder.key]
        del self.macs[lease.mac]
        for ip in lease.ips:
            del self.ips[ip]
            self.used[lease.network, ip.version] -= 1
        return (*map(str, lease.ips), lease.mac, lease.network)

    def rename(self, holder: Holder, to: Holder) -> None:
        """Hand a lease on to another identity of the same machine (a VM adopts an orphaned VMI)."""
        lease = self.leases[holder]
        self.release(holder)
        self.hold(to, lease)

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

    def __getitem__(self, switch: str) -> Book:
        return self._books[switch]

    def of(self, key: VmKey) -> list[tuple[str, Holder]]:
        """(logical switch, holder) of all that a VM's ports hold, under whatever UID."""
        return [(switch, holder) for switch, book in self._books.items() for holder in sorted(book.by_key.get(key, ()))]

    def used(self, network: Network) -> Iterator[tuple[int, int]]:
        """(IP version, addresses held) of a network."""
        for subnet in network.subnets:
            yield subnet.version, self._books[network.logical_switch].used[network.name, subnet.version]

"""What addresses are about, as values: who holds them, who claims them, what is granted.

An address is held by a port of a VM for as long as the VM exists. core/books.py remembers who holds what, core/settle.py
decides who is granted what.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from immutables import Map

from ovnagent.core.free import NONE_TAKEN, Taken
from ovnagent.core.networks import Network
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

    ips: Mapping[str, str] = Map()
    macs: Mapping[str, str] = Map()
    taken: Taken = NONE_TAKEN
    """The addresses of `ips`."""


NO_FOREIGN = Foreign()


@dataclass(frozen=True, slots=True)
class Claim:
    """One interface's case: what it asks for, what it has by right, and what it would like."""

    holder: Holder
    interface: str
    network: Network
    request: Request
    row: Lease | None
    """What the agent's own row gives it: the only evidence for what a running guest may keep."""
    last_row: Lease | None
    """What its row gave it when it was seen last, before the database was emptied or brought back from a backup; only
    where the VM's own record says the same, for another agent may have written since. The agent's word, as `row` is."""
    records: tuple[Lease, ...]
    """From records with the owner's own UID, which a tenant can write: they pass what a request has to pass."""
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
class Standing:
    """A row that stays as it is, whoever asks for what: a living launcher uses it, and no claim is made for it."""

    holder: Holder
    switch: str
    lease: Lease | None


@dataclass(frozen=True, slots=True)
class Grant:
    """The lease (None: no port is written) and what could not be granted."""

    lease: Lease | None
    problems: tuple[Problem, ...] = ()
    pairs: tuple[Pair, ...] = ()
    """Those of the further addresses asked for that it may use."""

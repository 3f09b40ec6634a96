"""What is known of a database at one moment. A snapshot is frozen; each batch of updates swaps it for a new one, so that a
reader has one that agrees with itself for as long as he keeps it.

The mappings are persistent ones (`immutables.Map`): a new snapshot costs what has changed, not what there is.
A mapping in which nothing has changed is the same object as before, but for `unused`. `keys()` is no set, unlike a
dictionary's: write `set(snapshot.by_vm)`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from immutables import Map

from ovnagent.core.addresses import Foreign
from ovnagent.core.dhcp import DhcpOptions
from ovnagent.core.placement import Binding
from ovnagent.core.ports import PresentPort
from ovnagent.core.routers import RouterPort
from ovnagent.core.vm import VmKey


@dataclass(frozen=True, slots=True)
class Scope:
    """What a copy of NB is about: names of logical switches and routers."""

    switches: frozenset[str] = frozenset()
    routers: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class NorthboundSnapshot:
    """What concerns the agent in NB. While `complete` is false, it is what was known last."""

    generation: int = -1
    """Changes whenever the copy is thrown away and read again: what was concluded from an older one is worth nothing."""
    complete: bool = False
    """All rows that concern the agent are here, and kept up to date."""
    scope: Scope = Scope()
    ports: Mapping[str, PresentPort] = field(default_factory=Map)
    """Port name -> the agent's row, of those that belong to a VM."""
    by_vm: Mapping[VmKey, tuple[PresentPort, ...]] = field(default_factory=Map)
    """The same rows by VM, each VM's sorted by name."""
    virtual: Mapping[str, PresentPort] = field(default_factory=Map)
    """Port name -> the agent's row, of no VM: `type=virtual`, and those whose external_ids name no VM."""
    switches: Mapping[str, str] = field(default_factory=Map)
    """Name -> UUID, of the switches of the scope that exist, and of others on which the agent has ports."""
    foreign: Mapping[str, Foreign] = field(default_factory=Map)
    """Logical switch of the scope -> what others use there; absent where they use nothing."""
    unread: frozenset[str] = frozenset()
    """Switches of the scope on which there are ports of others whose rows are still to come: what they use is not known."""
    before: Mapping[str, PresentPort] = field(default_factory=Map)
    """Port name -> the agent's row as it was when the copy was thrown away, of those that are gone now or have other
    addresses, and that nobody has written since: the database may have been emptied, or brought back from a backup."""
    names: Mapping[str, str] = field(default_factory=Map)
    """Port name -> phrase naming whose it is, of foreign ports on the switches of the scope, and of watched names."""
    router_ports: Mapping[str, tuple[str, RouterPort | None]] = field(default_factory=Map)
    """Name -> (UUID, what it is, without router and switch; None where it is not the agent's)."""
    dhcp: Mapping[DhcpOptions, str] = field(default_factory=Map)
    """Content -> UUID, of the agent's rows of DHCP_Options."""
    routers: Mapping[str, str] = field(default_factory=Map)
    """Name -> UUID, of the routers of the scope that exist."""
    unused: Mapping[str, tuple[str, ...]] = field(default_factory=Map)
    """Table (DHCP_Options, DNS) -> UUIDs of the agent's rows that no port uses any more; absent where there is none."""
    global_ids: Mapping[str, str] = field(default_factory=Map)
    """external_ids of NB_Global."""

    def own(self) -> Iterator[PresentPort]:
        """All rows of the agent's in Logical_Switch_Port."""
        yield from self.ports.values()
        yield from self.virtual.values()


@dataclass(frozen=True, slots=True)
class SouthboundSnapshot:
    """What concerns the agent in SB. While `complete` is false, it is what was known last."""

    complete: bool = False
    """All chassis are here, and kept up to date; the bindings are those asked for so far."""
    ever_complete: bool = False
    chassis_by_hostname: Mapping[str, tuple[str, ...]] = field(default_factory=Map)
    """Hostname -> names of the chassis, sorted."""
    bindings: Mapping[str, Binding] = field(default_factory=Map)
    """Port name -> where it is bound, of the watched ports."""

"""The Northbound database: snapshots of what concerns the agent, its lock, and its transactions.

Of Logical_Switch_Port only two kinds of rows are copied: the agent's own, and foreign ones on its switches, whose
addresses are taken. Snapshots are values; the IDL's rows never leave the connection's thread.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ovnagent.core.dhcp import DhcpOptions
from ovnagent.core.ports import PresentPort
from ovnagent.core.routers import RouterPort
from ovnagent.core.vm import VmKey
from ovnagent.ovn import atoms
from ovnagent.ovn.changes import Change, DeleteRows, Known, Operation, operations
from ovnagent.ovn.connection import Database, Tls
from ovnagent.ovn.nb_replica import Listeners, NorthboundReplica
from ovnagent.ovn.transaction import NotCommittedError, RefusedError, transact

__all__ = ["Northbound", "NotCommittedError", "RefusedError"]

COLUMNS = {
    "Logical_Switch": ("name", "ports"),
    "Logical_Switch_Port": (
        "name",
        "addresses",
        "dynamic_addresses",
        "port_security",
        "type",
        "enabled",
        "options",
        "external_ids",
        "dhcpv4_options",
        "dhcpv6_options",
    ),
    "Logical_Router": ("name",),
    "Logical_Router_Port": ("name", "mac", "networks", "ipv6_ra_configs", "external_ids"),
    "DHCP_Options": ("cidr", "options", "external_ids"),
    "DNS": ("records", "external_ids"),
    "NB_Global": ("external_ids",),
}


class Northbound:
    """What the reconciler sees of NB. All attributes are safe to read from any thread."""

    def __init__(
        self,
        endpoints: str,
        cluster: str,
        switches: Iterable[str],
        listeners: Listeners,
        tls: Tls | None = None,
        routers: Iterable[str] = (),
    ) -> None:
        self.cluster = cluster
        # A lock's name is an <id> (RFC 7047, 3.1): letters, digits and underscores.
        self.lock_name = "ovnagent_" + re.sub("[^a-zA-Z0-9]", lambda match: f"_{ord(match[0]):x}_", cluster)
        self._switches, self._routers = frozenset(switches), frozenset(routers)
        self._listeners = listeners
        self.database = Database("OVN_Northbound", endpoints, COLUMNS, self._make, True, tls)
        self._watched_names: frozenset[str] = frozenset()
        self.transactions = 0
        """How many have been attempted."""

    def _make(self, remote: str, helper: Any, leader_only: bool) -> NorthboundReplica:
        return NorthboundReplica(remote, helper, leader_only, self.cluster, self._switches, self._routers, self._listeners)

    def watch(self, switches: Iterable[str], routers: Iterable[str]) -> None:
        """Other switches and routers than before: the copy is complete again when it holds all that concerns them."""
        wanted = self._switches, self._routers = frozenset(switches), frozenset(routers)
        if (replica := self._replica) is not None:
            self.database.request(lambda: replica.watch(*wanted))

    def start(self) -> None:
        self.database.start()

    def stop(self) -> None:
        self.database.stop()

    # -- state

    @property
    def _replica(self) -> NorthboundReplica | None:
        idl: NorthboundReplica | None = self.database.idl
        return idl

    @property
    def synced(self) -> bool:
        """The copy is complete: own ports, foreign ports on the configured switches, and it is being kept up to date."""
        replica = self._replica
        return replica is not None and replica.complete and replica.wanted == (self._switches, self._routers)

    @property
    def generation(self) -> int:
        """Changes whenever the copy was thrown away and read again: what was read before is worth nothing."""
        replica = self._replica
        return replica.generation if replica is not None else -1

    @property
    def has_lock(self) -> bool:
        replica = self._replica
        return replica is not None and bool(replica.lock_name) and replica.has_lock and replica.monitoring

    def acquire_lock(self) -> None:
        """Contend for the lock; the database hands it over as soon as its holder's connection ends."""
        self._set_lock(self.lock_name)

    def release_lock(self) -> None:
        self._set_lock(None)

    def _set_lock(self, name: str | None) -> None:
        replica = self._replica
        if replica is None or replica.lock_name == name or not replica.monitoring:
            return
        self.database.request(lambda: replica.set_lock(name))

    # -- snapshots

    @property
    def ports(self) -> Mapping[str, PresentPort]:
        """Port name -> row, of the agent's own."""
        return self._replica.own if self._replica else {}

    def ports_of(self, key: VmKey) -> tuple[PresentPort, ...]:
        replica = self._replica
        if replica is None:
            return ()
        rows = (replica.own_by_id.get(row_id) for row_id in sorted(replica.ids_of.get(key, ())))
        return tuple(sorted((row for row in rows if row is not None), key=lambda row: row.port.name))

    def vm_keys(self) -> set[VmKey]:
        """All VMs that have rows."""
        return set(self._replica.ids_of) if self._replica else set()

    @property
    def switches(self) -> Mapping[str, str]:
        """Name -> UUID of the configured switches that exist."""
        return self._replica.switches if self._replica else {}

    def taken(self, switch: str) -> Mapping[str, str]:
        """IP address -> phrase naming the foreign port that has it, on this switch."""
        return self._replica.inventory.ips.get(switch, {}) if self._replica else {}

    def taken_macs(self, switch: str) -> Mapping[str, str]:
        return self._replica.inventory.macs.get(switch, {}) if self._replica else {}

    @property
    def foreign_names(self) -> Mapping[str, str]:
        """Port name -> phrase naming whose it is, of foreign ports that are known."""
        return self._replica.inventory.names if self._replica else {}

    def router_port(self, name: str) -> tuple[str, RouterPort | None]:
        """(UUID of a router's port, what it is; None if it is not the agent's), or ("", None) where there is none."""
        return self._replica.services.router_ports.get(name, ("", None)) if self._replica else ("", None)

    @property
    def dhcp(self) -> Mapping[DhcpOptions, str]:
        """Content -> UUID, of the agent's rows of DHCP_Options."""
        return self._replica.services.dhcp if self._replica else {}

    def unused(self) -> list[DeleteRows]:
        """Rows of DHCP_Options and DNS that are the agent's, and that no port of it uses any more."""
        unused = self._replica.unused if self._replica else {}
        return [DeleteRows(table, row_ids) for table, row_ids in unused.items() if row_ids]

    def global_external_id(self, key: str) -> str:
        """A value of NB_Global's external_ids, or an empty string."""
        return self._replica.global_ids.get(key, "") if self._replica else ""

    def watch_names(self, names: set[str]) -> None:
        """Port names that foreign rows on other switches have: watch those rows, so that their going wakes us."""
        replica = self._replica
        if replica is not None and self._watched_names != names:
            self._watched_names = frozenset(names)
            self.database.request(lambda: replica.watch_names(frozenset(names)))

    def names_known(self, names: set[str]) -> bool:
        """The rows asked for by `watch_names(names)` are here."""
        return self._replica is not None and self._replica.knows(frozenset(names))

    # -- writing

    def commit(self, groups: Sequence[Sequence[Change]]) -> list[str | None]:
        """One transaction for all groups (a group is a VM's, and atomic). For each group None, or why the database
        refused it: a refused transaction is split until the bad group is alone.

        Raises NotCommittedError where it is not known that all was written: look at the same VMs again."""
        errors: list[str | None] = [None] * len(groups)
        self._commit([(index, group) for index, group in enumerate(groups) if group], errors)
        return errors

    def _commit(self, groups: list[tuple[int, Sequence[Change]]], errors: list[str | None]) -> None:
        if not groups:
            return
        try:
            changes = (change for _, group in groups for change in group)
            self._transact(operations(changes, self._known(), self.cluster))
        except KeyError as error:
            refusal = f"logical switch {error} does not exist"
        except (RefusedError, atoms.UnwritableError) as error:
            refusal = str(error)
        else:
            return
        if len(groups) == 1:
            errors[groups[0][0]] = refusal
            return
        half = len(groups) // 2
        self._commit(groups[:half], errors)
        self._commit(groups[half:], errors)

    def _known(self) -> Known:
        replica = self._replica
        return Known(replica.switches, replica.services.dhcp, replica.services.routers) if replica else Known({})

    def set_global_external_id(self, key: str, value: str) -> None:
        """Set (or with an empty value remove) a key in NB_Global's external_ids."""
        table, column = "NB_Global", "external_ids"
        mutations: list[Any] = [[column, "delete", atoms.keys(table, column, [key])]]
        if value:
            mutations.append([column, "insert", atoms.pairs(table, column, {key: value})])
        self._transact([{"op": "mutate", "table": "NB_Global", "where": [], "mutations": mutations}])

    def _transact(self, operations: list[Operation]) -> None:
        self.transactions += 1
        transact(self.database.connection, operations)

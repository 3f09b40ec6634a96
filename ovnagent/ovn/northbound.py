"""The Northbound database: a snapshot of what concerns the agent, its lock, and its transactions.

Of Logical_Switch_Port only two kinds of rows are copied: the agent's own, and foreign ones on its switches, whose
addresses are taken. Snapshots are values; the IDL's rows never leave the connection's thread.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from typing import Any

from ovnagent.core import ports
from ovnagent.ovn import aside
from ovnagent.ovn.changes import Known, SetGlobal, operations
from ovnagent.ovn.connection import Connection, Tls
from ovnagent.ovn.nb_replica import Listeners, NorthboundReplica
from ovnagent.ovn.snapshot import NorthboundSnapshot, Scope
from ovnagent.ovn.transaction import NotCommittedError, RefusedError
from ovnagent.ovn.writer import Group, Writer

__all__ = ["Group", "Northbound", "NotCommittedError", "RefusedError"]

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
        self._question = f"{ports.ALIVE}{cluster}"
        """Key in NB_Global's external_ids."""
        self._scope = Scope(frozenset(switches), frozenset(routers))
        self._listeners = listeners
        self.connection = Connection("OVN_Northbound", endpoints, COLUMNS, self._make, True, tls)
        self._watched_names: frozenset[str] = frozenset()
        self.writer = Writer(self.connection, cluster, self._known)

    def _make(self, remote: str, helper: Any, leader_only: bool) -> NorthboundReplica:
        return NorthboundReplica(remote, helper, leader_only, self.cluster, self._scope, self._listeners)

    def watch(self, switches: Iterable[str], routers: Iterable[str]) -> None:
        """Other switches and routers than before: the copy is complete again when it holds all that concerns them."""
        scope = self._scope = Scope(frozenset(switches), frozenset(routers))
        if (replica := self._replica) is not None:
            self.connection.request(lambda: replica.watch(scope))

    def start(self) -> None:
        self.connection.start()

    def stop(self) -> None:
        self.connection.stop()

    # -- state

    @property
    def _replica(self) -> NorthboundReplica | None:
        idl: NorthboundReplica | None = self.connection.idl
        return idl

    @property
    def snapshot(self) -> NorthboundSnapshot:
        """What is known now. It is complete only if it is about what `watch` asked for last."""
        replica = self._replica
        found = replica.snapshot if replica is not None else NorthboundSnapshot()
        return found if found.scope == self._scope or not found.complete else dataclasses.replace(found, complete=False)

    @property
    def has_lock(self) -> bool:
        replica = self._replica
        return replica is not None and bool(replica.lock_name) and replica.has_lock and replica.monitoring

    @property
    def lock_term(self) -> int:
        """Counts how often the lock was had: between two looks it may have been lost and had again, and somebody else may
        have written meanwhile."""
        replica = self._replica
        return replica.lock_terms if replica is not None else 0

    def acquire_lock(self) -> None:
        """Contend for the lock; the database hands it over as soon as its holder's connection ends."""
        self._set_lock(self.lock_name)

    def release_lock(self) -> None:
        self._set_lock(None)

    @property
    def contended(self) -> bool:
        """Another client holds the lock, and this one waits for it."""
        replica = self._replica
        return replica is not None and bool(replica.lock_name) and replica.is_lock_contended and replica.monitoring

    @property
    def robbed(self) -> float | None:
        """When another agent last took the lock from this one: monotonic seconds."""
        return self._replica.robbed if self._replica is not None else None

    @property
    def rows_changed(self) -> float | None:
        """When rows of the agent's changed last, by whomever: monotonic seconds."""
        return self._replica.rows_changed if self._replica is not None else None

    def steal_lock(self) -> None:
        """Take the lock from its holder at once: core/takeover.py says when, or an operator's command must write as the only
        one. The holder's transactions assert it, so it writes nothing any more; it waits for the lock in front of all
        others, and has it again when this client lets it go, or ends."""
        if (replica := self._replica) is not None and replica.monitoring:
            self.connection.request(lambda: replica.steal_lock(self.lock_name))

    def ask_holder(self) -> None:
        """Ask the agent that holds the lock whether it is alive: by a key in NB_Global, which it takes away. That is the one
        thing that an agent without the lock writes. Blocks for some seconds at worst; raises NotCommittedError."""
        replica = self._replica
        if replica is None or not replica.monitoring:
            raise NotCommittedError("not connected to the database")
        asked = operations([SetGlobal(self._question, "asked")], Known({}), self.cluster)
        try:
            aside.transact(replica.session_name(), self.connection.database, asked)
        except aside.NoAnswerError as error:
            raise NotCommittedError(str(error)) from error

    @property
    def holder_asked(self) -> bool:
        """The holder of the lock has been asked, by whomever, and has not answered yet."""
        return self._question in self.snapshot.global_ids

    def answer(self) -> None:
        """If this agent holds the lock and has been asked: say that it is alive. For the thread that writes.

        Raises NotCommittedError or RefusedError."""
        if self.has_lock and self.holder_asked:
            self.writer.transact(operations([SetGlobal(self._question, "")], Known({}), self.cluster))

    def _set_lock(self, name: str | None) -> None:
        replica = self._replica
        if replica is None or replica.lock_name == name or not replica.monitoring:
            return
        self.connection.request(lambda: replica.set_lock(name))

    # -- ports of other switches

    def watch_names(self, names: set[str]) -> None:
        """Port names that foreign rows on other switches have: watch those rows, so that their going wakes us."""
        replica = self._replica
        if replica is not None and self._watched_names != names:
            self._watched_names = frozenset(names)
            self.connection.request(lambda: replica.watch_names(frozenset(names)))

    def names_known(self, names: set[str]) -> bool:
        """The rows asked for by `watch_names(names)` are here."""
        return self._replica is not None and self._replica.knows(frozenset(names))

    # -- writing

    def commit(self, groups: Sequence[Group], term: int | None = None) -> list[str | None]:
        """One transaction for all groups. For each of them None, or why it was refused: see Writer. `term`: the `lock_term`
        in which they were computed."""
        return self.writer.commit(groups, term)

    def _known(self) -> Known:
        now = self.snapshot
        return Known(now.switches, now.dhcp, now.routers)

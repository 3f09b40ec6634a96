"""The Southbound database, read only: which chassis there are, and where the ports in migration are bound."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ovs.db import idl as ovs_idl

from ovnagent.core.placement import Binding
from ovnagent.ovn.connection import Database, Tls
from ovnagent.ovn.replica import Replica

COLUMNS = {
    "Chassis": ("name", "hostname"),
    "Port_Binding": ("logical_port", "chassis", "additional_chassis", "options", "up"),
}


class SouthboundReplica(Replica):
    """Runs in the connection's thread; its public attributes may be read from any."""

    def __init__(
        self,
        remote: str,
        helper: Any,
        leader_only: bool,
        bindings_changed: Callable[[set[str]], None],
        chassis_changed: Callable[[], None],
    ) -> None:
        self.by_hostname: dict[str, tuple[str, ...]] = {}
        """Replaced as a whole; what was known last stands while the database is away."""
        self.bindings: dict[str, Binding] = {}
        self.complete = False
        self.ever_complete = False
        self._bindings_changed = bindings_changed
        self._chassis_changed = chassis_changed
        self._dirty: set[str] = set()
        self._chassis_dirty = True
        self.asked_for_all = False
        super().__init__(remote, helper, leader_only)
        self.watch(frozenset())

    def watch_all(self) -> None:
        self.asked_for_all = True
        self.cond_change("Port_Binding", [True])

    def watch(self, ports: frozenset[str]) -> None:
        """Ask for the Port_Binding of these ports, and of no others."""
        self.cond_change("Port_Binding", [["logical_port", "==", port] for port in sorted(ports)])

    def cleared(self) -> None:
        self.complete = False
        self._dirty |= self.bindings.keys()
        self.bindings = {}
        self._chassis_dirty = True

    def notify(self, event: str, row: Any, updates: Any = None) -> None:  # noqa: ARG002 - the IDL's signature
        if row._table.name == "Chassis":
            self._chassis_dirty = True
        elif event == ovs_idl.ROW_DELETE:
            self.bindings.pop(row.logical_port, None)
            self._dirty.add(row.logical_port)
        else:
            self._set_binding(row)

    def _set_binding(self, row: Any) -> None:
        activated = row.options.get("additional-chassis-activated", "")
        binding = Binding(
            chassis=row.chassis[0].name if row.chassis else "",
            additional=tuple(sorted(chassis.name for chassis in row.additional_chassis)),
            activated=tuple(name for name in activated.split(",") if name),
            up=row.up == [True],
        )
        if self.bindings.get(row.logical_port) != binding:
            self.bindings[row.logical_port] = binding
            self._dirty.add(row.logical_port)

    def updated(self) -> None:
        if not self.monitoring:
            if self.complete:
                self.complete = False
                self._chassis_changed()
            return
        if self._chassis_dirty or not self.complete:
            self._chassis_dirty = False
            table: dict[str, list[str]] = {}
            for row in self.tables["Chassis"].rows.values():
                table.setdefault(row.hostname, []).append(row.name)
            self.by_hostname = {hostname: tuple(sorted(names)) for hostname, names in table.items()}
            # A binding that came before its chassis did names none.
            for row in self.tables["Port_Binding"].rows.values():
                self._set_binding(row)
            self.complete = self.ever_complete = True
            self._chassis_changed()
        if self._dirty:
            dirty, self._dirty = self._dirty, set()
            self._bindings_changed(dirty)


class Southbound:
    """What the reconciler sees of SB. All attributes are safe to read from any thread."""

    def __init__(
        self,
        endpoints: str,
        bindings_changed: Callable[[set[str]], None],
        chassis_changed: Callable[[], None],
        tls: Tls | None = None,
    ) -> None:
        """`bindings_changed(port names)` and `chassis_changed()` are called from the connection's thread."""
        self._listeners = (bindings_changed, chassis_changed)
        # Any member of a cluster will do: nothing is written here.
        self.database = Database("OVN_Southbound", endpoints, COLUMNS, self._make, False, tls)
        self._watched: frozenset[str] = frozenset()
        self._watches_all = False

    def _make(self, remote: str, helper: Any, leader_only: bool) -> SouthboundReplica:
        return SouthboundReplica(remote, helper, leader_only, *self._listeners)

    def start(self) -> None:
        self.database.start()

    def stop(self) -> None:
        self.database.stop()

    @property
    def _replica(self) -> SouthboundReplica | None:
        replica: SouthboundReplica | None = self.database.idl
        return replica

    @property
    def connected(self) -> bool:
        """The copy is complete and being kept up to date."""
        return self._replica is not None and self._replica.complete

    @property
    def chassis_by_hostname(self) -> Mapping[str, tuple[str, ...]]:
        """Hostname -> chassis names. What was known last stands while the database is away."""
        return self._replica.by_hostname if self._replica is not None else {}

    @property
    def ever_synced(self) -> bool:
        """The chassis are known, be it from before the connection was lost."""
        return self._replica is not None and self._replica.ever_complete

    def watch(self, ports: set[str]) -> None:
        """Watch the Port_Binding of these ports, and of no others."""
        replica = self._replica
        if replica is not None and ports != self._watched:
            watched = self._watched = frozenset(ports)
            self.database.request(lambda: replica.watch(watched))

    def watch_all(self) -> bool:
        """Watch all of them (for people who look at everything); whether all are there."""
        replica = self._replica
        if replica is None or not replica.complete:
            return False
        if not self._watches_all:
            self._watches_all = True
            self.database.request(replica.watch_all)
            return False
        return replica.asked_for_all and replica.conditions_met

    @property
    def bindings(self) -> Mapping[str, Binding]:
        """Port name -> where it is bound, of the watched ports."""
        return self._replica.bindings if self._replica is not None else {}

    def binding(self, port: str) -> Binding | None:
        """Where a watched port is bound; None where that is not known."""
        return self._replica.bindings.get(port) if self._replica is not None else None

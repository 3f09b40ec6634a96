"""The Southbound database, read only: which chassis there are, and where the ports in migration are bound."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

from immutables import Map
from ovs.db import idl as ovs_idl

from ovnagent.core.placement import Binding
from ovnagent.ovn.connection import Connection, Tls
from ovnagent.ovn.replica import Replica
from ovnagent.ovn.snapshot import SouthboundSnapshot

COLUMNS = {
    "Chassis": ("name", "hostname"),
    "Port_Binding": ("logical_port", "chassis", "additional_chassis", "options", "up"),
}


class SouthboundReplica(Replica):
    """Runs in the connection's thread; `snapshot` may be read from any."""

    def __init__(
        self,
        remote: str,
        helper: Any,
        leader_only: bool,
        bindings_changed: Callable[[set[str], bool], None],
        chassis_changed: Callable[[], None],
    ) -> None:
        self.snapshot = SouthboundSnapshot()
        self._bindings: Map[str, Binding] = Map()
        self._bindings_changed = bindings_changed
        self._chassis_changed = chassis_changed
        self._moved: set[str] = set()
        self._found: set[str] = set()
        """Ports whose binding has changed, and is known for the first time, since `bindings_changed` was told."""
        self._chassis_dirty = True
        self.asked_for_all = False
        super().__init__(remote, helper, leader_only)
        self.watch(frozenset())

    def watch_all(self) -> None:
        self.asked_for_all = True
        self.cond_change("Port_Binding", [True])

    def watch(self, ports: Collection[str]) -> None:
        """Ask for the Port_Binding of these ports, and of no others."""
        self.cond_change("Port_Binding", [["logical_port", "==", port] for port in sorted(ports)])

    def cleared(self) -> None:
        self._withdraw()
        self._moved |= set(self._bindings)
        self._bindings = Map()
        self._chassis_dirty = True

    def _withdraw(self) -> None:
        """What was known last stands, but it is not complete any more."""
        self.snapshot = replace(self.snapshot, complete=False)

    def notify(self, event: str, row: Any, updates: Any = None) -> None:  # noqa: ARG002 - the IDL's signature
        if row._table.name == "Chassis":
            self._chassis_dirty = True
        elif event == ovs_idl.ROW_DELETE:
            if row.logical_port in self._bindings:
                self._bindings = self._bindings.delete(row.logical_port)
                self._moved.add(row.logical_port)
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
        before = self._bindings.get(row.logical_port)
        if before != binding:
            self._bindings = self._bindings.set(row.logical_port, binding)
            (self._moved if before is not None else self._found).add(row.logical_port)

    def updated(self) -> None:
        if not self.monitoring:
            if self.snapshot.complete:
                self._withdraw()
                self._chassis_changed()
            return
        chassis = self._chassis_dirty or not self.snapshot.complete
        if chassis:
            # A binding that came before its chassis did names none.
            for row in self.tables["Port_Binding"].rows.values():
                self._set_binding(row)
        moved, found = self._moved, self._found - self._moved
        self._moved, self._found, self._chassis_dirty = set(), set(), False
        if chassis or moved or found:
            by_hostname = self._by_hostname() if chassis else self.snapshot.chassis_by_hostname
            self.snapshot = SouthboundSnapshot(True, True, by_hostname, self._bindings)
        if chassis:
            self._chassis_changed()
        if moved:
            self._bindings_changed(moved, True)
        if found:
            self._bindings_changed(found, False)

    def _by_hostname(self) -> Map[str, tuple[str, ...]]:
        table: dict[str, list[str]] = {}
        for row in self.tables["Chassis"].rows.values():
            table.setdefault(row.hostname, []).append(row.name)
        return Map({hostname: tuple(sorted(names)) for hostname, names in table.items()})


class Southbound:
    """What the reconciler sees of SB. All attributes are safe to read from any thread."""

    def __init__(
        self,
        endpoints: str,
        bindings_changed: Callable[[set[str], bool], None],
        chassis_changed: Callable[[], None],
        tls: Tls | None = None,
    ) -> None:
        """`bindings_changed(port names, moved)` and `chassis_changed()` are called from the connection's thread. `moved`:
        the bindings were known before, and are others now."""
        self._listeners = (bindings_changed, chassis_changed)
        # Any member of a cluster will do: nothing is written here.
        self.connection = Connection("OVN_Southbound", endpoints, COLUMNS, self._make, False, tls)
        self._watched: Collection[str] = ()
        self._watches_all = False

    def _make(self, remote: str, helper: Any, leader_only: bool) -> SouthboundReplica:
        return SouthboundReplica(remote, helper, leader_only, *self._listeners)

    def start(self) -> None:
        self.connection.start()

    def stop(self) -> None:
        self.connection.stop()

    @property
    def _replica(self) -> SouthboundReplica | None:
        replica: SouthboundReplica | None = self.connection.idl
        return replica

    @property
    def snapshot(self) -> SouthboundSnapshot:
        """What is known now."""
        return self._replica.snapshot if self._replica is not None else SouthboundSnapshot()

    def watch(self, ports: Collection[str]) -> None:
        """Watch the Port_Binding of these ports, and of no others. `ports` never changes: a change makes a new one."""
        replica = self._replica
        if replica is not None and ports is not self._watched:
            self._watched = ports
            self.connection.request(lambda: replica.watch(ports))

    def watch_all(self) -> bool:
        """Watch all of them (for people who look at everything); whether all are there."""
        replica = self._replica
        if replica is None or not replica.snapshot.complete:
            return False
        if not self._watches_all:
            self._watches_all = True
            self.connection.request(replica.watch_all)
            return False
        return replica.asked_for_all and replica.conditions_met

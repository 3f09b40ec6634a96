"""A node's own Open_vSwitch database: the interfaces of the integration bridge, and their iface-ids.

Snapshots are values; the IDL's rows never leave the connection's thread. Of `Interface.external_ids` three keys are written:
`iface-id`, and beside it two of our own, by which what we set is told from what others set.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from uuid import UUID

from ovs.db import idl as ovs_idl

from ovnagent.core.plugging import Attached
from ovnagent.ovn.connection import Connection
from ovnagent.ovn.replica import Replica
from ovnagent.ovn.transaction import NotCommittedError, RefusedError, transact

__all__ = ["NotCommittedError", "RefusedError", "Vswitch"]

IFACE_ID = "iface-id"
WRITTEN = "ovnagent-plug"
"""external_ids key of an Interface: the iface-id that we set. Where the two differ, somebody else changed it since."""
POD = "ovnagent-pod"
"""external_ids key of an Interface: `namespace/name` of the pod."""
OVS_CNI = "ovs-cni.network.kubevirt.io"
"""`external_ids:owner` of the Ports that ovs-cni makes (pkg/ovsdb)."""
DEFAULT_BRIDGE = "br-int"

COLUMNS = {
    "Open_vSwitch": ("external_ids",),
    "Bridge": ("name", "ports"),
    "Port": ("interfaces", "external_ids"),
    "Interface": ("name", "external_ids", "error"),
}


class VswitchReplica(Replica):
    """Runs in the connection's thread; its public attributes may be read from any, and are replaced as a whole."""

    def __init__(self, remote: str, helper: Any, leader_only: bool, changed: Callable[[], None]) -> None:
        self.interfaces: tuple[Attached, ...] = ()
        """Of the integration bridge. What was known last stands while the database is away."""
        self.since: dict[str, float] = {}
        """UUID of an interface -> monotonic seconds since when it is known."""
        self.complete = False
        self._changed = changed
        self._by_port: dict[UUID, Attached] = {}
        """A Port -> its interface, of all bridges."""
        self._port_of: dict[UUID, UUID] = {}
        """An Interface -> its Port."""
        self._dirty: set[UUID] = set()
        """Ports."""
        self._integration: frozenset[UUID] = frozenset()
        """The Ports of the integration bridge."""
        self._bridges_dirty = True
        super().__init__(remote, helper, leader_only)

    def cleared(self) -> None:
        self.complete = False
        self._by_port.clear()
        self._port_of.clear()
        self._dirty.clear()
        self._bridges_dirty = True

    def notify(self, event: str, row: Any, updates: Any = None) -> None:  # noqa: ARG002 - the IDL's signature
        match row._table.name:
            case "Port":
                self._dirty.add(row.uuid)
                for interface in _uuids(row, "interfaces"):
                    if event == ovs_idl.ROW_DELETE:
                        self._port_of.pop(interface, None)
                    else:
                        self._port_of[interface] = row.uuid
            case "Interface":
                if row.uuid in self._port_of:
                    self._dirty.add(self._port_of[row.uuid])
            case _:
                self._bridges_dirty = True

    def updated(self) -> None:
        if not self.monitoring:
            self.complete = False
            return
        if self.complete and not (self._bridges_dirty or self._dirty):
            return
        if self._bridges_dirty:
            self._bridges_dirty = False
            self._integration = self._integration_ports()
        for uuid in self._dirty:
            attached = self._attached(uuid)
            if attached is None:
                self._by_port.pop(uuid, None)
            else:
                self._by_port[uuid] = attached
        self._dirty.clear()
        interfaces = tuple(each for uuid, each in self._by_port.items() if uuid in self._integration)
        if interfaces == self.interfaces and self.complete:
            return
        now = time.monotonic()
        self.since = {each.row: self.since.get(each.row, now) for each in interfaces}
        self.interfaces = interfaces
        self.complete = True
        self._changed()

    def _integration_ports(self) -> frozenset[UUID]:
        """ovn-controller(8): the bridge is `ovn-bridge`, or that key with the chassis' name behind it, or br-int."""
        rows = self.tables["Open_vSwitch"].rows.values()
        settings: dict[str, str] = next((row.external_ids for row in rows), {})
        chassis = settings.get("system-id", "")
        name = settings.get(f"ovn-bridge-{chassis}") or settings.get("ovn-bridge") or DEFAULT_BRIDGE
        bridges = (row for row in self.tables["Bridge"].rows.values() if row.name == name)
        return frozenset(port for bridge in bridges for port in _uuids(bridge, "ports"))

    def _attached(self, uuid: UUID) -> Attached | None:
        """The interface of a Port; None where there is no such Port any more, or it is a bond."""
        port = self.tables["Port"].rows.get(uuid)
        members = _uuids(port, "interfaces") if port is not None else []
        row = self.tables["Interface"].rows.get(members[0]) if len(members) == 1 else None
        if port is None or row is None:
            return None
        of_port, of_interface = port.external_ids, row.external_ids
        ovs_cni = of_port.get("owner") == OVS_CNI
        return Attached(
            row=str(row.uuid),
            name=row.name,
            iface_id=of_interface.get(IFACE_ID, ""),
            written=of_interface.get(WRITTEN, ""),
            pod=of_interface.get(POD, ""),
            pod_uid=of_port.get("contPodUid", "") if ovs_cni else "",
            inside=of_port.get("contIface", "") if ovs_cni else "",
            broken=bool(row.error),
        )


def _uuids(row: Any, column: str) -> list[UUID]:
    """References as UUIDs: the IDL's own attributes look up every row that is referred to."""
    value = row._data[column].to_python(lambda atom, _base: atom)
    return value if isinstance(value, list) else [value]


class Vswitch:
    """What `ovnagent plug` sees of Open_vSwitch. All attributes are safe to read from any thread."""

    def __init__(self, endpoint: str, changed: Callable[[], None]) -> None:
        """`changed()` is called from the connection's thread when a new snapshot is there."""
        self._changed = changed
        self.connection = Connection("Open_vSwitch", endpoint, COLUMNS, self._make, False, None)

    def _make(self, remote: str, helper: Any, leader_only: bool) -> VswitchReplica:
        return VswitchReplica(remote, helper, leader_only, self._changed)

    def start(self) -> None:
        self.connection.start()

    def stop(self) -> None:
        self.connection.stop()

    @property
    def complete(self) -> bool:
        """The copy is complete and being kept up to date."""
        return self.connection.idl is not None and self.connection.idl.complete

    @property
    def interfaces(self) -> tuple[Attached, ...]:
        """Of the integration bridge."""
        return self.connection.idl.interfaces if self.connection.idl is not None else ()

    @property
    def since(self) -> Mapping[str, float]:
        """UUID of an interface -> monotonic seconds since when it is known."""
        return self.connection.idl.since if self.connection.idl is not None else {}

    def commit(self, changes: Iterable[tuple[Attached, str, str]]) -> None:
        """Give interfaces these iface-ids, empty for none: (interface, iface-id, `namespace/name` of its pod). In one
        transaction. An iface-id that somebody has set or changed meanwhile stays as it is: a key is added only where there
        is none, and removed only with the value that is known (RFC 7047, 5.1).

        Raises NotCommittedError or RefusedError."""
        operations = [_operation(*change) for change in changes]
        transact(self.connection, operations, locked=False)


def _operation(interface: Attached, iface_id: str, pod: str) -> dict[str, Any]:
    old = {IFACE_ID: interface.iface_id, WRITTEN: interface.written, POD: interface.pod}
    new = {IFACE_ID: iface_id, WRITTEN: iface_id, POD: pod} if iface_id else {}
    mutations = []
    if gone := [[key, value] for key, value in old.items() if value]:
        mutations.append(["external_ids", "delete", ["map", gone]])
    if new:
        mutations.append(["external_ids", "insert", ["map", [[key, value] for key, value in new.items()]]])
    where = [["_uuid", "==", ["uuid", interface.row]]]
    return {"op": "mutate", "table": "Interface", "where": where, "mutations": mutations}

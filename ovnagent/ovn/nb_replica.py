"""The copy of the Northbound database: which rows are asked for, and the snapshots made of them.

`Logical_Switch.ports` never becomes a column of a row: the IDL copies and compares the whole set at every change (59 ms
at 10,000 ports). Its differences are taken from the protocol instead, and only to know where a port is and which ports on
the agent's switches are foreign. The condition on Logical_Switch_Port follows from that: the agent's own rows, and those
foreign ones by UUID. 100,000 ports on other switches are never copied.
"""

from __future__ import annotations

import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from immutables import Map
from ovs.db import idl as ovs_idl

from ovnagent.core.ports import CLUSTER, Port, PresentPort, own_external_ids, own_options
from ovnagent.core.vm import VmKey
from ovnagent.ovn.inventory import Inventory, foreign_port
from ovnagent.ovn.last_seen import LastSeen
from ovnagent.ovn.own import OwnPorts
from ovnagent.ovn.packed import PackedRow
from ovnagent.ovn.replica import Replica
from ovnagent.ovn.services import Services
from ovnagent.ovn.snapshot import NorthboundSnapshot, Scope
from ovnagent.process import memory

MANY_CLAUSES = 100
"""From so many clauses on all ports are copied: ovsdb-server compares every row with every clause each time that the
condition changes, 1.3 us a row with 100 of them. (Only where all clauses are `==` does it look them up.)"""


Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Listeners:
    """Who is told of what, once the snapshot shows it. All are called in the connection's thread and must return at once."""

    changed: Callable[[set[VmKey]], None]
    """Rows of these VMs."""
    everything: Callable[[], None]
    """The copy became complete or incomplete, the lock came or went, a switch came or went."""
    inventory: Callable[[], None]
    """What others use (foreign ports, router ports, NB_Global), and the rows of no VM."""


class NorthboundReplica(Replica):
    """Runs in the connection's thread; `snapshot` may be read from any."""

    def __init__(
        self,
        remote: str,
        helper: Any,
        leader_only: bool,
        cluster: str,
        scope: Scope,
        listeners: Listeners,
    ) -> None:
        self.cluster = cluster
        self.scope = scope
        self.listeners = listeners
        self.snapshot = NorthboundSnapshot(scope=scope)
        self.rows_changed: float | None = None
        """When rows of the agent's changed last, or were first seen: monotonic seconds."""
        self._watched_names: frozenset[str] = frozenset()
        self._had_lock = False
        self._last_seen = LastSeen()
        self._reset()
        super().__init__(remote, helper, leader_only)
        self._update_conditions()

    def _reset(self) -> None:
        self._own = OwnPorts()
        self._inventory = Inventory()
        self._services = Services(self.cluster)
        self._switches: Map[str, str] = Map()
        """Name -> UUID. The first of them where several have one name, which OVN allows."""
        self._global_ids: Map[str, str] = Map()
        self._switch_names: dict[str, str] = {}  # by UUID, as all below
        self._members: defaultdict[str, set[str]] = defaultdict(set)  # ports of a switch
        self._switch_of: dict[str, str] = {}  # switch of a port
        self._router_ports: dict[str, str] = {}  # name of a router port
        self._moved: set[str] = set()  # ports to look at again, for their switch or what serves them has changed
        self._unowned: set[str] = set()  # ports on the agent's switches that are not the agent's
        self._homeless: set[str] = set()  # the agent's ports on other switches than the agent's
        self._copy_all_ports = False
        self._conditions_stale = True
        self._dirty: set[VmKey | None] = set()
        self._changed = True  # since the last snapshot
        self._inventory_dirty = False
        self._everything_dirty = True

    def cleared(self) -> None:
        self._withdraw()
        self._last_seen.keep(self.snapshot.ports)
        self._reset()

    def _withdraw(self) -> None:
        """What was known last stands, but it is not complete any more."""
        self.snapshot = replace(self.snapshot, complete=False)

    # -- which rows are asked for

    def watch(self, scope: Scope) -> None:
        """Other switches and routers: every port is sorted in anew."""
        self._withdraw()
        self.generation += 1
        self.scope = scope
        self._moved |= {str(row_id) for row_id in self.tables["Logical_Switch_Port"].rows} | self._switch_of.keys()
        self._conditions_stale = True

    def watch_names(self, names: frozenset[str]) -> None:
        """Ask for ports of these names, on whatever switch and whosever they are."""
        self._conditions_stale = True
        self._watched_names = names

    def knows(self, names: frozenset[str]) -> bool:
        """These names are watched, and all rows that have them are here."""
        return self._watched_names == names and not self._conditions_stale and self.conditions_met

    def _update_conditions(self) -> None:
        own: list[Any] = [["external_ids", "includes", ["map", [[CLUSTER, self.cluster]]]]]
        switches: list[Any] = [["name", "==", name] for name in sorted(self.scope.switches)]
        switches += [["ports", "includes", ["uuid", port]] for port in sorted(self._homeless)]
        ports = list(own)
        ports += [["name", "==", name] for name in sorted(self._watched_names)]
        ports += [["_uuid", "==", ["uuid", port]] for port in sorted(self._unowned)]
        # Once all, always all: not to and fro at the border.
        self._copy_all_ports |= len(ports) > MANY_CLAUSES
        self.cond_change("DHCP_Options", own)
        self.cond_change("DNS", own)
        self.cond_change("Logical_Router", [["name", "==", name] for name in sorted(self.scope.routers)])
        self.cond_change("Logical_Switch", switches)
        self.cond_change("Logical_Switch_Port", [True] if self._copy_all_ports else ports)
        self._conditions_stale = False  # last: `knows` is asked from another thread

    def _Idl__create_row(self, table: Any, row_id: uuid.UUID) -> Any:  # noqa: N802
        if table.name not in self.tables:  # the server's own table of its databases, which the IDL reads itself
            return super()._Idl__create_row(table, row_id)
        return PackedRow(table, row_id)

    # -- Logical_Switch.ports, from the protocol

    def _Idl__apply_diff(self, table: Any, row: Any, row_diff: dict[str, Any]) -> Any:  # noqa: N802
        if table.name != "Logical_Switch":
            return super()._Idl__apply_diff(table, row, row_diff)
        switch = str(row.uuid)
        rest = dict(row_diff)
        # A difference of sets (ovsdb-server(7), 4.1.14): what was in is out, and what was out is in.
        for member in _uuids(rest.pop("ports", ["set", []])):
            self._set_member(switch, member, member not in self._members[switch])
        if "name" in rest:
            self._switch_names[switch] = rest["name"]
            self._moved |= self._members[switch]
        return super()._Idl__apply_diff(table, row, rest)

    def _Idl__row_update(self, table: Any, row: Any, row_json: dict[str, Any]) -> Any:  # noqa: N802
        if table.name == "Logical_Switch_Port":
            try:
                row.take(row_json)
                return True
            except (ValueError, TypeError, AttributeError):  # the IDL says what is wrong with it
                return super()._Idl__row_update(table, row, row_json)
        if table.name != "Logical_Switch":
            return super()._Idl__row_update(table, row, row_json)
        rest = dict(row_json)
        self._switch_names[str(row.uuid)] = rest["name"]
        for member in _uuids(rest.pop("ports", ["set", []])):
            self._set_member(str(row.uuid), member, True)
        return super()._Idl__row_update(table, row, rest)

    def _Idl__add_default(self, table: Any, row_update: dict[str, Any]) -> None:  # noqa: N802
        if table.name != "Logical_Switch_Port":  # whose rows need none: see PackedRow
            super()._Idl__add_default(table, row_update)

    def _set_member(self, switch: str, member: str, present: bool) -> None:
        if present:
            self._members[switch].add(member)
            self._switch_of[member] = switch
        else:
            self._members[switch].discard(member)
            if self._switch_of.get(member) == switch:  # else it has moved to a switch that was looked at before this one
                del self._switch_of[member]
        self._moved.add(member)

    def _switch_name(self, port_id: str) -> str:
        return self._switch_names.get(self._switch_of.get(port_id, ""), "")

    # -- rows

    def notify(self, event: str, row: Any, updates: Any = None) -> None:  # noqa: ARG002 - the IDL's signature
        gone = event == ovs_idl.ROW_DELETE
        row_id = str(row.uuid)
        self._changed = True
        match row._table.name:
            case "Logical_Switch":
                self._notify_switch(row_id, gone)
            case "Logical_Switch_Port":
                self._look_at_port(row_id, None if gone else row)
            case "Logical_Router_Port":
                self._notify_router_port(row_id, row, gone)
            case "Logical_Router":
                if gone:
                    self._services.remove_router(row_id)
                else:
                    self._services.put_router(row_id, row.value("name"))
                self._everything_dirty = True
            case "DHCP_Options":
                if gone:
                    self._moved |= self._services.remove_dhcp(row_id)
                else:
                    self._moved |= self._services.put_dhcp(row_id, row.value("cidr"), _map(row, "options"))
            case "DNS":
                self._notify_dns(row_id, row, gone)
            case "NB_Global":
                self._global_ids = Map({} if gone else row.value("external_ids"))
                self._inventory_dirty = True

    def _notify_switch(self, switch: str, gone: bool) -> None:
        if gone:
            for member in list(self._members[switch]):
                self._set_member(switch, member, False)
            del self._members[switch], self._switch_names[switch]
        switches = Map({name: row_id for row_id, name in sorted(self._switch_names.items(), reverse=True)})
        if switches != self._switches:
            self._switches = switches
            self._everything_dirty = True

    def _notify_router_port(self, row_id: str, row: Any, gone: bool) -> None:
        name = row.value("name")
        if (before := self._router_ports.pop(row_id, name)) != name or gone:
            self._inventory_dirty |= self._inventory.remove_router_port(before)
            self._everything_dirty |= self._services.remove_router_port(before)
        if gone:
            return
        self._router_ports[row_id] = name
        mac, networks = row.value("mac"), row.value("networks")
        self._inventory_dirty |= self._inventory.put_router_port(name, mac, networks)
        external_ids = _map(row, "external_ids")
        self._services.put_router_port(row_id, name, mac, networks, _map(row, "ipv6_ra_configs"), external_ids)
        self._everything_dirty |= external_ids.get(CLUSTER) == self.cluster

    def _notify_dns(self, row_id: str, row: Any, gone: bool) -> None:
        if gone:
            names = self._services.remove_dns(row_id)
        else:
            names = self._services.put_dns(row_id, _map(row, "records"), _map(row, "external_ids"))
        for name in names:
            port_id = self._own.uuid(name)
            self._services.judge_dns(name, there=bool(port_id))
            if port_id:
                self._moved.add(port_id)

    def _look_at_port(self, row_id: str, row: Any) -> None:
        """Sort a port in: the agent's own, a foreign one that matters, or neither. `row` is None where it is not copied."""
        self._moved.discard(row_id)
        switch = self._switch_name(row_id)
        external_ids = _map(row, "external_ids") if row is not None else {}
        own = external_ids.get(CLUSTER) == self.cluster
        self._note(self._unowned, row_id, not own and switch in self.scope.switches)
        self._note(self._homeless, row_id, own and switch not in self.scope.switches)
        if not own:
            self._forget_own(row_id)
        elif switch:  # else it has been moved to a switch that is not here yet: what was known of it stands until then
            self._put_own(row_id, row, switch, external_ids)
        if row is not None and (row_id in self._unowned or (not own and row.value("name") in self._watched_names)):
            foreign = foreign_port(
                row.value("name"),
                switch if switch in self.scope.switches else "",
                row.value("type"),
                (*row.value("addresses"), *row.value("dynamic_addresses")),
                _map(row, "options"),
            )
            self._inventory_dirty |= self._inventory.put(row_id, foreign)
        else:
            self._inventory_dirty |= self._inventory.remove(row_id)

    def _note(self, ports: set[str], row_id: str, belongs: bool) -> None:
        """Put a port into a set on which the conditions depend, or take it out."""
        if belongs != (row_id in ports):
            (ports.add if belongs else ports.discard)(row_id)
            self._conditions_stale = True

    def _put_own(self, row_id: str, row: Any, switch: str, external_ids: dict[str, str]) -> None:
        name = row.value("name")
        dhcpv4, dhcpv6 = row.value("dhcpv4_options"), row.value("dhcpv6_options")
        self._services.use_dhcp(row_id, (*dhcpv4, *dhcpv6))
        dns_row, dns = self._services.dns(name)
        port = Port(
            name=name,
            switch=switch,
            addresses=row.value("addresses"),
            port_security=row.value("port_security"),
            type=row.value("type"),
            enabled=row.value("enabled") != (False,),
            options=_held_once(own_options(_map(row, "options"), external_ids), row.value("options")),
            external_ids=_held_once(own_external_ids(external_ids), row.value("external_ids")),
            dhcpv4=self._services.dhcp_options(dhcpv4),
            dhcpv6=self._services.dhcp_options(dhcpv6),
            dns=dns,
        )
        before = self._own.get(row_id)
        self._dirty |= self._own.put(PresentPort(row_id, port, dns_row))
        if before is None or before.port.name != name:
            self._judge_dns(before, name)
        if self.snapshot.complete:
            self._last_seen.written(port, before)

    def _forget_own(self, row_id: str) -> None:
        before = self._own.get(row_id)
        if before is not None:
            self._dirty |= self._own.remove(row_id)
            self._services.use_dhcp(row_id, ())
            self._judge_dns(before)

    def _judge_dns(self, before: PresentPort | None, *names: str) -> None:
        for name in (*names, *((before.port.name,) if before is not None else ())):
            self._services.judge_dns(name, there=bool(self._own.uuid(name)))

    # -- after each batch of updates

    def updated(self) -> None:
        if not self.monitoring:
            if self.snapshot.complete:
                self._withdraw()
                self.listeners.everything()
            return
        while self._moved:
            self._changed = True
            moved, self._moved = self._moved, set()  # one by one from the front of a large set is quadratic
            for row_id in moved:
                self._look_at_port(row_id, self.tables["Logical_Switch_Port"].rows.get(uuid.UUID(row_id)))
        if self._conditions_stale:
            self._update_conditions()
        if self.has_lock != self._had_lock:
            self._had_lock = self.has_lock
            self._everything_dirty = True
        if not self.snapshot.complete:
            if not self.conditions_met:
                return
            memory.give_back()
            self._last_seen.compare(self._own.ports)
            self._changed = self._everything_dirty = True
        if self._changed:
            self._changed = False
            self.snapshot = self._take_snapshot()
        if self._everything_dirty:
            self._everything_dirty = False
            self.listeners.everything()
        dirty, self._dirty = self._dirty, set()
        if self._inventory_dirty or None in dirty:
            self._inventory_dirty = False
            self.listeners.inventory()
        if keys := {key for key in dirty if key is not None}:
            self.rows_changed = time.monotonic()
            self.listeners.changed(keys)

    def _unread(self) -> frozenset[str]:
        if self.conditions_met and not self._conditions_stale:
            return frozenset()
        rows = self.tables["Logical_Switch_Port"].rows
        return frozenset(self._switch_name(port) for port in self._unowned if uuid.UUID(port) not in rows)

    def _take_snapshot(self) -> NorthboundSnapshot:
        return NorthboundSnapshot(
            generation=self.generation,
            complete=True,
            scope=self.scope,
            ports=self._own.ports,
            by_vm=self._own.by_vm,
            virtual=self._own.virtual,
            switches=self._switches,
            unread=self._unread(),
            before=self._last_seen.rows,
            foreign=self._inventory.refresh(),
            names=self._inventory.names.now,
            router_ports=self._services.router_ports,
            dhcp=self._services.dhcp,
            routers=self._services.routers,
            unused=self._services.unused(),
            global_ids=self._global_ids,
        )


def _map(row: PackedRow, column: str) -> dict[str, str]:
    return dict(row.value(column))


def _held_once(own: Pairs, all_: Pairs) -> Pairs:
    """Of two equal values that which the row has already."""
    return all_ if own == all_ else own


def _uuids(value: Any) -> Iterator[str]:
    """UUIDs of a set in OVSDB's JSON: `["set", [["uuid", x], ...]]`, or `["uuid", x]` for one alone."""
    if value[0] == "uuid":
        yield value[1]
    else:
        yield from (element[1] for element in value[1])


for _hook in ("_Idl__add_default", "_Idl__apply_diff", "_Idl__create_row", "_Idl__row_update"):
    assert hasattr(ovs_idl.Idl, _hook), f"ovs' IDL has changed: {_hook} is gone"

"""The copy of the Northbound database: which rows are asked for, and the snapshots made of them.

Two things are not as the IDL would have them. `Logical_Switch.ports` never becomes a column of a row: the IDL copies and
compares the whole set at every change (59 ms at 10,000 ports). Its differences are taken from the protocol instead, and
only to know where a port is and which ports on the agent's switches are foreign. The condition on Logical_Switch_Port
follows from that: the agent's own rows, and those foreign ones by UUID. 100,000 ports on other switches are never copied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ovs.db import idl as ovs_idl

from ovnagent.core.ports import CLUSTER, Port, PresentPort, own_external_ids, own_options
from ovnagent.core.vm import VmKey
from ovnagent.ovn.connection import Replica

MANY_FOREIGN = 500
"""From so many foreign ports on the agent's switches on, all ports are copied: ovsdb-server compares every changed row
with every clause of a condition."""


@dataclass(frozen=True, slots=True)
class Listeners:
    """Who is told of what. All are called from the connection's thread and must return at once."""

    changed: Callable[[set[VmKey]], None]
    """Rows of these VMs."""
    everything: Callable[[], None]
    """The copy became complete or incomplete, the lock came or went, a switch came or went."""
    inventory: Callable[[], None]
    """What others use: foreign ports, router ports, NB_Global."""


@dataclass(frozen=True, slots=True)
class ForeignPort:
    name: str
    switch: str
    ips: tuple[str, ...]
    macs: tuple[str, ...]
    router_port: str

    @property
    def phrase(self) -> str:
        return f"router port {self.router_port}" if self.router_port else f"logical switch port {self.name}"


class NorthboundReplica(Replica):
    """Runs in the connection's thread; its public attributes may be read from any."""

    def __init__(
        self,
        remote: str,
        helper: Any,
        leader_only: bool,
        cluster: str,
        wanted_switches: frozenset[str],
        listeners: Listeners,
    ) -> None:
        self.cluster = cluster
        self.wanted_switches = wanted_switches
        self.listeners = listeners
        self.watched_names: set[str] = set()
        self.complete = False
        self._reset()
        super().__init__(remote, helper, leader_only)
        self._had_lock = False
        self.update_conditions()
        self.on_update = self._updated

    def _reset(self) -> None:
        self.own: dict[str, PresentPort] = {}
        self.names_of: dict[VmKey, set[str]] = {}
        self.switches: dict[str, str] = {}
        self.taken_ips: dict[str, dict[str, str]] = {}
        self.taken_macs: dict[str, dict[str, str]] = {}
        self.foreign_names: dict[str, str] = {}
        self.global_ids: dict[str, str] = {}
        self._own_names: dict[str, str] = {}  # row UUID -> name
        self._foreign: dict[str, ForeignPort] = {}  # row UUID ->
        self._member_of: dict[str, str] = {}  # port UUID -> name of its switch
        self._unowned: set[str] = set()  # ports on the agent's switches that are not the agent's
        self._homeless: set[str] = set()  # ports of the agent's on a switch that is not known
        self._routers: dict[str, tuple[str, tuple[str, ...]]] = {}  # router port -> MAC, networks
        self._dirty: set[VmKey] = set()
        self._inventory_dirty = False
        self._everything_dirty = True

    def cleared(self) -> None:
        self.complete = False
        self._reset()

    # -- which rows are asked for

    def update_conditions(self) -> None:
        """Ask for the rows that are of interest now. Caller holds the connection's lock, or is its thread."""
        switches: list[Any] = [["name", "==", name] for name in sorted(self.wanted_switches)]
        switches += [["ports", "includes", ["uuid", port]] for port in sorted(self._homeless)]
        ports: list[Any] = [["external_ids", "includes", ["map", [[CLUSTER, self.cluster]]]]]
        ports += [["name", "==", name] for name in sorted(self.watched_names)]
        ports += [["_uuid", "==", ["uuid", port]] for port in sorted(self._unowned)]
        if len(self._unowned) > MANY_FOREIGN:
            ports = [True]
        for table, condition in (("Logical_Switch", switches), ("Logical_Switch_Port", ports)):
            if self.tables[table].condition_state.latest != condition:
                self.cond_change(table, condition)

    # -- Logical_Switch.ports, from the protocol

    def _Idl__apply_diff(self, table: Any, row: Any, row_diff: dict[str, Any]) -> Any:  # noqa: N802
        if table.name == "Logical_Switch" and "ports" in row_diff:
            row_diff = dict(row_diff)
            for member in _uuids(row_diff.pop("ports")):
                # A difference of sets: what was in is out, and what was out is in.
                self._set_member(row.name, member, self._member_of.get(member) != row.name)
        return super()._Idl__apply_diff(table, row, row_diff)

    def _Idl__row_update(self, table: Any, row: Any, row_json: dict[str, Any]) -> Any:  # noqa: N802
        if table.name == "Logical_Switch" and "ports" in row_json:
            row_json = dict(row_json)
            for member in _uuids(row_json.pop("ports")):
                self._set_member(row_json["name"], member, True)
        return super()._Idl__row_update(table, row, row_json)

    def _set_member(self, switch: str, member: str, present: bool) -> None:
        if present:
            self._member_of[member] = switch
        elif self._member_of.get(member) == switch:
            del self._member_of[member]
        if (name := self._own_names.get(member)) is not None:  # moved behind the agent's back, or homeless until now
            self._place(name)
        elif present and switch in self.wanted_switches:
            self._unowned.add(member)
        elif member in self._unowned:
            self._unowned.discard(member)
            self._forget(member)

    # -- rows

    def notify(self, event: str, row: Any, updates: Any = None) -> None:  # noqa: ARG002 - the IDL's signature
        gone = event == ovs_idl.ROW_DELETE
        match row._table.name:
            case "Logical_Switch":
                self._notify_switch(row, gone)
            case "Logical_Switch_Port":
                self._notify_port(str(row.uuid), row, gone)
            case "Logical_Router_Port":
                self._notify_router_port(row, gone)
            case "NB_Global":
                self.global_ids = {} if gone else dict(row.external_ids)
                self._inventory_dirty = True

    def _notify_switch(self, row: Any, gone: bool) -> None:
        if not gone and self.switches.get(row.name) == str(row.uuid):
            return  # its ports changed; that has been noted
        if gone:
            self.switches.pop(row.name, None)
            for member in [member for member, switch in self._member_of.items() if switch == row.name]:
                self._set_member(row.name, member, False)
        else:
            self.switches[row.name] = str(row.uuid)
        self._everything_dirty = True

    def _notify_port(self, row_id: str, row: Any, gone: bool) -> None:
        self._disown(row_id)
        self._forget(row_id)
        if gone:
            self._unowned.discard(row_id)
            return
        external_ids = _column(row, "external_ids")
        if external_ids.get(CLUSTER) == self.cluster:
            self._unowned.discard(row_id)
            self._own(row_id, row, external_ids)
            return
        switch = self._member_of.get(row_id, "")
        if switch in self.wanted_switches:
            self._unowned.add(row_id)
        elif row.name not in self.watched_names:
            return
        entries = [entry.split() for entry in (*row.addresses, *row.dynamic_addresses)]
        foreign = ForeignPort(
            name=row.name,
            switch=switch,
            ips=tuple(ip for entry in entries for ip in entry[1:] if ip != "dynamic"),
            macs=tuple(entry[0].lower() for entry in entries if ":" in entry[0]),
            router_port=row.options.get("router-port", "") if row.type == "router" else "",
        )
        self._foreign[row_id] = foreign
        self.foreign_names[foreign.name] = foreign.phrase
        self._take(foreign)

    def _own(self, row_id: str, row: Any, external_ids: dict[str, str]) -> None:
        port = Port(
            name=_column(row, "name"),
            switch=self._member_of.get(row_id, ""),
            addresses=tuple(sorted(_column(row, "addresses"))),
            port_security=tuple(sorted(_column(row, "port_security"))),
            type=_column(row, "type"),
            enabled=_column(row, "enabled") != [False],
            options=own_options(_column(row, "options"), external_ids),
            external_ids=own_external_ids(external_ids),
        )
        self._own_names[row_id] = port.name
        self.own[port.name] = PresentPort(row_id, port)
        self.names_of.setdefault(port.vm, set()).add(port.name)
        self._dirty.add(port.vm)
        if not port.switch:
            self._homeless.add(row_id)

    def _disown(self, row_id: str) -> None:
        name = self._own_names.pop(row_id, None)
        self._homeless.discard(row_id)
        if name is None or self.own[name].uuid != row_id:  # the name may belong to a new row already
            return
        key = self.own.pop(name).port.vm
        self._dirty.add(key)
        self.names_of[key].discard(name)
        if not self.names_of[key]:
            del self.names_of[key]

    def _place(self, name: str) -> None:
        """Note on which switch an own port is."""
        present = self.own[name]
        switch = self._member_of.get(present.uuid, "")
        if switch != present.port.switch:
            values = {field: getattr(present.port, field) for field in Port.__slots__} | {"switch": switch}
            self.own[name] = PresentPort(present.uuid, Port(**values))
            self._dirty.add(present.port.vm)
        (self._homeless.discard if switch else self._homeless.add)(present.uuid)

    def _notify_router_port(self, row: Any, gone: bool) -> None:
        attached = [foreign for foreign in self._foreign.values() if foreign.router_port == row.name]
        for foreign in attached:
            self._release(foreign)
        if gone:
            self._routers.pop(row.name, None)
        else:
            self._routers[row.name] = (row.mac.lower(), tuple(row.networks))
        for foreign in attached:
            self._take(foreign)

    # -- what others use

    def _uses(self, foreign: ForeignPort) -> Iterator[tuple[dict[str, str], str]]:
        """(table of its switch, address) for all addresses of a foreign port, a router's included."""
        mac, networks = self._routers.get(foreign.router_port, ("", ()))
        ips = self.taken_ips.setdefault(foreign.switch, {})
        macs = self.taken_macs.setdefault(foreign.switch, {})
        yield from ((ips, ip) for ip in (*foreign.ips, *(network.partition("/")[0] for network in networks)))
        yield from ((macs, mac) for mac in (*foreign.macs, mac) if mac)

    def _take(self, foreign: ForeignPort) -> None:
        for table, address in self._uses(foreign):
            table[address] = foreign.phrase
        self._inventory_dirty = True

    def _release(self, foreign: ForeignPort) -> None:
        for table, address in self._uses(foreign):
            if table.get(address) == foreign.phrase:
                del table[address]
        self._inventory_dirty = True

    def _forget(self, row_id: str) -> None:
        foreign = self._foreign.pop(row_id, None)
        if foreign is not None:
            self._release(foreign)
            self.foreign_names.pop(foreign.name, None)

    # -- after each batch of updates

    def _updated(self) -> None:
        if not self.monitoring:
            if self.complete:
                self.complete = False
                self.listeners.everything()
            return
        self.update_conditions()
        if self.has_lock != self._had_lock:
            self._had_lock = self.has_lock
            self._everything_dirty = True
        if not all(table.condition_state.acked == table.condition_state.latest for table in self.tables.values()):
            return  # rows that have been asked for are still to come
        if not self.complete:
            self.complete = self._everything_dirty = True
        if self._everything_dirty:
            self._everything_dirty = False
            self.listeners.everything()
        if self._inventory_dirty:
            self._inventory_dirty = False
            self.listeners.inventory()
        if self._dirty:
            dirty, self._dirty = self._dirty, set()
            self.listeners.changed(dirty)


def _column(row: Any, column: str) -> Any:
    """A column as a plain value. Row's own attribute access first looks for changes of an open transaction, which takes
    three times as long: a second at 10,000 ports."""
    return row._data[column].to_python(lambda atom, _base: atom)


def _uuids(value: Any) -> Iterator[str]:
    """UUIDs of a set in OVSDB's JSON: `["set", [["uuid", x], ...]]`, or `["uuid", x]` for one alone."""
    if value[0] == "uuid":
        yield value[1]
    else:
        yield from (element[1] for element in value[1])


for _hook in ("_Idl__apply_diff", "_Idl__row_update"):
    assert hasattr(ovs_idl.Idl, _hook), f"ovs' IDL has changed: {_hook} is gone"

"""What can be done to the Northbound database, as values, and the OVSDB operations (RFC 7047, 5.2) that do it.

Raw operations and not IDL rows: `Logical_Switch.ports` must never be read on the way to a write (59 ms a change at 10,000
ports), maps are changed key by key so that other writers' keys survive, and an operation costs no copy of a row.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from ovnagent.core.dhcp import DhcpOptions
from ovnagent.core.ports import CLUSTER, PORT, Port, PresentPort
from ovnagent.core.routers import RouterPort
from ovnagent.ovn import atoms

Operation = dict[str, Any]
_numbers = count(1)


@dataclass(frozen=True, slots=True)
class CreateSwitch:
    name: str


@dataclass(frozen=True, slots=True)
class CreatePort:
    port: Port


@dataclass(frozen=True, slots=True)
class UpdatePort:
    present: PresentPort
    port: Port


@dataclass(frozen=True, slots=True)
class DeletePort:
    present: PresentPort


@dataclass(frozen=True, slots=True)
class PutRouterPort:
    """A router's port on a switch as it should be; what is missing of router, router port and switch port is created."""

    port: RouterPort
    present: str
    """UUID of the router port; empty where it is missing."""
    right: bool
    """The router port is as it should be."""
    switch_port: bool
    """The switch's port is there."""


@dataclass(frozen=True, slots=True)
class DeleteRows:
    """Rows of a root table."""

    table: str
    uuids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SetGlobal:
    """A key of NB_Global's external_ids; an empty value removes it."""

    key: str
    value: str


Change = CreateSwitch | CreatePort | UpdatePort | DeletePort | PutRouterPort | DeleteRows | SetGlobal


@dataclass(frozen=True, slots=True)
class Known:
    """UUIDs of rows that changes refer to."""

    switches: Mapping[str, str]
    """By name."""
    dhcp: Mapping[DhcpOptions, str] = field(default_factory=dict)
    """The agent's own, by content."""
    routers: Mapping[str, str] = field(default_factory=dict)
    """By name."""


def operations(changes: Iterable[Change], known: Known, cluster: str) -> list[Operation]:
    """The operations of one transaction.

    Raises KeyError for a port on a switch that neither exists nor is created here, and atoms.UnwritableError for a value
    that must not stand where it would: nothing is left half done."""
    made = _Operations(known, cluster)
    for change in changes:
        match change:
            case CreateSwitch(name):
                made.create_switch(name)
            case CreatePort(port):
                made.create_port(port)
            case UpdatePort(present, port):
                made.update_port(present, port)
            case DeletePort(present):
                made.delete_port(present)
            case PutRouterPort():
                made.put_router_port(change)
            case DeleteRows(table, uuids):
                made.rows += [{"op": "delete", "table": table, "where": [_is(uuid)]} for uuid in uuids]
            case SetGlobal(key, value):
                made.set_global(key, value)
    return made.all()


class _Operations:
    def __init__(self, known: Known, cluster: str) -> None:
        self.cluster = cluster
        self.switches: dict[str, list[str]] = {name: ["uuid", uuid] for name, uuid in known.switches.items()}
        self.routers: dict[str, list[str]] = {name: ["uuid", uuid] for name, uuid in known.routers.items()}
        self.dhcp: dict[DhcpOptions, list[str]] = {options: ["uuid", uuid] for options, uuid in known.dhcp.items()}
        self.rows: list[Operation] = []
        # (switch, its column) -> members that come, and that go
        self.added: defaultdict[tuple[str, str], list[list[str]]] = defaultdict(list)
        self.removed: defaultdict[tuple[str, str], list[str]] = defaultdict(list)

    def create_switch(self, name: str) -> None:
        self.switches[name] = self._create_named("Logical_Switch", name)

    def _create_named(self, table: str, name: str) -> list[str]:
        """Only if there is none of this name at that moment: OVN would allow a second one."""
        none = {"op": "wait", "table": table, "where": [["name", "==", atoms.text(table, "name", name)]], "timeout": 0}
        self.rows.append({**none, "columns": ["name"], "until": "==", "rows": []})
        return self._insert(table, {"name": name, "external_ids": {CLUSTER: self.cluster}})

    def _insert(self, table: str, columns: Mapping[str, atoms.Value], **written: Any) -> list[str]:
        """A new row; how the rest of the transaction refers to it. `written`: columns as atoms has made them already."""
        named = _new_name()
        row = atoms.row(table, columns) | written
        self.rows.append({"op": "insert", "table": table, "uuid-name": named, "row": row})
        return ["named-uuid", named]

    def _dhcp(self, options: DhcpOptions | None) -> list[Any]:
        """A reference to the row with this content, which is created where there is none."""
        if options is None:
            return ["set", []]
        if options not in self.dhcp:
            ours = {"external_ids": {CLUSTER: self.cluster}}
            self.dhcp[options] = self._insert("DHCP_Options", ours, **atoms.dhcp_row(options))
        return self.dhcp[options]

    def _dns(self, port: Port) -> list[str]:
        name, _, addresses = port.dns.partition(" ")
        ours = {"external_ids": {CLUSTER: self.cluster, PORT: port.name}}
        return self._insert("DNS", ours, records=atoms.dns_records(name, addresses))

    def create_port(self, port: Port) -> None:
        row: dict[str, atoms.Value] = {
            "name": port.name,
            "addresses": port.addresses,
            "port_security": port.port_security,
            "options": dict(port.options),
            "external_ids": dict(port.external_ids),
        }
        if port.type:
            row["type"] = port.type
        if not port.enabled:
            row["enabled"] = False
        if port.dhcpv4 is not None:
            row["dhcpv4_options"] = self._dhcp(port.dhcpv4)
        if port.dhcpv6 is not None:
            row["dhcpv6_options"] = self._dhcp(port.dhcpv6)
        self.added[port.switch, "ports"].append(self._insert("Logical_Switch_Port", row))
        if port.dns:
            self.added[port.switch, "dns_records"].append(self._dns(port))

    def delete_port(self, present: PresentPort) -> None:
        self.removed[present.port.switch, "ports"].append(present.uuid)
        self._delete_dns(present)

    def _delete_dns(self, present: PresentPort) -> None:
        if present.dns_row:  # the switch's reference to it is weak, and goes with it
            self.rows.append({"op": "delete", "table": "DNS", "where": [_is(present.dns_row)]})

    def update_port(self, present: PresentPort, port: Port) -> None:
        """Only what differs; in `options` and `external_ids` only the keys that differ."""
        old = present.port
        where = [_is(present.uuid)]
        rows: list[Operation] = []
        columns: dict[str, atoms.Value] = {}
        if port.addresses != old.addresses:
            columns["addresses"] = port.addresses
        if port.port_security != old.port_security:
            columns["port_security"] = port.port_security
        if port.type != old.type:
            columns["type"] = port.type
        if port.enabled != old.enabled:
            columns["enabled"] = port.enabled
        if port.dhcpv4 != old.dhcpv4:
            columns["dhcpv4_options"] = self._dhcp(port.dhcpv4)
        if port.dhcpv6 != old.dhcpv6:
            columns["dhcpv6_options"] = self._dhcp(port.dhcpv6)
        if columns:
            row = atoms.row("Logical_Switch_Port", columns)
            rows.append({"op": "update", "table": "Logical_Switch_Port", "where": where, "row": row})
        mutations = [
            *_map_mutations("options", dict(old.options), dict(port.options)),
            *_map_mutations("external_ids", dict(old.external_ids), dict(port.external_ids)),
        ]
        if mutations:
            rows.append({"op": "mutate", "table": "Logical_Switch_Port", "where": where, "mutations": mutations})
        if port.switch != old.switch:
            self.removed[old.switch, "ports"].append(present.uuid)
            self.added[port.switch, "ports"].append(["uuid", present.uuid])
        if (port.dns, port.switch) != (old.dns, old.switch):
            self._delete_dns(present)
            if port.dns:
                self.added[port.switch, "dns_records"].append(self._dns(port))
        self.rows += rows

    def put_router_port(self, change: PutRouterPort) -> None:
        port = change.port
        table = "Logical_Router_Port"
        row: dict[str, atoms.Value] = {
            "mac": port.mac,
            "networks": port.networks,
            "ipv6_ra_configs": dict(port.advertisements),
        }
        if change.present and not change.right:
            where = [_is(change.present)]
            self.rows.append({"op": "update", "table": table, "where": where, "row": atoms.row(table, row)})
        elif not change.present:
            if port.router not in self.routers:
                self.routers[port.router] = self._create_named("Logical_Router", port.router)
            member = self._insert(table, row | {"name": port.name, "external_ids": {CLUSTER: self.cluster}})
            self.rows.append(_mutate("Logical_Router", self.routers[port.router], "ports", "insert", [member]))
        if not change.switch_port:
            # Not with the key by which the ports of VMs are known: this one belongs to no VM.
            self.added[port.switch, "ports"].append(
                self._insert(
                    "Logical_Switch_Port",
                    {
                        "name": port.switch_port,
                        "type": "router",
                        "addresses": ("router",),
                        "options": {"router-port": port.name},
                        "external_ids": {"ovnagent-router": self.cluster},
                    },
                )
            )

    def set_global(self, key: str, value: str) -> None:
        table, column = "NB_Global", "external_ids"
        mutations: list[list[Any]] = [[column, "delete", atoms.keys(table, column, [key])]]
        if value:
            mutations.append([column, "insert", atoms.pairs(table, column, {key: value})])
        self.rows.append({"op": "mutate", "table": table, "where": [], "mutations": mutations})

    def all(self) -> list[Operation]:
        """Rows first, then one mutation of `ports` for each switch and direction, however many ports there are."""
        rows = list(self.rows)
        for (switch, column), members in self.added.items():
            rows.append(_mutate("Logical_Switch", self.switches[switch], column, "insert", members))
        for (switch, column), uuids in self.removed.items():
            if switch in self.switches:  # a switch that somebody deleted took its ports with it
                gone = [["uuid", uuid] for uuid in uuids]
                rows.append(_mutate("Logical_Switch", self.switches[switch], column, "delete", gone))
        return rows


def _is(row_id: str) -> list[Any]:
    return ["_uuid", "==", ["uuid", row_id]]


def _mutate(table: str, row: list[str], column: str, mutator: str, members: list[list[str]]) -> Operation:
    mutations = [[column, mutator, ["set", members]]]
    return {"op": "mutate", "table": table, "where": [["_uuid", "==", row]], "mutations": mutations}


def _map_mutations(column: str, old: Mapping[str, str], new: Mapping[str, str]) -> list[list[Any]]:
    """Key by key, so that what others keep in the map survives. An insert alone never replaces a value (RFC 7047, 5.1):
    every key that comes, changes or goes is deleted first."""
    fresh = {key: value for key, value in new.items() if old.get(key) != value}
    stale = [*fresh, *(key for key in old if key not in new)]
    table = "Logical_Switch_Port"
    mutations: list[list[Any]] = [[column, "delete", atoms.keys(table, column, stale)]] if stale else []
    return [*mutations, [column, "insert", atoms.pairs(table, column, fresh)]] if fresh else mutations


def _new_name() -> str:
    """For a `uuid-name`, which counts within its transaction (RFC 7047, 5.2.1)."""
    return f"row{next(_numbers)}"

"""What can be done to the Northbound database, as values, and the OVSDB operations (RFC 7047, 5.2) that do it.

Raw operations and not IDL rows: `Logical_Switch.ports` must never be read on the way to a write (59 ms a change at 10,000
ports), maps are changed key by key so that other writers' keys survive, and an operation costs no copy of a row.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ovnagent.core.ports import Port, PresentPort

Operation = dict[str, Any]


@dataclass(frozen=True, slots=True)
class CreateSwitch:
    name: str
    cluster: str


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


Change = CreateSwitch | CreatePort | UpdatePort | DeletePort


def operations(changes: Iterable[Change], switches: Mapping[str, str]) -> list[Operation]:
    """The operations of one transaction. `switches`: name -> UUID of the logical switches that exist.

    Raises KeyError for a port on a switch that neither exists nor is created here: nothing is left half done."""
    made = _Operations(switches)
    for change in changes:
        match change:
            case CreateSwitch(name, cluster):
                made.create_switch(name, cluster)
            case CreatePort(port):
                made.create_port(port)
            case UpdatePort(present, port):
                made.update_port(present, port)
            case DeletePort(present):
                made.removed[present.port.switch].append(present.uuid)
    return made.all()


class _Operations:
    def __init__(self, switches: Mapping[str, str]) -> None:
        self.switches: dict[str, list[str]] = {name: ["uuid", uuid] for name, uuid in switches.items()}
        self.rows: list[Operation] = []
        self.added: defaultdict[str, list[list[str]]] = defaultdict(list)
        self.removed: defaultdict[str, list[str]] = defaultdict(list)

    def create_switch(self, name: str, cluster: str) -> None:
        """Only if there is none of this name at that moment: OVN would allow a second one."""
        none = {"op": "wait", "table": "Logical_Switch", "where": [["name", "==", name]], "timeout": 0}
        self.rows.append({**none, "columns": ["name"], "until": "==", "rows": []})
        named = _new_name()
        self.switches[name] = ["named-uuid", named]
        row = {"name": name, "external_ids": _map({"ovnagent-cluster": cluster})}
        self.rows.append({"op": "insert", "table": "Logical_Switch", "uuid-name": named, "row": row})

    def create_port(self, port: Port) -> None:
        named = _new_name()
        row: dict[str, Any] = {
            "name": port.name,
            "addresses": _set(port.addresses),
            "port_security": _set(port.port_security),
            "options": _map(dict(port.options)),
            "external_ids": _map(dict(port.external_ids)),
        }
        if port.type:
            row["type"] = port.type
        if not port.enabled:
            row["enabled"] = False
        self.rows.append({"op": "insert", "table": "Logical_Switch_Port", "uuid-name": named, "row": row})
        self.added[port.switch].append(["named-uuid", named])

    def update_port(self, present: PresentPort, port: Port) -> None:
        """Only what differs; in `options` and `external_ids` only the keys that differ."""
        old = present.port
        where = [["_uuid", "==", ["uuid", present.uuid]]]
        rows: list[Operation] = []
        columns: dict[str, Any] = {}
        if port.addresses != old.addresses:
            columns["addresses"] = _set(port.addresses)
        if port.port_security != old.port_security:
            columns["port_security"] = _set(port.port_security)
        if port.type != old.type:
            columns["type"] = port.type
        if port.enabled != old.enabled:
            columns["enabled"] = port.enabled
        if columns:
            rows.append({"op": "update", "table": "Logical_Switch_Port", "where": where, "row": columns})
        mutations = [
            *_map_mutations("options", dict(old.options), dict(port.options)),
            *_map_mutations("external_ids", dict(old.external_ids), dict(port.external_ids)),
        ]
        if mutations:
            rows.append({"op": "mutate", "table": "Logical_Switch_Port", "where": where, "mutations": mutations})
        if port.switch != old.switch:
            if old.switch in self.switches:
                self.removed[old.switch].append(present.uuid)
            self.added[port.switch].append(["uuid", present.uuid])
        self.rows += rows

    def all(self) -> list[Operation]:
        """Rows first, then one mutation of `ports` for each switch and direction, however many ports there are."""
        rows = list(self.rows)
        for switch, members in self.added.items():
            rows.append(self._mutate(switch, "insert", members))
        for switch, uuids in self.removed.items():
            if switch in self.switches:  # a switch that somebody deleted took its ports with it
                rows.append(self._mutate(switch, "delete", [["uuid", uuid] for uuid in uuids]))
        return rows

    def _mutate(self, switch: str, mutator: str, members: list[list[str]]) -> Operation:
        where = [["_uuid", "==", self.switches[switch]]]
        return {
            "op": "mutate",
            "table": "Logical_Switch",
            "where": where,
            "mutations": [["ports", mutator, ["set", members]]],
        }


def _map_mutations(column: str, old: Mapping[str, str], new: Mapping[str, str]) -> list[list[Any]]:
    """Key by key, so that what others keep in the map survives. An insert alone never replaces a value (RFC 7047, 5.1):
    every key that comes, changes or goes is deleted first."""
    fresh = {key: value for key, value in new.items() if old.get(key) != value}
    stale = [*fresh, *(key for key in old if key not in new)]
    mutations: list[list[Any]] = [[column, "delete", ["set", stale]]] if stale else []
    return [*mutations, [column, "insert", _map(fresh)]] if fresh else mutations


def _set(values: Sequence[str]) -> list[Any]:
    return ["set", list(values)]


def _map(values: Mapping[str, str]) -> list[Any]:
    return ["map", [[key, value] for key, value in values.items()]]


def _new_name() -> str:
    return "row" + uuid.uuid4().hex

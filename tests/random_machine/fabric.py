"""The two OVN databases as the world has a hand in them: every change of NB's rows, in order, and SB as northd and the
ovn-controllers would keep it. There is neither here: what they write is written by `Southbound.follow`."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

from hack.lab.databases import Server
from ovnagent.core.ports import CLUSTER
from ovnagent.ovn.json_parser import FrameParser
from tests.integration.nb_history import Row, plain
from tests.random_machine.cluster import NODES, Cluster, Machine, chassis_of

AGENTS = "lab"
"""The agent's cluster id."""
Listener = Callable[[Row | None, Row | None], None]
"""(a row of Logical_Switch_Port before, after)."""


class Client:
    """Requests and answers, one after the other, on a connection of its own."""

    def __init__(self, server: Server) -> None:
        self._database = server.database
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(f"{server.directory}/db.sock")
        self._parser = FrameParser()
        self._text = ""
        self._id = 0

    def close(self) -> None:
        self._socket.close()

    def ask(self, method: str, *params: Any) -> Any:
        """The answer; what the server says meanwhile goes to `told`."""
        self._id += 1
        self._socket.sendall(json.dumps({"method": method, "params": params, "id": self._id}).encode())
        while True:
            message = self._receive()
            if message.get("method") == "echo":
                self._socket.sendall(json.dumps({"result": [], "error": None, "id": message["id"]}).encode())
            elif "method" in message:
                self.told(message)
            elif message["id"] == self._id:
                assert not message["error"], message
                return message["result"]

    def transact(self, *operations: dict[str, Any]) -> list[Any]:
        answer: list[Any] = self.ask("transact", self._database, *operations)
        assert not any(isinstance(each, dict) and "error" in each for each in answer), answer
        return answer

    def told(self, message: dict[str, Any]) -> None:
        """A notification."""

    def _receive(self) -> dict[str, Any]:
        while True:
            while self._text:
                self._text = self._text[self._parser.feed(self._text) :]
                if self._parser.is_done():
                    found: dict[str, Any] = self._parser.finish()
                    self._parser = FrameParser()
                    return found
            self._text = self._socket.recv(1 << 20).decode()
            assert self._text, "the database has hung up"


class Northbound(Client):
    """All rows of Logical_Switch_Port, and each of their changes told to `listener` as `catch_up` hears of it."""

    def __init__(self, server: Server, listener: Listener) -> None:
        super().__init__(server)
        self.rows: dict[str, Row] = {}
        """By UUID."""
        self.listener: Listener = lambda *_: None
        self.switches: dict[str, str] = {}
        """UUID of a port -> its switch's UUID."""
        tables = {"Logical_Switch_Port": {}, "Logical_Switch": {"columns": ["ports"]}}
        self._take(self.ask("monitor", self._database, 0, tables))
        self.listener = listener

    def told(self, message: dict[str, Any]) -> None:
        if message["method"] == "update":
            self._take(message["params"][1])

    def catch_up(self) -> None:
        """All that was committed before now is known afterwards."""
        self.ask("echo")

    def own(self) -> list[Row]:
        return [row for row in self.rows.values() if owned(row)]

    def edit(self, *operations: dict[str, Any]) -> list[Any]:
        """By somebody else than the agent: the listener does not hear of it."""
        self.catch_up()
        listener, self.listener = self.listener, lambda *_: None
        answer = self.transact(*operations)
        self.catch_up()
        self.listener = listener
        return answer

    def _take(self, found: dict[str, Any]) -> None:
        for uuid, change in found.get("Logical_Switch", {}).items():
            members = plain(change["new"]["ports"]) if "new" in change else ()
            for port in members if not members or isinstance(members[0], (list, tuple)) else (members,):
                self.switches[port[1]] = uuid
        changed: list[tuple[Row | None, Row | None]] = []
        for uuid, change in found.get("Logical_Switch_Port", {}).items():
            before = self.rows.pop(uuid, None)
            after = {key: plain(value) for key, value in change["new"].items()} if "new" in change else None
            if after is not None:
                after["uuid"] = uuid
                self.rows[uuid] = after
            changed.append((before, after))
        for before, after in changed:
            self.listener(before, after)


def owned(row: Row) -> bool:
    return row["external_ids"].get(CLUSTER) == AGENTS


def requested(row: Row) -> tuple[str, ...]:
    """The chassis that a row asks for."""
    return tuple(name for name in row["options"].get("requested-chassis", "").split(",") if name)


def entries(row: Row) -> list[str]:
    value = row["addresses"]
    return [value] if isinstance(value, str) else list(value)


def insert_port(switch: str, name: str, addresses: str, **columns: Any) -> Iterator[dict[str, Any]]:
    """The operations that add a port to a switch."""
    row = {"name": name, "addresses": addresses, **columns}
    yield {"op": "insert", "table": "Logical_Switch_Port", "row": row, "uuid-name": "made"}
    yield {
        "op": "mutate",
        "table": "Logical_Switch",
        "where": [["name", "==", switch]],
        "mutations": [["ports", "insert", ["set", [["named-uuid", "made"]]]]],
    }


def delete_port(row: Row) -> dict[str, Any]:
    """The operation that takes it off its switch: the row itself goes with the last reference."""
    mutation = ["ports", "delete", ["set", [["uuid", row["uuid"]]]]]
    return {"op": "mutate", "table": "Logical_Switch", "where": [], "mutations": [mutation]}


class Southbound(Client):
    """Chassis, and the bindings of the agent's ports."""

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self.bindings: dict[str, tuple[str, str, str]] = {}
        """Port -> (chassis, additional chassis, activated), by names, as written last."""
        answer = self.transact(
            *({"op": "insert", "table": "Encap", "row": _encap(node), "uuid-name": f"e{node}"} for node in NODES),
            *({"op": "insert", "table": "Chassis", "row": _chassis(node)} for node in NODES),
            {"op": "insert", "table": "Datapath_Binding", "row": {"tunnel_key": 1}},
        )
        uuids = [each["uuid"] for each in answer]
        self._chassis = {chassis_of(node): uuids[len(NODES) + number] for number, node in enumerate(NODES)}
        self._datapath = uuids[-1]
        self._keys = 0

    def follow(self, rows: list[Row], cluster: Cluster) -> None:
        """northd and the ovn-controllers have seen these rows of NB, and what is plugged."""
        wanted = {row["name"]: self.wanted(row, cluster) for row in rows}
        operations = []
        for name in self.bindings.keys() - wanted.keys():
            operations.append({"op": "delete", "table": "Port_Binding", "where": [["logical_port", "==", name]]})
        for name, binding in wanted.items():
            if self.bindings.get(name) == binding:
                continue
            chassis, additional, activated = binding
            row: dict[str, Any] = {
                "chassis": self._named(chassis),
                "additional_chassis": self._named(additional),
                "options": ["map", [["additional-chassis-activated", activated]] if activated else []],
                "up": bool(chassis),
            }
            if name in self.bindings:
                where = [["logical_port", "==", name]]
                operations.append({"op": "update", "table": "Port_Binding", "where": where, "row": row})
            else:
                self._keys += 1
                row |= {"logical_port": name, "datapath": self._datapath, "tunnel_key": self._keys % 32000 + 1}
                operations.append({"op": "insert", "table": "Port_Binding", "row": row})
        self.bindings = wanted
        if operations:
            self.transact(*operations)

    def wanted(self, row: Row, cluster: Cluster) -> tuple[str, str, str]:
        """What ovn-controllers make of a row: see ovn-nb(5), options:requested-chassis and activation-strategy."""
        machine = cluster.machine_of(row["external_ids"].get("ovnagent-vm", ""))
        asked = requested(row)
        plugged = plugged_on(machine, row["external_ids"].get("ovnagent-interface", "")) if machine is not None else {}
        chassis = {chassis_of(node): pod for node, pod in plugged.items()}
        before = self.bindings.get(row["name"], ("", "", ""))
        if not asked:  # whoever claims it last, where there are two
            return (next(reversed(chassis), ""), "", "")
        there = [name for name in asked if name in chassis]
        if not there:
            return "", "", ""
        additional = there[1] if len(there) > 1 else ""
        announced = machine is not None and bool(additional) and chassis[additional] in machine.announced
        announced = (
            machine is not None and announced and announces(machine, row["external_ids"].get("ovnagent-interface", ""))
        )
        activated = additional if announced or (additional and before[2] == additional) else ""
        return there[0], additional, activated

    def _named(self, chassis: str) -> Any:
        return self._chassis[chassis] if chassis else ["set", []]


def plugged_on(machine: Machine, interface: str) -> dict[str, str]:
    """Node -> launcher, of those that have the interface."""
    return {pod.node: pod.name for pod in machine.pods if pod.plugged and any(nic.name == interface for nic in pod.nics)}


def announces(machine: Machine, interface: str) -> bool:
    """The guest's RARP leaves the pod by this interface."""
    nics = machine.guest.nics if machine.guest is not None else ()
    return any(nic.name == interface and nic.binding == "bridge" for nic in nics)


def _encap(node: str) -> dict[str, Any]:
    return {"type": "geneve", "ip": f"10.99.0.{node[-1]}", "chassis_name": chassis_of(node)}


def _chassis(node: str) -> dict[str, Any]:
    return {"name": chassis_of(node), "hostname": node, "encaps": ["named-uuid", f"e{node}"]}

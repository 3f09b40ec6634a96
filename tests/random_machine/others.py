"""What other people do in NB: to the agent's rows, and with rows of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from tests.integration.nb_history import Row
from tests.random_machine.cluster import NAMES, NAMESPACE, NODES, chassis_of
from tests.random_machine.fabric import Northbound, delete_port, insert_port, owned
from tests.random_machine.invariants import Invariants, words
from tests.random_machine.kubevirt import Action
from tests.random_machine.users import ASKED_IPS, ASKED_MACS

SWITCHES = ("ovn-default", "blue", "elsewhere")
Operations = list[dict[str, Any]]


def next_edits(nb: Northbound, invariants: Invariants) -> Iterator[Action]:
    own = sorted(nb.own(), key=lambda row: row["name"])
    theirs = sorted((row for row in nb.rows.values() if not owned(row)), key=lambda row: row["name"])
    for row in own:
        name = row["name"]
        yield f"somebody adds keys of his own to {name}", _edit(nb, lambda rng, row=row: _keys(row, rng))
        yield f"somebody changes {name}", _tamper(nb, invariants, row, _changed)
        yield f"somebody deletes {name}", _tamper(nb, invariants, row, lambda row, _: [delete_port(row)])
    for _ in range(len(own) + 1 if len(theirs) < len(NAMES) else 0):  # as often as all that is done to the agent's
        yield "somebody adds a port", _edit(nb, lambda rng: _foreign(nb, invariants, rng))
        yield "somebody adds a port with a VM's name", _edit(nb, lambda rng: _namesake(nb, rng))
    for row in theirs:
        yield f"somebody deletes his port {row['name']}", _edit(nb, lambda _, row=row: [delete_port(row)])


def empty(nb: Northbound, invariants: Invariants) -> Action:
    """NB is lost, and comes back without the agent's rows."""

    def change(rng: Random) -> None:
        for row in nb.own():
            invariants.row_lost(row)
        nb.edit(*(delete_port(row) for row in nb.own()))

    return "all rows of the agent's are lost", change


def _edit(nb: Northbound, make: Callable[[Random], Operations]) -> Callable[[Random], None]:
    def change(rng: Random) -> None:
        if operations := make(rng):
            nb.edit(*operations)

    return change


def _tamper(
    nb: Northbound, invariants: Invariants, row: Row, make: Callable[[Row, Random], Operations]
) -> Callable[[Random], None]:
    def change(rng: Random) -> None:
        invariants.row_lost(row)
        nb.edit(*make(row, rng))

    return change


def _keys(row: Row, rng: Random) -> Operations:
    value = str(rng.randrange(100))
    pairs = {"options": f"their-{rng.randrange(3)}", "external_ids": f"their-{rng.randrange(3)}"}
    return [_mutate(row, *((column, "insert", ["map", [[key, value]]]) for column, key in pairs.items()))]


def _changed(row: Row, rng: Random) -> Operations:
    match rng.randrange(6):
        case 0:
            value = rng.choice([chassis_of(node) for node in NODES] + ["chassis1,chassis2", "nowhere"])
            pair = ["map", [["requested-chassis", value]]]
            keys = ["set", ["requested-chassis"]]
            return [_mutate(row, ("options", "delete", keys), ("options", "insert", pair))]
        case 1:
            return [_mutate(row, ("options", "delete", ["set", ["requested-chassis", "activation-strategy"]]))]
        case 2:
            return [_update(row, port_security=["set", []], enabled=False)]
        case 3:
            mac = rng.choice([words(row)[0], *ASKED_MACS])
            return [_update(row, addresses=f"{mac} {rng.choice(ASKED_IPS[:6])}")]
        case 4:
            return [_update(row, addresses=["set", []])]
        case _:
            key = "ovnagent-" + rng.choice(["vm", "vm-uid", "interface", "network", "migration"])
            return [_mutate(row, ("external_ids", "delete", ["set", [key]]))]


def _foreign(nb: Northbound, invariants: Invariants, rng: Random) -> Operations:
    """With addresses and MACs that VMs have, or had, and tend to get again."""
    name, own = f"theirs{rng.randrange(1000)}", sorted(nb.own(), key=lambda row: row["name"])
    had = sorted({word for words in invariants.rows_had.values() for word in words if word.startswith("10.")})
    ips = [*(f"10.16.0.{number}" for number in range(2, 14)), *had]
    macs = [f"0a:00:00:00:ff:{rng.randrange(256):02x}", *ASKED_MACS, *(words(row)[0] for row in own if words(row)[0])]
    return _named(
        nb, rng.choice(SWITCHES[:1] * 3 + SWITCHES), name, f"{rng.choice(macs[:1] * 5 + macs[1:])} {rng.choice(ips)}"
    )


def _namesake(nb: Northbound, rng: Random) -> Operations:
    name = f"{rng.choice(NAMES)}.{NAMESPACE}" + rng.choice(["", "", f".blue.{NAMESPACE}"])
    return _named(nb, rng.choice(SWITCHES), name, f"0a:00:00:00:fe:{rng.randrange(256):02x} 172.16.0.9")


def _named(nb: Northbound, switch: str, name: str, addresses: str) -> Operations:
    if any(row["name"] == name for row in nb.rows.values()):
        return []
    keys = ["map", [["their", "own"]]]
    return list(insert_port(switch, name, addresses, external_ids=keys))


def _update(row: Row, **columns: Any) -> dict[str, Any]:
    return {"op": "update", "table": "Logical_Switch_Port", "where": _is(row), "row": columns}


def _mutate(row: Row, *mutations: tuple[str, str, Any]) -> dict[str, Any]:
    found = [list(mutation) for mutation in mutations]
    return {"op": "mutate", "table": "Logical_Switch_Port", "where": _is(row), "mutations": found}


def _is(row: Row) -> list[Any]:
    return [["_uuid", "==", ["uuid", row["uuid"]]]]

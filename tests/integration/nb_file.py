"""What was written into a database, from its own file: every transaction, in order; nothing is missed between two looks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.integration.nb_history import plain

Row = dict[str, Any]
SETS, MAPS = ("addresses", "port_security"), ("options", "external_ids")
"""The columns that are read, besides the name."""


@dataclass(frozen=True)
class Write:
    """A row that was inserted, changed or deleted by a transaction."""

    transaction: int
    at: float
    """Seconds since the epoch."""
    uuid: str
    before: Row | None
    after: Row | None

    @property
    def name(self) -> str:
        return str((self.after or self.before or {})["name"])

    def changed(self, column: str) -> bool:
        """It has another value than before, or came with the row."""
        return self.after is not None and (self.before or {}).get(column) != self.after.get(column)


def writes(file: Path, table: str) -> Iterator[Write]:
    """All that became of a table's rows. The first transaction is the content with which the file began."""
    rows: dict[str, Row] = {}
    for number, record in enumerate(_records(file)):
        for uuid, change in record.get(table, {}).items():
            before = rows.get(uuid)
            if change is None:
                after = None
                rows.pop(uuid, None)
            else:
                after = rows[uuid] = _applied(before or {}, change, record.get("_is_diff", False) and before is not None)
            yield Write(number, record.get("_date", 0) / 1000, uuid, before, after)


def _records(file: Path) -> Iterator[dict[str, Any]]:
    """The transactions of a log (ovsdb(5)): each line of JSON follows a header that tells its length. The first record is
    the schema."""
    data = file.read_bytes()
    at, first = 0, True
    while at < len(data):
        end = data.index(b"\n", at)
        length = int(data[at:end].split()[2])
        body = data[end + 1 : end + 1 + length]
        at = end + 1 + length
        if not first:
            yield json.loads(body)
        first = False


def _applied(row: Row, change: Row, is_difference: bool) -> Row:
    """A row after a change. Of a set's or map's difference, what was in is out, and what was out is in (ovsdb-server(7))."""
    after = dict(row)
    for column, value in change.items():
        new = plain(value)
        if column in SETS:
            new = set(new) if isinstance(new, tuple) else {new}  # a set of one is written without its brackets
            after[column] = new ^ after.get(column, set()) if is_difference else new
        elif column in MAPS:
            old = after.get(column, {}) if is_difference else {}
            kept = {key: each for key, each in old.items() if key not in new}
            after[column] = kept | {key: each for key, each in new.items() if old.get(key) != each}
        elif column == "name":
            after[column] = new
    return after

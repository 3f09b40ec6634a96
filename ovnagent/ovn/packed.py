"""Rows of a copy, held small.

The IDL keeps a row as a Row with a Datum for each column and an Atom for each key and value in it: 4.7 kB for a port, most
of it before a character of text. Here a row is its columns' values as plain tuples, which a snapshot may share, and a Datum
is made of them while the IDL applies an update.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import Any
from uuid import UUID

from ovs.db import data as ovs_data
from ovs.db import types as ovs_types

PAIRS_REMEMBERED = 512
_STRING, _UUID, _BOOLEAN = ovs_types.StringType, ovs_types.UuidType, ovs_types.BooleanType


class PackedRow:
    """What the IDL needs of a Row that nobody writes through it: `uuid`, `_table`, and columns as Datums in `_data`."""

    __slots__ = ("_table", "_values", "uuid")

    def __init__(self, table: Any, uuid: UUID) -> None:
        self.uuid = uuid
        self._table = table
        self._values: dict[str, Any] = {}
        """Of those columns that are not as by default."""

    @property
    def _data(self) -> PackedRow:
        return self

    def __getitem__(self, column: str) -> Any:
        type_ = self._table.columns[column].type
        if column not in self._values:
            return ovs_data.Datum.default(type_)
        value = self._values[column]
        atom = ovs_data.Atom
        if type_.is_map():
            return ovs_data.Datum(type_, {atom(type_.key.type, k): atom(type_.value.type, v) for k, v in value})
        return ovs_data.Datum(type_, {atom(type_.key.type, k): None for k in ((value,) if type_.is_scalar() else value)})

    def __setitem__(self, column: str, datum: Any) -> None:
        values = datum.values.items()
        if datum.type.is_map():
            self._values[column] = tuple(sorted(_pair(key.value, value.value) for key, value in values))
        elif datum.type.is_scalar():
            self._values[column] = next(iter(datum.values)).value
        else:
            self._values[column] = tuple(sorted(key.value for key, _ in values))

    def take(self, row_json: dict[str, Any]) -> None:
        """A new row as the database sends it, without the IDL's Datums and Atoms between: a third of the time of a load.

        Raises ValueError where it is not what the columns' types say; nothing is taken then."""
        columns, found = self._table.columns, {}
        for name, value in row_json.items():
            if name not in columns:
                raise ValueError(f"unknown column {name}")
            found[name] = _plain(columns[name].type, value)
        self._values = found

    def value(self, column: str) -> Any:
        """A column as a plain value: a scalar, or a sorted tuple; of pairs where the column is a map."""
        if column in self._values:
            return self._values[column]
        type_ = self._table.columns[column].type
        return type_.key.type.default if type_.is_scalar() else ()


def _plain(type_: Any, value: Any) -> Any:
    """A column's value from OVSDB's JSON (RFC 7047, 5.1), as `PackedRow.value` gives it.

    Raises ValueError."""
    key = type_.key.type
    if type_.is_scalar():
        return _atom(key, value)
    if type_.is_map():
        of = type_.value.type
        if not isinstance(value, list) or len(value) != 2 or value[0] != "map" or not isinstance(value[1], list):
            raise ValueError("no map")
        return tuple(sorted(_pair(_atom(key, one), _atom(of, other)) for one, other in value[1]))
    if isinstance(value, list) and len(value) == 2 and value[0] == "set" and isinstance(value[1], list):
        return tuple(sorted(_atom(key, each) for each in value[1]))
    return (_atom(key, value),)


def _atom(type_: Any, value: Any) -> Any:
    if type_ == _STRING:
        if isinstance(value, str):
            return value
    elif type_ == _UUID:
        if isinstance(value, list) and len(value) == 2 and value[0] == "uuid" and isinstance(value[1], str):
            return UUID(value[1])
    elif type_ == _BOOLEAN and isinstance(value, bool):
        return value
    raise ValueError("an atom of another type")


@lru_cache(maxsize=PAIRS_REMEMBERED)
def _pair(key: Any, value: Any) -> tuple[Any, Any]:
    """A key and its value; those that many rows have are held once."""
    return (sys.intern(key) if isinstance(key, str) else key), value

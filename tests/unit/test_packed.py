"""Rows of a copy, held small: the IDL reads back what it has put in."""

from types import SimpleNamespace
from uuid import UUID

import pytest
from ovs.db.data import Datum
from ovs.db.types import Type

from ovnagent.ovn.packed import PackedRow

TYPES = {
    "name": "string",
    "count": {"key": "integer"},
    "enabled": {"key": "boolean", "min": 0, "max": 1},
    "addresses": {"key": "string", "min": 0, "max": "unlimited"},
    "options": {"key": "string", "value": "string", "min": 0, "max": "unlimited"},
    "reference": {"key": "uuid", "min": 0, "max": 1},
}
ID = "11111111-1111-1111-1111-111111111111"
VALUES = [
    ("name", "vm1.default", "vm1.default"),
    ("count", 3, 3),
    ("enabled", False, (False,)),
    ("addresses", ["set", ["b", "a"]], ("a", "b")),
    ("options", ["map", [["b", "2"], ["a", "1"]]], (("a", "1"), ("b", "2"))),
    ("reference", ["uuid", ID], (UUID(ID),)),
]


def row() -> PackedRow:
    columns = {name: SimpleNamespace(type=Type.from_json(text)) for name, text in TYPES.items()}
    return PackedRow(SimpleNamespace(columns=columns), UUID(ID))


@pytest.mark.parametrize(("column", "text", "value"), VALUES)
def test_a_column_is_read_back_as_it_was_put_in(column: str, text: object, value: object) -> None:
    made = row()
    datum = Datum.from_json(Type.from_json(TYPES[column]), text)
    made._data[column] = datum
    assert made._data[column] == datum
    assert made.value(column) == value


def test_what_was_never_put_in_is_as_by_default() -> None:
    made = row()
    for column, text in TYPES.items():
        assert made._data[column] == Datum.default(Type.from_json(text))
    assert [made.value(column) for column in TYPES] == ["", 0, (), (), (), ()]


def test_a_difference_is_applied_to_what_is_there() -> None:
    """As the IDL does it with a `modify` (ovsdb-server(7), 4.1.14): what is the same goes, the rest comes."""
    made = row()
    type_ = Type.from_json(TYPES["options"])
    made._data["options"] = Datum.from_json(type_, ["map", [["a", "1"], ["b", "2"]]])
    made._data["options"] = made._data["options"].diff(Datum.from_json(type_, ["map", [["a", "1"], ["b", "3"], ["c", "4"]]]))
    assert made.value("options") == (("b", "3"), ("c", "4"))


def test_what_many_rows_have_is_held_once() -> None:
    type_ = Type.from_json(TYPES["options"])
    first, second = row(), row()
    for each in (first, second):
        each._data["options"] = Datum.from_json(type_, ["map", [["".join(("ke", "y")), "".join(("val", "ue"))]]])
    assert first.value("options")[0] is second.value("options")[0]


# ---- a row as the database sends it ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("column", "text", "value"), [each for each in VALUES if each[0] != "count"])
def test_a_row_that_is_taken_whole_is_as_if_the_idl_had_put_it_in(column: str, text: object, value: object) -> None:
    made, other = row(), row()
    made.take({column: text})
    other._data[column] = Datum.from_json(Type.from_json(TYPES[column]), text)
    assert made.value(column) == other.value(column) == value
    assert made._data[column] == other._data[column]
    assert made.value("name") == ("vm1.default" if column == "name" else "")


def test_a_row_in_other_words_for_the_same() -> None:
    made = row()
    made.take({"addresses": "a", "enabled": ["set", []], "reference": ["set", [["uuid", ID]]], "options": ["map", []]})
    assert [made.value(column) for column in ("addresses", "enabled", "reference", "options")] == [
        ("a",),
        (),
        (UUID(ID),),
        (),
    ]


@pytest.mark.parametrize(
    ("column", "text"),
    [
        ("name", 1),
        ("name", ["set", []]),
        ("enabled", "true"),
        ("enabled", 1),
        ("addresses", ["set", [1]]),
        ("addresses", ["list", ["a"]]),
        ("options", ["set", []]),
        ("options", ["map", [["a", 1]]]),
        ("options", "a"),
        ("reference", ID),
        ("reference", ["uuid", "x"]),
        ("unknown", "a"),
    ],
)
def test_a_row_that_is_none_is_not_taken_at_all(column: str, text: object) -> None:
    made = row()
    made.take({"name": "before"})
    with pytest.raises(ValueError, match=r"."):
        made.take({"name": "after", column: text})
    assert made.value("name") == "before"

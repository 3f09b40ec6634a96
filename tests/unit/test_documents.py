"""JSON that is nested too deeply for the parser costs its own depth and nothing else."""

from __future__ import annotations

import json
import time
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovnagent.core.documents import load, prune

DEEP = "[" * 5000 + "]" * 5000
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(["[", '{"', "\\", '\\"', "]}", '"']),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(max_size=4), inside, max_size=4),
    max_leaves=30,
)


def cut(value: Any, depth: int) -> Any:
    """What prune has to do, said in Python."""
    if isinstance(value, list):
        return [cut(each, depth - 1) for each in value] if depth > 0 else None
    if isinstance(value, dict):
        return {key: cut(each, depth - 1) for key, each in value.items()} if depth > 0 else None
    return value


@settings(deadline=None)
@given(VALUES, st.integers(0, 6), st.booleans())
def test_what_lies_deeper_is_null_and_the_rest_is_as_it_was(value: Any, depth: int, spaced: bool) -> None:
    text = json.dumps(value, ensure_ascii=spaced, indent=1 if spaced else None).encode()
    assert json.loads(prune(text, depth)) == cut(value, depth)


@pytest.mark.parametrize(
    ("text", "depth", "expected"),
    [
        ("[[1],[2],{}]", 0, "null"),
        ("[[1],[2],{}]", 1, "[null,null,null]"),
        ("[[1],[2],{}]", 2, "[[1],[2],{}]"),
        ('{"a":[[1,[2]],{"b":{}}],"c":3}', 2, '{"a":[null,null],"c":3}'),
        ('[[[1],2],"[",[[3]]] ', 2, '[[null,2],"[",[null]] '),
    ],
)
def test_what_is_cut(text: str, depth: int, expected: str) -> None:
    assert prune(text.encode(), depth) == expected.encode()


@settings(deadline=None)
@given(st.binary() | st.text(alphabet='[]{}"\\,: a').map(str.encode))
def test_bytes_that_are_no_json_are_refused_by_the_parser_and_nothing_else_happens(data: bytes) -> None:
    try:
        load(data)
    except ValueError:
        with pytest.raises(ValueError, match=r"column \d"):
            orjson.loads(data)


def test_a_page_with_one_deep_object_is_read() -> None:
    page = f'{{"items":[{{"a":"[{{\\"["}},{{"deep":{DEEP}}},{{"b":2}}]}}'.encode()
    with pytest.raises(ValueError, match="depth limit"):
        orjson.loads(page)
    document, pruned = load(page)
    assert pruned
    assert document["items"][0] == {"a": '[{"['}
    assert document["items"][2] == {"b": 2}
    assert load(b'{"a":[1]}') == ({"a": [1]}, False)


@pytest.mark.parametrize("shape", ['{"a":' + "[" * 9 + '"', '"\\"', "[", "\\", '{"a":"b",'])
def test_the_time_is_linear(shape: str) -> None:
    """Ten times the bytes take about ten times as long, whatever they are; a quadratic scan would take a hundred times."""
    few, many = (shape * (size // len(shape)) for size in (100_000, 1_000_000))
    times = []
    for data in (few.encode(), many.encode()):
        best = 9.0
        for _ in range(3):
            started = time.thread_time()
            prune(data, 100)
            best = min(best, time.thread_time() - started)
        times.append(best)
    assert times[1] < 40 * max(times[0], 0.001)

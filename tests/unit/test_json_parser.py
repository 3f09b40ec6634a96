"""The frame parser against the one that it takes the place of."""

from __future__ import annotations

import importlib.util
import json
from typing import Any

import ovs.json
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovnagent.ovn.json_parser import FrameParser


def original() -> Any:
    """OVS' module as it came, whatever has been installed into the one in use; its parser in Python."""
    spec = importlib.util.spec_from_file_location("original_json", str(ovs.json.__file__))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.PARSER = module.PARSER_PY
    return module


ORIGINAL = original()
TEXT = st.text(st.characters(min_codepoint=1, codec="utf-8"))  # OVSDB's strings hold no NUL
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)
FRAMES = st.lists(st.lists(VALUES, max_size=4) | st.dictionaries(TEXT, VALUES, max_size=4), min_size=1, max_size=4)


def read(text: str, sizes: list[int]) -> list[Any]:
    """All frames of a stream that comes in pieces of these sizes, as ovs.jsonrpc reads it."""
    found: list[Any] = []
    parser = FrameParser()
    position = 0
    sizes = sizes or [7]
    for turn in range(10 * len(text) + 10):
        if position >= len(text):
            break
        piece = text[position : position + sizes[turn % len(sizes)]]
        while piece:
            used = parser.feed(piece)
            piece, position = piece[used:], position + used
            if parser.is_done():
                found.append(parser.finish())
                parser = FrameParser()
    return found


@given(FRAMES, st.lists(st.integers(1, 50), min_size=1, max_size=5), st.booleans(), st.sampled_from(["", " ", "\n"]))
def test_frames_come_out_as_they_went_in(frames: list[Any], sizes: list[int], ascii_only: bool, between: str) -> None:
    text = between.join(json.dumps(frame, ensure_ascii=ascii_only) for frame in frames)
    assert read(text, sizes) == frames


@given(st.lists(VALUES, max_size=3))
def test_the_original_reads_the_same(frame: list[Any]) -> None:
    text = json.dumps(frame)
    parser = ORIGINAL.Parser()
    assert parser.feed(text) == len(text)
    assert parser.finish() == frame == read(text, [len(text)])[0]


@given(st.lists(VALUES, max_size=3), st.integers(0, 200), st.text('[]{}",:\\ \nx1', max_size=3))
def test_a_damaged_frame_is_refused_wherever_the_original_refuses_it(frame: list[Any], where: int, damage: str) -> None:
    text = json.dumps(frame)
    text = text[: where % len(text)] + damage + text[where % len(text) + 1 :]
    ours, theirs = FrameParser(check_trailer=True), ORIGINAL.Parser(check_trailer=True)
    ours.feed(text)
    theirs.feed(text)
    expected, found = theirs.finish(), ours.finish()
    # The original lets a lone low surrogate pass.
    half = any("\ud800" <= letter <= "\udfff" for letter in json.dumps(expected, ensure_ascii=False))
    assert found == expected or (isinstance(found, str) and (isinstance(expected, str) or half))


@pytest.mark.parametrize("text", ["nonsense", "]", "[1,]", '{"a" 1}', "[nul]"])
def test_what_is_no_json_is_a_sentence_and_no_exception(text: str) -> None:
    parser = FrameParser()
    parser.feed(text)
    assert parser.is_done()
    assert isinstance(parser.finish(), str)


def test_half_a_frame_is_not_done() -> None:
    parser = FrameParser()
    assert parser.feed('{"a": "}') == 8
    assert not parser.is_done()
    assert parser.feed('"}x') == 2
    assert parser.finish() == {"a": "}"}

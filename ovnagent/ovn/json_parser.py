"""A fast `ovs.json.Parser` where OVS' own C parser is not built in.

PyPI's ovs parses JSON character by character in Python: 2.2-2.7 s for 10,000 ports. This one looks for the end of a frame
with one regular expression and hands the frame to orjson: 0.5 s, without a C build.
"""

from __future__ import annotations

import json
import re
from typing import Any

import orjson
import ovs.json

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*+("?)|[\[{]|([\]}])', re.DOTALL)
"""A string (group 1 is empty if its end has not come yet), an opening bracket, or a closing one (group 2)."""


class FrameParser:
    """Takes a stream in pieces; `is_done` when one JSON object or array is complete (as ovs.json.Parser)."""

    def __init__(self, check_trailer: bool = False) -> None:
        """`check_trailer`: whatever follows the value belongs to it, and is an error (whole files and strings)."""
        self._check_trailer = check_trailer
        self._pieces: list[str] = []
        self._pending = ""
        """The beginning of a string whose end has not come yet."""
        self._depth = 0
        self._done = False
        self._error: str | None = None

    def feed(self, text: str) -> int:
        """Take what belongs to the value; returns how many characters of `text` that was."""
        if self._done:
            self._pieces.append(text if self._check_trailer else "")
            return len(text) if self._check_trailer else 0
        before = len(self._pending)
        text = self._pending + text
        self._pending = ""
        if self._depth == 0 and (start := text.lstrip()) and start[0] not in "[{":
            self._done, self._error = True, f"syntax error at {start[:20]!r}"
            return max(0, len(text) - before)
        for token in _TOKEN.finditer(text):
            if token[1] == "":
                self._pieces.append(text[: token.start()])
                self._pending = text[token.start() :]
                return len(text) - before
            if token[2]:
                self._depth -= 1
                if self._depth == 0:
                    self._done = True
                    end = len(text) if self._check_trailer else token.end()
                    self._pieces.append(text[:end])
                    return end - before
            elif token[1] is None:
                self._depth += 1
        self._pieces.append(text)
        return len(text) - before

    def is_done(self) -> bool:
        return self._done

    def finish(self) -> Any:
        """The value; a string that says what is wrong, where it is none."""
        if not self._done:
            return "unexpected end of input"
        if self._error is not None:
            return self._error
        text = "".join(self._pieces)
        try:
            return orjson.loads(text)
        except orjson.JSONDecodeError:
            return _slowly(text)


def _slowly(text: str) -> Any:
    """What the fast parser does not take: an integer of more than 64 bits; and why something is no JSON."""
    try:
        value = json.loads(text)
        if "\\u" in text:  # half a surrogate pair is no character, though the standard library lets it pass
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        return str(error)
    return value


def install() -> str:
    """Make ovs use the fastest parser there is; returns its name for the log."""
    if ovs.json.PARSER == ovs.json.PARSER_C:
        return "C"
    ovs.json.Parser = FrameParser
    return "frame"

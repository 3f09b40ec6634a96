"""JSON documents of the API server, however deep: what makes one object unreadable must not make a page of them so.

A VM's `spec.template.metadata` keeps unknown fields, and the API server takes them nested thousands of levels deep; the
JSON parser refuses more than 1024, and with it the whole page of a list or the whole watch."""

from __future__ import annotations

import re
from typing import Any

import orjson

from ovnagent.core.limits import DEPTH

# A string (or one that never ends), or a bracket. Possessive: a scan never goes back, so the time is linear.
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[][{}]', re.DOTALL)


def load(data: bytes) -> tuple[Any, bool]:
    """(the document, whether something in it was nested too deeply and is null now).

    Raises ValueError where it is no JSON."""
    try:
        return orjson.loads(data), False
    except orjson.JSONDecodeError:
        return orjson.loads(prune(data, DEPTH)), True


def prune(data: bytes, depth: int) -> bytes:
    """The same JSON with null in place of each array and object below `depth` levels of them; in linear time. What comes
    of bytes that are no JSON is not said: the parser has the last word."""
    kept: list[bytes] = []
    level, copied = 0, 0
    for token in _TOKEN.finditer(data):
        match token.group():
            case b"[" | b"{":
                level += 1
                if level == depth + 1:
                    kept.append(data[copied : token.start()])
            case b"]" | b"}":
                level -= 1
                if level == depth:
                    kept.append(b"null")
                    copied = token.end()
    kept.append(data[copied:])
    return b"".join(kept)

"""Text for terminals."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

GREEN, RED, YELLOW, BOLD, DIM = "32", "31", "33", "1", "2"
SLOW_SECONDS = 2.0


@contextmanager
def slow(what: str) -> Iterator[None]:
    """What takes more than two seconds is said on standard error."""
    timer = threading.Timer(SLOW_SECONDS, lambda: print(f"{what} ...", file=sys.stderr, flush=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def coloured(stream: TextIO | None = None) -> bool:
    """Colour only for people: on a terminal, and not where NO_COLOR (no-color.org) or a dumb terminal asks for none."""
    stream = stream or sys.stdout
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, colour: str, on: bool) -> str:
    """The text in a colour, or as it is."""
    return f"\x1b[{colour}m{text}\x1b[0m" if on else text


def plain(text: str) -> str:
    """Without control characters: what a tenant wrote must not write to the operator's terminal."""
    return "".join(char if char.isprintable() or char == "\n" else "?" for char in text)

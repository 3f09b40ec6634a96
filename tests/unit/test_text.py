"""What commands do with a terminal, and without one."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
import threading

import pytest

from ovnagent.commands import text
from ovnagent.commands.text import slow

PAINT = "from ovnagent.commands.text import *; print(paint('broken', RED, coloured()))"
ON_A_TERMINAL = {"TERM": "xterm", "NO_COLOR": ""}


def on_a_terminal(**environment: str) -> bytes:
    """What a person would be sent."""
    ours, theirs = pty.openpty()
    try:
        subprocess.run([sys.executable, "-c", PAINT], stdout=theirs, check=True, env={**os.environ, **environment})
        return os.read(ours, 1000)
    finally:
        os.close(ours)
        os.close(theirs)


def test_colour_is_for_terminals_only() -> None:
    assert on_a_terminal(**ON_A_TERMINAL).startswith(b"\x1b[31mbroken\x1b[0m")
    assert on_a_terminal(**ON_A_TERMINAL | {"NO_COLOR": "1"}).startswith(b"broken")
    assert on_a_terminal(**ON_A_TERMINAL | {"TERM": "dumb"}).startswith(b"broken")
    into_a_pipe = subprocess.run(
        [sys.executable, "-c", PAINT], capture_output=True, check=True, env={**os.environ, **ON_A_TERMINAL}
    )
    assert into_a_pipe.stdout == b"broken\n"


class Listened(io.StringIO):
    """Standard error that tells when something was said. (Who asks capsys again and again loses what is said meanwhile.)"""

    def __init__(self) -> None:
        super().__init__()
        self.said = threading.Event()

    def flush(self) -> None:
        self.said.set()


def test_what_is_slow_is_said_and_what_is_not_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    error = Listened()
    monkeypatch.setattr(sys, "stderr", error)
    monkeypatch.setattr(text, "SLOW_SECONDS", 0.05)
    with slow("asking OVN"):
        assert error.said.wait(5)
    assert error.getvalue() == "asking OVN ...\n"
    monkeypatch.setattr(text, "SLOW_SECONDS", 60.0)
    with slow("asking OVN"):
        pass
    assert error.getvalue() == "asking OVN ...\n"

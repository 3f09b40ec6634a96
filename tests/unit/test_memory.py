"""The collector is away while anything loads, and back when the last load is done; what is old it leaves alone."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
import weakref
from types import SimpleNamespace

import pytest

from ovnagent.process import memory
from ovnagent.process.memory import loading


def test_loads_that_overlap() -> None:
    with loading():
        with pytest.raises(ValueError, match="no"), loading():
            raise ValueError("no")
        assert not gc.isenabled()
    assert gc.isenabled()


class Knot:
    """Holds itself."""

    def __init__(self) -> None:
        self.itself = self


@pytest.mark.parametrize(
    ("seconds", "nobody_waits", "walked"),
    [(299.0, True, False), (300.0, True, True), (300.0, False, False), (3599.0, False, False), (3600.0, False, True)],
)
def test_everything_is_walked_when_nobody_waits_and_now_and_then(
    monkeypatch: pytest.MonkeyPatch, seconds: float, nobody_waits: bool, walked: bool
) -> None:
    knot = Knot()
    seen = weakref.ref(knot)
    now = time.monotonic()
    monkeypatch.setattr(memory, "_walked", now)
    monkeypatch.setattr(memory, "time", SimpleNamespace(monotonic=lambda: now + seconds))
    gc.disable()
    try:
        del knot
        memory.walk(nobody_waits)
        assert (seen() is None) == walked
        again = weakref.ref(Knot())
        memory.walk(nobody_waits)
        assert again() is not None or not walked, "the next walk is as far away again"
    finally:
        gc.enable()


def test_the_collector_walks_only_what_is_young_by_itself() -> None:
    """In a process of its own: it is for good."""
    code = (
        "import gc; from ovnagent.process.memory import be_frugal; be_frugal(); print(gc.get_threshold()[2], gc.isenabled())"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert int(said[0]) > 1_000_000
    assert said[1] == "True"

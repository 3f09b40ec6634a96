"""No thread dies or stops in silence."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator

import pytest

from hack.lab.process import wait_for
from ovnagent.process import supervision
from ovnagent.process.supervision import Loop, Supervisor


class Watched:
    def __init__(self) -> None:
        self.restarted: list[str] = []
        self.supervisor = Supervisor(self.restarted.append)
        self.steps = 0
        self.errors: list[BaseException] = []
        self.loops: list[Loop] = []
        self.free = threading.Event()

    def start(self, name: str = "worker") -> Loop:
        made = self.supervisor.loop(name, self._step)
        self.loops.append(made)
        made.start()
        return made

    def _step(self, loop: Loop) -> None:
        self.steps += 1
        if self.errors:
            raise self.errors.pop(0)
        loop.stopping.wait(0.01)


class Other:
    """A thread that others made."""

    def __init__(self) -> None:
        self.alive = True
        self.last_turn = time.monotonic()


@pytest.fixture
def watched() -> Iterator[Watched]:
    made = Watched()
    yield made
    for loop in made.loops:
        loop.stop()
        made.free.set()


def test_a_step_that_fails_is_logged_counted_and_done_again(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    watched.errors = [ValueError("one"), RecursionError("two"), MemoryError("three")]
    with caplog.at_level(logging.ERROR):
        watched.start()
        wait_for(lambda: watched.steps > 5, 10, "it goes on")
    assert watched.restarted == ["worker"] * 3
    assert [record.exc_info[1].args for record in caplog.records if record.exc_info] == [("one",), ("two",), ("three",)]
    assert not watched.supervisor.troubles()


def test_a_failing_thread_is_not_tried_all_the_time(watched: Watched) -> None:
    watched.errors = [ValueError("again")] * 1000
    loop = watched.start()
    loop.join(1.0)
    assert watched.steps < 6, "0.2, 0.4, 0.8 s between them"


def test_a_report_that_fails_ends_nothing(watched: Watched) -> None:
    def failed(_error: Exception, _pause: float) -> None:
        raise ValueError("no report")

    watched.errors = [ValueError("one")]
    loop = watched.supervisor.loop("worker", watched._step, failed)
    watched.loops.append(loop)
    loop.start()
    wait_for(lambda: watched.steps > 3, 10, "it goes on")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_has_ended_is_named(watched: Watched) -> None:
    watched.errors = [SystemExit()]  # type: ignore[list-item]
    loop = watched.start("reload")
    loop.join(5)
    wait_for(watched.supervisor.troubles, 5, "it shows")
    (trouble,) = watched.supervisor.troubles()
    assert trouble.startswith("thread reload has ended; it was last heard of 0 s ago, at 20")


def test_a_step_without_an_end_is_named(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    def stuck(loop: Loop) -> None:
        loop.beat(0.2)
        watched.free.wait(30)

    loop = watched.supervisor.loop("events-0", stuck)
    watched.loops.append(loop)
    loop.start()
    assert not watched.supervisor.troubles()
    wait_for(watched.supervisor.troubles, 5, "it shows")
    assert "thread events-0 makes no progress" in watched.supervisor.troubles()[0]


def test_a_pause_is_no_trouble(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "PATIENCE_SECONDS", 0.1)
    loop = watched.supervisor.loop("tidy", lambda loop: loop.pause(0.5))
    watched.loops.append(loop)
    loop.start()
    end = time.monotonic() + 1.2
    while time.monotonic() < end:
        assert not watched.supervisor.troubles()
        loop.join(0.02)


def test_threads_of_others_are_watched(watched: Watched) -> None:
    other = Other()
    watched.supervisor.watch("northbound", other, 20)
    assert not watched.supervisor.troubles()
    other.last_turn -= 25
    assert "thread northbound makes no progress; it was last heard of 25 s ago" in watched.supervisor.troubles()[0]
    other.last_turn, other.alive = time.monotonic(), False
    assert "thread northbound has ended" in watched.supervisor.troubles()[0]


def test_a_thread_that_was_told_to_end_is_no_trouble(watched: Watched) -> None:
    loop = watched.start()
    loop.stop()
    loop.join(5)
    assert not watched.supervisor.troubles()

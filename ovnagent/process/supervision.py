"""Threads that do not die in silence.

A thread here is one step, done again and again (`Loop`). A step that raises is logged, counted, and after a pause done
again. Before each step, and within long ones, the thread says by when it will be heard of again; `Supervisor.troubles`
names those that have not kept their word, and those that have ended. /healthz shows them, and the kubelet starts the agent
anew.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

import tenacity

LOG = logging.getLogger(__name__)

PATIENCE_SECONDS = 20.0
"""How long a step may take that says nothing else."""
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 10.0

Wait = Callable[[tenacity.RetryCallState], float]


def pauses(longest: float = LONGEST_PAUSE_SECONDS) -> Wait:
    """Growing pauses with jitter, and never shorter than what the error asks for (`retry_after`, in seconds)."""
    growing = tenacity.wait_exponential_jitter(multiplier=FIRST_PAUSE_SECONDS, max=longest, jitter=FIRST_PAUSE_SECONDS)

    def wait(state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        return max(growing(state), getattr(error, "retry_after", 0.0))

    return wait


class Loop:
    """`step` again and again, in a thread, until `stop`. Made by Supervisor.loop."""

    def __init__(
        self, name: str, step: Callable[[Loop], None], failed: Callable[[Exception, float], None], wait: Wait
    ) -> None:
        self.name = name
        self.stopping = threading.Event()
        self.last_turn = time.monotonic()
        """When the thread was heard of last; monotonic seconds."""
        self.due = float("inf")
        """By when it will be heard of again."""
        self._step, self._failed, self._wait = step, failed, wait
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self.beat()
        self._thread.start()

    def stop(self) -> None:
        """The thread may hang in a read: it is a daemon and not waited for."""
        self.stopping.set()

    def join(self, seconds: float) -> None:
        self._thread.join(seconds)

    def beat(self, seconds: float = PATIENCE_SECONDS) -> None:
        """The thread is alive, and will be heard of again within so many seconds."""
        self.last_turn = time.monotonic()
        self.due = self.last_turn + seconds

    def pause(self, seconds: float) -> None:
        """Wait, or until `stop`."""
        self.beat(seconds + PATIENCE_SECONDS)
        self.stopping.wait(seconds)

    def trouble(self, now: float) -> str:
        """What is wrong with the thread at this (monotonic) time; empty if nothing is."""
        if self.stopping.is_set() or self.due == float("inf"):
            return ""
        return "" if self._thread.is_alive() and now <= self.due else _sentence(self, self._thread.is_alive(), now)

    def _run(self) -> None:
        while not self.stopping.is_set():
            retrying = tenacity.Retrying(
                wait=self._wait,
                sleep=self.pause,
                stop=tenacity.stop_when_event_set(self.stopping),
                before_sleep=self._report,
            )
            try:
                retrying(self._once)
            except tenacity.RetryError:
                return

    def _once(self) -> None:
        self.beat()
        self._step(self)

    def _report(self, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        pause = round(state.next_action.sleep, 1) if state.next_action else 0.0
        try:
            if isinstance(error, Exception):
                self._failed(error, pause)
        except Exception:
            LOG.exception("a failure could not be reported", extra={"worker": self.name})


class Turning(Protocol):
    """A thread that is no Loop: whether it lives, and when it was heard of last (monotonic seconds)."""

    @property
    def alive(self) -> bool: ...

    @property
    def last_turn(self) -> float: ...


@dataclass(frozen=True, slots=True)
class _Other:
    name: str
    thread: Turning
    patience: float

    @property
    def last_turn(self) -> float:
        return self.thread.last_turn

    def trouble(self, now: float) -> str:
        alive = self.thread.alive
        return "" if alive and now <= self.last_turn + self.patience else _sentence(self, alive, now)


class Supervisor:
    """Makes threads, and knows which of them are in trouble. `restarted(name)` is told of each failed step. Thread-safe."""

    def __init__(self, restarted: Callable[[str], None] = lambda _: None) -> None:
        self._restarted = restarted
        self._threads: list[Loop | _Other] = []

    def loop(
        self,
        name: str,
        step: Callable[[Loop], None],
        failed: Callable[[Exception, float], None] | None = None,
        wait: Wait | None = None,
    ) -> Loop:
        """A thread, not started yet. `failed(error, pause)` takes the place of `failure` for errors that are no surprise."""
        made = Loop(name, step, failed or (lambda error, pause: self.failure(name, error, pause)), wait or pauses())
        self._threads.append(made)
        return made

    def watch(self, name: str, thread: Turning, patience: float) -> None:
        """Also watch a thread that others made. After so many seconds of silence it is in trouble."""
        self._threads.append(_Other(name, thread, patience))

    def failure(self, name: str, error: Exception, pause: float) -> None:
        """A step of a thread has failed by a fault in the agent: log and count it."""
        self._restarted(name)
        LOG.error("a thread has failed and is started again", extra={"worker": name, "retry_seconds": pause}, exc_info=error)

    def troubles(self) -> list[str]:
        """A sentence for each thread that has ended, or that has not been heard of for too long."""
        now = time.monotonic()
        return [trouble for thread in list(self._threads) if (trouble := thread.trouble(now))]


def _sentence(thread: Loop | _Other, alive: bool, now: float) -> str:
    silence = now - thread.last_turn
    since = (datetime.now(UTC) - timedelta(seconds=silence)).strftime("%Y-%m-%dT%H:%M:%SZ")
    what = "makes no progress" if alive else "has ended"
    return f"thread {thread.name} {what}; it was last heard of {silence:.0f} s ago, at {since}"

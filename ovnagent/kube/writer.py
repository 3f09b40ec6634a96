"""Writes to the API server that nobody waits for: a queue of the newest wish a name, worked off in parallel.

This API server takes 350 object writes a second in all (2 cores). A migration never waits for one of them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable

import tenacity
import urllib3

from ovnagent.kube.client import ApiError

LOG = logging.getLogger(__name__)

CAPACITY = 50_000
ATTEMPTS = 8


class Writer:
    """`put` never blocks. Of several writes under one key only the newest is carried out; beyond the capacity the oldest
    are dropped (`dropped` counts them)."""

    def __init__(self, name: str, workers: int, per_second: float) -> None:
        self.name = name
        self.dropped = 0
        self._pause = 1 / per_second
        self._condition = threading.Condition()
        self._queue: OrderedDict[Hashable, Callable[[], None]] = OrderedDict()
        self._busy: set[Hashable] = set()
        self._next = 0.0
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True) for number in range(workers)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopping.set()
        with self._condition:
            self._condition.notify_all()

    @property
    def pending(self) -> int:
        with self._condition:
            return len(self._queue) + len(self._busy)

    def put(self, key: Hashable, write: Callable[[], None]) -> None:
        with self._condition:
            self._queue.pop(key, None)
            self._queue[key] = write
            if len(self._queue) > CAPACITY:
                self._queue.popitem(last=False)
                self.dropped += 1
            self._condition.notify()

    def flush(self, seconds: float) -> bool:
        """Wait until all is written, for so long at most; whether it is."""
        deadline = time.monotonic() + seconds
        with self._condition:
            while (self._queue or self._busy) and time.monotonic() < deadline:
                self._condition.wait(max(0.0, deadline - time.monotonic()))
            return not (self._queue or self._busy)

    def _work(self) -> None:
        while True:
            with self._condition:
                key = self._ready()
                while key is None and not self._stopping.is_set():
                    self._condition.wait()
                    key = self._ready()
                if key is None:
                    return
                write = self._queue.pop(key)
                self._busy.add(key)
                now = time.monotonic()
                self._next = max(now, self._next) + self._pause
                pause = self._next - now - self._pause
            if pause > 0:
                self._stopping.wait(pause)
            self._write(write)
            with self._condition:
                self._busy.discard(key)
                self._condition.notify_all()

    def _ready(self) -> Hashable | None:
        """The oldest key of which no write is under way: two writes of one object never overtake each other."""
        return next((key for key in self._queue if key not in self._busy), None)

    def _write(self, write: Callable[[], None]) -> None:
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_passing),
            wait=tenacity.wait_exponential_jitter(multiplier=0.1, max=10),
            stop=tenacity.stop_after_attempt(ATTEMPTS) | tenacity.stop_when_event_set(self._stopping),
            sleep=tenacity.sleep_using_event(self._stopping),
            reraise=True,
        )
        try:
            retrying(write)
        except (ApiError, urllib3.exceptions.HTTPError, OSError) as error:
            self.dropped += 1
            LOG.warning("write given up", extra={"queue": self.name, "reason": str(error)})


def _passing(error: BaseException) -> bool:
    """Worth another try: no answer, a conflict, or trouble on the server's side."""
    if isinstance(error, ApiError):
        return error.status in (409, 429) or error.status >= 500
    return isinstance(error, urllib3.exceptions.HTTPError | OSError)

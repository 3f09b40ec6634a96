"""Which VMs to look at again, and when: the only thing that an event says."""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Iterable

from ovnagent.core.vm import VmKey


class Dirty:
    """Keys to be looked at, with the time since when; and keys to be looked at later. Thread-safe.

    A batch is whatever is dirty when the one before it is done, so the busier the agent, the larger the batch.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._keys: dict[VmKey, float] = {}
        self._everything = False
        self._later: list[tuple[float, VmKey]] = []
        self._due: dict[VmKey, float] = {}
        self._closed = False

    def add(self, keys: Iterable[VmKey], since: float | None = None) -> None:
        """Look at these again as soon as possible. `since`: monotonic seconds, now by default."""
        with self._condition:
            for key in keys:
                self._keys.setdefault(key, since if since is not None else time.monotonic())
            self._condition.notify()

    def add_everything(self) -> None:
        """Look at every VM again."""
        with self._condition:
            self._everything = True
            self._condition.notify()

    def later(self, key: VmKey, seconds: float | None) -> None:
        """Look at this one again after so many seconds, in place of what was set before; None: not at all."""
        with self._condition:
            if seconds is None:
                self._due.pop(key, None)
                return
            self._due[key] = time.monotonic() + seconds
            heapq.heappush(self._later, (self._due[key], key))
            self._condition.notify()

    def close(self) -> None:
        """Wake the reader for good."""
        with self._condition:
            self._closed = True
            self._condition.notify()

    def pause(self, timeout: float) -> None:
        """Wait for any news, for at most `timeout` seconds, and take nothing."""
        with self._condition:
            if not self._closed:
                self._condition.wait(timeout)

    def take(self, timeout: float) -> tuple[dict[VmKey, float], bool]:
        """(dirty keys and since when they are, whether everything is), waiting for at most `timeout` seconds."""
        deadline = time.monotonic() + timeout
        with self._condition:
            while True:
                self._ripen()
                now = time.monotonic()
                if self._keys or self._everything or self._closed or now >= deadline:
                    taken = self._keys, self._everything
                    self._keys, self._everything = {}, False
                    return taken
                wake = min(deadline, self._later[0][0]) if self._later else deadline
                self._condition.wait(max(0.0, wake - now))

    def _ripen(self) -> None:
        now = time.monotonic()
        while self._later and self._later[0][0] <= now:
            due, key = heapq.heappop(self._later)
            if self._due.get(key) == due:  # else it was set anew, or called off
                del self._due[key]
                self._keys.setdefault(key, now)

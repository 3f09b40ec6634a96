"""Which VMs to look at again, and when: the only thing that an event says."""

from __future__ import annotations

import heapq
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable

from ovnagent.core.vm import VmKey

BOUND = 50_000
"""With more keys than this, every VM is looked at: it costs hardly more than they, and nothing grows."""
BATCH = 64
"""Keys in a batch. A VM costs 0.2-0.3 ms, so a VM that becomes urgent waits for no batch of more than about 20 ms."""


class _Queue:
    """Keys and since when they are in it, in turns by namespace; within a namespace the oldest first."""

    def __init__(self) -> None:
        self._namespaces: OrderedDict[str, dict[VmKey, float]] = OrderedDict()
        self.size = 0

    def add(self, key: VmKey, since: float) -> None:
        keys = self._namespaces.setdefault(key.namespace, {})
        if key not in keys:
            keys[key] = since
            self.size += 1

    def contains(self, key: VmKey) -> bool:
        return key in self._namespaces.get(key.namespace, {})

    def remove(self, key: VmKey) -> float | None:
        """Since when it was in it; None if it was not."""
        keys = self._namespaces.get(key.namespace, {})
        since = keys.pop(key, None)
        if since is not None:
            self.size -= 1
            if not keys:
                del self._namespaces[key.namespace]
        return since

    def move(self, batch: dict[VmKey, float], limit: int) -> None:
        """Move keys to the batch until it has so many, one of each namespace in turn."""
        while self.size and len(batch) < limit:
            namespace, keys = next(iter(self._namespaces.items()))
            key = next(iter(keys))
            since = keys.pop(key)
            self.size -= 1
            batch[key] = since
            if keys:
                self._namespaces.move_to_end(namespace)
            else:
                del self._namespaces[namespace]


class Dirty:
    """Keys to be looked at, with the time since when; and keys to be looked at later. Thread-safe.

    Batches are bounded, urgent keys (a launcher, a migration or a binding changed) come first, and in both classes
    namespaces take turns. So what a namespace does to itself, 5,000 VMs at once or one of them 200 times a second, holds
    up another's migration by one batch, and no more: whoever fills the queue waits behind himself. A key is in it once,
    however often it is added.
    """

    def __init__(self) -> None:
        self.calm = threading.Event()
        """Set while nobody looks at anything: whoever takes has carried out what he took, and waits."""
        self.calm.set()
        self._condition = threading.Condition()
        self._urgent, self._other = _Queue(), _Queue()
        self._everything = False
        self._later: list[tuple[float, VmKey]] = []
        self._due: dict[VmKey, float] = {}
        self._closed = self._woken = False

    def __len__(self) -> int:
        """Keys that wait."""
        with self._condition:
            return self._urgent.size + self._other.size

    @property
    def hurried(self) -> bool:
        """Urgent keys wait, for somebody who will take them."""
        return self._urgent.size > 0 and not self._closed

    def add(self, keys: Iterable[VmKey], urgent: bool = False, since: float | None = None) -> None:
        """Look at these again as soon as possible. `since`: monotonic seconds, now by default."""
        now = time.monotonic() if since is None else since
        with self._condition:
            for key in keys:
                self._add(key, urgent, now)
            if self._urgent.size + self._other.size > BOUND:
                self._collapse()
            self._condition.notify()

    def _add(self, key: VmKey, urgent: bool, since: float) -> None:
        if urgent:
            before = self._other.remove(key)
            self._urgent.add(key, since if before is None else before)
        elif not self._urgent.contains(key):
            self._other.add(key, since)

    def add_everything(self) -> None:
        """Look at every VM again."""
        with self._condition:
            self._everything = True
            self._condition.notify()

    def collapse(self) -> None:
        """Look at every VM once it is our turn, and keep no keys till then: for an agent that does not lead."""
        with self._condition:
            self._collapse()

    def _collapse(self) -> None:
        self._everything = True
        self._urgent, self._other = _Queue(), _Queue()
        self._later, self._due = [], {}

    def later(self, key: VmKey, seconds: float | None) -> None:
        """Look at this one again after so many seconds, in place of what was set before; None: not at all."""
        with self._condition:
            if seconds is None:
                self._due.pop(key, None)
                return
            self._due[key] = time.monotonic() + seconds
            heapq.heappush(self._later, (self._due[key], key))
            if len(self._later) > 2 * len(self._due) + 100:  # most have been set anew meanwhile
                self._later = [(due, key) for key, due in self._due.items()]
                heapq.heapify(self._later)
            self._condition.notify()

    def wake(self) -> None:
        """Something else is new: `wait` and `take` return, with nothing if need be."""
        with self._condition:
            self._woken = True
            self._condition.notify_all()

    def close(self) -> None:
        """Wake the reader for good."""
        with self._condition:
            self._closed = True
            self.calm.set()
            self._condition.notify_all()

    def wait(self, timeout: float) -> None:
        """Wait for any news, for at most `timeout` seconds, and take nothing."""
        with self._condition:
            self.calm.set()
            if not self._closed:
                self._condition.wait(timeout)

    def pause(self, seconds: float) -> None:
        """Wait so long, whatever the news: only `close` ends it sooner."""
        deadline = time.monotonic() + seconds
        with self._condition:
            self.calm.set()
            while not self._closed and (left := deadline - time.monotonic()) > 0:
                self._condition.wait(left)

    def take(self, timeout: float, limit: int = BATCH) -> tuple[dict[VmKey, float], bool]:
        """(up to `limit` dirty keys and since when they are, whether everything is), waiting for at most `timeout`
        seconds. What is left over is taken the next time."""
        deadline = time.monotonic() + timeout
        with self._condition:
            while True:
                self._ripen()
                now = time.monotonic()
                if self._anything or now >= deadline:
                    batch: dict[VmKey, float] = {}
                    self._urgent.move(batch, limit - limit // 4)  # the rest of the world is not kept out for good
                    self._other.move(batch, limit)
                    self._urgent.move(batch, limit)
                    everything, self._everything, self._woken = self._everything, False, False
                    (self.calm.clear if batch or everything else self.calm.set)()
                    return batch, everything
                self.calm.set()
                wake = min(deadline, self._later[0][0]) if self._later else deadline
                self._condition.wait(max(0.0, wake - now))

    @property
    def _anything(self) -> bool:
        return bool(self._urgent.size or self._other.size or self._everything or self._closed or self._woken)

    def _ripen(self) -> None:
        now = time.monotonic()
        while self._later and self._later[0][0] <= now:
            due, key = heapq.heappop(self._later)
            if self._due.get(key) == due:  # else it was set anew, or called off
                del self._due[key]
                self._add(key, urgent=True, since=now)

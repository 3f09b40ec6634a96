"""Writes to the API server that nobody waits for: a queue of the newest wish a name, worked off in parallel.

This API server takes 350 object writes a second in all (2 cores). A migration never waits for one of them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable

import tenacity

from ovnagent.kube.client import ApiError, MalformedError, passing, reason
from ovnagent.process.supervision import PATIENCE_SECONDS, Loop, Supervisor, pauses

LOG = logging.getLogger(__name__)

CAPACITY = 50_000
"""Writes that wait at most."""
ATTEMPTS = 8
WRITE_SECONDS = 300.0
"""One attempt, with all that the client waits for in it."""
IDLE_SECONDS = 5.0
GIVE_WAY_SECONDS = 0.5
"""For how long at most a write waits while something more urgent is going on: they would take turns with one interpreter."""
ALWAYS = threading.Event()
ALWAYS.set()
SAY_SECONDS = 30.0
"""Of writes given up for the same reason only one in so many seconds is logged; all are counted."""


class Write:
    """One that waits; there may be tens of thousands."""

    __slots__ = ()

    def carry_out(self) -> None:
        """Write it. Raises what Client.request raises."""
        raise NotImplementedError

    def given_up(self) -> None:
        """It has come to nothing."""


class Writer:
    """`put` never blocks. Of several writes under one key only the newest is carried out. Namespaces take turns, and none
    has more than half of the workers: 5,000 changes in one, or writes that fail and are tried again, hold up nobody else.
    Beyond the capacity the oldest of that namespace is dropped which has most. `on_dropped(reason)`: `queue_full`, or why
    the API server's answer let it be given up."""

    def __init__(
        self,
        name: str,
        workers: int,
        per_second: float,
        supervisor: Supervisor,
        on_dropped: Callable[[str], None],
        calm: threading.Event = ALWAYS,
    ) -> None:
        """`calm`: set while nothing more urgent is going on in this process."""
        self.name = name
        self._calm = calm
        self._on_dropped = on_dropped
        self._pause = 1 / per_second
        self._share = max(1, workers // 2)
        lock = threading.Lock()
        self._condition = threading.Condition(lock)
        """Of workers that wait for something to write."""
        self._written = threading.Condition(lock)
        """Of those who wait until all is written."""
        self._queue: OrderedDict[str, OrderedDict[Hashable, Write]] = OrderedDict()
        """By namespace, in turns."""
        self._size = 0
        self._busy: set[tuple[str, Hashable]] = set()
        self._working: Counter[str] = Counter()
        self._next = 0.0
        self._held_until = 0.0
        """Monotonic seconds."""
        self._said: dict[str, float] = {}
        self._loops = [supervisor.loop(f"{name}-{number}", self._step) for number in range(workers)]

    def start(self) -> None:
        for loop in self._loops:
            loop.start()

    def stop(self) -> None:
        for loop in self._loops:
            loop.stop()
        with self._condition:
            self._condition.notify_all()

    @property
    def pending(self) -> int:
        with self._condition:
            return self._size + len(self._busy)

    def put(self, namespace: str, key: Hashable, write: Write) -> None:
        dropped = None
        with self._condition:
            writes = self._queue.setdefault(namespace, OrderedDict())
            self._size += key not in writes
            writes[key] = write
            if self._size > CAPACITY:
                most = max(self._queue.values(), key=len)
                _, dropped = most.popitem(last=False)
                self._size -= 1
            self._condition.notify()
        if dropped is not None:
            self._drop(dropped, "queue_full", f"more than {CAPACITY} writes wait")

    def hold(self, seconds: float) -> None:
        """Carry out nothing before `release`, or for so long at most: what is put waits."""
        with self._condition:
            self._held_until = time.monotonic() + seconds

    def release(self) -> None:
        with self._condition:
            self._held_until = 0.0
            self._condition.notify_all()

    def flush(self, seconds: float) -> bool:
        """Wait until all is written, for so long at most; whether it is."""
        self.release()
        deadline = time.monotonic() + seconds
        with self._condition:
            while (self._size or self._busy) and time.monotonic() < deadline:
                self._written.wait(max(0.0, deadline - time.monotonic()))
            return not (self._size or self._busy)

    def _step(self, loop: Loop) -> None:
        """One write, or a short wait for one."""
        with self._condition:
            held = self._held_until - time.monotonic()
            taken = self._take() if held <= 0 else None
            if taken is None:
                loop.beat(IDLE_SECONDS + PATIENCE_SECONDS)
                self._condition.wait(min(held, IDLE_SECONDS) if held > 0 else IDLE_SECONDS)
                return
            namespace, key, write = taken
            self._busy.add((namespace, key))
            self._working[namespace] += 1
        try:
            loop.beat(GIVE_WAY_SECONDS + PATIENCE_SECONDS)
            self._calm.wait(GIVE_WAY_SECONDS)
            if (pause := self._turn()) > 0:  # after that: those who have waited together do not write together
                loop.pause(pause)
            self._write(write, loop)
        finally:
            with self._condition:
                self._busy.discard((namespace, key))
                self._working[namespace] -= 1
                if not self._working[namespace]:
                    del self._working[namespace]
                if self._size:  # one write more may be taken now; where all idle workers are woken, they do nothing else
                    self._condition.notify()
                self._written.notify_all()

    def _turn(self) -> float:
        """Seconds until the next write may be made, so that there are no more than so many a second."""
        with self._condition:
            now = time.monotonic()
            self._next = max(now, self._next) + self._pause
            return self._next - now - self._pause

    def _take(self) -> tuple[str, Hashable, Write] | None:
        """The oldest write of the namespace whose turn it is, of a key of which none is under way: two writes of one object
        never overtake each other."""
        for namespace, writes in self._queue.items():
            if self._working[namespace] >= self._share:
                continue
            key = next((key for key in writes if (namespace, key) not in self._busy), None)
            if key is not None:
                write = writes.pop(key)
                self._size -= 1
                self._queue.move_to_end(namespace)
                if not writes:
                    del self._queue[namespace]
                return namespace, key, write
        return None

    def _write(self, write: Write, loop: Loop) -> None:
        def attempt() -> None:
            loop.beat(WRITE_SECONDS)
            write.carry_out()

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_worth_another_try),
            wait=pauses(),
            stop=tenacity.stop_after_attempt(ATTEMPTS) | tenacity.stop_when_event_set(loop.stopping),
            sleep=loop.pause,
            reraise=True,
        )
        try:
            retrying(attempt)
        except Exception as error:
            self._drop(write, reason(error), f"{error!r}" if reason(error) == "fault" else str(error))

    def _drop(self, write: Write, why: str, text: str) -> None:
        self._on_dropped(why)
        now = time.monotonic()
        if now - self._said.get(why, -SAY_SECONDS) >= SAY_SECONDS:
            self._said[why] = now
            LOG.warning("write given up", extra={"queue": self.name, "reason": text + self._remedy(why)})
        write.given_up()

    def _remedy(self, why: str) -> str:
        verbs = {"events": "create and patch on events", "records": "patch on virtualmachines and virtualmachineinstances"}
        return f"; grant the verbs {verbs[self.name]}" if why == "forbidden" and self.name in verbs else ""


def _worth_another_try(error: BaseException) -> bool:
    """Also after a conflict, while credentials are renewed, or where a proxy said something odd."""
    conflict = isinstance(error, ApiError) and error.status in (401, 409)
    return conflict or isinstance(error, MalformedError) or passing(error)

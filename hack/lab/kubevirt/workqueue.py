"""A queue of things to look at again, now or later, each by one worker at a time."""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections.abc import Callable, Hashable

log = logging.getLogger(__name__)

RETRY_SECONDS = 0.1


class WorkQueue:
    """Calls `handler` with each item that was added. An item added several times before a worker takes it is handled
    once; one that is added while it is being handled is handled again."""

    def __init__(self, handler: Callable[[Hashable], None], workers: int = 8) -> None:
        self._handler = handler
        self._changed = threading.Condition()
        self._due: list[tuple[float, int, Hashable]] = []
        self._next: dict[Hashable, float] = {}
        """When each item is due; an entry of `_due` with another time has been overtaken."""
        self._order = 0
        self._busy: set[Hashable] = set()
        self._again: set[Hashable] = set()
        self._stopped = False
        self._threads = [
            threading.Thread(target=self._work, name=f"worker {number}", daemon=True) for number in range(workers)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let the workers finish what they have in hand."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(5)

    def add(self, item: Hashable, delay: float = 0.0) -> None:
        """Have an item handled, `delay` seconds from now or earlier. Who wanted it later has to say so again then."""
        with self._changed:
            moment = time.monotonic() + delay
            if self._next.get(item, moment + 1) <= moment:
                return
            self._next[item] = moment
            self._order += 1
            heapq.heappush(self._due, (moment, self._order, item))
            self._changed.notify()

    def _work(self) -> None:
        while (item := self._take()) is not None:
            try:
                self._handler(item)
            except Exception:
                # The API server may be restarting, or another writer was faster: the next look tells.
                log.warning("looking again at %s", item, exc_info=True)
                self.add(item, RETRY_SECONDS)
            with self._changed:
                self._busy.discard(item)
                again = item in self._again
                self._again.discard(item)
            if again:
                self.add(item)

    def _take(self) -> Hashable | None:
        with self._changed:
            while not self._stopped:
                now = time.monotonic()
                if self._due and self._due[0][0] <= now:
                    moment, _, item = heapq.heappop(self._due)
                    if self._next.get(item) != moment:
                        continue
                    del self._next[item]
                    if item in self._busy:
                        self._again.add(item)
                        continue
                    self._busy.add(item)
                    return item
                self._changed.wait(self._due[0][0] - now if self._due else None)
            return None

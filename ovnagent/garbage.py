"""Python's cyclic garbage collector, kept away from large loads.

It walks what has just been made again and again: half to three quarters of the time of a load, and afterwards pauses of
400-500 ms whenever it walks everything that is kept (10,000 VMs).
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_loads = 0


@contextmanager
def held_back() -> Iterator[None]:
    """No collection meanwhile. Loads of several threads may overlap: the collector is back when the last one is done."""
    global _loads
    with _lock:
        _loads += 1
        gc.disable()
    try:
        yield
    finally:
        with _lock:
            _loads -= 1
            if not _loads:
                gc.enable()


def keep() -> None:
    """What has been loaded by now stays, and is never walked again."""
    gc.collect()
    gc.freeze()

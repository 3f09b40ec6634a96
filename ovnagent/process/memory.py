"""Memory: the cyclic garbage collector kept away from large loads, and what loads needed given back to the system.

The collector walks what has just been made again and again: half to three quarters of the time of a load, and afterwards
pauses of 400-500 ms whenever it walks everything that is kept (10,000 VMs).
"""

from __future__ import annotations

import ctypes
import gc
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

LOG = logging.getLogger(__name__)

M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8
"""Parameters of mallopt(3)."""

_lock = threading.Lock()
_loads = 0


@contextmanager
def loading() -> Iterator[None]:
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
    """What has been loaded by now stays, and is never walked again; what the load needed besides goes back. (Nothing is
    collected before: a load makes no cycles worth the walk.)"""
    gc.freeze()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):  # not glibc
        pass


def be_frugal() -> None:
    """At start, before there are threads: glibc gives each thread an arena of its own, keeps there what one load needed,
    and after the first large buffer takes others of that size from arenas, too."""
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(M_ARENA_MAX, 2)
        libc.mallopt(M_MMAP_THRESHOLD, 256 << 10)
    except (OSError, AttributeError):  # not glibc
        LOG.debug("no mallopt", extra={"reason": "not glibc"})

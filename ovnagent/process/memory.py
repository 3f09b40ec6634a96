"""Memory: the cyclic garbage collector kept away from large loads, and what loads needed given back to the system.

The collector walks what has just been made again and again: half to three quarters of the time of a load, and afterwards
it holds up everything for 0.1-0.5 s whenever it walks all that is kept (10,000 VMs): under 200 changes a second every few
seconds. So by itself it walks only what is young, and all the rest when nobody waits.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

LOG = logging.getLogger(__name__)

M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8
"""Parameters of mallopt(3)."""

ALL_BY_ITSELF = 1 << 30
"""Collections of what is younger before the collector walks everything by itself: it never does."""
WALK_SECONDS, LATEST_SECONDS = 300.0, 3600.0
"""How often everything is walked when nobody waits, and at the latest. Cycles are rare: what they hold is little."""

_lock = threading.Lock()
_loads = 0
_walked = time.monotonic()
"""Monotonic seconds."""


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
    collected before: a load makes no cycles worth the walk. What is kept while it is in one is never found, so this is for
    what is done once, at a start.)"""
    gc.freeze()
    give_back()


def give_back() -> None:
    """What a load needed besides what it brought goes back to the system."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):  # not glibc
        pass


def walk(nobody_waits: bool) -> None:
    """Collect what only a walk of everything finds, if it is time."""
    global _walked
    since = time.monotonic() - _walked
    if since >= (WALK_SECONDS if nobody_waits else LATEST_SECONDS):
        gc.collect()
        _walked = time.monotonic()


def be_frugal() -> None:
    """At start, before there are threads: the collector leaves alone what is old (see `walk`). And glibc gives each thread
    an arena of its own, keeps there what one load needed, and after the first large buffer takes others of that size from
    arenas, too."""
    gc.set_threshold(*gc.get_threshold()[:2], ALL_BY_ITSELF)
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(M_ARENA_MAX, 2)
        libc.mallopt(M_MMAP_THRESHOLD, 256 << 10)
    except (OSError, AttributeError):  # not glibc
        LOG.debug("no mallopt", extra={"reason": "not glibc"})

"""Which VMs to look at again, and when."""

from __future__ import annotations

import threading
import time

from ovnagent.core.vm import VmKey
from ovnagent.dirty import Dirty

A, B = VmKey("ns", "a"), VmKey("ns", "b")


def test_a_batch_is_what_has_become_dirty_since_the_last() -> None:
    dirty = Dirty()
    dirty.add([A, B], since=1.0)
    dirty.add([A], since=2.0)
    assert dirty.take(0) == ({A: 1.0, B: 1.0}, False)
    assert dirty.take(0) == ({}, False)


def test_everything_is_dirty_once() -> None:
    dirty = Dirty()
    dirty.add_everything()
    assert dirty.take(0) == ({}, True)
    assert dirty.take(0) == ({}, False)


def test_later_comes_when_it_is_due_and_the_newest_wish_counts() -> None:
    dirty = Dirty()
    dirty.later(A, 60)
    dirty.later(A, 0.05)
    dirty.later(B, 0.05)
    dirty.later(B, None)
    started = time.monotonic()
    keys, _ = dirty.take(5)
    assert set(keys) == {A}
    assert 0.04 < time.monotonic() - started < 1


def test_news_wake_the_reader() -> None:
    dirty = Dirty()
    threading.Timer(0.05, dirty.add, [[A]]).start()
    started = time.monotonic()
    assert set(dirty.take(10)[0]) == {A}
    assert time.monotonic() - started < 5


def test_closing_wakes_the_reader() -> None:
    dirty = Dirty()
    threading.Timer(0.05, dirty.close).start()
    assert dirty.take(10) == ({}, False)
    dirty.pause(10)

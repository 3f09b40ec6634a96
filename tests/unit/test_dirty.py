"""Which VMs to look at again, when, and in which order."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from ovnagent import dirty as dirty_module
from ovnagent.core.vm import VmKey
from ovnagent.dirty import BATCH, Dirty

A, B = VmKey("ns", "a"), VmKey("ns", "b")


def many(namespace: str, count: int) -> list[VmKey]:
    return [VmKey(namespace, f"vm{number}") for number in range(count)]


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


def test_wishes_that_are_set_anew_all_the_time_do_not_pile_up() -> None:
    dirty = Dirty()
    for number in range(10_000):
        dirty.later(A, 60 + number)
    assert len(dirty._later) < 200


def test_news_wake_the_reader() -> None:
    dirty = Dirty()
    threading.Timer(0.05, dirty.add, [[A]]).start()
    started = time.monotonic()
    assert set(dirty.take(10)[0]) == {A}
    threading.Timer(0.05, dirty.add_everything).start()
    dirty.wait(10)
    assert time.monotonic() - started < 5


def test_closing_wakes_the_reader() -> None:
    dirty = Dirty()
    threading.Timer(0.05, dirty.close).start()
    assert dirty.take(10) == ({}, False)
    dirty.pause(10)
    dirty.wait(10)


def test_no_news_shorten_a_pause() -> None:
    dirty = Dirty()
    end = threading.Event()

    def news() -> None:
        while not end.wait(0.005):
            dirty.add([A])
            dirty.add_everything()

    thread = threading.Thread(target=news)
    thread.start()
    started = time.monotonic()
    dirty.pause(0.4)
    waited = time.monotonic() - started
    end.set()
    thread.join()
    assert 0.4 <= waited < 1


def test_a_batch_is_bounded_and_nothing_is_lost() -> None:
    dirty = Dirty()
    keys = many("busy", 3 * BATCH + 1)
    dirty.add(keys)
    batches = [dirty.take(0)[0] for _ in range(4)]
    assert [len(batch) for batch in batches] == [BATCH, BATCH, BATCH, 1]
    assert {key for batch in batches for key in batch} == set(keys)
    assert len(dirty) == 0


def test_namespaces_take_turns() -> None:
    dirty = Dirty()
    dirty.add(many("busy", 5_000))
    dirty.add([A])
    dirty.add(many("other", 3))
    batch, _ = dirty.take(0)
    assert A in batch
    assert set(many("other", 3)) < batch.keys()


@pytest.mark.parametrize("urgent", [False, True])
def test_a_migration_waits_for_nobody_elses_flood(urgent: bool) -> None:
    """Not even for one of migrations."""
    dirty = Dirty()
    dirty.add(many("busy", 5_000), urgent=urgent)
    dirty.take(0)
    dirty.add([A], urgent=True)
    assert A in dirty.take(0)[0]


def test_what_is_urgent_does_not_keep_out_the_rest_for_good() -> None:
    dirty = Dirty()
    dirty.add([A])
    for _ in range(3):
        dirty.add(many("busy", 5_000), urgent=True)
    assert A in dirty.take(0)[0]


def test_a_key_that_becomes_urgent_is_in_one_batch_and_keeps_its_age() -> None:
    dirty = Dirty()
    dirty.add([A], since=1.0)
    dirty.add([A], urgent=True, since=2.0)
    dirty.add([A], since=3.0)
    assert dirty.take(0) == ({A: 1.0}, False)
    assert dirty.take(0) == ({}, False)


def test_too_many_keys_are_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dirty_module, "BOUND", 100)
    dirty = Dirty()
    dirty.add(many("busy", 101))
    assert len(dirty) == 0
    assert dirty.take(0) == ({}, True)


def test_who_does_not_lead_keeps_no_keys() -> None:
    dirty = Dirty()
    dirty.add([A])
    dirty.later(B, 0.0)
    dirty.collapse()
    assert dirty.take(0) == ({}, True)
    assert dirty.take(0.05) == ({}, False)


def test_it_is_calm_while_nobody_looks_at_anything() -> None:
    dirty = Dirty()
    assert dirty.calm.is_set(), "nothing has been taken yet"
    dirty.add([A])
    dirty.take(0)
    assert not dirty.calm.is_set(), "what was taken is being looked at"
    assert dirty.take(0) == ({}, False)
    assert dirty.calm.is_set(), "it has been, and nothing else waits"
    dirty.add_everything()
    dirty.take(0)
    assert not dirty.calm.is_set()


@pytest.mark.parametrize("over", [lambda dirty: dirty.wait(0), lambda dirty: dirty.pause(0), lambda dirty: dirty.close()])
def test_it_is_calm_once_the_reader_waits_for_something_else_or_ends(over: Callable[[Dirty], None]) -> None:
    dirty = Dirty()
    dirty.add([A])
    dirty.take(0)
    over(dirty)
    assert dirty.calm.is_set()


def test_it_is_hurried_while_something_urgent_waits_for_a_reader() -> None:
    dirty = Dirty()
    dirty.add([A])
    assert not dirty.hurried
    dirty.add([B], urgent=True)
    assert dirty.hurried
    dirty.take(0)
    assert not dirty.hurried
    dirty.add([B], urgent=True)
    dirty.close()
    assert not dirty.hurried, "nobody will take it"

"""A standby takes the lock from a holder that is silent, from no other, and not again and again."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovnagent.core.takeover import (
    ANSWER_SECONDS,
    BELIEVED_SECONDS,
    FORGOTTEN_SECONDS,
    IDLE_SECONDS,
    LONGEST_BELIEVED_SECONDS,
    PAUSE_SECONDS,
    Standby,
    Verdict,
    pause,
    verdict,
)

NOW = 100_000.0
READY = Standby(NOW, contended=True, sure=True, differs_since=NOW - IDLE_SECONDS)
ASKED = replace(READY, asked=NOW - ANSWER_SECONDS)


def test_a_holder_is_asked_before_the_lock_is_taken() -> None:
    assert verdict(READY) is Verdict.ASK
    assert verdict(replace(READY, asked=NOW - ANSWER_SECONDS + 0.1)) is Verdict.WAIT
    assert verdict(ASKED) is Verdict.TAKE


@pytest.mark.parametrize(
    "but",
    [
        {"contended": False},
        {"sure": False},
        {"differs_since": None},
        {"differs_since": NOW - IDLE_SECONDS + 0.1},
        {"changed": NOW - IDLE_SECONDS + 0.1},
        {"answered": NOW - BELIEVED_SECONDS + 0.1},
        {"answered": NOW - 2 * BELIEVED_SECONDS + 0.1, "answers": 2},
        {"answered": NOW - LONGEST_BELIEVED_SECONDS + 0.1, "answers": 100},
        {"taken": (NOW - PAUSE_SECONDS + 0.1,)},
        {"taken": (NOW - 5000, NOW - 2 * PAUSE_SECONDS + 0.1)},
    ],
)
def test_each_of_these_is_reason_enough_to_wait(but: dict[str, object]) -> None:
    assert verdict(replace(ASKED, **but)) is Verdict.WAIT  # type: ignore[arg-type]


def test_what_is_long_ago_is_none() -> None:
    taken = (NOW - FORGOTTEN_SECONDS - 1, NOW - FORGOTTEN_SECONDS, NOW - PAUSE_SECONDS)
    old = {"changed": NOW - IDLE_SECONDS, "answered": NOW - BELIEVED_SECONDS, "taken": taken}
    assert verdict(replace(ASKED, **old)) is Verdict.TAKE  # type: ignore[arg-type]
    assert verdict(replace(ASKED, answered=NOW - LONGEST_BELIEVED_SECONDS, answers=100)) is Verdict.TAKE


def test_the_pauses_grow_up_to_an_hour() -> None:
    assert [pause(times) for times in (1, 2, 3, 7, 1000)] == [60, 120, 240, 3600, 3600]


@settings(deadline=None)
@given(st.lists(st.floats(0.1, 30), min_size=200, max_size=200), st.booleans())
def test_two_agents_that_never_agree_take_the_lock_ever_more_rarely(steps: list[float], deaf: bool) -> None:
    """Even if their question is never answered, as by an agent of another version."""
    now, holder, taken, asked = 0.0, 0, [list[float](), list[float]()], [None, None]
    times: list[float] = []
    since = [0.0, 0.0]
    for step in steps:
        now += step
        standby = 1 - holder
        facts = Standby(now, True, True, since[standby], asked=asked[standby], taken=tuple(taken[standby]))
        match verdict(facts):
            case Verdict.ASK:
                asked[standby] = now if deaf else None
            case Verdict.TAKE:
                for each in taken:
                    each.append(now)
                times.append(now)
                holder, since, asked = standby, [now, now], [None, None]
    assert deaf or not times
    for number, (before, after) in enumerate(itertools.pairwise(times), 1):
        assert after - before >= pause(number)


def test_the_first_seconds_of_a_machine_are_as_good_as_any() -> None:
    """Its clock begins at nothing: that nothing has changed yet is no news of a moment ago."""
    assert verdict(Standby(IDLE_SECONDS, contended=True, sure=True, differs_since=0.0)) is Verdict.ASK


def test_a_second_answer_counts_twice_as_long_and_no_longer() -> None:
    for answers, seconds in ((1, BELIEVED_SECONDS), (2, 2 * BELIEVED_SECONDS), (3, 4 * BELIEVED_SECONDS)):
        assert verdict(replace(ASKED, answered=NOW - seconds + 0.1, answers=answers)) is Verdict.WAIT
        assert verdict(replace(ASKED, answered=NOW - seconds, answers=answers)) is Verdict.TAKE


def test_the_holder_is_asked_and_has_to_answer_when_the_manual_says() -> None:
    text = " ".join((Path(__file__).parents[2] / "docs" / "install.md").read_text().split())
    assert f"write for {IDLE_SECONDS:.0f} s asks the holder" in text
    assert f"takes the lock if there is no answer within {ANSWER_SECONDS:.0f} s" in text

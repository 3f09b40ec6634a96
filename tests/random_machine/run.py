"""Runs episodes, and makes those that fail shorter."""

from __future__ import annotations

import argparse
import logging
import os
import random
import time
import traceback
from collections.abc import Iterator, Sequence

from tests.random_machine.machine import STEPS, Episode, Failure
from tests.random_machine.world import World, world

SHORTEN_SECONDS = 60.0
"""So long it is tried to make an episode that failed shorter."""


def seed() -> str:
    return os.environ.get("MACHINE_SEED") or str(random.randrange(10**6))


def play(name: str, steps: Sequence[int], place: World) -> Failure | None:
    episode = Episode(place, name)
    try:
        episode.run(steps)
    except (AssertionError, Exception) as error:
        what = f"{type(error).__name__}: {error}"
        if not isinstance(error, AssertionError) or not str(error):
            what += "\n" + traceback.format_exc()
        return Failure(name, what, tuple(steps), tuple(episode.story))
    return None


def shorten(failure: Failure) -> Failure:
    """The same failure with fewer steps: leave out halves, quarters... as long as it still fails in the same way."""
    deadline = time.monotonic() + SHORTEN_SECONDS
    kind = failure.what.partition(":")[0]
    size = max(1, len(failure.steps) // 2)
    while time.monotonic() < deadline:
        for start in range(0, len(failure.steps), size):
            if time.monotonic() > deadline:
                break
            steps = failure.steps[:start] + failure.steps[start + size :]
            with world() as place:
                found = play(failure.name, steps, place)
            if found is not None and found.what.partition(":")[0] == kind:
                failure = found
                break
        else:
            if size == 1:
                break
            size = max(1, size // 2)
    return failure


def episodes(name: str, steps: int) -> Iterator[str]:
    if "/" in name:
        yield name
        return
    for number in range(max(1, steps // STEPS)):
        yield f"{name}/{number}"


def run(name: str, steps: int, short: bool = True) -> Failure | None:
    """The first failure, made shorter."""
    with world() as place:
        for episode in episodes(name, steps):
            failure = play(episode, range(STEPS), place)
            if failure is not None:
                break
        else:
            return None
    return shorten(failure) if short else failure


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.random_machine",
        description="Play the random machine (machine.py) and say what went wrong, if anything did.",
        epilog="In the environment: MACHINE_SEED (a number, or number/episode; by default by lot), MACHINE_STEPS (10000), "
        "MACHINE_SHORTEN=no (tell an episode that failed as it was).",
    )
    parser.parse_args()
    logging.disable(logging.CRITICAL)
    name, steps = seed(), int(os.environ.get("MACHINE_STEPS") or 10_000)
    started = time.monotonic()
    print(f"MACHINE_SEED={name}", flush=True)
    failure = run(name, steps, short=os.environ.get("MACHINE_SHORTEN") != "no")
    played = len(list(episodes(name, steps))) * STEPS
    print(failure or f"{played} steps in {time.monotonic() - started:.0f} s", flush=True)
    return 1 if failure else 0

"""10,000 random steps of the whole agent. `MACHINE_SEED=<seed>` does a run again, `MACHINE_SEED=<seed>/<episode>` one
episode of it; `MACHINE_STEPS` sets how many steps there are."""

from __future__ import annotations

import os
import time

import pytest

from tests.random_machine.run import run, seed

STEPS = int(os.environ.get("MACHINE_STEPS") or 10_000)


@pytest.mark.timeout(1800)
def test_the_random_machine(capsys: pytest.CaptureFixture[str]) -> None:
    name, started = seed(), time.monotonic()
    with capsys.disabled():
        print(f"\nMACHINE_SEED={name}")
    failure = run(name, STEPS)
    assert failure is None, str(failure)
    with capsys.disabled():
        print(f"{STEPS} steps in {time.monotonic() - started:.0f} s")

"""Random steps of the whole agent: always the same ones, so that what fails here is the change that was made.
`MACHINE_SEED=<seed>` plays others, `MACHINE_SEED=<seed>/<episode>` one episode; `MACHINE_STEPS` sets how many there are."""

from __future__ import annotations

import os
import time

import pytest

from tests.random_machine.run import run

SEED = os.environ.get("MACHINE_SEED") or "13"
STEPS = int(os.environ.get("MACHINE_STEPS") or 2_000)


@pytest.mark.timeout(1800)
def test_the_random_machine(capsys: pytest.CaptureFixture[str]) -> None:
    started = time.monotonic()
    with capsys.disabled():
        print(f"\nMACHINE_SEED={SEED}")
    failure = run(SEED, STEPS)
    assert failure is None, str(failure)
    with capsys.disabled():
        print(f"{STEPS} steps in {time.monotonic() - started:.0f} s")

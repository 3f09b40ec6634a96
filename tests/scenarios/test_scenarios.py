"""Plays every scenario of this folder."""

from pathlib import Path

import pytest

from tests.scenarios.script import run, scenarios


@pytest.mark.parametrize("path", scenarios(), ids=lambda path: path.stem)
def test_scenario(path: Path) -> None:
    assert run(path) > 0, "a scenario that expects nothing"

"""Plays every scenario of the folder plugging."""

from pathlib import Path

import pytest

from tests.scenarios.plugging import run


@pytest.mark.parametrize("path", sorted((Path(__file__).parent / "plugging").glob("*.txt")), ids=lambda path: path.stem)
def test_scenario(path: Path) -> None:
    assert run(path) > 0, "a scenario that expects nothing"

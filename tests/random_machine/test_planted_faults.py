"""The machine finds what is planted: each fault in a copy of the code, played until the machine says so."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.random_machine import faults

WORKERS = 2


@pytest.mark.timeout(1800)
def test_each_planted_fault_is_found(tmp_path: Path) -> None:
    def look(numbered: tuple[int, faults.Fault]) -> tuple[str, str]:
        number, fault = numbered
        directory = tmp_path / str(number)
        directory.mkdir()
        return fault.name, faults.found_in(fault, directory)

    with ThreadPoolExecutor(WORKERS) as pool:
        said = dict(pool.map(look, enumerate(faults.FAULTS)))
    missed = [f"{name}:\n{text}" for name, text in said.items() if text]
    if missed:
        pytest.fail("\n\n".join(missed), pytrace=False)

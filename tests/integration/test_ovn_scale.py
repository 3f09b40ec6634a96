"""What a change costs does not depend on how many ports there are."""

from __future__ import annotations

from pathlib import Path

from hack.bench.idl import Figures, fill, measure
from hack.lab.databases import server


def figures(directory: Path, own: int, foreign: int = 0, elsewhere: int = 0) -> Figures:
    with server(directory) as nb:
        fill(nb, own, foreign, elsewhere)
        found = measure(nb, own, foreign)
    print(f"{own} own, {foreign} foreign, {elsewhere} elsewhere: {found}")
    return found


def test_a_change_at_10000_ports_costs_what_it_costs_at_100(tmp_path: Path) -> None:
    """Reading Logical_Switch.ports would make it 59 ms."""
    few, many = figures(tmp_path / "few", 100), figures(tmp_path / "many", 10_000)
    assert many.commit_cpu < 3 * few.commit_cpu + 0.005
    assert many.load_cpu < 10


def test_ports_on_other_switches_are_not_copied(tmp_path: Path) -> None:
    alone = figures(tmp_path / "alone", 1000, foreign=50)
    beside = figures(tmp_path / "beside", 1000, foreign=50, elsewhere=30_000)
    assert beside.load_cpu < 3 * alone.load_cpu + 0.2

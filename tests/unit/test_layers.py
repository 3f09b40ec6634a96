"""Imports run downwards only: the house of docs/architecture.md is the one that the code has."""

from __future__ import annotations

import ast
import graphlib
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "ovnagent"
OUTSIDE = {
    "asyncio", "http", "kubernetes", "logging", "os", "ovs", "ovsdbapp", "pathlib", "random", "select", "socket", "ssl",
    "subprocess", "tempfile", "threading", "time", "urllib3",
}  # fmt: skip
"""What a pure module does not import: the world outside, its clocks and its chances."""


def floors() -> list[set[str]]:
    """Of the drawing, from the roof down: what stands between its first two bars."""
    drawing = re.search(r"```\n( +┌.*?)```", (ROOT / "docs" / "architecture.md").read_text(), re.DOTALL)
    assert drawing is not None
    rows = [line.split("│") for line in drawing[1].splitlines() if "│" in line]
    return [set(row[1].split()) for row in rows]


def modules() -> dict[str, Path]:
    """By dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path) -> Iterator[str]:
    """Dotted names of what a module imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield from (f"{node.module}.{each.name}" for each in node.names)


def room(name: str) -> str:
    """Of a module: its folder, or its own name at the top."""
    return name.split(".")[1] if "." in name else ""


def test_every_room_is_drawn_once() -> None:
    drawn = sorted(name for floor in floors() for name in floor)
    assert drawn == sorted({room(name) for name in modules()} - {"", "__main__"})


def test_imports_run_downwards_only() -> None:
    depth = {name: number for number, floor in enumerate(floors()) for name in floor}
    checked = 0
    for name, path in modules().items():
        for imported in imports(path):
            here, there = room(name), room(imported)
            if imported.startswith("ovnagent.") and here in depth and there in depth and here != there:
                assert depth[here] < depth[there], f"{name} imports {imported}, which is not on a floor below"
                checked += 1
    assert checked > 200


def test_no_module_imports_itself_through_others() -> None:
    known = modules()

    def owner(imported: str) -> str:
        """The module that an imported name is, or is in."""
        return imported if imported in known else imported.rpartition(".")[0]

    graph = {name: {owner(each) for each in imports(path)} & known.keys() - {name} for name, path in known.items()}
    order = list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, with the cycle
    assert order[0] == "ovnagent"
    assert len(order) > 100


def test_the_core_is_pure() -> None:
    for name, path in modules().items():
        if room(name) == "core":
            assert {imported.split(".")[0] for imported in imports(path)} & OUTSIDE == set(), name

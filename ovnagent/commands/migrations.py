"""`ovnagent migrations`: the last migrations as the agents saw them, as a table, as bars or as a drawing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

from ovnagent.commands.agents import Answer
from ovnagent.commands.report import table
from ovnagent.commands.text import DIM, GREEN, RED, paint, plain

WIDTH = 48
"""Of the bars, in characters."""
EIGHTHS = " ▏▎▍▌▋▊▉█"
COLUMNS = ("namespace", "vm", "migration", "from", "to", "began", "seconds", "outcome", "late")

Shown = Mapping[str, Any]
"""A migration as an agent serves it (timelines.py), with the `agent` that saw it."""


def select(answers: Iterable[Answer], namespace: str, vm: str, migration: str) -> list[Shown]:
    """Those asked for, of all agents, the oldest first. One that two agents saw a part of is there twice."""
    found = [{**each, "agent": answer.agent} for answer in answers for each in answer.body.get("migrations", ())]
    return sorted(
        (
            each
            for each in found
            if namespace in ("", each["namespace"])
            and vm in ("", each["vm"])
            and migration in ("", each["migration"], each["uid"])
        ),
        key=lambda each: str(each["began"]),
    )


def render_table(migrations: Sequence[Shown]) -> str:
    """One line for each."""
    rows = [
        {
            **each,
            "from": each["source"],
            "to": each["target"],
            "began": str(each["began"])[:19] + "Z",
            "seconds": f"{each['seconds']:.2f}",
            "late": f"{len(each['late'])} late" if each["late"] else "",
        }
        for each in migrations
    ]
    return plain(table(rows, COLUMNS))


def render_bars(migration: Shown, colour: bool) -> str:
    """One migration, a line for each step; the bar begins where the step before ended."""
    head = (
        f"{migration['namespace']}/{migration['vm']}  {migration['migration']}  "
        f"{migration['source'] or '?'} -> {migration['target'] or '?'}  {migration['outcome']}, {migration['seconds']:.2f} s"
    )
    lines = [plain(head), paint(plain(f"began {migration['began']}, seen by {migration['agent']}"), DIM, colour)]
    steps = migration["steps"]
    names = _names(migration)
    width = max((len(name) for name in names), default=0)
    total = float(migration["seconds"]) or 1.0
    before = 0.0
    for name, step in zip(names, steps, strict=True):
        at = float(step["seconds"])
        lines.append(f"  {plain(name).ljust(width)}  {at:7.3f} s  {paint(_bar(before, at, total), GREEN, colour)}")
        before = at
    lines += [f"  {name.ljust(width)}     ? s  before this agent led" for name in migration["unseen"]]
    lines += [paint(plain(f"  late: {sentence}"), RED, colour) for sentence in migration["late"]]
    return "\n".join(line.rstrip() for line in lines)


def _names(migration: Shown) -> list[str]:
    """Steps, with the port where the VM has several."""
    several = len(migration["chassis"]) > 1
    return [f"{step['step']} {step['port']}" if several and step["port"] else step["step"] for step in migration["steps"]]


def _bar(start: float, end: float, total: float) -> str:
    """From start to end on a scale of WIDTH characters; at least a thin line, so that each step can be seen."""
    first = int(start / total * WIDTH * 8)
    length = max(1, int(end / total * WIDTH * 8) - first)
    full, rest = divmod(length, 8)
    return " " * (first // 8) + "█" * full + (EIGHTHS[rest] if rest else "")


# ---- SVG ------------------------------------------------------------------------------------------------------------

ROW, LEFT, SCALE, RIGHT = 22, 190, 520, 90
SVG_COLOURS = {"Kubernetes": "#326ce5", "Southbound": "#7b8794", "agent": "#d9480f"}
SOURCES = {
    "target bound": "Kubernetes",
    "domain ready": "Kubernetes",
    "VMI moved": "Kubernetes",
    "migration over": "Kubernetes",
    "bound on both": "Southbound",
    "activated": "Southbound",
    "source let go": "Southbound",
}
"""Who tells of a step; the others are the agent's own writes."""


def render_svg(migrations: Sequence[Shown]) -> str:
    """A drawing, one picture below the other."""
    parts: list[str] = []
    y = 10
    for each in migrations:
        drawn, y = _drawing(each, y)
        parts += drawn
    width = LEFT + SCALE + RIGHT
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{y}" viewBox="0 0 {width} {y}" '
            'font-family="sans-serif" font-size="12">',
            f'<rect width="{width}" height="{y}" fill="white"/>',
            *parts,
            "</svg>",
        ]
    )


def _drawing(migration: Shown, y: int) -> tuple[list[str], int]:
    title = f"{migration['namespace']}/{migration['vm']}: {migration['migration']}, {migration['outcome']}"
    parts = [_words(10, y + 14, f"{title}, {migration['source']} to {migration['target']}", 'font-weight="bold"')]
    y += ROW + 4
    total = float(migration["seconds"]) or 1.0
    before = 0.0
    for name, step in zip(_names(migration), migration["steps"], strict=True):
        at = float(step["seconds"])
        x, end = LEFT + SCALE * before / total, LEFT + SCALE * at / total
        colour = SVG_COLOURS[SOURCES.get(step["step"], "agent")]
        parts += [
            _words(LEFT - 8, y + 14, name, 'text-anchor="end"'),
            f'<rect x="{x:.1f}" y="{y + 3}" width="{max(2.0, end - x):.1f}" height="{ROW - 7}" fill="{colour}"/>',
            _words(round(max(end, x + 2) + 5), y + 14, f"{at:.3f} s", 'fill="#555"'),
        ]
        before = at
        y += ROW
    for sentence in migration["late"]:
        parts.append(_words(10, y + 14, f"late: {sentence}", 'fill="#c92a2a"'))
        y += ROW
    for index, (source, colour) in enumerate(SVG_COLOURS.items()):
        parts.append(f'<rect x="{LEFT + index * 110}" y="{y + 4}" width="10" height="10" fill="{colour}"/>')
        parts.append(_words(LEFT + 15 + index * 110, y + 14, source))
    return parts, y + ROW + 8


def _words(x: int, y: int, text: str, more: str = "") -> str:
    return f'<text x="{x}" y="{y}" {more}>{escape(plain(text))}</text>'

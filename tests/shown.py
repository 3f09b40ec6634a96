"""Outputs that the docs show, held together with real ones.

In a page stands `<!-- shown: NAME -->` and then a block with the command and what it printed. The test that makes the set-up
calls `compare` with the same name: it fails where the block says anything else. SHOWN=write writes the blocks anew."""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"
MARK = "<!-- shown: {} -->"
BLOCK = re.compile(MARK.format(r"(\S+)") + r"\n\n```\n(.*?)```\n", re.DOTALL)
DIFFERS = {
    "UUID": r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    "MAC": r"([0-9a-f]{2}:){5}[0-9a-f]{2}",
    "TIME": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ",
    "SECONDS": r"\b\d+\.\d+ s\b",
    "LAUNCHER": r"virt-launcher-[a-z]+-[a-z0-9]{5}\b",
    "MIGRATION": r"\b(kubevirt-migrate-vm-[a-z0-9]{5}|migrate-[a-z]+-\d+)\b",
    "chassisN": r"\bchassis\d\b",
    "nodeN": r"\bnode\d\b",
    "ADDRESS": r"\b10\.16\.(?!0\.)\d+\.\d+\b(?!/)",
}
"""What differs from run to run: identities, times, the node that the scheduler chose, an address that nobody asked for."""
WIDTH = 125


def pages() -> Iterator[tuple[Path, str, str]]:
    """(page, name, text) of each such block."""
    for page in sorted(DOCS.glob("*.md")):
        yield from ((page, name, text) for name, text in BLOCK.findall(page.read_text()))


def same(text: str) -> str:
    """Without what differs from run to run, and however it is broken into lines."""
    text = re.sub(r"\s+", " ", text).strip()
    for word, pattern in DIFFERS.items():
        text = re.sub(pattern, word, text)
    return text


def folded(output: str) -> str:
    """In lines that a page can hold; what is broken goes on below where the line's last column begins."""
    lines = []
    for line in output.rstrip().splitlines():
        column = re.match(r"  .{8}  \S+\s+|\s*(-> )?", line)
        indent = " " * (column.end() if column else 0)
        lines += textwrap.wrap(line, WIDTH, subsequent_indent=indent, break_on_hyphens=False) or [""]
    return "\n".join(line.rstrip() for line in lines)


def compare(name: str, command: str, output: str) -> None:
    """The blocks of this name show this command and this output."""
    shown = [(page, text) for page, found, text in pages() if found == name]
    assert shown, f"no page shows {name}"
    real = f"$ {command}\n{output.rstrip()}\n"
    for page, text in shown:
        if os.environ.get("SHOWN") == "write":
            old, new = (f"{MARK.format(name)}\n\n```\n{each}```" for each in (text, f"$ {command}\n{folded(output)}\n"))
            page.write_text(page.read_text().replace(old, new))
        else:
            assert same(text) == same(real), f"{page.name} shows something else under {name}; SHOWN=write writes it anew"

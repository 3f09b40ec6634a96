"""The docs as a site, and the lists in them that the code has, too."""

from __future__ import annotations

import argparse
import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ovnagent.commands import cli
from ovnagent.core import problems
from ovnagent.core.vm import REQUEST_KEYS
from tests.shown import MARK, pages

ROOT = Path(__file__).resolve().parents[2]
REASON = re.compile(r"\"([A-Z][a-z]+[A-Z]\w+|MAC[A-Z]\w+|Unreadable)\"")
TELLERS = ("announce.py", "plugger/plugger.py", "kube/kubernetes.py")
"""The modules that write Events under a name of their own."""


def site(docs: Path, target: Path) -> subprocess.CompletedProcess[str]:
    """`mkdocs build --strict` of a copy of the docs. (Not --quiet: it counts no warnings, so strict would end nothing.)"""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", docs / "mkdocs.yml", "-d", target]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=docs)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """mkdocs.yml and the docs; the rest of the repository by links, for the pages point at its files."""
    made = tmp_path / "copy"
    made.mkdir()
    for each in ROOT.iterdir():
        if each.name not in ("docs", "mkdocs.yml", "build", ".git", ".venv"):
            (made / each.name).symlink_to(each)
    shutil.copy(ROOT / "mkdocs.yml", made)
    shutil.copytree(ROOT / "docs", made / "docs")
    return made


def test_the_site_is_built_and_every_link_leads_somewhere(copy: Path, tmp_path: Path) -> None:
    done = site(copy, tmp_path / "site")
    assert done.returncode == 0, done.stdout + done.stderr
    for page in (ROOT / "docs").glob("*.md"):
        place = "index.html" if page.stem == "index" else f"{page.stem}/index.html"
        assert (tmp_path / "site" / place).is_file()


@pytest.mark.parametrize(
    "line", ["[gone](gone.md)", "[gone](install.md#gone)", "[`gone`](../ovnagent/gone.py)"], ids=["page", "anchor", "file"]
)
def test_a_link_that_leads_nowhere_ends_the_build(copy: Path, tmp_path: Path, line: str) -> None:
    page = copy / "docs" / "events.md"
    page.write_text(f"{page.read_text()}\n{line}\n")
    done = site(copy, tmp_path / "site")
    assert done.returncode != 0
    assert "gone" in done.stdout + done.stderr


def test_the_events_are_those_of_the_code() -> None:
    listed = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "events.md").read_text(), re.MULTILINE)
    told = {value for name, value in vars(problems).items() if name.isupper()}
    for module in TELLERS:
        told |= set(REASON.findall((ROOT / "ovnagent" / module).read_text()))
    told -= {"VirtualMachine", "VirtualMachineInstance"}
    assert sorted(listed) == sorted(told)


def test_whoever_tells_events_is_looked_at_above() -> None:
    found = {
        str(path.relative_to(ROOT / "ovnagent"))
        for path in (ROOT / "ovnagent").rglob("*.py")
        if re.search(r"events\.(warn|normal)\(", path.read_text())
    }
    assert found == set(TELLERS)


def test_the_annotations_are_those_of_the_code() -> None:
    table = (ROOT / "docs" / "annotations.md").read_text().split("| where")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert {key for cell in cells for key in re.findall(r"`([^`]+)`", cell)} == REQUEST_KEYS


# ---- commands -------------------------------------------------------------------------------------------------------

COMMAND = re.compile(r"(?:`|^ {4}|^\$ |-- |; )(?:kubectl )?ovnagent ([a-z][^`#|;<\n]*)", re.MULTILINE)


def texts() -> list[tuple[str, str]]:
    """(name, text) of each page and of the README."""
    return [(page.name, page.read_text()) for page in (*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md")]


def test_every_output_of_why_is_compared_with_a_real_one() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "tests" / "e2e").glob("*.py"))
    assert [name for _, name, _ in pages() if f'"{name}"' not in sources] == []
    for name, text in texts():
        for before in re.split(r"```\n\$ ovnagent why ", text)[:-1]:
            assert re.search(MARK.format(r"\S+") + r"\s+$", before), f"{name}: `why` printed this in no test"


def test_every_command_is_one_that_there_is() -> None:
    parser = cli.parser()
    (sub,) = (each for each in parser._actions if isinstance(each, argparse._SubParsersAction))
    checked = 0
    for name, text in texts():
        for command in COMMAND.findall(text):
            words = shlex.split(command)
            assert words[0] in sub.choices, f"{name}: {command}"
            if words[1:]:  # else the text speaks of it
                try:
                    parser.parse_args(words)
                except SystemExit:
                    pytest.fail(f"{name}: wrong usage: ovnagent {command}")
            checked += 1
    assert checked > 30


def test_what_developers_run_is_there() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for name, text in texts():
        code = "\n".join(re.findall(r"^ {4}.*|`[^`\n]+`", text, re.MULTILINE))
        assert set(re.findall(r"(?:^ {4}|`)make ([a-z-]+)", code, re.MULTILINE)) <= set(targets), name
        for module in re.findall(r"python -m (hack[\w.]+)", code):
            assert importlib.util.find_spec(module), f"{name}: {module}"
        for path in re.findall(r"(?<![\w./-])((?:hack|tests|deploy(?!/ovnagent\b)|docker)/[\w./-]*\w)", code):
            assert (ROOT / path).exists(), f"{name}: {path}"

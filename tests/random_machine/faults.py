"""Faults that somebody might make, each a patch of a copy of the code. The machine is worth something if it finds them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

SEED, STEPS, SECONDS = "31", 10_000, 800
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Fault:
    name: str
    patches: tuple[tuple[str, str, str], ...]
    """(file, text that stands in it once, text in its place)."""
    found: tuple[str, ...]
    """What the machine says of it: one of these."""
    episode: str = ""
    """One that is known to find it: the first to be played. Where it does not any more, 10,000 steps are."""


FAULTS = (
    Fault(
        "a launcher that still lives does not count",
        (("core/identity.py", "if pod.alive and uid in", "if not pod.alive and uid in"),),
        ("was deleted, whose guest runs", "for which nobody has asked"),
    ),
    Fault(
        "a foreign address is handed out",
        (
            ("core/grants.py", "book.taken, foreign.taken)", "book.taken)"),
            ("core/grants.py", "(ip for ip in found if str(ip) not in foreign.ips)", "iter(found)"),
        ),
        ("which the foreign port",),
        "71/0",
    ),
    Fault(
        "the target leaves the list when the migration's object is missing",
        (("core/placement.py", 'state.uid == migration_uid != "" and', "state.uid != state.uid and"),),
        ("and its guest runs on",),
    ),
    Fault(
        "the record goes before the row",
        (
            (
                "reconciler.py",
                "        groups += extra\n",
                "        groups += extra\n"
                "        for result, case in zip(results, cases, strict=True):\n"
                "            self._consequences._record(result, case)\n",
            ),
        ),
        ("is on record for",),
        "71/7",
    ),
    Fault(
        "the last word of a migration does not wait for the source",
        (("core/placement.py", "elapsed < GRACE_SECONDS", "elapsed < 0"),),
        ("has let go",),
        "71/2",
    ),
    Fault(
        "rows say nothing after a restart",
        (("core/settle.py", "_each(result, ordered, foreign, _hold_by_row)", "pass"),),
        ("for which nobody has asked", "which nobody has", "would have other rows", "writes something", "was given"),
    ),
    Fault(
        "no launcher in sight says that no guest runs",
        (("core/owner.py", "return not any(", "return False and any("),),
        ("and its guest runs on", "was deleted, whose guest runs"),
    ),
)


def copy(fault: Fault, directory: Path) -> None:
    """The code with the fault, and beside it the tests.

    Raises LookupError where a fault's line is there no more: plant another in its place."""
    shutil.copytree(ROOT / "ovnagent", directory / "ovnagent", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("tests", "hack"):
        (directory / name).symlink_to(ROOT / name)
    for file, before, after in fault.patches:
        path = directory / "ovnagent" / file
        source = path.read_text()
        if source.count(before) != 1:
            raise LookupError(f"{file}: `{before}` stands there {source.count(before)} times")
        path.write_text(source.replace(before, after))


def found_in(fault: Fault, directory: Path) -> str:
    """Plant it there and let the machine look for it: empty if it finds it, else what it says."""
    copy(fault, directory)
    said = ""
    for seed in filter(None, (fault.episode, SEED)):
        said = run(directory, seed)
        if any(text in said for text in fault.found):
            return ""
    return said


def run(directory: Path, seed: str) -> str:
    """What the machine says of the code in this folder."""
    environment = {**os.environ, "MACHINE_SEED": seed, "MACHINE_STEPS": str(STEPS), "MACHINE_SHORTEN": "no"}
    argv = [sys.executable, "-m", "tests.random_machine"]
    made = subprocess.run(argv, cwd=directory, env=environment, capture_output=True, text=True, timeout=SECONDS)
    return made.stdout + made.stderr

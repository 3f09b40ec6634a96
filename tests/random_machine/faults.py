"""Faults that somebody might make, each a patch of a copy of the code. The machine is worth something if it finds them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

SEED, STEPS, SECONDS = "13", 2_000, 300
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Fault:
    name: str
    patches: tuple[tuple[str, str, str], ...]
    """(file, text that stands in it once, text in its place)."""
    found: tuple[str, ...]
    """What the machine says of it: one of these."""
    episode: str = ""
    """One that is known to find it: the first to be played. Where it does not any more, all steps are."""


FAULTS = (
    Fault(
        "a launcher that still lives does not count",
        (("core/identity.py", "if pod.alive and uid in", "if not pod.alive and uid in"),),
        ("was deleted, whose guest runs", "for which nobody has asked"),
        "13/0",
    ),
    Fault(
        "a foreign address is handed out",
        (
            ("core/grants.py", "book.taken, foreign.taken)", "book.taken)"),
            ("core/grants.py", "(ip for ip in found if str(ip) not in foreign.ips)", "iter(found)"),
        ),
        ("which the foreign port",),
        "13/5",
    ),
    Fault(
        "the record goes before the row",
        (
            (
                "reconciler.py",
                "        groups += extra\n",
                "        groups += extra\n"
                "        for result, case in part:\n"
                "            self._consequences._record(result, case)\n",
            ),
        ),
        ("is on record for",),
    ),
    Fault(
        "the last word of a migration does not wait for the source",
        (("core/placement.py", "elapsed < GRACE_SECONDS", "elapsed < 0"),),
        ("has let go",),
        "13/14",
    ),
    Fault(
        "the port follows the target before the guest does",
        (
            (
                "core/placement.py",
                "    if where.situation is Situation.MIGRATING:\n        return forward\n",
                "    if where.situation is Situation.MIGRATING:\n        return Placement((target,))\n",
            ),
        ),
        ("and its guest runs on",),
        "13/0",
    ),
    Fault(
        "an orphan whose row was not written since it started is a stranger",
        (("core/identity.py", "    return orphan or owner.vmi_uid in vmis", "    return owner.vmi_uid in vmis"),),
        ("for which nobody has asked",),
        "1/11",
    ),
    Fault(
        "of two migrations the one with the later date is the later one",
        (("core/placement.py", "if _succeeded(migration) and not arriving and all(", "if _succeeded(migration) and all("),),
        ("has let go",),
        "1/6",
    ),
    Fault(
        "a lock that was lost and had again meanwhile was never lost",
        (("ovn/transaction.py", "self.term is not None and self.term != idl.lock_terms", "False"),),
        ("what was planned before another agent led",),
    ),
    Fault(
        "rows say nothing after a restart",
        (
            (
                "core/settle.py",
                "    return claim.row if claim.row is None or claim.running else _for_us(claim, claim.row)",
                "    return None",
            ),
        ),
        ("would have other rows",),
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
        told = run(directory, seed)
        if any(text in told for text in fault.found):
            return ""
        said += told[-3000:]
    return said


def run(directory: Path, seed: str) -> str:
    """What the machine says of the code in this folder."""
    environment = {**os.environ, "MACHINE_SEED": seed, "MACHINE_STEPS": str(STEPS), "MACHINE_SHORTEN": "no"}
    argv = [sys.executable, "-m", "tests.random_machine"]
    made = subprocess.run(argv, cwd=directory, env=environment, capture_output=True, text=True, timeout=SECONDS)
    return made.stdout + made.stderr

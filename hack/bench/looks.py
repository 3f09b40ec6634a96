"""What `ovnagent ports`, `check` and `pools` take: for hack/bench/scale.py."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from hack.lab.cluster import REPOSITORY

COMMANDS = ("ports", "check", "pools")


@dataclass(frozen=True)
class Look:
    """One command, from the start of its process."""

    first: float
    """Seconds until its first line on standard output."""
    seconds: float
    told: float | None
    """Seconds until it first said what it is at, if it did."""
    megabytes: float
    """Peak, resident."""


def look(command: str, config: Path) -> Look:
    began = time.monotonic()
    argv = [sys.executable, "-m", "ovnagent", command, "--config", str(config), "--timeout", "120"]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=REPOSITORY)
    times: dict[str, float] = {}

    def read(name: str) -> None:
        for _line in getattr(process, name):
            times.setdefault(name, time.monotonic() - began)

    readers = [threading.Thread(target=read, args=(name,)) for name in ("stdout", "stderr")]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    _, _, usage = os.wait4(process.pid, 0)
    process.returncode = 0
    took = time.monotonic() - began
    return Look(times.get("stdout", took), took, times.get("stderr"), usage.ru_maxrss / 1000)

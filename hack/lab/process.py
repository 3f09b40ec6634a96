"""Daemons of the lab: started with a pid file and a log, ended by that pid and no other."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

STOP_SECONDS = 5.0


def wait_for(probe: Callable[[], T], seconds: float, what: str) -> T:
    """The first true answer of `probe`.

    Raises TimeoutError that says what was waited for and what the last answer was."""
    deadline = time.monotonic() + seconds
    while not (answer := probe()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:g} s; last seen: {answer!r}")
        time.sleep(0.01)
    return answer


def start(
    argv: Sequence[str | Path],
    log: Path,
    pidfile: Path,
    env: Mapping[str, str] | None = None,
    netns: str | None = None,
) -> int:
    """Start a program in the background, in a session of its own; returns its pid."""
    command = [str(argument) for argument in argv]
    if netns is not None:
        # `ip netns exec` replaces itself by the program: the pid is the program's own.
        command = ["ip", "netns", "exec", netns, *command]
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
    _CHILDREN[process.pid] = process
    pidfile.write_text(f"{process.pid} {start_time(process.pid)}\n")
    return process.pid


def start_time(pid: int) -> str:
    """When a process was started, in clock ticks since boot; empty if there is none. Tells a re-used pid from the old."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    fields = status.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else fields[19]


def running(pidfile: Path) -> int | None:
    """The pid in a pid file, if that very process still runs. Daemons' own pid files hold the pid alone."""
    try:
        pid, *started = pidfile.read_text().split()
    except (OSError, ValueError):
        return None
    now = start_time(int(pid))
    return int(pid) if now and (not started or started[0] == now) else None


def stop(pidfile: Path, seconds: float = STOP_SECONDS) -> None:
    """End a process: TERM, and KILL if it has not gone `seconds` later."""
    pid = running(pidfile)
    if pid is not None:
        _signal(pid, signal.SIGCONT)
        for number, patience in ((signal.SIGTERM, seconds), (signal.SIGKILL, STOP_SECONDS)):
            _signal(pid, number)
            deadline = time.monotonic() + patience
            while running(pidfile) == pid and time.monotonic() < deadline:
                time.sleep(0.005)
            if running(pidfile) != pid:
                break
        if (child := _CHILDREN.pop(pid, None)) is not None:
            child.wait(STOP_SECONDS)  # its other threads may outlive the one whose state was looked at
    pidfile.unlink(missing_ok=True)


def stop_all(directory: Path, seconds: float = STOP_SECONDS) -> None:
    """End every process that has a pid file below a directory: also what an earlier run left there when it crashed."""
    for pidfile in sorted(directory.rglob("*.pid")):
        stop(pidfile, seconds)


def send(pidfile: Path, number: signal.Signals) -> None:
    """Send a signal to the process of a pid file."""
    pid = running(pidfile)
    if pid is None:
        raise ProcessLookupError(f"{pidfile}: no such process")
    _signal(pid, number)


def run(*argv: str | Path, stdin: str | None = None, env: Mapping[str, str] | None = None) -> str:
    """Run a program to its end; its standard output.

    Raises RuntimeError with what it said."""
    done = subprocess.run(
        [str(argument) for argument in argv],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **(env or {})},
    )
    if done.returncode != 0:
        command = " ".join(str(argument) for argument in argv)
        raise RuntimeError(f"{command}: exit {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


_CHILDREN: dict[int, subprocess.Popen[bytes]] = {}


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass

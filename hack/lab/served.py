"""A process of ours that serves /readyz and /metrics on this machine: `ovnagent run`, and `ovnagent plug`."""

from __future__ import annotations

import signal
import urllib.error
import urllib.request
from pathlib import Path

from hack.lab.free_ports import free_ports
from hack.lab.process import running, send, stop, wait_for


class Served:
    """What both have: a log, a file with the pid, a port."""

    def __init__(self, directory: Path, name: str) -> None:
        self.name = name
        self.log = directory / f"{name}.log"
        self.pidfile = directory / f"{name}.pid"
        self.port = free_ports(1)[0]

    @property
    def pid(self) -> int | None:
        return running(self.pidfile)

    def wait_ready(self, seconds: float = 20) -> None:
        """Raises TimeoutError that says what it said instead."""
        try:
            wait_for(self._ready, seconds, f"{self.name} ready")
        except TimeoutError as error:
            answer, log = self.http("/readyz"), self.log.read_text()[-2000:]
            raise TimeoutError(f"{error}; {self.log} ends:\n{log}\n/readyz on port {self.port}: {answer}") from None

    def _ready(self) -> bool:
        if self.pid is None:
            raise RuntimeError(f"{self.name} has ended:\n{self.log.read_text()[-2000:]}")
        return self.http("/readyz")[0] == 200

    def http(self, path: str) -> tuple[int, str]:
        """(status, body); status 0 while nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def metric(self, name: str) -> float:
        """The sum of a metric's samples (`name`: with its labels, or all that have the name)."""
        lines = [line for line in self.http("/metrics")[1].splitlines() if not line.startswith("#")]
        return sum(float(line.split()[-1]) for line in lines if name in (line.split(" ")[0], line.split("{")[0]))

    def signal(self, number: signal.Signals) -> None:
        send(self.pidfile, number)

    def stop(self) -> None:
        stop(self.pidfile)

    def kill(self) -> None:
        """As a crash does it."""
        self.signal(signal.SIGKILL)
        wait_for(lambda: self.pid is None, 5, f"{self.name} killed")

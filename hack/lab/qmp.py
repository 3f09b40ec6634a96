"""A small client of QEMU's machine protocol (QMP) over a Unix socket."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class QmpError(Exception):
    """QEMU refused a command, or is gone."""


@dataclass(frozen=True, slots=True)
class Event:
    """An asynchronous event; `time` is the host's clock in seconds since the epoch, as QEMU stamped it."""

    name: str
    time: float
    data: Mapping[str, Any]


class Qmp:
    """A connection to one QEMU. Not thread-safe: one thread at a time."""

    def __init__(self, path: Path, timeout_seconds: float = 10.0) -> None:
        """Connect to the socket at `path`, which may still have to appear."""
        self.events: list[Event] = []
        self._buffer = b""
        deadline = time.monotonic() + timeout_seconds
        while True:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                self._socket.connect(str(path))
                break
            except OSError as error:
                self._socket.close()
                if time.monotonic() > deadline:
                    raise QmpError(f"no QEMU answers at {path}") from error
                time.sleep(0.01)
        self._receive(timeout_seconds)  # the greeting
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: Any) -> Any:
        """Run a command and return what it returns. Underscores in argument names stand for dashes."""
        message = {"execute": command, "arguments": {key.replace("_", "-"): value for key, value in arguments.items()}}
        try:
            self._socket.sendall(json.dumps(message).encode())
        except OSError as error:
            raise QmpError(f"QEMU is gone: {error}") from error
        while True:
            answer = self._receive(10.0)
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise QmpError(f"{command}: {answer['error'].get('desc')}")

    def next_event(self) -> Event:
        """Wait for the next event, for as long as it takes."""
        while not self.events:
            self._receive(None)
        return self.events.pop(0)

    def close(self) -> None:
        self._socket.close()

    def _receive(self, timeout_seconds: float | None) -> dict[str, Any]:
        """The next message; if it is an event, it is kept in `events` as well."""
        self._socket.settimeout(timeout_seconds)
        while b"\n" not in self._buffer:
            try:
                piece = self._socket.recv(65536)
            except TimeoutError as error:
                raise QmpError("QEMU does not answer") from error
            except OSError as error:
                raise QmpError(f"QEMU is gone: {error}") from error
            if not piece:
                raise QmpError("QEMU is gone")
            self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        if "event" in message:
            stamp = message["timestamp"]
            seconds = stamp["seconds"] + stamp["microseconds"] / 1e6
            self.events.append(Event(message["event"], seconds, message.get("data") or {}))
        return message

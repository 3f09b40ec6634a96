"""Logs: one line an action, with its values as fields (`logging`'s `extra`)."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TextIO

_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
QUIET = ("ovsdbapp", "urllib3", "kubernetes", "asyncio")
"""Libraries whose warnings are enough."""


_burst = threading.local()


class _Lines(logging.StreamHandler[TextIO]):
    """Writes each line at once, or those of a burst together."""

    def emit(self, record: logging.LogRecord) -> None:
        held: dict[_Lines, list[str]] | None = getattr(_burst, "held", None)
        if held is None:
            super().emit(record)
            return
        try:
            held.setdefault(self, []).append(self.format(record) + self.terminator)
        except Exception:
            self.handleError(record)

    def write(self, lines: list[str]) -> None:
        self.acquire()
        try:
            self.stream.write("".join(lines))
            self.flush()
        finally:
            self.release()


@contextmanager
def together() -> Iterator[None]:
    """What this thread logs meanwhile is written at the end, in one go. Each write lets go of the interpreter, and gets it
    back after whoever else has work: a third of the reconciler's time, where 10,000 ports are created. Not to be nested, and
    for what takes a moment only."""
    held: dict[_Lines, list[str]] = {}
    _burst.held = held
    try:
        yield
    finally:
        _burst.held = None
        for handler, lines in held.items():
            handler.write(lines)


def setup(log_format: str, level: str) -> None:
    """Log to standard error: `text` (key=value) or `json`."""
    handler = _Lines(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("ovsdbapp").setLevel(logging.CRITICAL)  # it logs what it raises


def fields(record: logging.LogRecord) -> dict[str, Any]:
    """The values that a record carries besides its message."""
    return {key: value for key, value in vars(record).items() if key not in _PLAIN and value not in (None, "")}


def _stamp(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class TextFormatter(logging.Formatter):
    """`2026-11-23T12:00:00.000Z INFO port created vm=default/testvm port=testvm.default reason="..."`"""

    def format(self, record: logging.LogRecord) -> str:
        pairs = "".join(f" {key}={_quoted(value)}" for key, value in fields(record).items())
        text = f"{_stamp(record)} {record.levelname} {record.getMessage()}{pairs}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line = {"time": _stamp(record), "level": record.levelname, "message": record.getMessage()} | fields(record)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _quoted(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if not text or any(c in text for c in ' "=\n\t') else text

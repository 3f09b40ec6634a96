"""Everything that becomes of the rows of a table, and when: a monitor of a real ovsdb-server."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ovnagent.ovn.json_parser import FrameParser

Row = dict[str, Any]


class History:
    """`rows`: UUID -> row as it is. `past`: name -> all that it was, with monotonic seconds; None where it was deleted."""

    def __init__(self, directory: Path, database: str, table: str, *columns: str) -> None:
        self.rows: dict[str, Row] = {}
        self.past: dict[str, list[tuple[float, Row | None]]] = {}
        self.changed = threading.Condition()
        self._table = table
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(f"{directory}/db.sock")
        request = {"method": "monitor", "params": [database, 0, {table: {"columns": list(columns)}}], "id": 1}
        self._socket.sendall(json.dumps(request).encode())
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._socket.close()

    def wait(self, probe: Callable[[], Any], seconds: float, what: str) -> None:
        """Until `probe`, asked at each change, is true.

        Raises TimeoutError."""
        with self.changed:
            if not self.changed.wait_for(probe, seconds):
                raise TimeoutError(f"{what}: not within {seconds:g} s")

    def first(self, name: str, since: float, probe: Callable[[Row], bool]) -> float | None:
        """When a row first was so, after `since`; None if it was not."""
        return next((at for at, row in self.past.get(name, ()) if row is not None and at >= since and probe(row)), None)

    def now(self, name: str) -> Row | None:
        past = self.past.get(name)
        return past[-1][1] if past else None

    def _read(self) -> None:
        parser = FrameParser()
        while data := self._socket.recv(1 << 20).decode(errors="replace"):
            at = time.monotonic()
            while data:
                data = data[parser.feed(data) :]
                if parser.is_done():
                    self._take(parser.finish(), at)
                    parser = FrameParser()

    def _take(self, message: Any, at: float) -> None:
        if message.get("method") == "echo":
            self._socket.sendall(json.dumps({"result": message["params"], "error": None, "id": message["id"]}).encode())
        found: dict[str, Any] = message["result"] if message.get("id") == 1 else {}
        if message.get("method") == "update":
            found = message["params"][1]
        with self.changed:
            for uuid, change in found.get(self._table, {}).items():
                before = self.rows.pop(uuid, None)
                row = {key: plain(value) for key, value in change["new"].items()} if "new" in change else None
                if row is not None:
                    self.rows[uuid] = row
                name = (row or before or {})["name"]
                self.past.setdefault(name, []).append((at, row))
            self.changed.notify_all()


def plain(value: Any) -> Any:
    """A set as a sorted tuple, a map as a dict."""
    if isinstance(value, list) and value[0] == "map":
        return dict(value[1])
    if isinstance(value, list) and value[0] == "set":
        return tuple(sorted(value[1], key=str))
    return value

"""A real HTTP server that answers as an API server would not: what it is told, in turn. For what a real one cannot be made
to say on demand; what a real one does is tested with a real one."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml


@dataclass
class Answer:
    """`parts`: values become lines of JSON, bytes are sent as they are."""

    status: int = 200
    parts: list[Any] = field(default_factory=list)
    headers: Mapping[str, str] = field(default_factory=dict)
    hold: threading.Event | None = None
    """The connection stays open without a word until this is set."""


@dataclass(frozen=True)
class Asked:
    """A request as it came."""

    method: str
    path: str
    body: bytes
    token: str


class ApiServer:
    """Answers from `lists` (GET), `watches` (GET with watch=true), `objects` (GET with this in its query), `writes`, in
    turn; the last answer of each stays."""

    def __init__(self, directory: Path) -> None:
        self.lists: list[Answer] = []
        self.watches: list[Answer] = []
        self.writes: list[Answer] = [Answer(parts=[{}])]
        self.objects: dict[str, Answer] = {}
        self.asked: list[Asked] = []
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def _any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                server.answer(self, Asked(self.command, self.path, body, self.headers.get("authorization", "")))

            do_GET = do_POST = do_PATCH = _any  # noqa: N815 - the base class's names

            def log_message(self, *_: object) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            request_queue_size = 128

            def handle_error(self, *_: object) -> None:
                """Clients go away in the middle of an answer: that is what is tested."""

        self._server = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        self.kubeconfig = directory / "kubeconfig"
        self.give_token("first")

    def give_token(self, token: str) -> None:
        """Write a kubeconfig with this token."""
        text = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": self.url}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "users": [{"name": "u", "user": {"token": token}}],
        }
        self.kubeconfig.write_text(yaml.safe_dump(text))

    def answer(self, handler: BaseHTTPRequestHandler, asked: Asked) -> None:
        with self._lock:
            self.asked.append(asked)
            if asked.method != "GET":
                queue = self.writes
            elif found := [answer for part, answer in self.objects.items() if part in asked.path]:
                queue = found[:1]
            else:
                queue = self.watches if "watch=true" in asked.path else self.lists
            answer = queue.pop(0) if len(queue) > 1 else queue[0]
        handler.send_response(answer.status)
        for name, value in answer.headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        for part in answer.parts:
            handler.wfile.write(part if isinstance(part, bytes) else json.dumps(part).encode() + b"\n")
        handler.wfile.flush()
        if answer.hold is not None:
            answer.hold.wait(60)

    def paths(self) -> list[str]:
        with self._lock:
            return [asked.path for asked in self.asked]

    def written(self, fragment: str) -> list[Asked]:
        """The writes whose path contains this."""
        with self._lock:
            return [asked for asked in self.asked if asked.method != "GET" and fragment in asked.path]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

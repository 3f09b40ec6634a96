"""/healthz, /readyz and /metrics."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Protocol

from prometheus_client import CONTENT_TYPE_LATEST


class Scraped(Protocol):
    """Metrics, as text for Prometheus."""

    def scrape(self) -> bytes: ...


class Server:
    """Serves until `stop`. `reasons`: why the agent is not ready; none if it is. `alive`: the agent works at all."""

    def __init__(
        self, address: str, port: int, metrics: Scraped, reasons: Callable[[], list[str]], alive: Callable[[], bool]
    ) -> None:
        def answer(path: str) -> tuple[int, str, bytes]:
            match path.partition("?")[0]:
                case "/metrics":
                    return 200, CONTENT_TYPE_LATEST, metrics.scrape()
                case "/healthz":
                    return (200, "text/plain", b"ok\n") if alive() else (503, "text/plain", b"stuck\n")
                case "/readyz":
                    why = reasons()
                    body = json.dumps({"ready": not why, "reasons": why}).encode() + b"\n"
                    return 503 if why else 200, "application/json", body
            return 404, "text/plain", b"there are /metrics, /healthz and /readyz\n"

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, content_type, body = answer(self.path)
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
                """Probes are no news."""

        self._server = ThreadingHTTPServer((address, port), Handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="http", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

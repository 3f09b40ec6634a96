"""A gateway before a real API server that at times answers in its place, or keeps its answers back."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import urllib3
import yaml


class Gateway:
    """Plain HTTP on loopback; passes requests and their credentials on. `kubeconfig` is one that leads through it."""

    def __init__(self, kubeconfig: Path, directory: Path) -> None:
        self.status = 0
        """Answer with this and ask nobody; 0: pass on."""
        self.headers: Mapping[str, str] = {}
        self.delay = 0.0
        """Seconds before each answer."""
        self.asked: list[tuple[float, str]] = []
        """(monotonic seconds, path without its query) of each request."""
        known = yaml.safe_load(kubeconfig.read_text())
        server = known["clusters"][0]["cluster"]
        directory.mkdir()
        ca = directory / "ca.pem"
        ca.write_bytes(base64.b64decode(server["certificate-authority-data"]))
        self._target, self._pool = server["server"], urllib3.PoolManager(ca_certs=str(ca), maxsize=32)
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            def _any(self) -> None:
                gateway.answer(self)

            do_GET = do_POST = do_PATCH = _any  # noqa: N815 - the base class's names

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        known["clusters"][0]["cluster"] = {"server": f"http://127.0.0.1:{self._http.server_address[1]}"}
        self.kubeconfig = directory / "kubeconfig"
        self.kubeconfig.write_text(yaml.safe_dump(known))
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        self.asked.append((time.monotonic(), handler.path.partition("?")[0]))
        with suppress(OSError):  # a client that has gone
            if self.status:
                handler.send_response(self.status)
                for name, value in self.headers.items():
                    handler.send_header(name, value)
                handler.end_headers()
                handler.wfile.write(b'{"message": "not now"}')
                return
            time.sleep(self.delay)
            headers = {key: handler.headers[key] for key in ("Authorization", "Content-Type") if key in handler.headers}
            url = self._target + handler.path
            answer = self._pool.request(handler.command, url, body=body, headers=headers, preload_content=False)
            handler.send_response(answer.status)
            handler.end_headers()
            while piece := answer.read1(1 << 16):
                handler.wfile.write(piece)
                handler.wfile.flush()
            answer.release_conn()

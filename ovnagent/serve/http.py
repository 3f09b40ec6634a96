"""/healthz, /readyz, /metrics, and documents in JSON.

One thread for all connections, and two that compute. A client that is slow, or says nothing, holds a place among the
connections and nothing else; when there are too many, the one that has been silent longest loses it. So however many there
are, a probe gets its answer.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from http import HTTPStatus
from types import MappingProxyType
from typing import Protocol

from prometheus_client import CONTENT_TYPE_LATEST

from ovnagent.process.supervision import Loop, Supervisor

LOG = logging.getLogger(__name__)

CONNECTIONS = 128
ANSWERING = 2
"""Threads that make answers, each started when it is first needed."""
REQUEST_LIMIT = 8 << 10
"""Bytes of a request's line and headers."""
REQUEST_SECONDS = 5.0
"""For a request to arrive, and again for its answer to be taken."""
ANSWER_SECONDS = 10.0
"""For an answer to be computed."""
FRESH_SECONDS = 0.2
"""All who ask for the metrics within so long get the same answer."""
PLAIN = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes
    content_type: str = PLAIN


class _Stage(IntEnum):
    """What a connection is at; who is at the first loses its place first."""

    ASKING = 0
    TAKING = 1
    WAITING = 2


class Scraped(Protocol):
    """Metrics, as text for Prometheus."""

    def scrape(self) -> bytes: ...


class Server:
    """Serves until `stop`. `reasons`: why the agent is not ready; `troubles`: which of its threads are dead or stuck; both
    are empty if all is well; `documents`: path -> what makes its JSON. Listens from the start, so an address that is in use
    is an OSError here."""

    def __init__(
        self,
        address: str,
        port: int,
        metrics: Scraped,
        reasons: Callable[[], list[str]],
        troubles: Callable[[], list[str]],
        supervisor: Supervisor,
        documents: Mapping[str, Callable[[], bytes]] = MappingProxyType({}),
    ) -> None:
        self._reasons, self._troubles = reasons, troubles
        self._metrics = metrics
        self._documents = documents
        self._socket = listen(address, port)
        self.port: int = self._socket.getsockname()[1]
        self._pool = ThreadPoolExecutor(ANSWERING, thread_name_prefix="http-answer")
        self._answers: dict[str, tuple[float, asyncio.Future[Answer]]] = {}
        """Path -> when the answer was begun (monotonic seconds), and the answer."""
        self._open: dict[asyncio.Task[None], _Stage] = {}
        """In the order of their coming."""
        self._loop = supervisor.loop("http", self._serve)

    def start(self) -> None:
        self._loop.start()

    def stop(self) -> None:
        self._loop.stop()
        self._loop.join(1.0)
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._socket.close()

    def _serve(self, loop: Loop) -> None:
        asyncio.run(self._until_stopped(loop))

    async def _until_stopped(self, loop: Loop) -> None:
        self._answers.clear()
        self._open.clear()
        listening = self._socket.dup()  # the server closes it at its end
        server = await asyncio.start_server(self._connected, sock=listening, limit=REQUEST_LIMIT, backlog=CONNECTIONS)
        async with server:
            while not loop.stopping.is_set():
                loop.beat()
                await asyncio.sleep(0.1)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._open) >= CONNECTIONS:
            min(self._open, key=self._open.__getitem__).cancel()  # of those that are alike, the oldest
        try:
            with suppress(OSError, TimeoutError, asyncio.CancelledError):
                self._open[task] = _Stage.ASKING
                async with asyncio.timeout(REQUEST_SECONDS):
                    method, path = await _request(reader)
                self._open[task] = _Stage.WAITING
                answer = await self._answer(method, path)
                self._open[task] = _Stage.TAKING
                async with asyncio.timeout(REQUEST_SECONDS):
                    writer.write(_bytes(answer, method))
                    await writer.drain()
        finally:
            self._open.pop(task, None)
            if writer.transport.get_write_buffer_size():
                writer.transport.abort()
            else:
                writer.close()

    async def _answer(self, method: str, path: str) -> Answer:
        if not method:
            return Answer(400, b"this is no HTTP request\n")
        if method not in ("GET", "HEAD"):
            return Answer(405, b"only GET and HEAD\n")
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await self._content(path.partition("?")[0])
        except TimeoutError:
            return Answer(503, b"it takes too long to find out\n")
        except Exception:
            LOG.exception("no answer", extra={"path": path[:100]})
            return Answer(500, b"the agent's log says why there is no answer\n")

    async def _content(self, path: str) -> Answer:
        match path:
            case "/healthz":
                troubles = self._troubles()
                return Answer(503, "".join(f"{each}\n" for each in troubles).encode()) if troubles else Answer(200, b"ok\n")
            case "/readyz":
                return await self._computed(path, self._readiness, 0.0)
            case "/metrics":
                return await self._computed(path, self._scrape, FRESH_SECONDS)
        if (document := self._documents.get(path)) is not None:
            return await self._computed(path, partial(_json, document), FRESH_SECONDS)
        known = ", ".join(("/metrics", "/healthz", "/readyz", *self._documents))
        return Answer(404, f"there are {known}\n".encode())

    def _readiness(self) -> Answer:
        why = self._reasons()
        body = json.dumps({"ready": not why, "reasons": why}).encode() + b"\n"
        return Answer(503 if why else 200, body, "application/json")

    def _scrape(self) -> Answer:
        return Answer(200, self._metrics.scrape(), CONTENT_TYPE_LATEST)

    async def _computed(self, path: str, compute: Callable[[], Answer], fresh: float) -> Answer:
        """Computed once for all who ask while it is being computed, or within `fresh` seconds after it was begun."""
        began, future = self._answers.get(path, (0.0, None))
        if future is None or (future.done() and time.monotonic() - began >= fresh):
            future = asyncio.get_running_loop().run_in_executor(self._pool, compute)
            self._answers[path] = time.monotonic(), future
        return await asyncio.shield(future)


def _json(document: Callable[[], bytes]) -> Answer:
    return Answer(200, document(), "application/json")


async def _request(reader: asyncio.StreamReader) -> tuple[str, str]:
    """(method, path); empty where it is no request."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.LimitOverrunError, asyncio.IncompleteReadError):
        return "", ""
    words = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
    return (words[0], words[1]) if len(words) == 3 and words[2].startswith("HTTP/1.") else ("", "")


def _bytes(answer: Answer, method: str) -> bytes:
    head = (
        f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}\r\nContent-Type: {answer.content_type}\r\n"
        f"Content-Length: {len(answer.body)}\r\nConnection: close\r\n"
    )
    allow = "Allow: GET, HEAD\r\n" if answer.status == 405 else ""
    return f"{head}{allow}\r\n".encode() + (b"" if method == "HEAD" else answer.body)


def listen(address: str, port: int) -> socket.socket:
    """A socket on this address, of whichever family it is; with no address on all of both families."""
    if address:
        family, _, _, _, where = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(where[:2], family=family, backlog=CONNECTIONS)
    if socket.has_dualstack_ipv6():
        with suppress(OSError):  # IPv6 may be switched off
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=CONNECTIONS)
    return socket.create_server(("", port), backlog=CONNECTIONS)

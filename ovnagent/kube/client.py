"""Requests to the API server: configuration, credentials and transport of the official client, bytes in and out.

No models: 10,000 VMs, VMIs and launchers cost 21 s and 2.4 GB through them, 5.4 s and 122 MB as bytes that are reduced at
once (2 cores). What comes back is bounded in size and time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import urllib3

LOG = logging.getLogger(__name__)

CONNECT_SECONDS = 5.0
READ_SECONDS = 60.0
"""Without a byte."""
ANSWER_SECONDS = 120.0
"""For a whole answer that is no watch."""
KEEPALIVE = {"idle": 10, "interval": 5, "count": 3}
"""A connection whose other end has gone without a word is noticed after 25 s."""
ANSWER_LIMIT = 24 << 20
"""Bytes of an answer. Objects may have 1.5 MB each: who lists them asks for fewer at once then."""
LINE_LIMIT = 16 << 20
"""Bytes of a watch's event, which holds one object."""
MESSAGE_LIMIT = 64 << 10
RETRY_AFTER_LIMIT = 60.0
RELOAD_SECONDS = 1.0
"""Credentials are not read more often."""


class ApiError(Exception):
    """The API server answered with an error."""

    def __init__(self, status: int, method: str, path: str, message: str, retry_after: float = 0.0) -> None:
        super().__init__(f"{method} {path}: HTTP {status}: {message}")
        self.status = status
        self.retry_after = retry_after
        """Seconds for which the server does not want to be asked again."""


class MalformedError(Exception):
    """The answer is not what an API server says: no JSON, or something missing in it."""


class TooLongError(MalformedError):
    """The answer, or a line of it, is longer than anything that is needed."""


@dataclass(frozen=True, slots=True)
class KubeConfig:
    """Where the API server is: a kubeconfig file, or (None) the pod's own service account."""

    kubeconfig: Path | None = None
    context: str | None = None


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach the API server."""

    host: str
    """With scheme and port."""
    token: Callable[[], str]
    """What the header Authorization says; empty for none."""
    pool: Any
    """urllib3's."""
    read_at: float
    """Monotonic seconds."""


class Client:
    """Thread-safe."""

    def __init__(self, config: KubeConfig) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._access = self._load()

    def _load(self) -> Access:
        # Here and not above: it is 8 MB resident, and `ovnagent plug` (plugger/access.py) does without.
        from kubernetes import client as kubernetes_client
        from kubernetes import config as kubernetes_config
        from kubernetes.client.rest import RESTClientObject, tcp_keepalive_socket_options

        configuration = kubernetes_client.Configuration()
        if self._config.kubeconfig is None and self._config.context is None:
            try:
                kubernetes_config.load_incluster_config(client_configuration=configuration)
            except kubernetes_config.ConfigException:
                kubernetes_config.load_kube_config(client_configuration=configuration)
        else:
            kubernetes_config.load_kube_config(
                config_file=str(self._config.kubeconfig) if self._config.kubeconfig else None,
                context=self._config.context,
                client_configuration=configuration,
            )
        configuration.connection_pool_maxsize = 32
        configuration.retries = False
        configuration.socket_options = tcp_keepalive_socket_options(**KEEPALIVE)

        def token() -> str:
            return configuration.get_api_key_with_prefix("authorization", alias="BearerToken") or ""

        return Access(configuration.host, token, RESTClientObject(configuration).pool_manager, time.monotonic())

    def request(self, method: str, path: str, body: object = None, content_type: str = "application/json") -> bytearray:
        """The answer's body.

        Raises ApiError, MalformedError, or urllib3's HTTPError where there is no answer."""
        deadline = time.monotonic() + ANSWER_SECONDS
        response = self._send(method, path, body, content_type, READ_SECONDS)
        return _whole(response, ANSWER_LIMIT, deadline)

    def lines(self, path: str, read_seconds: float) -> Iterator[bytes]:
        """The lines of a watch, as they come, until the server ends it. A silence of `read_seconds` is an error: with
        bookmarks and the server's own time-out there is none on a living connection."""
        response = self._send("GET", path, None, "application/json", read_seconds)
        try:
            pending = bytearray()
            for chunk in _pieces(response):
                first, *others = chunk.split(b"\n")
                pending += first
                if len(pending) > LINE_LIMIT:
                    raise TooLongError(f"a line of the watch is longer than {LINE_LIMIT >> 20} MiB")
                for other in others:
                    if pending:
                        yield bytes(pending)
                    pending = bytearray(other)
        finally:
            response.close()

    def _send(self, method: str, path: str, body: object, content_type: str, read: float) -> Any:
        access = self._access
        response = self._once(access, method, path, body, content_type, read)
        if response.status == 401:  # a token that has run out or was rotated: read the configuration again
            response.close()
            response = self._once(self._renewed(access), method, path, body, content_type, read)
        if response.status >= 300:  # no API server sends one somewhere else: that is a proxy
            retry_after = _retry_after(response.headers)
            raise ApiError(response.status, method, path.partition("?")[0], _message(response), retry_after)
        return response

    def _renewed(self, refused: Access) -> Access:
        """Credentials that are newer than those refused, if there are any."""
        with self._lock:
            if self._access is refused and time.monotonic() - refused.read_at > RELOAD_SECONDS:
                try:
                    self._access = self._load()
                except Exception as error:  # a file that is being written, or gone: the old ones stay
                    LOG.warning("credentials not read", extra={"reason": str(error)})
            return self._access

    def _once(self, access: Access, method: str, path: str, body: object, content_type: str, read: float) -> Any:
        headers: dict[str, str] = {"Accept": "application/json", "User-Agent": "ovnagent"}
        if token := access.token():
            headers["authorization"] = token
        data = None
        if body is not None:
            data = orjson.dumps(body)
            headers["Content-Type"] = content_type
        return access.pool.request(
            method,
            access.host + path,
            body=data,
            headers=headers,
            preload_content=False,
            timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=read),
            retries=False,
        )


def reason(error: BaseException | None) -> str:
    """A word for a failed request, for metrics: `forbidden`, `not_found`, `http_429`, `connection`, `malformed`, `fault`."""
    if isinstance(error, ApiError):
        return {401: "unauthorized", 403: "forbidden", 404: "not_found"}.get(error.status, f"http_{error.status}")
    if isinstance(error, urllib3.exceptions.HTTPError | OSError):
        return "connection"
    return "malformed" if isinstance(error, MalformedError) else "fault"


def passing(error: BaseException) -> bool:
    """Worth another try: no answer, or trouble on the server's side."""
    if isinstance(error, ApiError):
        return error.status == 429 or error.status >= 500
    return isinstance(error, urllib3.exceptions.HTTPError | OSError)


def _pieces(response: Any) -> Iterator[bytes]:
    """What comes, as it comes: a proxy may send a watch without chunks, and `stream` then waits for the amount asked for."""
    if response.chunked:
        yield from response.stream(1 << 16, decode_content=True)
    else:
        while piece := response.read1(1 << 16, decode_content=True):
            yield piece


def _whole(response: Any, limit: int, deadline: float) -> bytearray:
    data = bytearray()
    complete = False
    try:
        for chunk in response.stream(1 << 16, decode_content=True):
            data += chunk
            if len(data) > limit:
                raise TooLongError(f"the answer is longer than {limit >> 10} KiB")
            if time.monotonic() > deadline:
                raise urllib3.exceptions.TimeoutError("the answer takes too long")
        complete = True
        return data
    finally:
        if complete:
            response.release_conn()
        else:
            response.close()


def _retry_after(headers: Mapping[str, str]) -> float:
    """RFC 9110, 10.2.3, where it is a number of seconds, as the API server says it."""
    text = headers.get("Retry-After", "")
    return min(float(text), RETRY_AFTER_LIMIT) if text.isascii() and text.isdigit() else 0.0


def _message(response: Any) -> str:
    """What an error says."""
    data = bytearray()
    try:
        data = _whole(response, MESSAGE_LIMIT, time.monotonic() + READ_SECONDS)
        return str(orjson.loads(data)["message"])[:1000]
    except (ValueError, LookupError, TypeError, MalformedError, urllib3.exceptions.HTTPError):
        return data[:200].decode(errors="replace")

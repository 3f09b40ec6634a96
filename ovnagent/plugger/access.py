"""The API server as a pod reaches it, without the official client's library: that is 8 MB resident, on every node of a
cluster."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import urllib3
from urllib3.connection import HTTPConnection

from ovnagent.kube.client import Access, Client, KubeConfig

CONNECTIONS = 10
"""Kept open: those of the workers (machines.py), the watch, Events."""
KEEPALIVE = [
    *HTTPConnection.default_socket_options,
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
]
"""A connection whose other end has gone without a word is noticed after 25 s (as kube/client.py)."""


class CannotReachError(Exception):
    """There is no way to the API server from here."""


class PodClient(Client):
    """A Client for a pod's own service account. KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT say where the API server
    is."""

    def __init__(self, credentials: Path) -> None:
        """`credentials`: the folder with `token` and `ca.crt`; the kubelet renews the token there.

        Raises CannotReachError."""
        self._credentials = credentials
        try:
            super().__init__(KubeConfig())
        except (KeyError, OSError) as error:
            raise CannotReachError(f"not in a pod with a service account: {error}") from error

    def _load(self) -> Access:
        host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
        authorization = f"Bearer {(self._credentials / 'token').read_text().strip()}"
        pool = urllib3.PoolManager(
            maxsize=CONNECTIONS,
            cert_reqs="CERT_REQUIRED",
            ca_certs=str(self._credentials / "ca.crt"),
            socket_options=KEEPALIVE,
        )
        where = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
        return Access(where, lambda: authorization, pool, time.monotonic())

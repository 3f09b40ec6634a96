"""The API server as a pod reaches it, without the official client's library: its models alone are 18 MB resident, on every
node of a cluster."""

from __future__ import annotations

import os
from pathlib import Path

import urllib3

from ovnagent.kube.client import Client, KubeConfig

CONNECTIONS = 8


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

    def _load(self) -> None:
        host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
        authorization = f"Bearer {(self._credentials / 'token').read_text().strip()}"
        self._host = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
        self._token = lambda: authorization
        self._pool = urllib3.PoolManager(
            maxsize=CONNECTIONS, cert_reqs="CERT_REQUIRED", ca_certs=str(self._credentials / "ca.crt")
        )

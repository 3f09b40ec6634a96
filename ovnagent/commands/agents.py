"""Asks the agents themselves: over HTTP where they can be reached, else through the API server."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import orjson
import urllib3

from ovnagent.commands.observer import CannotLookError
from ovnagent.commands.text import slow
from ovnagent.kube.client import ApiError, Client, KubeConfig, MalformedError

NAMESPACE = "ovnagent"
"""Where deploy/ puts the Deployment."""
SELECTOR = "app%3Dovnagent"
PORT = 9310
SECONDS = 5.0
ANSWER_LIMIT = 8 << 20


@dataclass(frozen=True, slots=True)
class Answer:
    """What one agent said."""

    agent: str
    body: Any


def ask(
    path: str, urls: Iterable[str], access: KubeConfig, namespace: str = NAMESPACE, port: int = PORT
) -> tuple[list[Answer], list[str]]:
    """What all agents say to a path that answers with a JSON object, and a sentence for each that said nothing.

    `urls`: ask these and nobody else. In an agent's own pod (POD_NAME is set) the pods are asked directly, elsewhere through
    the API server, which takes the right `get` on pods/proxy.

    Raises CannotLookError where no agent can be asked."""
    asked = [(url, _direct(url.rstrip("/") + path)) for url in urls]
    if not asked:
        asked = _pods(path, access, namespace, port)
    answers, troubles = [], []
    for name, fetch in asked:
        try:
            with slow(f"asking agent {name}"):
                body = orjson.loads(fetch())
            if not isinstance(body, dict):
                raise MalformedError("no JSON object")
            answers.append(Answer(str(body.get("agent") or name), body))
        except (ApiError, MalformedError, ValueError, OSError, urllib3.exceptions.HTTPError) as error:
            troubles.append(f"agent {name} does not answer: {error}")
    if not answers:
        raise CannotLookError("; ".join(troubles))
    return answers, troubles


def _pods(path: str, access: KubeConfig, namespace: str, port: int) -> list[tuple[str, Callable[[], bytes]]]:
    try:
        client = Client(access)
        # The agent's own account may list pods of all namespaces, and so those of its own.
        found = orjson.loads(client.request("GET", f"/api/v1/namespaces/{namespace}/pods?labelSelector={SELECTOR}"))["items"]
        pods = [(pod["metadata"]["name"], pod.get("status", {}).get("podIP", "")) for pod in found]
    except Exception as error:
        raise CannotLookError(f"the agents' pods could not be listed: {error}; name an agent with --url") from None
    inside = bool(os.environ.get("POD_NAME"))
    asked: list[tuple[str, Callable[[], bytes]]] = []
    for name, ip in pods:
        if inside and ip:
            host = f"[{ip}]" if ":" in ip else ip
            asked.append((name, _direct(f"http://{host}:{port}{path}")))
        elif not inside:
            asked.append((name, _proxied(client, f"/api/v1/namespaces/{namespace}/pods/{name}:{port}/proxy{path}")))
    if not asked:
        raise CannotLookError(
            f"no pod with the label app=ovnagent in namespace {namespace}; name theirs with --agent-namespace, or an agent "
            "with --url"
        )
    return asked


def _proxied(client: Client, path: str) -> Callable[[], bytes]:
    return lambda: bytes(client.request("GET", path))


def _direct(url: str) -> Callable[[], bytes]:
    def fetch() -> bytes:
        response = urllib3.request("GET", url, timeout=SECONDS, retries=False, preload_content=False)
        try:
            data = response.read(ANSWER_LIMIT + 1)
        finally:
            response.close()
        if response.status != 200 or len(data) > ANSWER_LIMIT:
            raise MalformedError(f"HTTP {response.status}, {len(data)} bytes")
        return bytes(data)

    return fetch

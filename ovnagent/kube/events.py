"""Kubernetes Events on the VM: what its owner is told."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from ovnagent.kube.client import ApiError, Client
from ovnagent.kube.writer import Writer

REPEAT_SECONDS = 300.0
"""The same sentence about the same object is said again after so long, if it still holds."""
REMEMBERED = 20_000
MESSAGE_LIMIT = 1024


@dataclass(frozen=True, slots=True)
class ObjectRef:
    """The object an Event is about."""

    kind: str
    namespace: str
    name: str
    uid: str

    @property
    def api_version(self) -> str:
        return "kubevirt.io/v1" if self.kind.startswith("VirtualMachine") else "v1"


class Events:
    """Never blocks. An Event's name follows from what it says, so a repetition (by a restarted agent, too) raises the
    count of the one that is there."""

    def __init__(self, client: Client, writer: Writer, component: str = "ovnagent") -> None:
        self._client = client
        self._writer = writer
        self._component = component
        self._lock = threading.Lock()
        self._said: OrderedDict[str, float] = OrderedDict()

    def warn(self, ref: ObjectRef, reason: str, message: str) -> None:
        self._say(ref, "Warning", reason, message)

    def normal(self, ref: ObjectRef, reason: str, message: str) -> None:
        self._say(ref, "Normal", reason, message)

    def _say(self, ref: ObjectRef, type_: str, reason: str, message: str) -> None:
        message = message[:MESSAGE_LIMIT]
        digest = hashlib.sha256(f"{ref.uid}/{reason}/{message}".encode()).hexdigest()[:16]
        name = f"{ref.name[:200]}.{digest}"
        now = time.monotonic()
        with self._lock:
            if now - self._said.get(name, -REPEAT_SECONDS) < REPEAT_SECONDS:
                return
            self._said[name] = now
            self._said.move_to_end(name)
            if len(self._said) > REMEMBERED:
                self._said.popitem(last=False)
        stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self._writer.put(("event", ref.namespace, name), lambda: self._write(ref, name, type_, reason, message, stamp))

    def _write(self, ref: ObjectRef, name: str, type_: str, reason: str, message: str, stamp: str) -> None:
        path = f"/api/v1/namespaces/{ref.namespace}/events"
        event: Mapping[str, Any] = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": ref.namespace},
            "involvedObject": {
                "apiVersion": ref.api_version,
                "kind": ref.kind,
                "namespace": ref.namespace if ref.kind != "Namespace" else "",
                "name": ref.name,
                "uid": ref.uid,
            },
            "type": type_,
            "reason": reason,
            "message": message,
            "source": {"component": self._component},
            "reportingComponent": self._component,
            "reportingInstance": self._component,
            "firstTimestamp": stamp,
            "lastTimestamp": stamp,
            "count": 1,
        }
        try:
            self._client.request("POST", path, event)
        except ApiError as error:
            if error.status == 409:
                self._again(f"{path}/{name}", stamp)
            elif error.status not in (403, 404) or (
                error.status == 403 and "terminated" not in str(error)
            ):  # the namespace is going, or gone
                raise

    def _again(self, path: str, stamp: str) -> None:
        patch: dict[str, Any] = {"lastTimestamp": stamp}
        answer = orjson.loads(self._client.request("PATCH", path, patch, content_type="application/merge-patch+json"))
        patch["count"] = int(answer.get("count") or 1) + 1
        self._client.request("PATCH", path, patch, content_type="application/merge-patch+json")

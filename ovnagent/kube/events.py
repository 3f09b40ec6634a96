"""Kubernetes Events on the VM: what its owner is told.

What has happened (`normal`: an address, a step of a migration) is told each time. What is wrong (`warn`) is found again at
each look, and told again after REPEAT_SECONDS. Nobody gets more than BURST Events at once and RATE a second after that,
for one object; what is not told is counted.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import orjson

from ovnagent.kube.client import ApiError, Client
from ovnagent.kube.writer import Write, Writer

REPEAT_SECONDS = 300.0
"""The same warning about the same object is said again after so long, if it still holds."""
BURST, RATE = 50, 0.2
"""Events about one object: so many at once, and so many a second after that."""
WARNINGS_REMEMBERED, BUDGETS_REMEMBERED = 20_000, 5_000
"""Warnings and objects that are remembered for that; beyond it the oldest are forgotten."""
MESSAGE_LIMIT = 1024
API_VERSIONS = {"Pod": "v1", "Node": "v1", "Namespace": "v1", "NetworkAttachmentDefinition": "k8s.cni.cncf.io/v1"}
"""All others are KubeVirt's."""


@dataclass(frozen=True, slots=True)
class ObjectRef:
    """The object an Event is about."""

    kind: str
    namespace: str
    name: str
    uid: str

    @property
    def api_version(self) -> str:
        return API_VERSIONS.get(self.kind, "kubevirt.io/v1")


@dataclass(frozen=True, slots=True)
class _Event(Write):
    events: Events
    ref: ObjectRef
    name: str
    type: str
    reason: str
    message: str
    stamp: str

    def carry_out(self) -> None:
        self.events.write(self)


class Events:
    """Never blocks. An Event's name follows from what it says, so a repetition (by a restarted agent, too) raises the
    count of the one that is there. `on_suppressed(reason)` is told of what is not said: `repeated`, `rate`."""

    def __init__(
        self, client: Client, writer: Writer, on_suppressed: Callable[[str], None], component: str = "ovnagent"
    ) -> None:
        self._client = client
        self._writer = writer
        self._on_suppressed = on_suppressed
        self._component = component
        self._lock = threading.Lock()
        self._said: OrderedDict[str, float] = OrderedDict()
        self._budgets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """What an object has left, and since when (monotonic seconds)."""

    def warn(self, ref: ObjectRef, reason: str, message: str) -> None:
        """Something is wrong, and may be said again at each look."""
        self._say(ref, "Warning", reason, message)

    def normal(self, ref: ObjectRef, reason: str, message: str) -> None:
        """Something has happened."""
        self._say(ref, "Normal", reason, message)

    def _say(self, ref: ObjectRef, type_: str, reason: str, message: str) -> None:
        message = message[:MESSAGE_LIMIT].encode(errors="replace").decode()  # half a surrogate is no JSON
        digest = hashlib.sha256(f"{ref.uid}/{reason}/{message}".encode()).hexdigest()[:16]
        name = f"{ref.name[:200]}.{digest}"
        now = time.monotonic()
        with self._lock:
            why = self._against(f"{ref.kind}/{ref.namespace}/{ref.name}", name if type_ == "Warning" else "", now)
        if why:
            self._on_suppressed(why)
            return
        self._writer.put(ref.namespace, name, _Event(self, ref, name, type_, reason, message, _stamp(int(time.time()))))

    def _against(self, about: str, repeated: str, now: float) -> str:
        """Why something is not said now; empty if it is."""
        if repeated:
            if now - self._said.get(repeated, -REPEAT_SECONDS) < REPEAT_SECONDS:
                return "repeated"
            self._said[repeated] = now
            self._said.move_to_end(repeated)
            if len(self._said) > WARNINGS_REMEMBERED:
                self._said.popitem(last=False)
        left, since = self._budgets.get(about, (BURST, now))
        left = min(BURST, left + (now - since) * RATE)
        if left < 1:
            return "rate"
        self._budgets[about] = left - 1, now
        self._budgets.move_to_end(about)
        if len(self._budgets) > BUDGETS_REMEMBERED:
            self._budgets.popitem(last=False)
        return ""

    def write(self, told: _Event) -> None:
        """Now. Raises what Client.request raises."""
        ref, name, stamp = told.ref, told.name, told.stamp
        namespace = ref.namespace or "default"  # where the API server wants those of objects without one
        path = f"/api/v1/namespaces/{namespace}/events"
        event: Mapping[str, Any] = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": {
                "apiVersion": ref.api_version,
                "kind": ref.kind,
                "namespace": ref.namespace if ref.kind != "Namespace" else "",
                "name": ref.name,
                "uid": ref.uid,
            },
            "type": told.type,
            "reason": told.reason,
            "message": told.message,
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
        answer = self._client.request("PATCH", path, patch, content_type="application/merge-patch+json")
        patch["count"] = _count(answer) + 1
        self._client.request("PATCH", path, patch, content_type="application/merge-patch+json")


@lru_cache(8)
def _stamp(second: int) -> str:
    """A text for all that is told within one second: thousands may wait."""
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _count(answer: bytes | bytearray) -> int:
    """How often an Event was told already; 1 where the answer does not say so."""
    try:
        return int(orjson.loads(answer)["count"])
    except (ValueError, LookupError, TypeError):
        return 1

"""List in pages, then watch, for ever: one thread a kind of object.

A failed list changes nothing in the store. A complete one replaces the kind's content at once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import orjson
import tenacity
import urllib3

from ovnagent import garbage
from ovnagent.core import reduce, vm
from ovnagent.kube.client import ApiError, Client
from ovnagent.kube.store import Store

LOG = logging.getLogger(__name__)

PAGE = 500
WATCH_SECONDS = 50
"""After so long the server ends a watch and it is taken up again: a sign of life even where nothing happens."""
SILENCE_SECONDS = WATCH_SECONDS + 15
SHORT_SECONDS = 0.2
"""A watch that the server ends sooner is not taken up again sooner."""
ABSENT_SECONDS = 60.0
"""How often an optional kind that is not installed is asked for again."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of object that is watched in all namespaces."""

    name: str
    """Plural, as in RBAC."""
    path: str
    fact: type[vm.Fact]
    reduce: Callable[[Mapping[str, Any]], vm.Fact]
    selector: str = ""
    """Of labels."""
    fields: str = ""
    """Of fields."""
    optional: bool = False
    """Its CRD may be absent: then there are none."""


KUBEVIRT = "/apis/kubevirt.io/v1"
KINDS = (
    Kind("virtualmachines", f"{KUBEVIRT}/virtualmachines", vm.VirtualMachine, reduce.virtual_machine),
    Kind("virtualmachineinstances", f"{KUBEVIRT}/virtualmachineinstances", vm.Instance, reduce.instance),
    Kind("virtualmachineinstancemigrations", f"{KUBEVIRT}/virtualmachineinstancemigrations", vm.Migration, reduce.migration),
    Kind("pods", "/api/v1/pods", vm.Launcher, reduce.launcher, selector="kubevirt.io=virt-launcher"),
    Kind("nodes", "/api/v1/nodes", vm.Node, reduce.node),
    Kind(
        "network-attachment-definitions",
        "/apis/k8s.cni.cncf.io/v1/network-attachment-definitions",
        vm.Attachable,
        reduce.attachable,
        optional=True,
    ),
)


class ExpiredError(Exception):
    """The resource version is too old (HTTP 410): list again."""


class Watcher:
    """Keeps one kind of the store as it is in the cluster."""

    def __init__(self, client: Client, kind: Kind, store: Store, on_error: Callable[[str, str], None]) -> None:
        self.kind = kind
        self.synced = False
        """Listed completely at least once."""
        self._client = client
        self._store = store
        self._on_error = on_error
        self._last_contact = time.monotonic()
        self._stopping = threading.Event()
        self._version = ""
        self._thread = threading.Thread(target=self._run, name=f"watch-{kind.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """The thread is a daemon and may hang in a read: it is not waited for."""
        self._stopping.set()

    @property
    def age(self) -> float:
        """Seconds for which the API server has not been heard of longer than a quiet watch explains."""
        return max(0.0, time.monotonic() - self._last_contact - SILENCE_SECONDS)

    def _run(self) -> None:
        while not self._stopping.is_set():
            retrying = tenacity.Retrying(
                wait=tenacity.wait_exponential_jitter(multiplier=0.2, max=ABSENT_SECONDS if self.kind.optional else 10),
                sleep=tenacity.sleep_using_event(self._stopping),
                stop=tenacity.stop_when_event_set(self._stopping),
                before_sleep=self._report,
            )
            try:
                retrying(self._follow)
            except tenacity.RetryError:
                return

    def _follow(self) -> None:
        """List if need be, then one watch until the server ends it. Returns after each sign of life, so that a later
        failure starts with a short pause again."""
        try:
            if not self._version:
                self._list()
            self._watch()
        except ExpiredError:
            self._version = ""
        except ApiError as error:
            if error.status == 404 and self.kind.optional:
                self._store.replace(self.kind.fact, ())
                self._alive(synced=True)
                self._stopping.wait(ABSENT_SECONDS)
                return
            if error.status == 410:
                self._version = ""
                return
            raise

    def _list(self) -> None:
        facts: list[vm.Fact] = []
        version, token = "", ""
        with garbage.held_back():
            while True:
                query = {"limit": str(PAGE)} | ({"continue": token} if token else {})
                page = orjson.loads(self._client.request("GET", self._path(query)))
                for item in page["items"] or ():
                    facts.append(self.kind.reduce(item))
                self._last_contact = time.monotonic()
                meta = page.get("metadata") or {}
                version, token = meta.get("resourceVersion") or version, meta.get("continue") or ""
                if not token or self._stopping.is_set():
                    break
        if self._stopping.is_set():
            return
        self._store.replace(self.kind.fact, facts)
        self._version = version
        if not self.synced:
            LOG.info("listed", extra={"kind": self.kind.name, "objects": len(facts)})
        self._alive(synced=True)

    def _watch(self) -> None:
        query = {
            "watch": "true",
            "resourceVersion": self._version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        started = time.monotonic()
        for event in self._events(self._path(query)):
            if self._stopping.is_set():
                return
            self._alive()
            obj = event["object"]
            match event["type"]:
                case "ADDED" | "MODIFIED":
                    self._store.put(self.kind.reduce(obj))
                case "DELETED":
                    self._store.delete(self.kind.reduce(obj))
                case "ERROR":
                    if obj.get("code") == 410:
                        raise ExpiredError
                    raise ApiError(int(obj.get("code") or 500), "WATCH", self.kind.path, str(obj.get("message")))
            self._version = obj["metadata"]["resourceVersion"]
        self._alive()
        if time.monotonic() - started < SHORT_SECONDS:  # a proxy that ends watches at once must not be asked all the time
            self._stopping.wait(SHORT_SECONDS)

    def _events(self, path: str) -> Iterator[Mapping[str, Any]]:
        for line in self._client.lines(path, SILENCE_SECONDS):
            event = orjson.loads(line)
            yield event

    def _path(self, query: dict[str, str]) -> str:
        if self.kind.selector:
            query["labelSelector"] = self.kind.selector
        if self.kind.fields:
            query["fieldSelector"] = self.kind.fields
        return f"{self.kind.path}?{urlencode(query)}"

    def _alive(self, synced: bool = False) -> None:
        self._last_contact = time.monotonic()
        self.synced = self.synced or synced

    def _report(self, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        pause = round(state.next_action.sleep, 1) if state.next_action else 0
        reason, remedy = explain(error, self.kind)
        self._on_error(self.kind.name, reason)
        LOG.warning("watch failed", extra={"kind": self.kind.name, "reason": f"{error}{remedy}", "retry_seconds": pause})


def explain(error: BaseException | None, kind: Kind) -> tuple[str, str]:
    """(a word for the metric, the remedy as the end of a sentence) of a failed list or watch."""
    if isinstance(error, ApiError):
        if error.status == 403:
            return "forbidden", f"; grant the verbs get, list and watch on {kind.name} to the agent's service account"
        if error.status == 404:
            return "not_found", "; is KubeVirt installed in this cluster?"
        return f"http_{error.status}", ""
    if isinstance(error, urllib3.exceptions.HTTPError | OSError):
        return "connection", ""
    return "malformed", ""

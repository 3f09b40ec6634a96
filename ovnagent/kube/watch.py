"""List in pages, then watch, for ever: one thread a kind of object.

A failed list changes nothing in the store. A complete one replaces the kind's content at once. An object that cannot be
read is set aside, and ends neither: what was known of it stays, and it is read again when it changes, and now and then.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlencode

import msgspec
import tenacity

from ovnagent.core import vm
from ovnagent.kube import decode
from ovnagent.kube.client import ApiError, Client, MalformedError, TooLongError, passing, reason
from ovnagent.kube.events import ObjectRef
from ovnagent.kube.kinds import Kind
from ovnagent.kube.store import Identity, Store
from ovnagent.process import memory
from ovnagent.process.supervision import PATIENCE_SECONDS, Loop, Supervisor, pauses

LOG = logging.getLogger(__name__)

PAGE = 100
"""Objects in a page: 1 MB of launchers. With 500 the API server needs a tenth less for a list, each thread holds 5 MB."""
SMALLEST_PAGE = 10
PAGE_ATTEMPTS = 4
"""So often a page is asked for before its list is begun anew."""
WATCH_SECONDS = 50
"""After so long the server ends a watch and it is taken up again: a sign of life even where nothing happens."""
SILENCE_SECONDS = WATCH_SECONDS + 15
ANSWER_SECONDS = 150.0
"""The client's own limits for an answer, and then some."""
SHORT_SECONDS = 0.2
"""A watch that the server ends sooner is not taken up again sooner."""
ABSENT_SECONDS = 60.0
"""How often an optional kind that is not installed is asked for again."""
AGAIN_SECONDS = 300.0
"""How often an object that was set aside is read again, though nothing was heard of it."""
AGAIN_AT_ONCE = 20
"""So many of them in one go."""
MALFORMED = 3
"""After so many answers in a row that make no sense the watch is begun anew with a list."""


@dataclass(slots=True)
class _Listing:
    """What a list has brought so far."""

    facts: list[vm.Fact] = field(default_factory=list)
    aside: dict[Identity, str] = field(default_factory=dict)
    nameless: int = 0


class Watcher:
    """Keeps one kind of the store as it is in the cluster. `on_error(kind, reason)`; `on_aside(object, why)`: an object
    that its owner should hear of is not readable."""

    def __init__(
        self,
        client: Client,
        kind: Kind,
        store: Store,
        on_error: Callable[[str, str], None],
        on_aside: Callable[[ObjectRef, str], None],
        supervisor: Supervisor,
    ) -> None:
        self.kind = kind
        self.synced = False
        """Listed completely at least once."""
        self.read = 0
        """Objects that lists have brought so far."""
        self._client = client
        self._store = store
        self._on_error = on_error
        self._on_aside = on_aside
        self._supervisor = supervisor
        self._last_contact = time.monotonic()
        self._version = ""
        self._malformed = 0
        self._again_at = time.monotonic() + AGAIN_SECONDS
        self._again: list[Identity] = []
        wait = pauses(ABSENT_SECONDS) if kind.optional else pauses()
        self._loop = supervisor.loop(f"watch-{kind.name}", self._follow, self._report, wait)

    def start(self) -> None:
        self._loop.start()

    def stop(self) -> None:
        """The thread may hang in a read: it is not waited for."""
        self._loop.stop()

    @property
    def age(self) -> float:
        """Seconds for which the API server has not been heard of longer than a quiet watch explains."""
        return max(0.0, time.monotonic() - self._last_contact - SILENCE_SECONDS)

    def _follow(self, loop: Loop) -> None:
        """List if need be, then one watch until the server ends it. Returns after each sign of life, so that a later
        failure starts with a short pause again."""
        try:
            if not self._version:
                self._list()
            else:
                self._look_again()
            self._watch()
        except ApiError as error:
            if error.status == 410:  # the resource version is too old: list again
                self._version = ""
            elif error.status == 404 and self.kind.optional:
                self._store.replace(self.kind.fact, ())
                self._alive(synced=True)
                loop.pause(ABSENT_SECONDS)
            else:
                raise
        except MalformedError:
            self._malformed += 1
            if self._malformed >= MALFORMED:
                self._version = ""
            raise

    def _list(self) -> None:
        listing = _Listing()
        token, limit = "", PAGE
        with memory.loading():
            while not self._loop.stopping.is_set():
                self._loop.beat(ANSWER_SECONDS)
                query = {"limit": str(limit)} | ({"continue": token} if token else {})
                try:
                    meta, objects = self._page(self._path(query))
                except TooLongError:
                    if limit == SMALLEST_PAGE:
                        raise
                    limit = max(SMALLEST_PAGE, limit // 5)
                    continue
                self._loop.beat()
                self._last_contact = time.monotonic()
                for raw in objects:
                    self._collect(raw, listing)
                self.read += len(objects)
                del objects  # or it would stay until the next page has come
                token = meta.token
                if not token:
                    break
        if self._loop.stopping.is_set():
            return
        self._store.replace(self.kind.fact, listing.facts, listing.aside, listing.nameless)
        self._version = meta.version
        if not self.synced:
            LOG.info("listed", extra={"kind": self.kind.name, "objects": len(listing.facts)})
        self._alive(synced=True)

    def _page(self, path: str) -> tuple[decode.Meta, list[msgspec.Raw]]:
        """A page, asked for again where the server was merely too busy: the pages before it need not be read again."""
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(passing),
            wait=pauses(),
            stop=tenacity.stop_after_attempt(PAGE_ATTEMPTS) | tenacity.stop_when_event_set(self._loop.stopping),
            sleep=self._loop.pause,
            before_sleep=self._page_failed,
            reraise=True,
        )
        return decode.page(retrying(self._client.request, "GET", path))

    def _page_failed(self, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, Exception) and state.next_action is not None:
            self._report(error, state.next_action.sleep)

    def _collect(self, raw: msgspec.Raw, listing: _Listing) -> None:
        try:
            listing.facts.append(self.kind.reduce(decode.load(raw)))
        except Exception as error:
            meta = decode.meta(raw)
            if meta is not None and meta.name:
                listing.aside[meta.namespace, meta.name] = self._unreadable(meta, error)
            else:
                listing.nameless += 1
                self._unreadable(decode.Meta(), error)

    def _watch(self) -> None:
        query = {
            "watch": "true",
            "resourceVersion": self._version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        started = time.monotonic()
        self._loop.beat(SILENCE_SECONDS + PATIENCE_SECONDS)
        for line in self._client.lines(self._path(query), SILENCE_SECONDS):
            if self._loop.stopping.is_set():
                return
            self._loop.beat()
            self._alive()
            self._event(line)
            self._loop.beat(SILENCE_SECONDS + PATIENCE_SECONDS)
        self._alive()
        if time.monotonic() - started < SHORT_SECONDS:  # a proxy that ends watches at once must not be asked all the time
            self._loop.pause(SHORT_SECONDS)

    def _event(self, line: bytes) -> None:
        type_, raw = decode.event(line)
        if type_ == "ERROR":
            status = decode.load(raw)
            code = status.get("code") if isinstance(status, dict) else 0
            raise ApiError(code if isinstance(code, int) and code else 500, "WATCH", self.kind.path, str(status)[:200])
        meta = decode.meta(raw)
        if meta is None or not meta.version:
            raise MalformedError(f"an event {type_[:20]} without a resourceVersion")
        if type_ in ("ADDED", "MODIFIED"):
            self._take(raw, meta)
        elif type_ == "DELETED":
            self._store.delete(self.kind.fact, (meta.namespace, meta.name))
        self._version = meta.version
        self._malformed = 0

    def _take(self, raw: msgspec.Raw, meta: decode.Meta) -> None:
        """One object as it is now."""
        try:
            self._store.put(self.kind.reduce(decode.load(raw)))
        except Exception as error:
            self._store.set_aside(self.kind.fact, (meta.namespace, meta.name), self._unreadable(meta, error))

    def _unreadable(self, meta: decode.Meta, error: Exception) -> str:
        """Say once that an object is set aside; why."""
        identity = (meta.namespace, meta.name)
        why = f"{self.kind.kind} {'/'.join(filter(None, identity)) or 'without a name'} cannot be read: {error!r}"[:300]
        before = self._store.aside(self.kind.fact).get(identity)
        if before is None or before.reason != why:
            LOG.warning("object set aside", extra={"kind": self.kind.name, "reason": why})
            if meta.name:
                self._on_aside(ObjectRef(self.kind.kind, meta.namespace, meta.name, meta.uid), why)
        return why

    def _look_again(self) -> None:
        """Read again what was set aside, every few minutes, some at a time."""
        now = time.monotonic()
        if not self._again and now >= self._again_at:
            self._again_at = now + AGAIN_SECONDS
            self._again = list(self._store.aside(self.kind.fact))
        for _ in range(min(AGAIN_AT_ONCE, len(self._again))):
            identity = self._again.pop()
            if identity not in self._store.aside(self.kind.fact):
                continue
            self._loop.beat(ANSWER_SECONDS)
            # A list of one: the agent needs no right to `get` for it.
            fields = f"metadata.name={identity[1]}" + (f",metadata.namespace={identity[0]}" if identity[0] else "")
            for raw in decode.page(self._client.request("GET", self._path({"fieldSelector": fields})))[1]:
                if (meta := decode.meta(raw)) is not None:
                    self._take(raw, meta)

    def _path(self, query: dict[str, str]) -> str:
        if self.kind.selector:
            query["labelSelector"] = self.kind.selector
        if self.kind.fields:
            query["fieldSelector"] = self.kind.fields
        return f"{self.kind.path}?{urlencode(query)}"

    def _alive(self, synced: bool = False) -> None:
        self._last_contact = time.monotonic()
        self.synced = self.synced or synced

    def _report(self, error: Exception, pause: float) -> None:
        why = reason(error)
        self._on_error(self.kind.name, why)
        if why == "fault":
            self._supervisor.failure(self._loop.name, error, pause)
        text = f"{error}{remedy(error, self.kind.name)}"
        LOG.warning("watch failed", extra={"kind": self.kind.name, "reason": text, "retry_seconds": round(pause, 1)})


def remedy(error: BaseException, resource: str) -> str:
    """What to do about a failed list or watch, as the end of a sentence."""
    match error.status if isinstance(error, ApiError) else 0:
        case 401:
            return "; the API server does not accept the agent's credentials: renew its token or its kubeconfig"
        case 403:
            return f"; grant the verbs get, list and watch on {resource} to the agent's service account"
        case 404:
            return "; is KubeVirt installed in this cluster?"
        case 429:
            return "; the API server has too much to do: it is asked again when it says so"
    return ""

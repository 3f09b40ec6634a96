"""A small HTTP server that lists, watches and patches objects as an API server does, and gives them out as the very bytes
that it was told: for objects that no real API server can be made to hold, and in numbers for which one takes minutes."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from ovnagent.core.vm import RECORD_ANNOTATION
from ovnagent.kube.kinds import KINDS

PATHS = {kind.path: kind for kind in KINDS}
PATCHED = re.compile(r"/apis/kubevirt\.io/v1/namespaces/([^/]+)/(virtualmachines|virtualmachineinstances)/([^/]+)")
EVENTS = re.compile(r"/api/v1/namespaces/([^/]+)/events(?:/.*)?")

Name = tuple[str, str]
"""(namespace, name); the namespace of a Node is empty."""


@dataclass
class Stored:
    """`meta` is ordinary JSON, as an API server vouches for it; `body`, all other members, is whatever text it is."""

    meta: dict[str, Any]
    body: str

    def text(self) -> bytes:
        members = f'"metadata":{json.dumps(self.meta)}' + (f",{self.body}" if self.body else "")
        return f"{{{members}}}".encode()


@dataclass
class Collection:
    """The objects of a kind, and what has happened to them since `forgotten`."""

    objects: dict[Name, Stored] = field(default_factory=dict)
    log: list[tuple[int, bytes]] = field(default_factory=list)
    """(resource version, event)."""
    forgotten: int = 0
    """The newest version that a watch cannot begin at any more."""


class ObjectServer:
    """`put` and `delete` objects; the kubeconfig says where it listens."""

    def __init__(self, directory: Path) -> None:
        self.events: dict[tuple[str, str], set[str]] = {}
        """(namespace, name of the object) -> reasons of the Events about it."""
        self.writes = 0
        """Requests that were not reads."""
        self._kinds = {kind.name: Collection() for kind in KINDS}
        self._changed = threading.Condition()
        self._version = 1
        self._closed = False
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server._get(self)

            def do_POST(self) -> None:
                server._write(self)

            do_PATCH = do_POST  # noqa: N815 - the base class's names

            def log_message(self, *_: object) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            request_queue_size = 128
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """A client went away."""

        self._server = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        self.kubeconfig = directory / "kubeconfig"
        text = {
            "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": self.url}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
        }
        self.kubeconfig.write_text(yaml.safe_dump(text))

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._server.shutdown()
        self._server.server_close()

    # -- what tests do

    def put(self, kind: str, meta: Mapping[str, Any], body: str) -> None:
        """Create an object, or replace one. `kind`: the plural; `body`: the other members, as JSON without the braces."""
        name = (str(meta.get("namespace", "")), str(meta["name"]))
        with self._changed:
            present = self._kinds[kind].objects.get(name)
            made = dict(meta)
            record = _record(present)
            if record and isinstance(made.get("annotations", {}), dict):  # an update does not take it away
                made["annotations"] = {RECORD_ANNOTATION: record, **made.get("annotations", {})}
            self._kinds[kind].objects[name] = Stored(made, body)
            self._happened(kind, name, "MODIFIED" if present else "ADDED")

    def delete(self, kind: str, namespace: str, name: str) -> None:
        with self._changed:
            self._happened(kind, (namespace, name), "DELETED")

    def names(self) -> list[tuple[str, Name]]:
        """(kind, name) of all there is."""
        with self._changed:
            return [(kind, name) for kind, each in self._kinds.items() for name in each.objects]

    def record(self, namespace: str, name: str) -> str:
        """The agent's record on a VM."""
        with self._changed:
            return _record(self._kinds["virtualmachines"].objects.get((namespace, name)))

    def forget(self, keep: int = 50) -> None:
        """Older changes cannot be watched any more: who is behind is answered 410, as etcd's compaction does it."""
        with self._changed:
            for each in self._kinds.values():
                if len(each.log) > keep:
                    each.forgotten = each.log[-keep - 1][0]
                    del each.log[:-keep]

    def news(self, kind: str, version: int) -> list[tuple[int, bytes]]:
        """What a watch from this resource version on would tell by now: (resource version, line)."""
        with self._changed:
            collection = self._kinds[kind]
            assert version >= collection.forgotten, "gone"
            return [(at, line) for at, line in collection.log if at > version]

    # -- what clients ask

    def _happened(self, kind: str, name: Name, what: str) -> None:
        self._version += 1
        collection = self._kinds[kind]
        stored = collection.objects[name]
        stored.meta["resourceVersion"] = str(self._version)
        if what == "DELETED":
            del collection.objects[name]
        collection.log.append((self._version, b'{"type":"%s","object":%s}\n' % (what.encode(), stored.text())))
        self._changed.notify_all()

    def _get(self, handler: BaseHTTPRequestHandler) -> None:
        url = urlsplit(handler.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        kind = PATHS[url.path].name
        handler.send_response(200)
        handler.end_headers()
        if query.get("watch") == "true":
            self._watch(handler, kind, int(query["resourceVersion"]), float(query["timeoutSeconds"]))
            return
        only = dict(part.split("=") for part in query.get("fieldSelector", "").split(",") if part)
        with self._changed:
            found = [
                stored.text()
                for (namespace, name), stored in self._kinds[kind].objects.items()
                if only.get("metadata.name", name) == name and only.get("metadata.namespace", namespace) == namespace
            ]
            version = self._version
        handler.wfile.write(b'{"metadata":{"resourceVersion":"%d"},"items":[%s]}' % (version, b",".join(found)))

    def _watch(self, handler: BaseHTTPRequestHandler, kind: str, version: int, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        collection = self._kinds[kind]
        handler.wfile.flush()
        while True:
            with self._changed:
                while not self._closed and (not collection.log or collection.log[-1][0] <= version):
                    if time.monotonic() >= deadline:
                        return
                    self._changed.wait(max(0.0, deadline - time.monotonic()))
                if self._closed:
                    return
                gone = version < collection.forgotten
                news = [(at, line) for at, line in collection.log[-5000:] if at > version]
            if gone:
                handler.wfile.write(b'{"type":"ERROR","object":{"kind":"Status","code":410,"message":"too old"}}\n')
                return
            handler.wfile.write(b"".join(line for _, line in news))
            handler.wfile.flush()
            version = news[-1][0]

    def _write(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers.get("Content-Length") or 0)))
        path = urlsplit(handler.path).path
        status = 200
        with self._changed:
            self.writes += 1
            if found := PATCHED.fullmatch(path):
                status = self._patch(found[2], (found[1], found[3]), body["metadata"])
            elif EVENTS.fullmatch(path) and "involvedObject" in body:
                about = body["involvedObject"]
                self.events.setdefault((about["namespace"], about["name"]), set()).add(body["reason"])
        handler.send_response(status)
        handler.end_headers()
        handler.wfile.write(b'{"message":"uid"}' if status == 409 else b"{}")

    def _patch(self, kind: str, name: Name, meta: Mapping[str, Any]) -> int:
        stored = self._kinds[kind].objects.get(name)
        if stored is None:
            return 404
        if stored.meta.get("uid") != meta["uid"]:
            return 409
        before = stored.meta.get("annotations")
        stored.meta["annotations"] = {**(before if isinstance(before, dict) else {}), **meta["annotations"]}
        self._happened(kind, name, "MODIFIED")
        return 200


def _record(stored: Stored | None) -> str:
    annotations = stored.meta.get("annotations") if stored is not None else None
    found = annotations.get(RECORD_ANNOTATION, "") if isinstance(annotations, dict) else ""
    return found if isinstance(found, str) else ""

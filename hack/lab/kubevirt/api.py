"""The API server as the stand-in uses it: objects as plain dicts, and a copy of them that watches keep current."""

from __future__ import annotations

import base64
import logging
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import orjson
import urllib3
import yaml

Obj = dict[str, Any]
log = logging.getLogger(__name__)

WATCH_SECONDS = 300
OUTAGE_SECONDS = 30.0


class Resource(NamedTuple):
    """A resource type: the path of its group and version, and its plural."""

    group: str
    plural: str


VMS = Resource("/apis/kubevirt.io/v1", "virtualmachines")
VMIS = Resource("/apis/kubevirt.io/v1", "virtualmachineinstances")
MIGRATIONS = Resource("/apis/kubevirt.io/v1", "virtualmachineinstancemigrations")
PODS = Resource("/api/v1", "pods")
NODES = Resource("/api/v1", "nodes")

HANDLER_TOKEN = "/api/v1/namespaces/kubevirt/serviceaccounts/kubevirt-handler/token"

WATCHED = (VMS, VMIS, MIGRATIONS, PODS)

Listener = Callable[[str, Resource, Obj], None]
"""Called with ADDED, MODIFIED or DELETED, the resource type and the object."""


class Key(NamedTuple):
    """Namespace and name."""

    namespace: str
    name: str


def key_of(obj: Mapping[str, Any]) -> Key:
    return Key(obj["metadata"].get("namespace", ""), obj["metadata"]["name"])


def clone(obj: Mapping[str, Any]) -> Obj:
    """A deep copy; ten times as fast as copy.deepcopy, and most of what the stand-in does is copying."""
    copied: Obj = orjson.loads(orjson.dumps(obj))
    return copied


def uid_of(obj: Mapping[str, Any]) -> str:
    uid: str = obj["metadata"]["uid"]
    return uid


class ApiError(Exception):
    """The API server refused a request."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class Api:
    """Requests to the API server of a kubeconfig with a token, and the copy of all watched objects."""

    def __init__(self, kubeconfig: Path) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        cluster = config["clusters"][0]["cluster"]
        certificate = base64.b64decode(cluster["certificate-authority-data"]).decode()
        self._server: str = cluster["server"]
        self._token: str = config["users"][0]["user"]["token"]
        self._handler_tokens: dict[str, str] = {}
        self._pool = urllib3.PoolManager(
            maxsize=128, retries=False, ssl_context=ssl.create_default_context(cadata=certificate)
        )
        self.changed = threading.Condition()
        """Notified at each change of the copy."""
        self._objects: dict[Resource, dict[Key, Obj]] = {resource: {} for resource in WATCHED}
        self._gone: set[str] = set()
        self._listener: Listener | None = None
        self._stopped = threading.Event()
        self._streams: dict[Resource, urllib3.BaseHTTPResponse] = {}

    # ---- the copy

    def start(self, listener: Listener) -> None:
        """Watch everything, and tell the listener. Returns when the copy is complete."""
        self._listener = listener
        complete = []
        for resource in WATCHED:
            listed = threading.Event()
            complete.append(listed)
            threading.Thread(
                target=self._watch, args=(resource, listed), name=f"watch {resource.plural}", daemon=True
            ).start()
        for listed in complete:
            if not listed.wait(30):
                raise TimeoutError("the API server did not answer all lists within 30 s")

    def stop(self) -> None:
        """End the watches."""
        self._stopped.set()
        for stream in list(self._streams.values()):
            stream.shutdown()

    def get(self, resource: Resource, key: Key) -> Obj | None:
        """The copy of an object; never change it."""
        return self._objects[resource].get(key)

    def all(self, resource: Resource) -> list[Obj]:
        with self.changed:
            return list(self._objects[resource].values())

    def wait_for(self, probe: Callable[[], bool], seconds: float | None = None) -> bool:
        """Wait until `probe`, asked at each change of the copy, is true; whether it was in time."""
        with self.changed:
            return self.changed.wait_for(probe, seconds)

    def nudge(self) -> None:
        """Let everybody who waits look again."""
        with self.changed:
            self.changed.notify_all()

    # ---- writing

    def create(self, resource: Resource, obj: Obj) -> Obj:
        created = self.request("POST", self._path(resource, obj["metadata"].get("namespace", "")), obj)
        self._put(resource, created)
        return created

    def update(
        self,
        resource: Resource,
        obj: Mapping[str, Any],
        change: Callable[[Obj], None],
        status: bool = False,
        node: str = "",
    ) -> Obj | None:
        """Change an object as it is now; None if it is gone. Writes nothing if `change` changes nothing.

        status: write through the status subresource, and nothing but the status. node: write as this node's virt-handler."""
        key, uid = key_of(obj), uid_of(obj)
        path = self._path(resource, key.namespace, key.name) + ("/status" if status else "")
        current: Obj | None = self.get(resource, key) if resource in WATCHED else self.read(resource, key)
        while True:
            if current is None or uid_of(current) != uid:
                return None
            wanted = clone(current)
            change(wanted)
            if wanted == current:
                return current
            try:
                written = self.request("PUT", path, wanted, self._handler_token(node) if node else self._token)
                self._put(resource, written)
                return written
            except ApiError as error:
                if error.status == 404:
                    return None
                if error.status != 409:
                    raise
            current = self.read(resource, key)

    def read(self, resource: Resource, key: Key) -> Obj | None:
        """The object as the API server has it; None if it has none."""
        try:
            return self.request("GET", self._path(resource, key.namespace, key.name))
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def delete(self, resource: Resource, obj: Mapping[str, Any], grace: int | None = None) -> None:
        """Delete this very object in the background; gone already is fine."""
        options: Obj = {"preconditions": {"uid": uid_of(obj)}, "propagationPolicy": "Background"}
        if grace is not None:
            options["gracePeriodSeconds"] = grace
        key = key_of(obj)
        try:
            self.request("DELETE", self._path(resource, key.namespace, key.name), options)
        except ApiError as error:
            if error.status not in (404, 409):
                raise

    def request(self, method: str, path: str, body: Obj | None = None, token: str = "") -> Obj:
        """One request, tried again while the server is away or overloaded; the answer as a dict. Raises ApiError."""
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        headers = {"Authorization": f"Bearer {token or self._token}", "Content-Type": kind}
        data = None if body is None else orjson.dumps(body)
        deadline = time.monotonic() + OUTAGE_SECONDS
        while True:
            try:
                answer = self._pool.request(method, self._server + path, headers=headers, body=data, timeout=30)
                content: Obj = orjson.loads(answer.data)
                if answer.status < 400:
                    return content
                failure = ApiError(answer.status, content.get("message", ""))
            except (urllib3.exceptions.HTTPError, ValueError) as error:
                failure = ApiError(503, str(error))
            if failure.status < 429 or time.monotonic() > deadline or self._stopped.wait(0.1):
                raise failure

    def _handler_token(self, node: str) -> str:
        """virt-handler's token on a node. It names the node: KubeVirt lets a virt-handler write only VMIs that are on its
        node or are to come to it."""
        if node not in self._handler_tokens:
            found = self.read(NODES, Key("", node))
            if found is None:
                raise ApiError(404, f"there is no node {node}")
            bound = {"apiVersion": "v1", "kind": "Node", "name": node, "uid": uid_of(found)}
            asked = {"spec": {"boundObjectRef": bound, "expirationSeconds": 86400}}
            answer = self.request("POST", HANDLER_TOKEN, asked)
            self._handler_tokens[node] = answer["status"]["token"]
        return self._handler_tokens[node]

    # ---- watching

    @staticmethod
    def _path(resource: Resource, namespace: str = "", name: str = "") -> str:
        path = resource.group + (f"/namespaces/{namespace}" if namespace else "") + f"/{resource.plural}"
        return f"{path}/{name}" if name else path

    def _watch(self, resource: Resource, listed: threading.Event) -> None:
        while not self._stopped.is_set():
            try:
                version = self._list(resource)
                listed.set()
                for event in self._events(resource, version):
                    if event["type"] == "ERROR":
                        break
                    if event["type"] == "DELETED":
                        self._drop(resource, event["object"])
                    elif event["type"] != "BOOKMARK":
                        self._put(resource, event["object"])
            except (ApiError, OSError, ValueError, urllib3.exceptions.HTTPError) as error:
                if not self._stopped.is_set():
                    log.debug("watch of %s ended: %s", resource.plural, error)
                    self._stopped.wait(0.2)  # the API server may be down: not as fast as possible

    def _list(self, resource: Resource) -> str:
        answer = self.request("GET", self._path(resource))
        found = {key_of(obj): obj for obj in answer["items"]}
        for obj in self.all(resource):
            if uid_of(found.get(key_of(obj), {"metadata": {"uid": ""}})) != uid_of(obj):
                self._drop(resource, obj)
        for obj in found.values():
            self._put(resource, obj)
        version: str = answer["metadata"]["resourceVersion"]
        return version

    def _events(self, resource: Resource, version: str) -> Iterator[Obj]:
        query = {"watch": "1", "resourceVersion": version, "timeoutSeconds": str(WATCH_SECONDS)}
        stream = self._pool.request(
            "GET",
            f"{self._server}{self._path(resource)}?{urlencode(query)}",
            headers={"Authorization": f"Bearer {self._token}"},
            preload_content=False,
            timeout=urllib3.Timeout(connect=5, read=WATCH_SECONDS + 10),
        )
        self._streams[resource] = stream
        try:
            buffer = b""
            while piece := stream.read1(65536):
                *lines, buffer = (buffer + piece).split(b"\n")
                for line in lines:
                    yield orjson.loads(line)
        finally:
            stream.close()

    def _put(self, resource: Resource, obj: Obj) -> None:
        if resource not in WATCHED:
            return
        key = key_of(obj)
        with self.changed:
            known = self._objects[resource].get(key)
            if uid_of(obj) in self._gone or (
                known is not None and int(known["metadata"]["resourceVersion"]) >= int(obj["metadata"]["resourceVersion"])
            ):
                return
            self._objects[resource][key] = obj
            self.changed.notify_all()
        self._tell("MODIFIED" if known is not None and uid_of(known) == uid_of(obj) else "ADDED", resource, obj)

    def _drop(self, resource: Resource, obj: Obj) -> None:
        key, uid = key_of(obj), uid_of(obj)
        with self.changed:
            self._gone.add(uid)
            known = self._objects[resource].get(key)
            if known is not None and uid_of(known) == uid:
                del self._objects[resource][key]
            self.changed.notify_all()
        self._tell("DELETED", resource, obj)

    def _tell(self, kind: str, resource: Resource, obj: Obj) -> None:
        if self._listener is not None:
            self._listener(kind, resource, obj)

"""Ways in which a list or a watch can end that a real API server cannot be made to show on demand.

The server here only replays bytes. What a real one does (restart, missing verbs, rotated tokens) is tested with a real one.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from hack.lab.process import wait_for
from ovnagent.core.vm import VmKey
from ovnagent.kube.client import Client, KubeConfig
from ovnagent.kube.events import ObjectRef
from ovnagent.kube.kinds import KINDS
from ovnagent.kube.store import Store
from ovnagent.kube.watch import Watcher
from ovnagent.supervision import Supervisor
from tests.desk import vm_object

VMS = KINDS[0]
Answer = tuple[int, list[dict[str, Any] | bytes]]


class Replayer:
    """Answers lists and watches with what it is told, in turn; the last answer of each stays."""

    def __init__(self, directory: Path) -> None:
        self.lists: list[Answer] = []
        self.watches: list[Answer] = []
        self.asked: list[str] = []
        replayer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                replayer.asked.append(self.path)
                queue = replayer.watches if "watch=true" in self.path else replayer.lists
                status, bodies = queue.pop(0) if len(queue) > 1 else queue[0]
                self.send_response(status)
                self.end_headers()
                for body in bodies:
                    self.wfile.write(body if isinstance(body, bytes) else json.dumps(body).encode() + b"\n")

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        config = directory / "config"
        cluster = {"name": "c", "cluster": {"server": f"http://127.0.0.1:{self.server.server_address[1]}"}}
        context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
        text = {"apiVersion": "v1", "kind": "Config", "current-context": "c", "clusters": [cluster], "contexts": [context]}
        config.write_text(yaml.safe_dump(text | {"users": [{"name": "u", "user": {}}]}))
        self.changed: list[VmKey] = []
        self.errors: list[str] = []
        self.store = Store(lambda keys, _: self.changed.extend(keys))
        self.told: list[tuple[ObjectRef, str]] = []
        self.failures: list[str] = []
        self.supervisor = Supervisor(self.failures.append)
        client = Client(KubeConfig(config))
        self.watcher = Watcher(
            client,
            VMS,
            self.store,
            lambda _kind, reason: self.errors.append(reason),
            lambda ref, why: self.told.append((ref, why)),
            self.supervisor,
        )

    def names(self) -> set[str]:
        return {key.name for key in set(self.store.keys())}

    def last(self) -> str:
        return self.asked[-1] if self.asked else ""

    def until(self, what: Callable[[], object]) -> None:
        wait_for(what, 10, f"asked: {self.asked[-5:]}, errors: {self.errors[-5:]}")


@pytest.fixture
def replayer(tmp_path: Path) -> Iterator[Replayer]:
    made = Replayer(tmp_path)
    yield made
    made.watcher.stop()
    made.server.shutdown()
    made.server.server_close()


def page(*names: str, token: str = "", version: str = "10") -> Answer:
    return 200, [{"metadata": {"resourceVersion": version, "continue": token}, "items": [vm_object(n) for n in names]}]


def event(kind: str, name: str, version: str = "11") -> dict[str, Any]:
    obj = vm_object(name)
    obj["metadata"]["resourceVersion"] = version
    return {"type": kind, "object": obj}


GONE: Answer = (410, [{"kind": "Status", "code": 410, "message": "too old"}])
QUIET: Answer = (200, [])


def test_pages_make_one_list(replayer: Replayer) -> None:
    replayer.lists = [page("a", token="next"), page("b")]
    replayer.watches = [QUIET]
    replayer.watcher.start()
    replayer.until(lambda: replayer.watcher.synced)
    assert replayer.names() == {"a", "b"}
    assert "continue=next" in replayer.asked[1]


def test_a_list_that_expires_half_way_changes_nothing_and_is_begun_anew(replayer: Replayer) -> None:
    replayer.lists = [page("a", token="next"), GONE, page("a", "b")]
    replayer.watches = [QUIET]
    replayer.watcher.start()
    replayer.until(lambda: replayer.watcher.synced)
    assert replayer.names() == {"a", "b"}


@pytest.mark.parametrize("answer", [GONE, (200, [{"type": "ERROR", "object": {"code": 410, "message": "too old"}}])])
def test_an_expired_watch_lists_again_and_misses_nothing(replayer: Replayer, answer: Answer) -> None:
    replayer.lists = [page("a", "b"), page("b", "c", version="20")]
    replayer.watches = [answer, QUIET]
    replayer.watcher.start()
    replayer.until(lambda: replayer.names() == {"b", "c"})
    assert not replayer.store.seen_deleted(VmKey("default", "a")), "nobody saw it go"
    replayer.until(lambda: "resourceVersion=20" in replayer.last())


def test_events_and_bookmarks_move_the_watch_on(replayer: Replayer) -> None:
    bookmark = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "15"}}}
    replayer.lists = [page("a")]
    replayer.watches = [(200, [event("ADDED", "b", "12"), event("DELETED", "a", "13"), bookmark]), QUIET]
    replayer.watcher.start()
    replayer.until(lambda: "resourceVersion=15" in replayer.last())
    assert replayer.names() == {"b"}
    assert replayer.store.seen_deleted(VmKey("default", "a"))
    assert not replayer.store.seen_deleted(VmKey("default", "b"))


def test_a_malformed_line_is_an_error_and_the_watch_goes_on(replayer: Replayer) -> None:
    replayer.lists = [page("a")]
    replayer.watches = [(200, [b'{"type": "ADD\n']), (200, [event("ADDED", "b")]), QUIET]
    replayer.watcher.start()
    replayer.until(lambda: replayer.names() == {"a", "b"})
    assert "malformed" in replayer.errors


@pytest.mark.parametrize(("status", "reason"), [(403, "forbidden"), (404, "not_found"), (500, "http_500")])
def test_a_refused_list_is_tried_again_and_named(replayer: Replayer, status: int, reason: str) -> None:
    replayer.lists = [(status, [{"message": "no"}]), page("a")]
    replayer.watches = [QUIET]
    replayer.watcher.start()
    replayer.until(lambda: replayer.watcher.synced)
    assert replayer.errors == [reason]


def test_the_same_facts_again_wake_nobody(replayer: Replayer) -> None:
    replayer.lists = [page("a"), page("a", version="20")]
    replayer.watches = [GONE, QUIET]
    replayer.watcher.start()
    replayer.until(lambda: "resourceVersion=20" in replayer.last())
    assert replayer.changed == [VmKey("default", "a")]

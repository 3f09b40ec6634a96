"""Ways in which a list or a watch can end that a real API server cannot be made to show on demand, and objects that cannot
be read.

What a real API server does (restart, missing verbs, rotated tokens) is tested with a real one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hack.lab.process import wait_for
from ovnagent.core.vm import VmKey
from ovnagent.kube import client, watch
from ovnagent.kube.client import Client, KubeConfig
from ovnagent.kube.events import ObjectRef
from ovnagent.kube.kinds import KINDS
from ovnagent.kube.store import Store
from ovnagent.kube.watch import Watcher
from ovnagent.process.supervision import Supervisor
from tests.api_server import Answer, ApiServer
from tests.desk import vm_object

VMS = KINDS[0]
A, B = VmKey("default", "a"), VmKey("default", "b")


class Replay:
    """One watcher beside an API server that answers what it is told."""

    def __init__(self, directory: Path) -> None:
        self.server = ApiServer(directory)
        self.changed: list[VmKey] = []
        self.errors: list[str] = []
        self.told: list[tuple[ObjectRef, str]] = []
        self.failures: list[str] = []
        self.supervisor = Supervisor(self.failures.append)
        self.store = Store(lambda keys, _: self.changed.extend(keys))
        self.watcher = Watcher(
            Client(KubeConfig(self.server.kubeconfig)),
            VMS,
            self.store,
            lambda _kind, reason: self.errors.append(reason),
            lambda ref, why: self.told.append((ref, why)),
            self.supervisor,
        )

    def start(self, lists: list[Answer], watches: list[Answer]) -> None:
        self.server.lists, self.server.watches = lists, watches
        self.watcher.start()

    def names(self) -> set[str]:
        keys = self.store.keys()
        return {key.name for key in keys}

    def last(self) -> str:
        paths = self.server.paths()
        return paths[-1] if paths else ""

    def until(self, what: Callable[[], object]) -> None:
        wait_for(what, 20, f"asked: {self.server.paths()[-5:]}, errors: {self.errors[-5:]}")


@pytest.fixture
def replay(tmp_path: Path) -> Iterator[Replay]:
    made = Replay(tmp_path)
    yield made
    made.watcher.stop()
    made.server.close()
    assert not made.failures, "no step of a thread failed by a fault in the agent"
    assert not made.supervisor.troubles()


def page_of(*items: Any, token: str = "", version: str = "10") -> Answer:
    return Answer(parts=[{"metadata": {"resourceVersion": version, "continue": token}, "items": list(items)}])


def page(*names: str, token: str = "", version: str = "10") -> Answer:
    return page_of(*(vm_object(name) for name in names), token=token, version=version)


def event(kind: str, name: str, version: str = "11", **more: Any) -> dict[str, Any]:
    obj = vm_object(name, **more)
    obj["metadata"]["resourceVersion"] = version
    return {"type": kind, "object": obj}


def unreadable(name: str, version: str = "11") -> dict[str, Any]:
    """A VM without a UID: it cannot be told from another of its name."""
    obj = vm_object(name)
    del obj["metadata"]["uid"]
    obj["metadata"]["resourceVersion"] = version
    return obj


def deep(name: str, levels: int, version: str = "11") -> bytes:
    """A VM whose template's metadata holds a field that is nested so deep, as the API server takes it."""
    nested = "[" * levels + "]" * levels
    return (
        f'{{"metadata":{{"namespace":"default","name":"{name}","uid":"uid-{name}","resourceVersion":"{version}"}},'
        f'"spec":{{"template":{{"metadata":{{"odd":{nested}}},"spec":{{}}}}}}}}'
    ).encode()


GONE = Answer(410, [{"kind": "Status", "code": 410, "message": "too old"}])
QUIET = Answer()


def test_pages_make_one_list(replay: Replay) -> None:
    replay.start([page("a", token="next"), page("b")], [QUIET])
    replay.until(lambda: replay.watcher.synced)
    assert replay.names() == {"a", "b"}
    assert "continue=next" in replay.server.paths()[1]


def test_a_list_that_expires_half_way_changes_nothing_and_is_begun_anew(replay: Replay) -> None:
    replay.start([page("a", token="next"), GONE, page("a", "b")], [QUIET])
    replay.until(lambda: replay.watcher.synced)
    assert replay.names() == {"a", "b"}


@pytest.mark.parametrize("answer", [GONE, Answer(parts=[{"type": "ERROR", "object": {"code": 410, "message": "too old"}}])])
def test_an_expired_watch_lists_again_and_misses_nothing(replay: Replay, answer: Answer) -> None:
    replay.start([page("a", "b"), page("b", "c", version="20")], [answer, QUIET])
    replay.until(lambda: replay.names() == {"b", "c"})
    assert VmKey("default", "a") not in replay.store.seen_deleted(), "nobody saw it go"
    replay.until(lambda: "resourceVersion=20" in replay.last())


def test_events_and_bookmarks_move_the_watch_on(replay: Replay) -> None:
    bookmark = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "15"}}}
    watch = Answer(parts=[event("ADDED", "b", "12"), event("DELETED", "a", "13"), bookmark])
    replay.start([page("a")], [watch, QUIET])
    replay.until(lambda: "resourceVersion=15" in replay.last())
    assert replay.names() == {"b"}
    assert replay.store.seen_deleted() == {A}


@pytest.mark.parametrize(
    ("status", "reason"), [(403, "forbidden"), (404, "not_found"), (500, "http_500"), (302, "http_302")]
)
def test_a_refused_list_is_tried_again_and_named(replay: Replay, status: int, reason: str) -> None:
    replay.start([Answer(status, [{"message": "no"}]), page("a")], [QUIET])
    replay.until(lambda: replay.watcher.synced)
    assert replay.errors == [reason]


def test_the_same_facts_again_wake_nobody(replay: Replay) -> None:
    replay.start([page("a"), page("a", version="20")], [GONE, QUIET])
    replay.until(lambda: "resourceVersion=20" in replay.last())
    assert replay.changed == [A]


# -- answers that make no sense


@pytest.mark.parametrize(
    "line",
    [
        b'{"type": "ADD\n',
        b"<html><body>502 Bad Gateway</body></html>\n",
        b'{"type": "ADDED"}\n',
        b'{"type": "BOOKMARK", "object": {"metadata": {}}}\n',
        b'{"type": 7, "object": []}\n',
        b"[" * 100_000 + b"\n",
        b"\xff\xfe\n",
        b"null\n",
    ],
)
def test_a_line_that_makes_no_sense_is_an_error_and_the_watch_goes_on(replay: Replay, line: bytes) -> None:
    replay.start([page("a")], [Answer(parts=[line]), Answer(parts=[event("ADDED", "b")]), QUIET])
    replay.until(lambda: replay.names() == {"a", "b"})
    assert replay.errors == ["malformed"]


def test_a_line_without_an_end_is_given_up(replay: Replay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "LINE_LIMIT", 1 << 20)
    endless = Answer(parts=[b'{"type": "ADDED", "object": "', *[b"x" * (1 << 20)] * 50])
    replay.start([page("a")], [endless, Answer(parts=[event("ADDED", "b")]), QUIET])
    replay.until(lambda: replay.names() == {"a", "b"})
    assert replay.errors == ["malformed"]


def test_a_watch_that_never_makes_sense_is_begun_anew_with_a_list(replay: Replay) -> None:
    replay.start([page("a"), page("b", version="20")], [*[Answer(parts=[b"?\n"])] * 3, QUIET])
    replay.until(lambda: replay.names() == {"b"})
    assert replay.errors == ["malformed"] * 3


@pytest.mark.parametrize(
    "body",
    [
        b"<html>log in first</html>",
        b'{"items": []}',
        b'{"metadata": {}, "items": []}',
        b'{"metadata": {"resourceVersion": "1"}, "items": 7}',
        b"[]",
        b"",
        b"\xff",
    ],
)
def test_a_list_that_makes_no_sense_changes_nothing(replay: Replay, body: bytes) -> None:
    replay.start([page("a"), Answer(parts=[body]), page("a", "b", version="20")], [GONE, QUIET])
    replay.until(lambda: replay.names() == {"a", "b"})
    assert replay.errors == ["malformed"]
    assert not replay.store.seen_deleted()


def test_a_page_that_is_too_long_is_asked_for_in_smaller_ones(replay: Replay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "ANSWER_LIMIT", 10_000)
    replay.start([Answer(parts=[b" " * 20_000]), page("a", token="next"), page("b")], [QUIET])
    replay.until(lambda: replay.watcher.synced)
    assert [path.split("limit=")[1].split("&")[0] for path in replay.server.paths()[:3]] == ["100", "20", "20"]
    assert replay.names() == {"a", "b"}
    assert not replay.errors


def test_a_page_that_fails_is_asked_for_again_and_its_list_is_not_begun_anew(replay: Replay) -> None:
    busy = [Answer(503, [{"message": "busy"}]), Answer(429, [{"message": "busy"}])]
    replay.start([page("a", token="next"), *busy, page("b")], [QUIET])
    replay.until(lambda: replay.watcher.synced)
    assert replay.names() == {"a", "b"}
    assert [("continue=next" in path) for path in replay.server.paths()[:4]] == [False, True, True, True]
    assert replay.errors == ["http_503", "http_429"]


def test_a_page_that_fails_for_good_begins_the_list_anew(replay: Replay) -> None:
    busy = [Answer(503, [{"message": "busy"}])] * watch.PAGE_ATTEMPTS
    replay.start([page("a", token="next"), *busy, page("b")], [QUIET])
    replay.until(lambda: replay.watcher.synced)
    assert replay.names() == {"b"}


def test_who_asks_for_a_pause_gets_it(replay: Replay) -> None:
    replay.start([Answer(429, [{"message": "too many"}], {"Retry-After": "2"}), page("a")], [QUIET])
    started = time.monotonic()
    replay.until(lambda: replay.watcher.synced)
    assert time.monotonic() - started >= 2
    assert replay.errors == ["http_429"]


def test_a_new_token_is_taken_up_when_the_old_one_is_refused(replay: Replay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "RELOAD_SECONDS", 0.0)
    replay.server.give_token("second")
    replay.start([Answer(401, [{"message": "expired"}]), page("a")], [QUIET])
    replay.until(lambda: replay.watcher.synced)
    assert [asked.token for asked in replay.server.asked[:2]] == ["Bearer first", "Bearer second"]
    assert not replay.errors


def test_credentials_that_stay_refused_are_named(replay: Replay) -> None:
    replay.start([Answer(401, [{"message": "expired"}])] * 3 + [page("a")], [QUIET])
    replay.until(lambda: replay.watcher.synced)
    assert set(replay.errors) == {"unauthorized"}


# -- objects that cannot be read


def test_an_object_that_cannot_be_read_harms_no_other_in_a_list(replay: Replay) -> None:
    replay.start([page_of(vm_object("a"), unreadable("odd"), vm_object("b"))], [QUIET])
    replay.until(lambda: replay.watcher.synced)
    assert replay.names() == {"a", "b"}
    assert replay.store.quarantined(VMS.fact) == 1
    assert [ref.name for ref, _ in replay.told] == ["odd"]
    facts = replay.store.facts(VmKey("default", "odd"))
    assert "default/odd cannot be read" in replay.store.unsure(facts), "it is there, whatever it says"
    assert not replay.store.unsure(replay.store.facts(A))
    assert not replay.store.unsure(replay.store.facts(VmKey("default", "gone")))
    assert not replay.errors


def test_an_object_that_becomes_unreadable_is_what_it_was(replay: Replay) -> None:
    odd = {"type": "MODIFIED", "object": unreadable("a", "12")}
    end = threading.Event()
    replay.start([page("a")], [Answer(parts=[odd, odd, event("ADDED", "b", "13")], hold=end), QUIET])
    replay.until(lambda: replay.names() == {"a", "b"})
    assert replay.store.facts(A).vm is not None
    assert not replay.store.unsure(replay.store.facts(A)), "known well enough"
    assert (len(replay.told), replay.store.quarantined(VMS.fact)) == (1, 1), "said once"
    end.set()
    replay.until(lambda: "resourceVersion=13" in replay.last())
    assert not replay.errors


def test_what_was_set_aside_counts_again_when_it_can_be_read(replay: Replay) -> None:
    again = Answer(parts=[event("MODIFIED", "odd", "12")])
    replay.start([page_of(unreadable("odd"))], [QUIET, again, QUIET])
    replay.until(lambda: replay.names() == {"odd"})
    assert replay.store.quarantined(VMS.fact) == 0


def test_what_was_set_aside_and_is_deleted_is_gone(replay: Replay) -> None:
    odd = {"type": "DELETED", "object": unreadable("odd", "12")}
    replay.start([page_of(unreadable("odd"))], [Answer(parts=[odd]), QUIET])
    replay.until(lambda: "resourceVersion=12" in replay.last())
    assert replay.store.quarantined(VMS.fact) == 0
    assert not replay.store.unsure(replay.store.facts(VmKey("default", "odd")))
    assert replay.changed == [VmKey("default", "odd")], "its rows may go now"


def test_what_was_set_aside_is_read_again_now_and_then(replay: Replay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "AGAIN_SECONDS", 0.0)
    replay.server.objects["fieldSelector=metadata.name%3Dodd%2Cmetadata.namespace%3Ddefault"] = page("odd")
    replay.start([page_of(unreadable("odd"))], [QUIET])
    replay.watcher._again_at = 0.0
    replay.until(lambda: replay.names() == {"odd"})
    assert replay.store.quarantined(VMS.fact) == 0


@pytest.mark.parametrize("item", [None, 7, "text", [], {}, {"metadata": 7}, {"metadata": {"name": ["x"]}}])
def test_an_object_without_a_name_ends_no_list_and_no_vm(replay: Replay, item: object) -> None:
    replay.start([page_of(vm_object("a"), item), page("b", version="20")], [GONE, QUIET])
    replay.until(lambda: "a" in replay.names() or "b" in replay.names())
    replay.until(lambda: replay.names() == {"b"})
    assert replay.store.quarantined(VMS.fact) == 0
    assert not replay.store.unsure(replay.store.facts(A))
    assert not replay.errors


def test_as_long_as_an_object_without_a_name_is_listed_no_vm_is_taken_for_gone(replay: Replay) -> None:
    replay.start([page_of(vm_object("a"), {})], [QUIET])
    replay.until(lambda: replay.watcher.synced)
    assert replay.store.quarantined(VMS.fact) == 1
    assert replay.store.unsure(replay.store.facts(VmKey("default", "missing")))
    assert not replay.store.unsure(replay.store.facts(A))


@pytest.mark.parametrize("levels", [900, 1020, 5_000, 100_000])
def test_an_object_however_deep_is_read_and_so_is_its_neighbour(replay: Replay, levels: int) -> None:
    items = b",".join((deep("a", levels), deep("b", 1)))
    listed = Answer(parts=[b'{"metadata":{"resourceVersion":"10"},"items":[' + items + b"]}"])
    line = b'{"type":"MODIFIED","object":' + deep("c", levels, "12") + b"}\n"
    replay.start([listed], [Answer(parts=[line, event("ADDED", "d", "13")]), QUIET])
    replay.until(lambda: replay.names() == {"a", "b", "c", "d"})
    replay.until(lambda: "resourceVersion=13" in replay.last())
    assert not replay.errors
    assert replay.store.quarantined(VMS.fact) == 0

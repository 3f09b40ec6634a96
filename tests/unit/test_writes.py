"""What is written to the API server behind the ports: by turns, once, and whatever the server answers."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hack.lab.process import wait_for
from ovnagent.core.vm import VmKey
from ovnagent.kube import events, records, writer
from ovnagent.kube.client import Client, KubeConfig
from ovnagent.kube.events import Events, ObjectRef
from ovnagent.kube.records import Records
from ovnagent.kube.writer import Write, Writer
from ovnagent.process.supervision import Supervisor
from tests.api_server import Answer, ApiServer

VM = ObjectRef("VirtualMachine", "default", "vm", "uid-vm")


@dataclass
class Call(Write):
    """A write that does this, and that if it is given up."""

    carry_out: Callable[[], None]  # type: ignore[assignment]
    given_up: Callable[[], None] = lambda: None  # type: ignore[assignment]


def wait_at_most(probe: Callable[[], object], seconds: float) -> bool:
    """Whether it becomes true within so long."""
    try:
        wait_for(probe, seconds, "it")
    except TimeoutError:
        return False
    return True


class Desk:
    """A writer, Events and records beside an API server that answers what it is told."""

    def __init__(self, directory: Path) -> None:
        self.server = ApiServer(directory)
        self.failures: list[str] = []
        self.dropped: list[str] = []
        self.suppressed: list[str] = []
        self.looked_at: set[VmKey] = set()
        self.supervisor = Supervisor(self.failures.append)
        self.writer = Writer("records", 4, 10_000, self.supervisor, self.dropped.append)
        client = Client(KubeConfig(self.server.kubeconfig))
        self.events = Events(client, self.writer, self.suppressed.append)
        self.records = Records(client, self.writer, self.looked_at.update)
        self.writer.start()

    def settle(self) -> None:
        assert self.writer.flush(20), "all is written"


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.writer.stop()
    made.server.close()
    assert not made.failures, "no step of a thread failed by a fault in the agent"
    assert not made.supervisor.troubles()


# -- the queue


def test_a_write_that_raises_anything_ends_no_worker_and_blocks_no_key(desk: Desk) -> None:
    done: list[str] = []
    given_up: list[str] = []

    def broken() -> None:
        raise RecursionError("deep")

    for _ in range(8):
        desk.writer.put("ns", "key", Call(broken, lambda: given_up.append("key")))
        desk.settle()
    desk.writer.put("ns", "key", Call(lambda: done.append("key")))
    desk.settle()
    assert (done, given_up, desk.dropped) == (["key"], ["key"] * 8, ["fault"] * 8)


def test_namespaces_take_turns_and_none_has_all_workers(desk: Desk) -> None:
    order: list[str] = []
    free, busy = threading.Event(), threading.Semaphore(0)

    def wait() -> None:
        busy.release()
        free.wait(20)

    for number in range(1000):
        desk.writer.put("busy", number, Call(wait))
    assert busy.acquire(timeout=10)
    assert busy.acquire(timeout=10), "half of the workers are on it, and hang"
    for number in range(5):
        desk.writer.put("quiet", number, Call(lambda: order.append("quiet")))
    wait_for(lambda: len(order) == 5, 10, "the other namespace's are written meanwhile")
    free.set()
    desk.settle()


def test_a_flood_delays_the_next_namespace_by_its_share(desk: Desk) -> None:
    order: list[str] = []
    desk.writer.stop()
    slow = Writer("events", 1, 10_000, desk.supervisor, desk.dropped.append)
    for number in range(1000):
        slow.put("busy", number, Call(lambda: order.append("busy")))
    slow.put("quiet", 0, Call(lambda: order.append("quiet")))
    slow.start()
    assert slow.flush(20)
    slow.stop()
    assert order.index("quiet") <= 1


def test_a_full_queue_drops_the_oldest_of_who_fills_it(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "CAPACITY", 10)
    idle = Writer("records", 1, 10_000, desk.supervisor, desk.dropped.append)
    done: list[object] = []
    idle.put("quiet", "first", Call(lambda: done.append("first")))
    for number in range(20):
        idle.put("busy", number, Call(lambda number=number: done.append(number)))  # type: ignore[misc]
    idle.start()
    assert idle.flush(10)
    idle.stop()
    assert "first" in done
    assert sorted(each for each in done if each != "first") == list(range(11, 20))  # type: ignore[type-var]
    assert desk.dropped == ["queue_full"] * 11


def test_what_is_held_waits_for_its_release_or_the_end_of_its_time(desk: Desk) -> None:
    done: list[str] = []
    desk.writer.hold(60)
    desk.writer.put("default", "a", Call(lambda: done.append("a")))
    assert not wait_at_most(lambda: done, 0.3)
    desk.writer.release()
    wait_for(lambda: done == ["a"], 5, "it is written")
    desk.writer.hold(0.2)
    desk.writer.put("default", "b", Call(lambda: done.append("b")))
    wait_for(lambda: done == ["a", "b"], 5, "nobody released it, and its time is over")


def test_what_is_written_gives_way_to_what_is_more_urgent_for_so_long_at_most(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm, done = threading.Event(), list[str]()
    polite = Writer("records", 2, 10_000, desk.supervisor, desk.dropped.append, calm)
    polite.start()
    monkeypatch.setattr(writer, "GIVE_WAY_SECONDS", 60)
    polite.put("default", "a", Call(lambda: done.append("a")))
    assert not wait_at_most(lambda: done, 0.3)
    calm.set()
    wait_for(lambda: done == ["a"], 5, "it is written")
    calm.clear()
    monkeypatch.setattr(writer, "GIVE_WAY_SECONDS", 0.2)
    polite.put("default", "b", Call(lambda: done.append("b")))
    wait_for(lambda: done == ["a", "b"], 5, "it has waited long enough")
    polite.stop()


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_no_write_is_left_though_no_worker_wakes_all_others(desk: Desk, workers: int) -> None:
    """Many under few keys, of few namespaces: most of them may not be written when they come."""
    done: list[int] = []
    some = Writer("records", workers, 10_000, desk.supervisor, desk.dropped.append)
    some.start()
    for number in range(300):
        some.put(f"ns{number % 3}", number % 7, Call(lambda number=number: done.append(number)))  # type: ignore[misc]
        if number % 50 == 0:
            assert some.flush(3), "well before an idle worker looks round by itself"
    assert some.flush(3)
    assert {number % 21 for number in done} == set(range(21)), "each key's newest"
    some.stop()


def test_an_agent_that_ends_writes_what_was_held(desk: Desk) -> None:
    done: list[str] = []
    desk.writer.hold(60)
    desk.writer.put("default", "a", Call(lambda: done.append("a")))
    desk.settle()
    assert done == ["a"]


def test_only_the_newest_of_one_key_is_written(desk: Desk) -> None:
    done: list[int] = []
    free, busy = threading.Event(), threading.Event()

    def first() -> None:
        busy.set()
        free.wait(20)
        done.append(0)

    desk.writer.put("ns", "key", Call(first))
    assert busy.wait(5), "the first is under way"
    for number in range(1, 4):
        desk.writer.put("ns", "key", Call(lambda number=number: done.append(number)))  # type: ignore[misc]
    free.set()
    desk.settle()
    assert done == [0, 3]


@pytest.mark.parametrize(
    ("answer", "why"),
    [(Answer(403, [{"message": "no"}]), "forbidden"), (Answer(404, [{"message": "no"}]), "not_found")],
)
def test_what_the_server_refuses_for_good_is_given_up_and_counted(
    desk: Desk, answer: Answer, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    desk.server.writes = [answer]
    client = Client(KubeConfig(desk.server.kubeconfig))
    for number in range(50):
        desk.writer.put("ns", number, Call(lambda: client.request("PATCH", "/x", {})))
    desk.settle()
    assert desk.dropped == [why] * 50
    assert len([record for record in caplog.records if record.message == "write given up"]) == 1, "said once"


def test_a_write_waits_as_long_as_it_is_asked_to(desk: Desk) -> None:
    desk.server.writes = [Answer(429, [{"message": "busy"}], {"Retry-After": "1"}), Answer(parts=[{}])]
    started = time.monotonic()
    desk.records.keep(VM, "", "text")
    desk.settle()
    assert time.monotonic() - started >= 1
    assert len(desk.server.written("virtualmachines/vm")) == 2
    assert not desk.dropped


# -- Events


def test_an_event_whose_repetition_is_answered_with_nonsense_is_told_all_the_same(desk: Desk) -> None:
    """A 200 that is no JSON ended the worker."""
    desk.server.writes = [Answer(409, [{"message": "exists"}]), Answer(parts=[b"<html>"]), Answer(parts=[{}])]
    desk.events.warn(VM, "Conflict", "taken")
    desk.settle()
    post, stamp, count = desk.server.written("events")
    assert (post.method, stamp.method, count.method) == ("POST", "PATCH", "PATCH")
    assert json.loads(count.body)["count"] == 2
    assert not desk.dropped


def test_what_happens_is_told_each_time_and_what_is_wrong_once_in_a_while(desk: Desk) -> None:
    for number in range(6):
        desk.events.normal(VM, "MigrationDone", f"migration {number} is done")
        desk.events.warn(VM, "AddressTaken", "10.16.0.9 is taken")
        desk.settle()
    reasons = [json.loads(asked.body)["reason"] for asked in desk.server.written("events")]
    assert (reasons.count("MigrationDone"), reasons.count("AddressTaken")) == (6, 1)
    assert desk.suppressed == ["repeated"] * 5


def test_the_same_happening_twice_is_told_twice(desk: Desk) -> None:
    for _ in range(2):
        desk.events.normal(VM, "AddressAssigned", "10.16.0.9")
        desk.settle()
    assert len(desk.server.written("events")) == 2


def test_one_object_cannot_flood_the_events(desk: Desk) -> None:
    for number in range(events.BURST + 20):
        desk.events.normal(VM, "Odd", f"{number}")
    desk.events.normal(ObjectRef("VirtualMachine", "default", "other", "uid"), "Odd", "1")
    desk.settle()
    told = len(desk.server.written("events"))
    assert events.BURST + 1 <= told <= events.BURST + 3
    assert desk.suppressed == ["rate"] * (events.BURST + 21 - told)


def test_text_of_all_kinds_can_be_told(desk: Desk) -> None:
    desk.events.warn(VM, "Odd", "\ud800 \x00 ☃")
    desk.settle()
    assert not desk.dropped
    assert len(desk.server.written("events")) == 1


# -- records


def test_a_record_is_sent_once_until_the_watch_shows_it(desk: Desk) -> None:
    for _ in range(5):
        desk.records.keep(VM, "", "new")
        desk.settle()
    assert len(desk.server.written("virtualmachines/vm")) == 1
    desk.records.keep(VM, "new", "new")
    desk.records.keep(VM, "", "new")
    desk.settle()
    assert len(desk.server.written("virtualmachines/vm")) == 2, "somebody took it away"


def test_another_text_is_sent_at_once(desk: Desk) -> None:
    for text in ("one", "two", "one"):
        desk.records.keep(VM, "", text)
        desk.settle()
    sent = [json.loads(asked.body)["metadata"]["annotations"] for asked in desk.server.written("virtualmachines/vm")]
    assert [text for annotations in sent for text in annotations.values()] == ["one", "two", "one"]


def test_a_record_that_the_watch_does_not_show_is_looked_at_and_sent_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "SHOWN_SECONDS", 0.0)
    desk.records.keep(VM, "", "new")
    desk.settle()
    desk.records.tidy()
    assert desk.looked_at == {VmKey("default", "vm")}
    desk.records.keep(VM, "", "new")
    desk.settle()
    assert len(desk.server.written("virtualmachines/vm")) == 2


def test_a_record_that_was_given_up_is_tried_again_later_and_not_at_each_look(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.server.writes = [Answer(403, [{"message": "no"}]), Answer(parts=[{}])]
    for _ in range(3):
        desk.records.keep(VM, "", "new")
        desk.settle()
        desk.records.tidy()
    assert len(desk.server.written("virtualmachines/vm")) == 1
    assert not desk.looked_at
    monkeypatch.setattr(records, "AGAIN_SECONDS", 0.0)
    desk.server.writes = [Answer(403, [{"message": "no"}]), Answer(parts=[{}])]
    desk.records.keep(VM, "", "newer")
    desk.settle()
    desk.records.tidy()
    assert desk.looked_at == {VmKey("default", "vm")}
    desk.records.keep(VM, "", "newer")
    desk.settle()
    assert len(desk.server.written("virtualmachines/vm")) == 3


def test_another_vm_of_the_same_name_gets_its_own(desk: Desk) -> None:
    desk.records.keep(VM, "", "new")
    desk.settle()
    desk.records.keep(ObjectRef(VM.kind, VM.namespace, VM.name, "uid-2"), "", "new")
    desk.settle()
    assert [json.loads(asked.body)["metadata"]["uid"] for asked in desk.server.written("/vm")] == ["uid-vm", "uid-2"]

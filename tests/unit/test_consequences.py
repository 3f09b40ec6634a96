"""What follows from rows that were written: what is remembered at once, and what people are told when nothing is urgent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ovnagent import consequences
from ovnagent.announce import Announcer
from ovnagent.consequences import Consequences
from ovnagent.core.vm import VmKey
from ovnagent.dirty import Dirty
from ovnagent.kube.client import KubeConfig
from ovnagent.kube.kubernetes import Kubernetes
from ovnagent.notes import Notes
from ovnagent.process.supervision import Supervisor
from ovnagent.serve.metrics import Metrics
from ovnagent.timelines import Timelines
from tests.api_server import ApiServer
from tests.desk import Desk, vm_object

URGENT = VmKey("default", "somebody-s-migration")


class Table:
    """Consequences beside a desk; no thread of the Kubernetes side is started, so what is to be told stays in its queues."""

    def __init__(self, server: ApiServer) -> None:
        self.desk, self.dirty, self.metrics = Desk(), Dirty(), Metrics()
        self.kube = Kubernetes(KubeConfig(server.kubeconfig), lambda *_: None, lambda: None, Supervisor())
        self.failed: dict[VmKey, Exception] = {}
        self.notes = Notes()
        announcer = Announcer(self.kube.events, self.metrics)
        self.consequences = Consequences(self.notes, Timelines(), self.dirty, self.kube, announcer, self.metrics)

    def draw(self, name: str) -> None:
        """A VM is created and its port written."""
        self.desk.feed("ADDED", "virtualmachines", vm_object(name))
        case = self.desk._case(VmKey("default", name))
        before = dict(self.desk.rows)
        (result,) = self.desk.look(VmKey("default", name))
        assert self.desk.rows != before
        self.notes.look(case.facts, case.where, 0.0)
        self.consequences.draw(result, case, self.desk.writes[-1:], None, False, 0.0, 1.0, False)

    def tell(self) -> None:
        self.consequences.tell(self.failed.__setitem__)

    @property
    def told(self) -> int:
        """Events and records that wait to be written."""
        return self.kube.event_writer.pending + self.kube.record_writer.pending


@pytest.fixture
def table(tmp_path: Path) -> Iterator[Table]:
    server = ApiServer(tmp_path)
    yield Table(server)
    server.close()


def test_people_are_told_at_once_where_nothing_is_urgent(table: Table) -> None:
    table.draw("web")
    table.tell()
    assert table.told == 2, "an Event and a record"


def test_people_are_told_once_nothing_is_urgent_any_more(table: Table) -> None:
    table.dirty.add([URGENT], urgent=True)
    table.draw("web")
    assert VmKey("default", "web") in table.notes.seen, "what the next look needs is remembered at once"
    table.tell()
    assert table.told == 0
    table.dirty.take(0)
    table.tell()
    assert table.told == 2


def test_not_too_much_waits(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consequences, "UNTOLD", 2)
    table.dirty.add([URGENT], urgent=True)
    for name in ("a", "b", "c", "d"):
        table.draw(name)
        table.tell()
    assert table.told == 2 * 2, "of two of the four"


def test_what_cannot_be_told_of_one_keeps_nothing_from_another(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    tell = Announcer.tell

    def broken(self: Announcer, result: object, *rest: object) -> None:
        if getattr(result, "key", None) == VmKey("default", "a"):
            raise RecursionError("deep")
        tell(self, result, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Announcer, "tell", broken)
    table.draw("a")
    table.draw("b")
    table.tell()
    assert list(table.failed) == [VmKey("default", "a")]
    assert table.kube.event_writer.pending == 1

"""The lock: a holder that is killed, that is frozen and comes back, and that has it taken away."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from hack.lab.databases import Server, server
from hack.lab.free_ports import free_ports
from hack.lab.process import wait_for
from ovnagent.core import takeover as decision
from ovnagent.core.ports import ALIVE
from ovnagent.core.takeover import Verdict
from ovnagent.ovn.changes import CreatePort, CreateSwitch
from ovnagent.ovn.northbound import Group, Northbound, NotCommittedError
from ovnagent.ovn.takeover import Takeover
from tests.integration.nb_agent import SECONDS, Start, port

LONG = os.environ.get("OVNAGENT_LONG") == "1"
"""The long forms: fifty times instead of a few."""


class Writer:
    """A process of nb_writer's."""

    def __init__(self, remote: str, name: str) -> None:
        self.name = name
        self.ready = False
        self.committed: list[float] = []
        """When its row of that number was committed: monotonic seconds."""
        self.refused = 0
        argv = [sys.executable, "-m", "tests.integration.nb_writer", remote, name]
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if not line.endswith("\n"):  # killed in the middle of it
                break
            what, *rest = line.split()
            self.ready |= what == "ready"
            if what == "committed":
                self.committed.append(float(rest[1]))
            self.refused += what == "refused"

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> None:
        self.signal(signal.SIGKILL)
        self.process.wait()
        self._thread.join(SECONDS)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def tcp() -> str:
    return f"tcp:127.0.0.1:{free_ports(1)[0]}"


@pytest.fixture
def nb(tmp_path: Path, tcp: str) -> Iterator[Server]:
    with server(tmp_path / "nb", remotes=(f"--remote=ptcp:{tcp.rpartition(':')[2]}:127.0.0.1",)) as each:
        each.nbctl("init", "--", "ls-add", "pods")
        yield each


def rows(nb: Server) -> set[str]:
    answer = nb.transact({"op": "select", "table": "Logical_Switch_Port", "where": [], "columns": ["name"]})
    return {row["name"] for row in answer[0]["rows"]}


@pytest.mark.parametrize("transport", ["unix", "tcp"])
def test_a_holder_that_is_killed_is_followed_within_a_second(nb: Server, tcp: str, transport: str) -> None:
    """From the kill to the first row of the next one. What was told to be written is there."""
    remote = nb.remote if transport == "unix" else tcp
    kills, took = 50 if LONG else 4, []
    dead: list[Writer] = []
    with ExitStack() as stack:

        def another(number: int) -> Writer:
            writer = Writer(remote, f"w{number}")
            stack.callback(writer.end)
            return writer

        waiting = [another(number) for number in range(3)]
        for number in range(kills):
            wait_for(lambda: all(each.ready for each in waiting[:2]), 30, "the copies of the holder and the next one")
            holder = wait_for(lambda: next((each for each in waiting if each.committed), None), SECONDS, "a holder")
            wait_for(lambda holder=holder: len(holder.committed) > 5, SECONDS, "some rows of the holder's")
            killed = time.monotonic()
            holder.signal(signal.SIGKILL)
            waiting.remove(holder)
            dead.append(holder)
            waiting.append(another(number + 3))
            first = wait_for(
                lambda: min((each.committed[0] for each in waiting if each.committed), default=None), SECONDS, "a next row"
            )
            took.append(first - killed)
        for each in dead:
            each.process.wait()
            each._thread.join(SECONDS)
        left = rows(nb)
        for each in dead:
            told = {f"{each.name}-{number}" for number in range(len(each.committed))}
            assert told <= left
            assert len({row for row in left if row.startswith(f"{each.name}-")} - told) <= 1, "one may have been under way"
    took.sort()
    print(f"{transport}: {kills} kills, median {statistics.median(took) * 1000:.0f} ms, longest {took[-1] * 1000:.0f} ms")
    assert took[-1] < 1


def test_a_frozen_holder_whose_lock_was_taken_writes_nothing_when_it_wakes(nb: Server, start: Start) -> None:
    times = 200 if LONG else 50
    thief = start(nb.remote, ready=False)
    wait_for(lambda: thief.now.complete, SECONDS, "the standby's copy")
    holder = Writer(nb.remote, "holder")
    try:
        took = []
        for number in range(times):
            before = len(holder.committed)
            wait_for(lambda before=before: len(holder.committed) > before, SECONDS, "a row of the holder's")
            thief.northbound.acquire_lock()
            wait_for(lambda: thief.northbound.contended, SECONDS, "the standby waits for the lock")
            holder.signal(signal.SIGSTOP)
            began = time.monotonic()
            thief.northbound.steal_lock()
            wait_for(lambda: thief.northbound.has_lock, SECONDS, "the standby with the lock")
            took.append(time.monotonic() - began)
            left, refused = rows(nb), holder.refused
            holder.signal(signal.SIGCONT)
            wait_for(lambda refused=refused: holder.refused > refused + 2, SECONDS, "attempts of the holder's")
            assert rows(nb) == left
            assert thief.commit(CreatePort(port(f"thief-{number}"))) is None
            thief.northbound.release_lock()
        print(f"taken {times} times, at most {max(took) * 1000:.0f} ms each")
        before = len(holder.committed)
        wait_for(lambda: len(holder.committed) > before, SECONDS, "the holder goes on when it has the lock back")
    finally:
        holder.end()


def test_a_holder_that_is_alive_answers_and_a_frozen_one_does_not(nb: Server, start: Start) -> None:
    standby = start(nb.remote, ready=False)
    wait_for(lambda: standby.now.complete, SECONDS, "the standby's copy")
    holder = Writer(nb.remote, "holder")
    try:
        wait_for(lambda: holder.committed, 30, "the holder at work")
        standby.northbound.acquire_lock()
        wait_for(lambda: standby.northbound.contended, SECONDS, "the standby waits for the lock")
        standby.heard.forget()
        standby.northbound.ask_holder()
        wait_for(lambda: standby.heard.inventory >= 2 or not standby.northbound.holder_asked, SECONDS, "the answer")
        wait_for(lambda: not standby.northbound.holder_asked, SECONDS, "the question is gone")
        assert not standby.northbound.has_lock

        holder.signal(signal.SIGSTOP)
        standby.northbound.ask_holder()
        wait_for(lambda: standby.northbound.holder_asked, SECONDS, "the question in the copy")
        time.sleep(0.5)  # nothing happens
        assert standby.northbound.holder_asked
        standby.northbound.steal_lock()
        wait_for(lambda: standby.northbound.has_lock, SECONDS, "the lock")
        standby.northbound.answer()
        wait_for(lambda: not standby.northbound.holder_asked, SECONDS, "the question is gone")
        assert standby.commit(CreateSwitch("vlan7")) is None
    finally:
        holder.end()


def test_a_standby_takes_the_lock_from_a_frozen_holder_and_from_no_other(
    nb: Server, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decision, "IDLE_SECONDS", 0.3)
    monkeypatch.setattr(decision, "ANSWER_SECONDS", 1.0)
    monkeypatch.setattr(decision, "BELIEVED_SECONDS", 1.0)
    standby = start(nb.remote, ready=False)
    wait_for(lambda: standby.now.complete, SECONDS, "the standby's copy")
    holder = Writer(nb.remote, "holder")
    takeover = Takeover(standby.northbound)
    since = time.monotonic()
    try:
        wait_for(lambda: holder.committed, 30, "the holder at work")
        standby.northbound.acquire_lock()
        end = time.monotonic() + 1
        while time.monotonic() < end:  # the holder writes, and so is left alone
            assert takeover.look(True, since) is Verdict.WAIT
            time.sleep(0.02)

        # As if it wrote nothing: it is asked, and answers.
        monkeypatch.setattr(Northbound, "rows_changed", None)
        seen = {takeover.look(True, since)}
        end = time.monotonic() + 3
        while time.monotonic() < end:
            seen.add(takeover.look(True, since))
            time.sleep(0.02)
        assert seen == {Verdict.ASK, Verdict.WAIT}
        monkeypatch.undo()
        monkeypatch.setattr(decision, "IDLE_SECONDS", 0.3)
        monkeypatch.setattr(decision, "ANSWER_SECONDS", 1.0)
        monkeypatch.setattr(decision, "BELIEVED_SECONDS", 0.1)

        holder.signal(signal.SIGSTOP)
        wait_for(lambda: takeover.look(True, since) is Verdict.TAKE, SECONDS, "the standby takes the lock")
        wait_for(lambda: standby.northbound.has_lock, SECONDS, "the lock")
        assert takeover.times == 1
        assert standby.commit(CreateSwitch("vlan7")) is None
    finally:
        holder.end()


def test_who_is_robbed_knows_and_takes_part_again(nb: Server, start: Start) -> None:
    first, second = start(nb.remote), start(nb.remote, ready=False)
    wait_for(lambda: second.now.complete, SECONDS, "the second's copy")
    second.northbound.acquire_lock()
    wait_for(lambda: second.northbound.contended, SECONDS, "the second waits")
    assert first.northbound.robbed is None
    second.northbound.steal_lock()
    wait_for(lambda: second.northbound.has_lock and not first.northbound.has_lock, SECONDS, "the lock has gone over")
    assert first.northbound.robbed is not None
    assert first.northbound.contended
    with pytest.raises(NotCommittedError, match="lock"):
        first.commit(CreateSwitch("vlan7"))
    second.northbound.stop()
    wait_for(lambda: first.northbound.has_lock, SECONDS, "the lock is back")
    assert first.commit(CreateSwitch("vlan7")) is None


def test_what_was_computed_before_the_lock_was_lost_is_not_written_once_it_is_back(nb: Server, start: Start) -> None:
    """The database asserts no more than that it is held now; somebody else may have written meanwhile."""
    first, second = start(nb.remote), start(nb.remote, ready=False)
    wait_for(lambda: second.now.complete, SECONDS, "the second's copy")
    term = first.northbound.lock_term
    groups = [Group("test", (CreatePort(port("stale")),))]
    second.northbound.steal_lock()
    wait_for(lambda: second.northbound.has_lock, SECONDS, "the second with the lock")
    assert second.commit(CreateSwitch("vlan7")) is None
    second.northbound.stop()
    wait_for(lambda: first.northbound.has_lock and first.northbound.lock_term != term, SECONDS, "the lock is back")
    with pytest.raises(NotCommittedError, match="not all the time"):
        first.northbound.commit(groups, term)
    assert "stale" not in rows(nb)
    nb.nbctl("set", "NB_Global", ".", f"external_ids:{ALIVE}c1=asked")
    wait_for(lambda: first.northbound.holder_asked, SECONDS, "the holder is asked")
    first.northbound.answer()
    wait_for(lambda: not first.northbound.holder_asked, SECONDS, "it answers all the same")
    assert first.northbound.commit(groups, first.northbound.lock_term) == [None]
    assert "stale" in rows(nb)

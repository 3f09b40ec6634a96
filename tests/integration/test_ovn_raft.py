"""A Northbound cluster of three to which everything happens that can, while the agent writes: nothing is lost, nothing is
written twice, and the time without writes is the cluster's own."""

from __future__ import annotations

import itertools
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from hack.lab.databases import Server, cluster, leads
from hack.lab.process import running, wait_for
from hack.lab.proxy import Proxy
from ovnagent.core.ports import Port
from ovnagent.ovn import session
from ovnagent.ovn.changes import Change, CreatePort, CreateSwitch, DeleteRows, UpdatePort
from ovnagent.ovn.northbound import Group, NotCommittedError
from tests.integration.nb_agent import Agent, Start, agents, port

LONG = os.environ.get("OVNAGENT_LONG") == "1"
CHANGES = 500 if LONG else 120
SECONDS = 60.0


class Worker:
    """Makes so many changes one after the other, as the reconciler does: what should be against what is, and what is not
    known to be written once more. Every other change is one of a port that is there; each port has a row of DNS."""

    def __init__(self, agent: Agent, changes: int) -> None:
        self.agent, self.changes = agent, changes
        self.wanted: dict[str, Port] = {}
        self.times: list[float] = [time.monotonic()]
        """When each change was committed: monotonic seconds."""
        self.lost = 0
        self.trouble: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        try:
            for number in range(self.changes):
                name = f"vm{number - number % 2}"
                ip = f"10.16.{number // 250}.{number % 250 + 1}"
                self.wanted[name] = replace(port(name, ip=ip, requested_chassis=f"chassis{number}"), dns=f"{name} {ip}")
                self._write(self.wanted[name])
                self.times.append(time.monotonic())
        except BaseException as error:
            self.trouble = error

    def _write(self, wanted: Port) -> None:
        end = time.monotonic() + SECONDS
        while True:
            assert time.monotonic() < end, f"{wanted.name} is not written"
            self.agent.northbound.acquire_lock()
            now = self.agent.now
            if now.complete and self.agent.northbound.has_lock:
                present = now.ports.get(wanted.name)
                if present is not None and present.port == wanted:
                    return
                change: Change = CreatePort(wanted) if present is None else UpdatePort(present, wanted)
                try:
                    errors = self.agent.northbound.commit([Group(wanted.name, (change,))])
                except NotCommittedError:
                    self.lost += 1
                else:
                    assert errors == [None]
                    # The copy has it when the answer comes; else it would be written again.
                    continue
            time.sleep(0.005)

    def at(self, part: float) -> None:
        """Wait until this part of the changes is done."""
        wait_for(lambda: self.trouble or len(self.times) > part * self.changes, SECONDS, f"{part:.0%} of the changes")
        assert self.trouble is None, self.trouble

    def done(self) -> None:
        self._thread.join(2 * SECONDS)
        assert self.trouble is None, self.trouble
        assert len(self.times) == self.changes + 1

    @property
    def gap(self) -> float:
        """The longest time without a write."""
        return max(after - before for before, after in itertools.pairwise(self.times))


class Members:
    """The members, each behind a proxy, as the agent sees them."""

    def __init__(self, servers: list[Server], proxies: list[Proxy]) -> None:
        self.servers, self.proxies = servers, proxies
        self.election = 0.0
        """How long it took until another led, after the leader was lost: seconds."""

    def elected(self, without: Server) -> None:
        """Wait for the next leader: what a fault costs whoever writes."""
        began = time.monotonic()
        others = [each for each in self.servers if each is not without]
        wait_for(lambda: any(leads(each) for each in others), SECONDS, "another leader")
        self.election = time.monotonic() - began

    def leader(self) -> int:
        """The leader's number."""
        numbers = range(len(self.servers))
        running_ones = [number for number in numbers if running(self.servers[number].pidfile)]
        found = wait_for(lambda: [number for number in running_ones if leads(self.servers[number])], SECONDS, "a leader")
        return found[0]


@pytest.fixture
def members(tmp_path: Path) -> Iterator[Members]:
    with ExitStack() as stack:
        servers = stack.enter_context(cluster(tmp_path))
        proxies = [Proxy(tmp_path / f"proxy{number}", each.directory / "db.sock") for number, each in enumerate(servers)]
        for each in proxies:
            each.start()
            stack.callback(each.stop)
        yield Members(servers, proxies)


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """A silent connection is given up after 2 s instead of 10."""
    monkeypatch.setattr(session, "PROBE_MILLISECONDS", 1000)
    with agents() as found:
        yield found


def leader_killed(members: Members, worker: Worker) -> None:
    leader = members.servers[members.leader()]
    leader.kill()
    members.elected(leader)
    worker.at(0.6)
    leader.start()


def leader_moved(members: Members, worker: Worker) -> None:
    for part in (0.4, 0.6, 0.8):
        members.servers[members.leader()].appctl("cluster/failure-test", "transfer-leadership")
        worker.at(part)


def leader_cut_off_from_its_clients(members: Members, worker: Worker) -> None:
    """It leads on; nobody can write before it is given up by the agent, and nobody tells the agent. So it moves on, to
    members that do not lead: until the leader moves, or is there again, nothing can be written."""
    proxy = members.proxies[members.leader()]
    proxy.silent = True
    wait_for(lambda: not worker.agent.now.complete, SECONDS, "the loss noticed")
    proxy.silent = False
    worker.at(0.6)


def leader_cut_off_from_its_peers(members: Members, worker: Worker) -> None:
    leader = members.servers[members.leader()]
    leader.appctl("cluster/failure-test", "stop-raft-rpc")
    members.elected(leader)
    worker.at(0.6)
    leader.kill()
    leader.start()


def leader_frozen(members: Members, worker: Worker) -> None:
    leader = members.servers[members.leader()]
    leader.freeze()
    members.elected(leader)
    worker.at(0.6)
    leader.thaw()


def compaction(members: Members, worker: Worker) -> None:
    """Which has the leader hand its office over each time."""
    for part in (0.4, 0.5, 0.6, 0.7):
        for each in members.servers:
            each.appctl("ovsdb-server/compact", each.database)
        worker.at(part)


def majority_lost(members: Members, worker: Worker) -> None:
    leader = members.leader()
    gone = [each for number, each in enumerate(members.servers) if number != leader]
    for each in gone:
        each.kill()
    wait_for(lambda: not worker.agent.now.complete, SECONDS, "the loss noticed")
    written = len(worker.times)
    time.sleep(1.0)  # nothing can be written meanwhile
    assert len(worker.times) <= written + 1
    for each in gone:
        each.start()
    worker.at(0.6)


def old_disk(members: Members, worker: Worker) -> None:
    """A member that comes back with what it had on disk a while ago."""
    follower = members.servers[(members.leader() + 1) % 3]
    follower.stop()
    old = follower.directory / "old"
    shutil.copy(follower.file, old)
    follower.start()
    worker.at(0.5)
    follower.kill()
    shutil.copy(old, follower.file)
    follower.start()
    worker.at(0.6)


Fault = Callable[[Members, Worker], None]
SHORT: dict[Fault, float] = {leader_killed: 10, leader_moved: 5, compaction: 5, leader_cut_off_from_its_clients: 10}
"""What happens -> how long there may be no write (seconds). An election takes 1-2 s here."""
MORE: dict[Fault, float] = {leader_cut_off_from_its_peers: 15, leader_frozen: 15, majority_lost: 30, old_disk: 10}
FAULTS = {**SHORT, **(MORE if LONG else {})}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_nothing_is_lost_and_nothing_written_twice(members: Members, start: Start, fault: Fault) -> None:
    agent = start(",".join(each.remote for each in members.proxies))
    assert agent.commit(CreateSwitch("pods")) is None
    worker = Worker(agent, CHANGES)
    worker.start()
    worker.at(0.3)
    fault(members, worker)
    worker.done()
    print(f"{fault.__name__}: {CHANGES} changes, {worker.lost} attempts in vain, at most {worker.gap:.1f} s without a write")
    if members.election:
        print(f"of them {members.election:.1f} s until another member led")

    # A member may commit what it was sent after its client has read the copy of another, which does not have it yet. Two
    # ports of one name the database refuses; a second row of DNS the reconciler finds among the leftovers, and deletes.
    leftovers = [DeleteRows(table, tuple(rows)) for table, rows in agent.now.unused.items() if rows]
    assert agent.commit(*leftovers) is None
    leader = members.servers[members.leader()]
    for table in ("Logical_Switch_Port", "DNS"):
        assert len(leader.nbctl("--bare", "--columns=_uuid", "list", table).split()) == len(worker.wanted), table
    agent.ready()
    assert dict(agent.now.ports).keys() == worker.wanted.keys()
    assert {name: row.port for name, row in agent.now.ports.items()} == worker.wanted
    assert worker.gap < FAULTS[fault]

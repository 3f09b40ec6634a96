"""The agent in the machine's hand: the whole of it as it is deployed, but no thread of its own turns the reconciler, reads a
watch or writes a record. So one seed makes one run. The threads of its connections to OVN are its own; after each step it is
waited for all that the databases have said.

News comes as the lines of the API server's watches, each kind's in order; lists and patches go over HTTP. Time stands still
between steps, for what the reconciler decides by.
"""

from __future__ import annotations

import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

import ovs.jsonrpc

import ovnagent
from ovnagent import dirty, reconciler
from ovnagent.agent import Agent
from ovnagent.config import file
from ovnagent.core.vm import VmKey
from ovnagent.kube import events, records, watch, writer
from ovnagent.kube.watch import Watcher
from ovnagent.ovn import replica
from ovnagent.ovn.connection import Connection
from tests.object_server import ObjectServer

TURNS = 200
"""After so many turns without rest the agent is held to write for ever."""
SECONDS = 20.0
CODE = str(Path(ovnagent.__file__).parent)


class Clock:
    """In place of the module `time`, where the agent reads a clock that decides something."""

    def __init__(self) -> None:
        self.now = time.monotonic()

    def monotonic(self) -> float:
        return self.now

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


class Killed(BaseException):
    """The agent's process ends at this line."""


class NoRestError(AssertionError):
    """The agent goes on and on."""


@contextmanager
def held_clock() -> Iterator[Clock]:
    """Time passes only when it is told to, and nobody waits where there is nothing to do."""
    clock = Clock()
    kept = [(module, "time", module.time) for module in (dirty, reconciler, records, watch, events)]
    kept += [
        (reconciler, "IDLE_SECONDS", reconciler.IDLE_SECONDS),
        (replica, "CONDITION_SECONDS", replica.CONDITION_SECONDS),
        (dirty.Dirty, "pause", dirty.Dirty.pause),
        # The C library's keeps a file open for each thread that ever asked: here they are more than a process may have.
        (uuid, "_generate_time_safe", uuid._generate_time_safe),  # type: ignore[attr-defined]
    ]
    for module, name, _ in kept[:5]:
        setattr(module, name, clock)
    reconciler.IDLE_SECONDS = replica.CONDITION_SECONDS = 0.0
    dirty.Dirty.pause = lambda self, seconds: setattr(clock, "now", clock.now + seconds)  # type: ignore[method-assign]
    uuid._generate_time_safe = None  # type: ignore[attr-defined]
    try:
        yield clock
    finally:
        for module, name, value in kept:
            setattr(module, name, value)


class Driver:
    """One agent after the other."""

    def __init__(self, path: Path, server: ObjectServer, clock: Clock) -> None:
        """`path`: of the configuration's file."""
        self.path, self.server, self.clock = path, server, clock
        self.kills = self.starts = 0
        self.agent: Agent | None = None
        self.hung: dict[str, int] = {}
        """Kind -> how many more times nothing is told of it."""
        self.asked: list[list[Any]] = []
        """The transactions of the living agent that were not refused."""
        self.meanwhile: Callable[[], None] | None = None
        """Another agent leads, once, between the next plan and its transaction."""
        self.stale = False
        """That transaction was written all the same."""

    @property
    def living(self) -> Agent:
        assert self.agent is not None
        return self.agent

    @property
    def watchers(self) -> list[Watcher]:
        return self.living.kube._watchers

    def start(self, steal: bool = False) -> None:
        """A new process: all is listed, the databases are copied, the lock is held (taken from who has it: `steal`); nothing
        is reconciled yet."""
        self.starts += 1
        agent = self.agent = Agent(file.load(self.path), self.path)
        for each in (agent.kube.record_writer, agent.kube.event_writer):
            each._pause, each._calm = 0.0, writer.ALWAYS
        transact = agent.northbound.writer.transact
        self.asked = []

        def noted(operations: list[Any], term: int | None = None) -> None:
            meanwhile, self.meanwhile = self.meanwhile, None
            if meanwhile is not None:
                meanwhile()
            transact(operations, term)
            self.stale = self.stale or meanwhile is not None
            self.asked.append(operations)

        agent.northbound.writer.transact = noted  # type: ignore[method-assign]
        agent.northbound.start()
        agent.southbound.start()
        for watcher in agent.kube._watchers:
            watcher._list()
        agent.kube._announced = True
        agent.dirty.add_everything()
        self._until(lambda: agent.northbound.snapshot.complete and agent.southbound.snapshot.complete, "the copies")
        if steal:
            agent.northbound.steal_lock()
            self.wait_for_lock(True)
        agent.northbound.acquire_lock()

    def stop(self) -> None:
        """The process is gone, with all that it had in memory. Its connections end, and with them its lock."""
        agent, self.agent = self.living, None
        for each in (agent.northbound, agent.southbound):
            each.stop()
            each.connection.txns.close()
        agent.kube.records._client._access.pool.clear()
        agent.dirty.close()

    # -- news

    def pending(self, watcher: Watcher) -> list[tuple[int, bytes]]:
        return self.server.news(watcher.kind.name, int(watcher._version))

    def tell(self, rng: Random, lag: float) -> None:
        """Of each kind all that has happened, or some, or nothing: `lag` is how likely something is held back."""
        watchers = list(self.watchers)
        rng.shuffle(watchers)
        for watcher in watchers:
            lines = self.pending(watcher)
            if self.hung.get(watcher.kind.name, 0) > 0 and lag:
                self.hung[watcher.kind.name] -= 1
                continue
            if lines and rng.random() < lag:
                lines = lines[: rng.randrange(len(lines))]
            for _, line in lines:
                watcher._alive()
                watcher._event(line)

    def gap(self, kind: str) -> None:
        """A watch could not go on where it was: all is listed, and what was deleted meanwhile is merely missing."""
        watcher = next(each for each in self.watchers if each.kind.name == kind)
        self.hung.pop(kind, None)
        watcher._version = ""
        watcher._list()

    def heard_of(self) -> None:
        """Quiet watches are alive: bookmarks come."""
        for watcher in self.watchers:
            watcher._alive()

    # -- the agent's turns

    def settle(self, kill_at: int = 0) -> bool:
        """Until there is nothing to do. `kill_at`: after so many lines of its code the process ends; whether it did."""
        agent = self.living
        try:
            with _killed_after(kill_at):
                self._settle(agent)
        except Killed:
            self.kills += 1
            return True
        return False

    def _settle(self, agent: Agent) -> None:
        for _ in range(TURNS):
            self.barrier()
            before = agent.northbound.writer.transactions
            busy = self._busy(agent)
            agent.reconciler.turn()
            if not agent.northbound.has_lock and agent.northbound.contended:
                return
            if not busy and before == agent.northbound.writer.transactions and not self._busy(agent):
                return
        raise NoRestError(f"the agent comes to no rest in {TURNS} turns")

    def _busy(self, agent: Agent) -> bool:
        with agent.dirty._condition:
            agent.dirty._ripen()
            return agent.dirty._anything or not agent.reconciler.status.in_sync

    def write_records(self) -> None:
        """What waits to be written on VMs is written."""
        queue = self.living.kube.record_writer
        while queue.pending:
            queue._step(queue._loops[0])

    # -- the connections

    def barrier(self) -> None:
        """All that was committed before now is in the agent's snapshots."""
        agent = self.living
        for connection in (agent.northbound.connection, agent.southbound.connection):
            self._heard_all(connection)

    def _heard_all(self, connection: Connection) -> None:
        idl = connection.idl
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            asked: list[Any] = []
            sent, seen = threading.Event(), threading.Event()

            def ask(asked: list[Any] = asked, sent: threading.Event = sent) -> None:
                # The server sends what there is to be told before it answers.
                request = ovs.jsonrpc.Message.create_request("echo", [])
                if not idl._session.send(request):  # else there is no connection now, and no answer will come
                    idl._session.unheeded.add(request.id)
                    asked.append(request.id)
                sent.set()

            connection.request(ask)
            sent.wait(SECONDS)
            while not idl._session.unheeded.isdisjoint(asked) and time.monotonic() < deadline:
                time.sleep(0.0001)
            connection.request(seen.set)
            seen.wait(SECONDS)
            if asked and idl.conditions_met and idl.monitoring and not idl._requests:
                return
        state = f"monitoring {idl.monitoring}, conditions met {idl.conditions_met}, requests under way {idl._requests}"
        echo = "heard" if asked and idl._session.unheeded.isdisjoint(asked) else "unheard"
        raise TimeoutError(f"{idl._db.name} does not answer: {state}, the last echo {echo}, {idl._session.reason}")

    def _until(self, probe: Any, what: str) -> None:
        deadline = time.monotonic() + SECONDS
        while not probe():
            if time.monotonic() > deadline:
                raise TimeoutError(what)
            time.sleep(0.0005)

    def wait_for_lock(self, held: bool) -> None:
        self._until(lambda: self.living.northbound.has_lock == held, f"the lock is held: {held}")

    def told_of(self, name: str) -> Any:
        """What the agent knows of a VM."""
        return self.living.kube.facts(VmKey("default", name))


@contextmanager
def _killed_after(lines: int) -> Iterator[None]:
    if not lines:
        yield
        return
    left = lines

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.startswith(CODE):
            return None
        if event == "line":
            left -= 1
            if left <= 0:
                sys.settrace(None)
                raise Killed
        return trace

    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(None)

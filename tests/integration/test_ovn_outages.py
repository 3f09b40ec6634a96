"""Databases that come late, go, hang, lose their content, or change their leader; and agents that do."""

from __future__ import annotations

import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hack.lab.databases import Server, cluster, leads
from hack.lab.process import wait_for
from ovnagent.ovn import session
from ovnagent.ovn.changes import CreatePort, CreateSwitch, DeletePort, UpdatePort
from ovnagent.ovn.nb_replica import NorthboundReplica
from ovnagent.ovn.northbound import NotCommittedError
from tests.integration.nb_agent import SECONDS, Agent, Start, port

HOLDER = """
import json, sys, time
from ovnagent.ovn.nb_replica import Listeners
from ovnagent.ovn.northbound import Northbound
nothing = lambda *_: None
northbound = Northbound(sys.argv[1], "c1", (), Listeners(nothing, nothing, nothing))
northbound.start()
while not northbound.has_lock:
    northbound.acquire_lock()
    time.sleep(0.01)
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A silent connection is given up after 2 s instead of 10."""
    monkeypatch.setattr(session, "PROBE_MILLISECONDS", 1000)


def fill(agent: Agent) -> None:
    assert agent.commit(CreateSwitch("pods"), CreatePort(port("vm1"))) is None
    agent.row("vm1")


# -- the lock


def test_nothing_is_written_without_the_lock(nb: Server, start: Start) -> None:
    holder = start(nb.remote)
    standby = start(nb.remote, ready=False)
    wait_for(lambda: standby.now.complete, SECONDS, "the standby's copy")
    with pytest.raises(NotCommittedError, match="lock"):
        standby.commit(CreateSwitch("pods"))
    standby.northbound.acquire_lock()
    with pytest.raises(NotCommittedError, match="lock"):
        standby.commit(CreateSwitch("pods"))

    holder.northbound.release_lock()
    wait_for(lambda: standby.northbound.has_lock, SECONDS, "the standby with the lock")
    assert not holder.northbound.has_lock
    with pytest.raises(NotCommittedError, match="lock"):
        holder.commit(CreateSwitch("pods"))
    assert standby.commit(CreateSwitch("pods")) is None
    assert standby.heard.everything


def test_a_lock_that_was_stolen_comes_back_and_is_known_to_be_another_term(nb: Server, start: Start) -> None:
    holder, waiting = start(nb.remote), start(nb.remote, ready=False)
    thief = start(nb.remote, ready=False)
    for agent in (waiting, thief):
        wait_for(lambda agent=agent: agent.now.complete, SECONDS, "the copy")
    waiting.northbound.acquire_lock()
    before = holder.northbound.lock_term
    thief.northbound.steal_lock()
    wait_for(lambda: thief.northbound.has_lock and not holder.northbound.has_lock, SECONDS, "the lock is stolen")
    with pytest.raises(NotCommittedError, match="lock"):
        holder.commit(CreateSwitch("pods"))
    assert thief.commit(CreateSwitch("pods")) is None
    thief.northbound.release_lock()
    wait_for(lambda: holder.northbound.has_lock, SECONDS, "its holder has it again")
    assert not waiting.northbound.has_lock
    assert holder.northbound.lock_term == before + 1


def test_agents_of_two_clusters_have_a_lock_each(nb: Server, start: Start) -> None:
    assert start(nb.remote, cluster="east-1").northbound.has_lock
    assert start(nb.remote, cluster="east_1").northbound.has_lock


def test_the_lock_goes_over_when_its_holder_is_killed(nb: Server, start: Start) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, nb.remote], stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            standby = start(nb.remote, ready=False)
            wait_for(lambda: standby.now.complete, SECONDS, "the standby's copy")
            standby.northbound.acquire_lock()
            with pytest.raises(NotCommittedError):
                standby.commit(CreateSwitch("pods"))
            killed = time.monotonic()
        finally:
            holder.send_signal(signal.SIGKILL)
    wait_for(lambda: standby.northbound.has_lock, SECONDS, "the standby with the lock")
    took = time.monotonic() - killed
    print(f"lock handed over {took * 1000:.0f} ms after SIGKILL")
    assert took < 1
    fill(standby)


# -- the database


def test_a_database_that_comes_late(tmp_path: Path, start: Start) -> None:
    nb = Server(tmp_path / "nb")
    agent = start(nb.remote, ready=False)
    assert not agent.now.complete
    assert agent.northbound.connection.age == float("inf")
    with pytest.raises(NotCommittedError):
        agent.commit(CreateSwitch("pods"))
    nb.create()
    nb.start()
    try:
        agent.ready()
        fill(agent)
    finally:
        nb.stop()


def test_a_restart_of_the_database_is_a_pause(nb: Server, start: Start) -> None:
    agent = start(nb.remote)
    fill(agent)
    nb.stop()
    wait_for(lambda: not agent.now.complete, SECONDS, "the copy is known to be stale")
    assert not agent.northbound.has_lock
    with pytest.raises(NotCommittedError):
        agent.commit(CreatePort(port("vm2")))
    assert set(agent.now.ports) == {"vm1"}, "what was known last stands"
    nb.start()
    agent.ready()
    assert agent.commit(CreatePort(port("vm2"))) is None
    wait_for(lambda: set(agent.now.ports) == {"vm1", "vm2"}, SECONDS, "both ports")


def test_a_database_that_comes_back_empty(nb: Server, start: Start) -> None:
    agent = start(nb.remote)
    fill(agent)
    generation = agent.now.generation
    nb.stop()
    nb.create()
    agent.heard.forget()
    nb.start()
    agent.ready()
    assert agent.now.generation != generation
    assert agent.heard.everything
    assert not agent.now.ports
    assert not agent.now.switches
    fill(agent)


def test_what_was_seen_before_a_database_came_back_older_is_remembered_until_it_is_written(nb: Server, start: Start) -> None:
    agent = start(nb.remote)
    changes = [CreatePort(port(f"vm{number}", ip=f"10.16.0.{number}")) for number in (1, 2, 3)]
    assert agent.commit(CreateSwitch("pods"), *changes) is None
    agent.row("vm3")
    old = nb.file.read_bytes()
    nb.nbctl("lsp-set-addresses", "vm2", "02:00:00:00:00:01 10.16.0.22")
    assert agent.commit(CreatePort(port("vm4", ip="10.16.0.4")), DeletePort(agent.row("vm3"))) is None
    wait_for(lambda: agent.row("vm2").port.ips == ("10.16.0.22",), SECONDS, "the newer row")
    assert not agent.now.before

    nb.stop()
    nb.file.write_bytes(old)
    nb.start()
    agent.ready()
    assert set(agent.now.ports) == {"vm1", "vm2", "vm3"}
    assert {name: row.port.ips for name, row in agent.now.before.items()} == {"vm2": ("10.16.0.22",), "vm4": ("10.16.0.4",)}

    # The connection is lost once more before anything is put right: what was seen before the backup still counts.
    nb.stop()
    nb.start()
    agent.ready()
    assert agent.now.before["vm2"].port.ips == ("10.16.0.22",)

    assert agent.commit(UpdatePort(agent.row("vm2"), port("vm2", ip="10.16.0.22"))) is None
    wait_for(lambda: set(agent.now.before) == {"vm4"}, SECONDS, "what was written anew is not remembered any more")
    nb.stop()
    nb.create()
    nb.start()
    agent.ready()
    assert not agent.now.ports
    assert set(agent.now.before) == {"vm1", "vm2", "vm3", "vm4"}


@pytest.mark.usefixtures("impatient")
def test_a_database_that_hangs_is_noticed_on_a_unix_socket_too(nb: Server, start: Start) -> None:
    agent = start(nb.remote)
    fill(agent)
    nb.freeze()
    try:
        began = time.monotonic()
        with pytest.raises(NotCommittedError, match="connection was lost"):
            agent.commit(CreatePort(port("vm2")))
        assert time.monotonic() - began < 5
        assert not agent.now.complete
        wait_for(lambda: agent.northbound.connection.age > 2, SECONDS, "the age of the copy")
    finally:
        nb.thaw()
    agent.ready()
    assert agent.northbound.connection.age == 0
    wait_for(lambda: "vm1" in agent.now.ports, SECONDS, "the port in the copy")


def test_an_agent_stops_at_once_whatever_the_database_does(nb: Server, start: Start, tmp_path: Path) -> None:
    absent = start(f"unix:{tmp_path}/nothing-here", ready=False)
    agent = start(nb.remote)
    fill(agent)
    hung = start(nb.remote, cluster="c2", ready=False)
    nb.freeze()
    try:
        for each in (absent, agent, hung):
            began = time.monotonic()
            each.northbound.stop()
            assert time.monotonic() - began < 1
            assert not each.northbound.connection.thread.is_alive()
    finally:
        nb.thaw()


@pytest.mark.usefixtures("impatient")
def test_an_endpoint_that_accepts_and_stays_silent_holds_up_nobody(
    nb: Server, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "shuffle", lambda endpoints: endpoints)  # else OVS begins with any of them
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "silent.sock"))
        silent.listen(10)
        agent = start(f"unix:{tmp_path}/silent.sock,{nb.remote}", ready=False)
        wait_for(lambda: agent.now.complete, 15, "the copy from the other endpoint")


def test_an_update_that_is_not_understood_has_all_copied_anew(
    nb: Server, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = start(nb.remote)
    fill(agent)
    generation = agent.now.generation
    honest = NorthboundReplica.notify

    def broken(*arguments: object) -> None:
        monkeypatch.setattr(NorthboundReplica, "notify", honest)
        raise RuntimeError("a bug")

    monkeypatch.setattr(NorthboundReplica, "notify", broken)
    nb.nbctl("lsp-set-addresses", "vm1", "unknown")
    wait_for(lambda: agent.now.generation != generation, SECONDS, "a new copy")
    wait_for(lambda: agent.now.complete, SECONDS, "the copy complete")
    assert agent.row("vm1").port.addresses == ("unknown",)


# -- a cluster of databases


def test_a_cluster_that_changes_its_leader(tmp_path: Path, start: Start) -> None:
    with cluster(tmp_path) as members:
        agent = start(",".join(member.remote for member in members))
        fill(agent)
        leader = next(member for member in members if leads(member))
        leader.stop()
        began = time.monotonic()
        wait_for(lambda: not agent.now.complete, SECONDS, "the leader's end noticed")
        agent.ready()
        print(f"ready {time.monotonic() - began:.1f} s after the leader's end")
        assert set(agent.now.ports) == {"vm1"}
        assert agent.commit(CreatePort(port("vm2"))) is None
        agent.row("vm2")


def test_a_member_that_ceases_to_lead_is_left(tmp_path: Path, start: Start) -> None:
    with cluster(tmp_path) as members:
        agent = start(",".join(member.remote for member in members))
        fill(agent)
        old = next(member for member in members if leads(member))
        old.appctl("cluster/failure-test", "transfer-leadership-after-sending-append-request")
        try:
            agent.commit(CreatePort(port("vm2")))
        except NotCommittedError:
            pass
        wait_for(lambda: any(leads(member) for member in members if member is not old), 20, "a new leader")
        wait_for(lambda: agent.northbound.connection.idl.session_name() != old.remote, 20, "the old one left")
        agent.ready()
        if "vm2" not in agent.now.ports:
            assert agent.commit(CreatePort(port("vm2"))) is None
        agent.row("vm2")

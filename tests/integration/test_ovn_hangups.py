"""Groups that the database will not have, in whatever way it says so: all others are written, soon."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from hack.lab.databases import Server
from hack.lab.process import wait_for
from ovnagent.core.vm import VmKey
from ovnagent.ovn import changes, writer
from ovnagent.ovn.changes import Change, CreatePort, CreateSwitch, Known, Operation
from ovnagent.ovn.northbound import Group, NotCommittedError
from ovnagent.ovn.transaction import AnswerLostError
from ovnagent.ovn.writer import HANGS_UP
from tests.integration.nb_agent import SECONDS, Agent, Start, port

POISON = "ports-of-the-hostile"
UNWRITABLE = "ports-of-the-odd"


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past every check of ours: a marked name becomes one with a NUL character, on which ovsdb-server hangs up."""

    def operations(asked: Sequence[Change], known: Known, cluster: str) -> list[Operation]:
        text = json.dumps(changes.operations(asked, known, cluster))
        if UNWRITABLE in text:
            raise ValueError("a value that must not be written")
        made: list[Operation] = json.loads(text.replace(POISON, "\\u0000"))
        return made

    monkeypatch.setattr(writer, "operations", operations)


def groups(count: int, *bad: int, mark: str = POISON) -> list[Group]:
    names = [f"{mark}-{number}" if number in bad else f"vm{number}" for number in range(count)]
    made = [Group(VmKey("default", f"vm{number}"), (CreatePort(port(name)),)) for number, name in enumerate(names)]
    return [Group("switches", (CreateSwitch("pods"),)), *made]


def settle(agent: Agent, wanted: Sequence[Group], also: Callable[[], object] = lambda: None) -> list[str | None]:
    """Commit as the reconciler does: what is not known to be written is tried again. What is there already is left out."""
    end = time.monotonic() + SECONDS
    while True:
        now = agent.now
        left = [_missing(group, set(now.ports), set(now.switches)) for group in wanted]
        try:
            return agent.northbound.commit(left)
        except NotCommittedError:
            assert time.monotonic() < end, "not committed in time"
            agent.ready()
            also()


def _missing(group: Group, ports: set[str], switches: set[str]) -> Group:
    def there(change: Change) -> bool:
        match change:
            case CreatePort(each):
                return each.name in ports
            case CreateSwitch(name):
                return name in switches
        return False

    return Group(group.label, tuple(change for change in group.changes if not there(change)))


def names(nb: Server) -> set[str]:
    return set(nb.nbctl("--bare", "--columns=name", "list", "Logical_Switch_Port").split())


def test_groups_on_which_the_database_hangs_up_are_found_and_left_out(nb: Server, start: Start) -> None:
    agent = start(nb.remote)
    wanted = groups(200, 17, 18, 150)
    began = time.monotonic()
    errors = settle(agent, wanted)
    took = time.monotonic() - began
    print(f"197 innocent groups written {took * 1000:.0f} ms after the first attempt")
    assert [number for number, error in enumerate(errors[1:]) if error] == [17, 18, 150]
    assert {error for error in errors if error} == {HANGS_UP}
    assert len(names(nb)) == 197
    assert took < 3

    # Known from now on: no connection is lost, none is made to ask again.
    generation = agent.now.generation
    before = nb.appctl("memory/show")
    assert settle(agent, wanted) == errors
    assert agent.now.generation == generation
    assert nb.appctl("memory/show") == before

    # What is changed is looked at again, beside new ones.
    wanted = [*groups(200, 18, 150), Group(VmKey("default", "new"), (CreatePort(port(f"{POISON}-new")),))]
    errors = settle(agent, wanted)
    assert [number for number, error in enumerate(errors[1:]) if error] == [18, 150, 200]
    assert len(names(nb)) == 198


def test_a_standby_that_takes_over_comes_through_as_well(nb: Server, start: Start) -> None:
    holder, standby = start(nb.remote), start(nb.remote, ready=False)
    wait_for(lambda: standby.now.complete, SECONDS, "the standby's copy")
    standby.northbound.acquire_lock()
    wanted, losses = groups(50, 20), list[Agent]()
    began, errors = time.monotonic(), None
    while errors is None:
        for agent in (holder, standby):
            agent.northbound.acquire_lock()
            if agent.northbound.has_lock:
                try:
                    errors = agent.northbound.commit([_missing(each, set(agent.now.ports), set()) for each in wanted])
                except AnswerLostError:
                    losses.append(agent)
                except NotCommittedError:  # the lock went at that moment, or the server took too long to be asked
                    pass
        assert time.monotonic() < began + SECONDS
    assert losses == [holder, standby], "each has lost its connection once"
    assert [number for number, error in enumerate(errors[1:]) if error] == [20]
    took = time.monotonic() - began
    print(f"49 innocent groups written by one of two agents after {took * 1000:.0f} ms")
    assert len(names(nb)) == 49
    assert took < 5


def test_what_must_not_be_written_is_left_out_of_the_one_transaction(nb: Server, start: Start) -> None:
    agent = start(nb.remote)
    before = agent.northbound.writer.transactions
    errors = agent.northbound.commit(groups(100, 3, 50, mark=UNWRITABLE))
    assert {number: error for number, error in enumerate(errors[1:]) if error} == {
        3: "a value that must not be written",
        50: "a value that must not be written",
    }
    assert agent.northbound.writer.transactions == before + 1
    assert len(names(nb)) == 98


def test_who_cannot_create_the_switch_takes_its_ports_along_and_nobody_else(nb: Server, start: Start) -> None:
    agent = start(nb.remote)
    vlan7 = Group("vlan7", (CreatePort(port("vm9", switch="vlan7")), CreateSwitch("vlan7")))
    creator = Group("pods", (CreatePort(port(f"{UNWRITABLE}-x", switch="vlan7")), CreateSwitch("pods")))
    errors = agent.northbound.commit([creator, *groups(2)[1:], vlan7])
    assert errors == ["a value that must not be written", *["logical switch 'pods' does not exist"] * 2, None]
    assert names(nb) == {"vm9"}


def test_what_was_written_before_the_connection_ended_is_known(
    nb: Server, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refused row splits the batch into transactions; the database goes away after some of them."""
    agent = start(nb.remote)
    assert agent.commit(CreateSwitch("pods")) is None
    nb.nbctl("ls-add", "elsewhere", "--", "lsp-add", "elsewhere", "vm0")
    calls = []

    def transact(*arguments: Any, **more: Any) -> None:
        calls.append(arguments)
        if len(calls) == 6:  # all, 0-3, 0-1, 0 (refused), 1, 2-3
            nb.stop()
        honest(*arguments, **more)

    honest = writer.transact
    monkeypatch.setattr(writer, "transact", transact)
    with pytest.raises(NotCommittedError) as caught:
        agent.northbound.commit(groups(8)[1:])
    assert caught.value.committed == {1}
    nb.start()
    assert names(nb) == {"vm0", "vm1"}


def test_a_group_that_ends_the_server_itself_holds_up_the_others_for_a_while_only(
    nb: Server, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is wrong with its text, so it cannot be asked in advance: the transactions get smaller until it is alone."""
    agent = start(nb.remote)
    assert agent.commit(CreateSwitch("pods")) is None
    deadly = "vm2"

    def transact(connection: Any, operations: list[Operation], term: int | None) -> None:
        if f'"{deadly}"' in json.dumps(operations):
            nb.freeze()
            threading.Timer(0.05, nb.kill).start()
        honest(connection, operations, term=term)

    honest = writer.transact
    monkeypatch.setattr(writer, "transact", transact)
    wanted, end = groups(4)[1:], time.monotonic() + 60
    losses = 0
    while True:
        left = [_missing(group, set(agent.now.ports), {"pods"}) for group in wanted]
        try:
            errors = agent.northbound.commit(left)
            break
        except NotCommittedError:
            losses += 1
            assert time.monotonic() < end
            wait_for(lambda: not nb.pidfile.exists(), SECONDS, "the server's end")
            nb.start()
            agent.ready()
    assert [number for number, error in enumerate(errors) if error] == [2]
    assert names(nb) == {f"vm{number}" for number in range(4)} - {deadly}
    print(f"{losses} connections lost")
    assert losses <= 6

"""The copy of NB and the writes to it, against a real ovsdb-server with other clients beside the agent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hack.lab.databases import Server, server
from hack.lab.process import wait_for
from ovnagent.core.ports import CLUSTER
from ovnagent.core.vm import VmKey
from ovnagent.ovn.changes import CreatePort, CreateSwitch, DeletePort, SetGlobal, UpdatePort
from ovnagent.ovn.nb_replica import MANY_CLAUSES
from ovnagent.ovn.northbound import Group, NotCommittedError
from tests.integration.nb_agent import SECONDS, SWITCHES, Agent, Start, group, port


@pytest.fixture
def nb(tmp_path: Path) -> Iterator[Server]:
    with server(tmp_path / "nb") as each:
        each.nbctl("init")
        yield each


@pytest.fixture
def agent(nb: Server, start: Start) -> Agent:
    found = start(nb.remote)
    assert found.commit(*(CreateSwitch(name) for name in SWITCHES)) is None
    return found


# -- rows come and go


def test_a_port_is_created_changed_and_deleted(nb: Server, agent: Agent) -> None:
    wanted = port("testvm.default", requested_chassis="chassis1")
    assert agent.commit(CreatePort(wanted)) is None
    present = agent.row("testvm.default")
    assert present.port == wanted
    assert nb.nbctl("lsp-get-addresses", "testvm.default") == "02:00:00:00:00:01 10.16.0.2"

    changed = replace(wanted, addresses=("02:00:00:00:00:01 10.16.0.3",), options=(), enabled=False)
    assert agent.commit(UpdatePort(present, changed)) is None
    wait_for(lambda: agent.row("testvm.default").port == changed, SECONDS, "the change in the copy")
    assert nb.nbctl("get", "Logical_Switch_Port", "testvm.default", "options") == "{}"

    assert set(agent.now.by_vm) == {VmKey("default", "testvm.default")}
    assert agent.commit(DeletePort(agent.row("testvm.default"))) is None
    wait_for(lambda: not agent.now.ports, SECONDS, "the copy without the port")
    assert set(agent.now.by_vm) == set()
    assert nb.nbctl("lsp-list", "pods") == ""


def test_switch_and_ports_come_in_one_transaction(nb: Server, start: Start) -> None:
    agent = start(nb.remote)
    before = agent.northbound.writer.transactions
    groups = [group(CreateSwitch("pods")), *(group(CreatePort(port(f"vm{n}", ip=f"10.16.0.{n + 2}"))) for n in range(200))]
    assert agent.northbound.commit(groups) == [None] * 201
    assert agent.northbound.writer.transactions == before + 1
    assert len(nb.nbctl("lsp-list", "pods").splitlines()) == 200
    wait_for(lambda: len(agent.now.ports) == 200, SECONDS, "all ports in the copy")


def test_a_switch_that_somebody_else_created_meanwhile_is_not_created_twice(nb: Server, start: Start) -> None:
    agent = start(nb.remote)
    nb.nbctl("ls-add", "pods")
    with pytest.raises(NotCommittedError):
        agent.commit(CreateSwitch("pods"), CreatePort(port("vm1")))
    assert len(nb.nbctl("ls-list").splitlines()) == 1
    wait_for(lambda: "pods" in agent.now.switches, SECONDS, "the other's switch in the copy")
    assert agent.commit(CreatePort(port("vm1"))) is None


def test_only_what_differs_is_written(nb: Server, agent: Agent) -> None:
    agent.commit(CreatePort(port("vm1", requested_chassis="chassis1")))
    present = agent.row("vm1")
    nb.nbctl("set", "Logical_Switch_Port", "vm1", "options:vlan-passthru=true", "external_ids:neutron=x")
    # Changed behind the agent's back after it looked: a whole-row write would undo it.
    nb.nbctl("lsp-set-port-security", "vm1", "02:00:00:00:00:09")

    agent.commit(UpdatePort(present, port("vm1", requested_chassis="chassis1,chassis2", activation_strategy="rarp")))
    options = nb.nbctl("get", "Logical_Switch_Port", "vm1", "options")
    assert options == '{activation-strategy=rarp, requested-chassis="chassis1,chassis2", vlan-passthru="true"}'
    assert "neutron=x" in nb.nbctl("get", "Logical_Switch_Port", "vm1", "external_ids")
    assert nb.nbctl("lsp-get-port-security", "vm1") == "02:00:00:00:00:09"


def test_a_port_moves_between_switches_in_one_transaction(nb: Server, agent: Agent) -> None:
    agent.commit(CreatePort(port("vm1")))
    present = agent.row("vm1")
    before = agent.northbound.writer.transactions
    assert agent.commit(UpdatePort(present, replace(present.port, switch="vlan7"))) is None
    assert agent.northbound.writer.transactions == before + 1
    assert nb.nbctl("lsp-list", "pods") == ""
    assert "vm1" in nb.nbctl("lsp-list", "vlan7")
    wait_for(lambda: agent.row("vm1").port.switch == "vlan7", SECONDS, "the move in the copy")
    assert agent.row("vm1").uuid == present.uuid


def test_a_refused_row_holds_up_no_other(nb: Server, agent: Agent) -> None:
    nb.nbctl("ls-add", "elsewhere", "--", "lsp-add", "elsewhere", "vm13")
    names = [f"vm{n}" for n in range(20)]
    errors = agent.northbound.commit([group(CreatePort(port(f"{name}.x")), CreatePort(port(name))) for name in names])
    assert [name for name, error in zip(names, errors, strict=True) if error] == ["vm13"]
    assert "vm13" in str(errors[13])
    wait_for(lambda: len(agent.now.ports) == 38, SECONDS, "all other ports in the copy")
    assert "vm13.x" not in agent.now.ports, "a group is written as a whole or not at all"


def test_a_batch_with_a_refused_row_creates_its_switch_all_the_same(nb: Server, start: Start) -> None:
    agent = start(nb.remote)
    nb.nbctl("ls-add", "elsewhere", "--", "lsp-add", "elsewhere", "vm7")
    groups = [group(CreateSwitch("pods")), *(group(CreatePort(port(f"vm{n}"))) for n in range(8))]
    assert [error is None for error in agent.northbound.commit(groups)] == [True] * 8 + [False]
    assert len(nb.nbctl("lsp-list", "pods").splitlines()) == 7


def test_rows_and_switches_that_vanish_meanwhile_stop_nobody(nb: Server, agent: Agent) -> None:
    for name in ("vm1", "vm2", "vm3"):
        agent.commit(CreatePort(port(name)))
    gone = {name: agent.row(name) for name in ("vm1", "vm2", "vm3")}
    nb.nbctl("lsp-del", "vm1", "--", "lsp-del", "vm2", "--", "lsp-del", "vm3")
    errors = agent.northbound.commit(
        [
            group(DeletePort(gone["vm1"])),
            group(UpdatePort(gone["vm2"], port("vm2", ip="10.16.0.9"))),
            group(UpdatePort(gone["vm3"], port("vm3", switch="vlan7"))),
            group(CreatePort(replace(port("vm4"), addresses=("02:00:00:00:00:04 10.16.0.4",)))),
            group(CreatePort(port("vm5", switch="no-such-switch"))),
        ]
    )
    assert [error is None for error in errors] == [True, True, False, True, False]
    assert "no-such-switch" in str(errors[4])
    wait_for(lambda: set(agent.now.ports) == {"vm4"}, SECONDS, "what is really there in the copy")


# -- whose rows


def test_rows_of_others_are_not_the_agents(nb: Server, agent: Agent, start: Start) -> None:
    nb.nbctl("lsp-add", "pods", "foreign")
    other = start(nb.remote, cluster="c2", ready=False)
    agent.commit(CreatePort(port("vm1")))
    wait_for(lambda: "vm1" in other.now.names, SECONDS, "the one agent's port, foreign to the other")
    assert set(agent.now.ports) == {"vm1"}
    assert set(other.now.ports) == set()


def test_a_port_changed_or_removed_by_others_is_reported(nb: Server, agent: Agent) -> None:
    agent.commit(CreatePort(port("vm1")))
    agent.row("vm1")
    key = {VmKey("default", "vm1")}
    for command in (
        ("lsp-set-addresses", "vm1", "unknown"),
        ("remove", "Logical_Switch_Port", "vm1", "external_ids", "ovnagent-vm"),
        ("set", "Logical_Switch_Port", "vm1", "external_ids:ovnagent-vm=default/vm1"),
        ("set", "Logical_Switch_Port", "vm1", "name=vm2"),
        ("lsp-del", "vm2"),
    ):
        agent.heard.forget()
        nb.nbctl(*command)
        wait_for(lambda: key <= agent.heard.rows, SECONDS, f"word of {' '.join(command)}")
    assert agent.now.by_vm.get(VmKey("default", "vm1")) is None
    assert not agent.now.ports


def test_keys_and_columns_of_others_wake_nobody(nb: Server, agent: Agent) -> None:
    agent.commit(CreatePort(port("vm1")))
    agent.commit(CreatePort(port("vm2")))
    agent.row("vm2")
    agent.heard.forget()
    nb.nbctl("set", "Logical_Switch_Port", "vm1", "external_ids:theirs=1", "options:mcast_flood=true", "up=true")
    nb.nbctl("lsp-set-addresses", "vm2", "unknown")
    wait_for(lambda: agent.heard.rows, SECONDS, "word of the second port")
    assert agent.heard.rows == {VmKey("default", "vm2")}


NONSENSE = [
    "",
    " ",
    "/",
    "a/b/c",
    "\x01\x1f",
    "x" * 5000,
    "[" * 2000,
    "\u202e\U0001f4a5",
    "0a:.. 10.16.0.1",
    "%s{}$(x)",
    "-1",
    "unknown",
]


def test_nonsense_in_rows_harms_nobody(nb: Server, agent: Agent) -> None:
    """Whoever may write to NB writes it into every column that the agent reads, of its own rows and of others."""
    assert agent.commit(CreatePort(port("innocent", ip="10.16.0.77"))) is None
    innocent, generation = agent.row("innocent"), agent.now.generation
    for number, text in enumerate(NONSENSE):
        for owner in ("c1", "c2"):
            keys = [
                ["ovnagent-cluster", owner],
                *([f"ovnagent-{key}", text] for key in ("vm", "vm-uid", "options", "interface")),
            ]
            name = f"{text[:200]}-{owner}-{number}"
            row = {
                "name": name,
                "addresses": ["set", [text, f"{text} {text}"]] if text.strip() else "",
                "port_security": text,
                "type": text if number % 2 else "virtual",
                "options": ["map", [["virtual-ip", text], ["router-port", text], ["requested-chassis", text]]],
                "external_ids": ["map", keys],
            }
            own = ["map", [["ovnagent-cluster", owner], ["ovnagent-port", text]]]
            nb.transact(
                {"op": "insert", "table": "Logical_Switch_Port", "uuid-name": "p", "row": row},
                {
                    "op": "mutate",
                    "table": "Logical_Switch",
                    "where": [["name", "==", "pods"]],
                    "mutations": [["ports", "insert", ["set", [["named-uuid", "p"]]]]],
                },
                {"op": "insert", "table": "DNS", "row": {"records": ["map", [[text, text]]], "external_ids": own}},
                {"op": "insert", "table": "DHCP_Options", "row": {"cidr": text, "options": own, "external_ids": own}},
                {
                    "op": "insert",
                    "table": "Logical_Router",
                    "row": {"name": text, "ports": ["named-uuid", "r"]},
                },
                {
                    "op": "insert",
                    "table": "Logical_Router_Port",
                    "uuid-name": "r",
                    "row": {"name": name, "mac": text, "networks": text, "external_ids": own},
                },
            )
            where = "virtual" if owner == "c1" else "names"
            wait_for(lambda name=name, where=where: name in getattr(agent.now, where), SECONDS, f"{name[:50]!r} in the copy")
    assert agent.now.ports["innocent"] == innocent
    assert set(agent.now.ports) == {"innocent"}, "no VM can be called so"
    assert len(agent.now.virtual) == len(NONSENSE)
    assert agent.commit(UpdatePort(innocent, replace(innocent.port, enabled=False))) is None
    wait_for(lambda: not agent.now.ports["innocent"].port.enabled, SECONDS, "the change in the copy")
    assert (agent.now.generation, agent.northbound.connection.failures) == (generation, 0)


def test_a_port_that_others_move_elsewhere_is_seen_there(nb: Server, agent: Agent) -> None:
    agent.commit(CreatePort(port("vm1")))
    row = agent.row("vm1").uuid
    nb.nbctl("ls-add", "elsewhere")
    move = ("remove", "Logical_Switch", "pods", "ports", row, "--", "add", "Logical_Switch", "elsewhere", "ports", row)
    nb.nbctl(*move)
    wait_for(lambda: agent.row("vm1").port.switch == "elsewhere", SECONDS, "the port on the other switch")
    assert agent.commit(UpdatePort(agent.row("vm1"), port("vm1"))) is None
    assert nb.nbctl("lsp-list", "elsewhere") == ""
    assert "vm1" in nb.nbctl("lsp-list", "pods")
    wait_for(lambda: agent.row("vm1").port.switch == "pods", SECONDS, "the port back in the copy")
    wait_for(lambda: "elsewhere" not in agent.now.switches, SECONDS, "the other switch out of the copy")


def test_a_port_that_loses_its_mark_is_foreign_and_no_longer_the_agents(nb: Server, agent: Agent) -> None:
    agent.commit(CreatePort(port("vm1")))
    agent.row("vm1")
    nb.nbctl("remove", "Logical_Switch_Port", "vm1", "external_ids", CLUSTER)
    wait_for(lambda: "vm1" in agent.now.names, SECONDS, "the port as a foreign one")
    assert not agent.now.ports
    assert agent.taken("pods") == {"10.16.0.2": "logical switch port vm1"}
    nb.nbctl("set", "Logical_Switch_Port", "vm1", f"external_ids:{CLUSTER}=c1")
    agent.row("vm1")
    wait_for(lambda: not agent.now.names, SECONDS, "no foreign port")
    assert agent.taken("pods") == {}


def test_a_switch_that_is_deleted_renamed_or_doubled(nb: Server, agent: Agent) -> None:
    agent.commit(CreatePort(port("vm1")))
    agent.row("vm1")
    nb.nbctl("set", "Logical_Switch", "pods", "name=renamed")
    wait_for(lambda: agent.row("vm1").port.switch == "renamed", SECONDS, "the new name in the copy")
    assert "pods" not in agent.now.switches
    nb.nbctl("set", "Logical_Switch", "renamed", "name=pods")
    wait_for(lambda: agent.row("vm1").port.switch == "pods", SECONDS, "the old name in the copy")

    nb.nbctl("--add-duplicate", "ls-add", "pods")
    second = nb.nbctl("--bare", "--columns=_uuid", "find", "Logical_Switch", "name=pods", "ports=[]")
    nb.nbctl("ls-del", second)
    wait_for(lambda: agent.now.switches["pods"] != second, SECONDS, "the first of the two in the copy")
    assert agent.row("vm1").port.switch == "pods"
    agent.heard.forget()
    nb.nbctl("ls-del", "pods")
    wait_for(lambda: "pods" not in agent.now.switches and not agent.now.ports, SECONDS, "neither in the copy")
    wait_for(lambda: agent.heard.everything, SECONDS, "the news of it")


# -- what others use


def test_addresses_of_others_are_taken_until_they_go(nb: Server, agent: Agent) -> None:
    taken = agent.taken
    nb.nbctl("lsp-add", "pods", "pod1", "--", "lsp-set-addresses", "pod1", "0A:00:00:00:00:07 10.16.0.7 FD00::0007")
    nb.nbctl("lsp-add", "pods", "pod2", "--", "lsp-set-addresses", "pod2", "dynamic")
    nb.nbctl("set", "Logical_Switch_Port", "pod2", 'dynamic_addresses="0a:00:00:00:00:08 10.16.0.8"')  # as northd does
    nb.nbctl("lsp-add", "vlan7", "pod3", "--", "lsp-set-addresses", "pod3", "0a:00:00:00:00:09 10.16.0.9")
    nb.nbctl("lr-add", "r", "--", "lrp-add", "r", "gw", "0A:00:00:00:00:01", "10.16.0.1/24", "fd00::1/64")
    nb.nbctl("lsp-add", "pods", "to-r", "--", "lsp-set-type", "to-r", "router", "--", "lsp-set-addresses", "to-r", "router")
    nb.nbctl("lsp-set-options", "to-r", "router-port=gw")
    wait_for(lambda: "10.16.0.1" in taken("pods"), SECONDS, "the router's address taken")
    assert taken("pods") == {
        "10.16.0.7": "logical switch port pod1",
        "fd00::7": "logical switch port pod1",
        "10.16.0.8": "logical switch port pod2",
        "10.16.0.1": "router port gw",
        "fd00::1": "router port gw",
    }
    assert set(agent.taken_macs("pods")) == {f"0a:00:00:00:00:0{n}" for n in (1, 7, 8)}
    wait_for(lambda: taken("vlan7") == {"10.16.0.9": "logical switch port pod3"}, SECONDS, "the other switch's own")

    agent.heard.forget()
    nb.nbctl("set", "Logical_Router_Port", "gw", 'networks=["10.16.0.254/24"]')
    wait_for(lambda: "10.16.0.254" in taken("pods") and agent.heard.inventory, SECONDS, "the router's new address")
    assert "10.16.0.1" not in taken("pods")
    agent.heard.forget()
    nb.nbctl("lsp-del", "pod1", "--", "lsp-del", "pod2", "--", "lsp-del", "to-r")
    wait_for(lambda: not taken("pods") and agent.heard.inventory, SECONDS, "nothing taken")
    assert agent.taken_macs("pods") == {}


def test_the_way_from_few_foreign_ports_to_many(nb: Server, agent: Agent) -> None:
    """Past the border all ports are copied; what is known of them stays the same."""
    agent.commit(CreatePort(port("vm1", ip="10.20.0.1")))
    for first in (0, MANY_CLAUSES):
        commands: list[str] = []
        for number in range(first, first + MANY_CLAUSES):
            ip = f"10.16.{number // 256}.{number % 256}"
            mac = f"0a:00:00:00:{number // 256:02x}:{number % 256:02x}"
            commands += ["--", "lsp-add", "pods", f"pod{number}", "--", "lsp-set-addresses", f"pod{number}", f"{mac} {ip}"]
        nb.nbctl(*commands[1:])
        expected = first + MANY_CLAUSES
        wait_for(lambda count=expected: len(agent.taken("pods")) == count, SECONDS, f"{expected} addresses taken")
    nb.nbctl("ls-add", "elsewhere", "--", "lsp-add", "elsewhere", "far")
    nb.nbctl("lsp-del", "pod0")
    wait_for(lambda: "10.16.0.0" not in agent.taken("pods"), SECONDS, "one address free")
    assert len(agent.taken("pods")) == 2 * MANY_CLAUSES - 1
    assert "far" not in agent.now.names
    assert set(agent.now.ports) == {"vm1"}


def test_a_name_used_on_another_switch_is_watched_and_its_going_wakes(nb: Server, agent: Agent) -> None:
    nb.nbctl("ls-add", "elsewhere", "--", "lsp-add", "elsewhere", "vm1", "--", "lsp-add", "elsewhere", "vm2")
    agent.northbound.watch_names({"vm1"})
    wait_for(lambda: "vm1" in agent.now.names, SECONDS, "the name in use")
    assert dict(agent.now.names) == {"vm1": "logical switch port vm1"}
    assert agent.taken("pods") == {}
    agent.heard.forget()
    nb.nbctl("lsp-del", "vm1")
    wait_for(lambda: agent.heard.inventory, SECONDS, "word of its going")
    assert not agent.now.names
    agent.northbound.watch_names(set())
    assert agent.commit(CreatePort(port("vm1"))) is None


def test_what_has_not_changed_is_the_same_object(nb: Server, agent: Agent) -> None:
    nb.nbctl("lsp-add", "pods", "pod1", "--", "lsp-set-addresses", "pod1", "0a:00:00:00:00:07 10.16.0.7")
    nb.nbctl("lsp-add", "vlan7", "pod2", "--", "lsp-set-addresses", "pod2", "0a:00:00:00:00:08 10.16.0.8")
    wait_for(lambda: agent.taken("vlan7"), SECONDS, "the foreign ports")
    before = agent.now
    assert agent.commit(CreatePort(port("vm1"))) is None
    agent.row("vm1")
    for name in ("foreign", "names", "virtual", "switches", "router_ports", "dhcp", "routers", "global_ids"):
        assert getattr(agent.now, name) is getattr(before, name), name
    nb.nbctl("lsp-del", "pod2")
    wait_for(lambda: not agent.taken("vlan7"), SECONDS, "the foreign port gone")
    assert agent.now.foreign["pods"] is before.foreign["pods"]


def test_the_go_ahead_in_nb_global_is_seen_and_removed(nb: Server, agent: Agent) -> None:
    nb.nbctl("set", "NB_Global", ".", "external_ids:go=yes", "external_ids:theirs=1")
    wait_for(lambda: agent.now.global_ids.get("go") == "yes", SECONDS, "the key in the copy")
    agent.northbound.commit([Group("go", (SetGlobal("go", ""),))])
    wait_for(lambda: agent.now.global_ids.get("go") is None, SECONDS, "the copy without the key")
    assert nb.nbctl("get", "NB_Global", ".", "external_ids") == '{theirs="1"}'


def test_an_address_is_not_handed_on_without_its_old_holder(nb: Server, agent: Agent) -> None:
    """Where a transaction is refused, it is written in parts; no part gives an address to a second port."""
    assert agent.commit(CreatePort(port("old", ip="10.16.0.5"))) is None
    old = agent.row("old")
    nb.nbctl("ls-add", "elsewhere")
    nb.nbctl("lsp-add", "elsewhere", "taken")
    moved = replace(old.port, addresses=("02:00:00:00:00:02 10.16.0.6",))
    heir, stranger = port("heir", ip="10.16.0.5"), replace(port("stranger"), addresses=("02:00:00:00:00:03 10.16.0.9",))
    groups = [group(CreatePort(heir)), group(CreatePort(stranger)), group(UpdatePort(old, moved), CreatePort(port("taken")))]
    errors = agent.northbound.commit(groups)
    assert errors[0]
    assert errors[1] is None
    assert errors[2]
    assert nb.nbctl("lsp-get-addresses", "old") == "02:00:00:00:00:01 10.16.0.5"
    assert "heir" not in nb.nbctl("lsp-list", "pods")
    assert agent.northbound.commit([groups[0], group(UpdatePort(old, moved))]) == [None, None]

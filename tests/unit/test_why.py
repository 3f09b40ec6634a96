"""The chain of `ovnagent why` at a desk, what ovn-trace says, and the texts that people are shown."""

from __future__ import annotations

import subprocess
from ipaddress import ip_address
from typing import Any

import pytest

from ovnagent.commands import cli, completion
from ovnagent.commands.agents import Answer
from ovnagent.commands.chain import Chain, State, chains
from ovnagent.commands.handover import RefusedHandoverError, from_vm
from ovnagent.commands.migrations import WIDTH, render_bars, render_svg, select
from ovnagent.commands.text import paint, plain
from ovnagent.commands.trace import Destination, answer, destination, packet, question, read
from ovnagent.commands.why import render, status
from ovnagent.core.placement import Binding
from ovnagent.core.vm import VmKey
from tests.desk import Desk, migration_object, network, pod_object, vm_object, vmi_object
from tests.unit.test_commands import running

WEB = VmKey("default", "web")
OLD = VmKey("default", "old")
PORT = "web.default"


@pytest.fixture
def desk() -> Desk:
    desk = Desk()
    running(desk)
    desk.bindings[PORT] = Binding("chassis1", up=True)
    return desk


def chain(desk: Desk, name: str = "web") -> Chain:
    (found,) = chains(desk.view(), VmKey("default", name))
    return found


def first_broken(desk: Desk) -> tuple[str, str]:
    broken = chain(desk).broken
    return (broken.name, broken.evidence) if broken is not None else ("", "")


def test_a_chain_that_is_whole(desk: Desk) -> None:
    found = chain(desk)
    assert [link.name for link in found.links] == [
        "request",
        "granted",
        "row",
        "guest",
        "chassis",
        "northd",
        "plugged",
        "up",
        "dhcp",
    ]
    assert found.broken is None
    assert status([found]) == 0
    assert "10.16.0.15 (ovn.kubernetes.io/ip_address)" in found.links[0].evidence


def test_an_interface_on_no_configured_network(desk: Desk) -> None:
    desk.networks = Desk(network(name="other", pod_network=False)).networks
    desk.rows.clear()
    name, evidence = first_broken(desk)
    assert name == "request"
    assert "is on the pod network, which no configured network has (other are configured)" in evidence


def test_the_pool_is_exhausted() -> None:
    desk = Desk(network("10.16.0.0/30"))
    for name in ("one", "two", "web"):
        desk.feed("ADDED", "virtualmachines", vm_object(name, created=f"2026-01-0{len(name)}T00:00:00Z"))
        desk.look()
    name, evidence = first_broken(desk)
    assert (name, evidence.partition(":")[0]) == ("granted", "PoolExhausted")


def test_each_interface_has_its_own_chain() -> None:
    desk = Desk(network(), network("10.17.0.0/16", name="blue", switch="blue", pod_network=False, nads=("default/blue",)))
    interfaces = [{"name": "default", "bridge": {}}, {"name": "second", "bridge": {}}]
    networks: list[dict[str, Any]] = [{"name": "default", "pod": {}}]
    networks.append({"name": "second", "multus": {"networkName": "default/blue"}})
    wish = {"blue.default.ovn.kubernetes.io/ip_address": "10.99.0.1"}
    desk.feed("ADDED", "virtualmachines", vm_object("web", annotations=wish, interfaces=interfaces, networks=networks))
    desk.look()
    first, second = chains(desk.view(), WEB)
    assert first.broken is not None
    assert second.broken is not None
    assert (first.broken.name, second.broken.name) == ("guest", "granted")
    assert chains(desk.view(), WEB, "second") == [second]
    (unknown,) = chains(desk.view(), WEB, "third")
    assert unknown.links[0].evidence == "VM default/web has no interface third; it has default, second"


@pytest.mark.parametrize(
    ("binding", "broken", "words"),
    [
        (None, "northd", "has no Port_Binding web.default"),
        (Binding(""), "plugged", "bound nowhere, and its guest runs on chassis1"),
        (Binding("chassis2", up=True), "plugged", "bound on chassis2, which the row does not name"),
        (Binding("chassis1", up=False), "up", "its flows are not installed"),
    ],
)
def test_what_the_southbound_says(desk: Desk, binding: Binding | None, broken: str, words: str) -> None:
    desk.bindings.pop(PORT)
    if binding is not None:
        desk.bindings[PORT] = binding
    name, evidence = first_broken(desk)
    assert name == broken
    assert words in evidence


def test_an_interface_that_is_switched_off(desk: Desk) -> None:
    interfaces = [{"name": "default", "bridge": {}, "state": "down"}]
    desk.feed("MODIFIED", "virtualmachineinstances", vmi_object("web", node="node1", interfaces=interfaces))
    desk.look()
    assert first_broken(desk) == ("guest", "interface default is switched off (state: down)")


def test_a_guest_that_is_being_started_is_waited_for(desk: Desk) -> None:
    desk.feed("MODIFIED", "virtualmachineinstances", vmi_object("web", node="node1", phase="Scheduling"))
    desk.bindings[PORT] = Binding("")
    desk.look()
    found = chain(desk)
    assert (found.broken, found.links[-1].state) == (None, State.WAITING)
    assert status([found]) == 1


def test_the_line_of_a_migration(desk: Desk) -> None:
    desk.feed("ADDED", "virtualmachineinstancemigrations", migration_object("m1", "web", "Scheduling"))
    desk.feed("ADDED", "pods", pod_object("web-2", "web", node="node2", migration="m1"))
    desk.look()
    links = {link.name: link for link in chain(desk).links}
    assert "its target launcher has a node" in links["chassis"].evidence
    assert links["plugged"].evidence == "bound on chassis1; not yet on chassis2, the migration's target"
    desk.bindings[PORT] = Binding("chassis1", ("chassis2",), ("chassis2",))
    links = {link.name: link for link in chain(desk).links}
    assert links["chassis"].evidence.endswith("the guest has announced itself there, and traffic goes there")
    assert links["chassis"].remedy == "waits for KubeVirt to say that the target's domain is ready"
    ready = {"migrationUid": "m1", "targetNode": "node2", "targetNodeDomainReadyTimestamp": "2026-01-01"}
    desk.feed("MODIFIED", "virtualmachineinstances", vmi_object("web", node="node1", migration=ready))
    desk.bindings[PORT] = Binding("chassis1", ("chassis2",), ("chassis2",))
    desk.look()
    links = {link.name: link for link in chain(desk).links}
    assert "the Southbound reports the target's chassis as activated" in links["chassis"].evidence
    assert links["plugged"].evidence == "bound on chassis1 and chassis2"


def test_what_a_tenant_wrote_does_not_reach_the_terminal(desk: Desk) -> None:
    desk.feed("MODIFIED", "virtualmachines", vm_object("web", annotations={"ovn.kubernetes.io/ip_address": "\x1b]0;x\x07"}))
    desk.feed("DELETED", "virtualmachineinstances", vmi_object("web"))
    desk.feed("DELETED", "pods", pod_object("web-1", "web"))
    desk.look()
    assert "\x1b" not in render([chain(desk)], "text")
    assert plain("a\x1b[31m\nb") == "a?[31m\nb"


def test_colour_is_asked_for() -> None:
    assert paint("ok", "32", True) == "\x1b[32mok\x1b[0m"
    assert paint("ok", "32", False) == "ok"


# ---- ovn-trace ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.16.0.1", Destination(ip_address("10.16.0.1"))),
        ("10.16.0.1:80", Destination(ip_address("10.16.0.1"), 80, "tcp")),
        ("10.16.0.1:53/udp", Destination(ip_address("10.16.0.1"), 53, "udp")),
        ("fd00::1", Destination(ip_address("fd00::1"))),
        ("[fd00::1]:80/tcp", Destination(ip_address("fd00::1"), 80, "tcp")),
    ],
)
def test_what_is_to_be_reached(text: str, expected: Destination) -> None:
    assert destination(text) == expected


@pytest.mark.parametrize("text", ["", "web", "10.16.0.1:0", "10.16.0.1:65536", "10.16.0.1:80/sctp", "[10.16.0.1", "a:80"])
def test_what_cannot_be_reached(text: str) -> None:
    with pytest.raises(ValueError, match="is no ADDRESS"):
        destination(text)


def test_packets() -> None:
    ip = ip_address
    assert packet("p", "0a:00:00:00:00:01", ip("10.0.0.1"), "0a:00:00:00:00:02", destination("10.0.0.2:80")) == (
        'inport == "p" && eth.src == 0a:00:00:00:00:01 && eth.dst == 0a:00:00:00:00:02 && ip4.src == 10.0.0.1 && '
        "ip4.dst == 10.0.0.2 && ip.ttl == 64 && tcp.src == 40000 && tcp.dst == 80"
    )
    six = question("p", "0a:00:00:00:00:01", ip("fd00::1"), ip("fd00::ab:cdef"))
    assert "eth.dst == 33:33:ff:ab:cd:ef" in six
    assert "ip6.dst == ff02::1:ffab:cdef" in six


ARP = """
19. ls_in_arp_rsp (northd.c:8601): arp.tpa == 10.16.0.11 && arp.op == 1, priority 50, uuid c3ef6747
    eth.dst = eth.src;
    eth.src = 0a:00:00:00:00:02;
    arp.op = 2;
"""
ND = """
19. ls_in_arp_rsp (northd.c:8654): nd_ns && nd.target == fd00::11, priority 50, uuid 753a8495
    nd_na { eth.src = 0a:00:00:00:00:02; ip6.src = fd00::11; output; };
"""
FLOODED = """
25. ls_in_l2_lkup (northd.c:8997): eth.mcast, priority 70, uuid 514363b9
    outport = "_MC_flood";
"""


def test_who_answers() -> None:
    assert answer(ARP) == answer(ND) == "0a:00:00:00:00:02"
    assert answer(FLOODED) == ""


HEAD = 'ingress(dp="sw", inport="a")\n----------------------------\n'
OLD_ACL = f"""{HEAD} 8. ls_in_acl (northd.c:6543): reg0[9] == 1 && (ip4 && tcp.dst==80), priority 2000, uuid efbf965f
    drop;
"""
LOGGED = f"""{HEAD} 8. ls_in_acl (northd.c:6543): reg0[9] == 1 && (ip4), priority 2001, uuid efbf965f
    log(name="shut", verdict=drop, severity=info);

    LOG: ACL name=shut, direction=IN, verdict=drop, severity=info, packet="..."
"""
NEW_ACL = f"""{HEAD} 8. ls_in_acl_eval (northd.c:6543): reg0[9] == 1 && (ip4), priority 2002, uuid efbf965f
    reg8[17] = 1;
    next;
 9. ls_in_acl_action (northd.c:7000): reg8[17] == 1, priority 1000, uuid efbf9660
    reg8[16] = 0;
    drop;
"""
REJECT = f"""{HEAD} 4. ls_out_acl (northd.c:6365): (reg0[9] == 1) && ip4, priority 2003, uuid 2a6a6687
    reg0 = 0;
    reject {{ outport <-> inport; next(pipeline=ingress, table=25); }};
    /* output to "a", type "" */
"""


@pytest.mark.parametrize(("text", "priority"), [(OLD_ACL, 1000), (LOGGED, 1001), (NEW_ACL, 1002), (REJECT, 1003)])
def test_an_acl_that_drops_or_rejects(text: str, priority: int) -> None:
    verdict = read(text)
    assert verdict.dropped is not None
    assert verdict.acl_priority == priority
    assert verdict.rejected is (text is REJECT)
    assert verdict.port == ""


def test_an_acl_that_allows_is_not_to_blame() -> None:
    allowed = OLD_ACL.replace("drop;", "next;")
    routing = "13. lr_in_ip_routing (northd.c:1): 1, priority 0, uuid 90589bd5\n    drop;"
    verdict = read(f'{allowed}\ningress(dp="r", inport="r-sw")\n{routing}')
    assert verdict.acl is None
    assert verdict.dropped is not None
    assert (verdict.dropped.datapath, verdict.dropped.stage) == ("r", "lr_in_ip_routing")


def test_where_a_packet_goes() -> None:
    stage = " 9. ls_out_apply_port_sec (northd.c:1): 1, priority 0, uuid 1\n    output;\n"
    patch = f'{HEAD}{stage}    /* output to "sw-r", type "patch" */\n'
    assert read(f'{patch}    /* output to "b", type "" */').port == "b"
    localnet = read(f'{patch}    /* output to "wire", type "localnet" */')
    assert (localnet.port, localnet.type) == ("wire", "localnet")


# ---- what people are shown ------------------------------------------------------------------------------------------

SHOWN = {
    "namespace": "default",
    "vm": "web",
    "migration": "m1",
    "uid": "u1",
    "source": "node1",
    "target": "node2",
    "chassis": {PORT: ["chassis1", "chassis2"]},
    "outcome": "done",
    "began": "2026-01-01T00:00:00.000Z",
    "seconds": 2.0,
    "steps": [
        {"step": "target bound", "port": "", "seconds": 0.0},
        {"step": "options committed", "port": PORT, "seconds": 1.0},
        {"step": "last write", "port": PORT, "seconds": 2.0},
    ],
    "unseen": ["bound on both"],
    "late": [f"{PORT}: <late>"],
}


def test_bars_begin_where_the_last_ended() -> None:
    (shown,) = select([Answer("agent-1", {"migrations": [SHOWN]})], "default", "web", "m1")
    lines = render_bars(shown, False).splitlines()
    assert lines[0] == "default/web  m1  node1 -> node2  done, 2.00 s"
    assert lines[1].endswith("seen by agent-1")
    assert lines[3].endswith("█" * (WIDTH // 2))
    assert lines[4].endswith(" " * (WIDTH // 2) + "█" * (WIDTH // 2))
    assert "? s  before this agent led" in lines[5]
    assert lines[6] == f"  late: {PORT}: <late>"
    assert select([Answer("a", {"migrations": [SHOWN]})], "other", "", "") == []


def test_svg_is_xml() -> None:
    assert "&lt;late&gt;" in render_svg([SHOWN])


# ---- adopt ----------------------------------------------------------------------------------------------------------


def stopped(desk: Desk, *names: str) -> None:
    for name in names:
        desk.feed("ADDED", "virtualmachines", vm_object(name))
        desk.look()
        desk.feed("MODIFIED", "virtualmachines", vm_object(name, record=desk.records[VmKey("default", name)]))


def test_addresses_go_over_with_everything_else_as_it_was() -> None:
    desk = Desk()
    stopped(desk, "old", "new", "third")
    before = {name: row.port.addresses for name, row in desk.rows.items()}
    found = from_vm(desk.view(), VmKey("default", "old"), VmKey("default", "new"))
    assert found.expected == {"new.default": desk.port("old.default").ips}
    assert {record.vm.name for record in found.records} == {"old", "new"}
    for change in found.changes:
        desk._apply(change)
    assert desk.port("new.default").addresses == before["old.default"]
    assert desk.port("old.default").addresses not in (before["old.default"], before["new.default"])
    assert desk.port("third.default").addresses == before["third.default"]
    for record in found.records:
        desk.feed("MODIFIED", "virtualmachines", vm_object(record.vm.name, record=record.new))
    desk.forget()
    writes = len(desk.writes)
    desk.look()
    assert len(desk.writes) == writes, "an agent that starts now agrees"


def test_a_giver_that_asks_for_what_it_gives_loses_its_port() -> None:
    desk = Desk()
    asks = {"ovn.kubernetes.io/ip_address": "10.16.0.15"}
    for name in ("old", "new"):
        desk.feed("ADDED", "virtualmachines", vm_object(name, annotations=asks, created=f"2026-01-0{len(name)}T00:00:00Z"))
        desk.look()
        desk.feed("MODIFIED", "virtualmachines", vm_object("old", annotations=asks, record=desk.records[OLD]))
    found = from_vm(desk.view(), OLD, VmKey("default", "new"))
    for change in found.changes:
        desk._apply(change)
    assert set(desk.rows) == {"new.default"}
    assert "AddressConflict" in found.summary[-1]


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        ("web", "new", "VM default/web runs; stop it first"),
        ("new", "web", "VM default/web runs; stop it first"),
        ("new", "new", "the same VM"),
        ("nobody", "new", "knows of a VM default/nobody"),
        ("new", "nobody", "there is no VirtualMachine default/nobody"),
    ],
)
def test_a_handover_that_is_refused(desk: Desk, source: str, target: str, words: str) -> None:
    stopped(desk, "new")
    with pytest.raises(RefusedHandoverError, match=words):
        from_vm(desk.view(), VmKey("default", source), VmKey("default", target))


def test_a_vm_that_asks_for_another_address_is_refused() -> None:
    desk = Desk()
    stopped(desk, "old")
    desk.feed("ADDED", "virtualmachines", vm_object("new", annotations={"ovn.kubernetes.io/ip_address": "10.16.0.77"}))
    desk.look()
    with pytest.raises(RefusedHandoverError, match=r"it would get 10\.16\.0\.77"):
        from_vm(desk.view(), VmKey("default", "old"), VmKey("default", "new"))


# ---- completion -----------------------------------------------------------------------------------------------------


def complete(*words: str) -> list[str]:
    return completion.candidates(completion.commands(cli.parser()), words)


def test_candidates() -> None:
    assert "why" in complete("")
    assert complete("mig") == ["migrations"]
    assert complete("why", "-o", "") == ["text", "json"]
    assert complete("why", "--inter") == ["--interface"]
    assert complete("why", "-n", "") == []
    assert complete("completion", "") == ["bash", "zsh", "fish"]
    assert "--agent-port" not in complete("migrations", "--")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("ovnagent mi", "migrations"),
        ("ovnagent why -o ", "text json"),
        ("ovnagent why --inter", "--interface"),
        ("ovnagent completion f", "fish"),
    ],
)
def test_bash_completes(words: str, expected: str) -> None:
    split = words.split(" ")
    array = " ".join(f"'{word}'" for word in split)
    text = completion.script("bash", completion.commands(cli.parser()))
    test = f'COMP_WORDS=({array}); COMP_CWORD={len(split) - 1}; _ovnagent; echo "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "-c", f"{text}\n{test}"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected


def test_scripts_name_every_command() -> None:
    known = completion.commands(cli.parser())
    for shell in completion.SHELLS:
        text = completion.script(shell, known)
        assert all(name in text for name in known)


def test_as_a_plugin_it_has_kubectls_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/usr/local/bin/kubectl-ovnagent"])
    assert cli.parser().prog == "kubectl ovnagent"

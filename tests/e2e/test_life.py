"""A VM's life on a real control plane and a real OVN, seen through ovn-nbctl."""

from __future__ import annotations

import json
import signal
import time

import pytest

from hack.lab import manifests
from hack.lab.cluster import RBAC
from hack.lab.process import running, wait_for
from tests.e2e.conftest import Lab


def test_stop_start_and_restart_keep_the_address(lab: Lab) -> None:
    port = lab.run("web")
    addresses = lab.ovn.addresses(port)
    assert len(addresses) == 1
    lab.placed(port, lab.chassis("web"))
    lab.kubevirt.stop_vm("default", "web")
    lab.kubevirt.wait_phase("default", "web", "")
    lab.placed(port, "")
    assert lab.ovn.addresses(port) == addresses
    lab.kubevirt.start_vm("default", "web")
    lab.kubevirt.wait_running("default", "web")
    lab.placed(port, lab.chassis("web"))
    first = lab.kubevirt.vmi("default", "web")["metadata"]["uid"]
    lab.kubevirt.restart_vm("default", "web")
    wait_for(lambda: (vmi := lab.vmi("web")) and vmi["metadata"]["uid"] != first, 20, "a new VMI")
    lab.kubevirt.wait_running("default", "web")
    lab.placed(port, lab.chassis("web"))
    assert lab.ovn.addresses(port) == addresses
    record = lab.kube.get("vm", "web")["metadata"]["annotations"]["ovnagent.io/record"]
    assert json.loads(record)["ports"][port]["ips"] == addresses


def test_a_deleted_vm_keeps_its_port_until_the_launcher_has_ended(lab: Lab) -> None:
    port = lab.run("web")
    chassis = lab.chassis("web")
    lab.kubevirt.faults.delays.pod_completed = 1.0
    lab.kube.kubectl("delete", "vm", "web", "--wait=false")
    wait_for(
        lambda: lab.kube.kubectl("get", "pods", "-o", "jsonpath={.items[*].metadata.deletionTimestamp}"),
        5,
        "a launcher that ends",
    )
    assert lab.ovn.placed(port) == chassis
    wait_for(lambda: not lab.ovn.port(port), 20, "port gone")
    assert "No resources found" in lab.kube.kubectl("get", "vmi") or not lab.kube.get("vmi")["items"]


def test_two_who_ask_for_one_address(lab: Lab) -> None:
    first = lab.create("one", ip_address="10.16.0.15")
    wait_for(lambda: lab.ovn.addresses(first) == ["10.16.0.15"], 5, "the first has it")
    second = lab.create("two", ip_address="10.16.0.15")
    wait_for(lambda: "AddressConflict" in lab.events("two"), 5, "the second is told")
    assert "which VM default/one holds" in lab.events("two")
    assert not lab.ovn.port(second)
    lab.delete("one")
    wait_for(lambda: lab.ovn.addresses(second) == ["10.16.0.15"], 5, "the second gets it")


def test_a_refused_request_harms_nobody(lab: Lab) -> None:
    other = lab.run("other")
    before = lab.ovn.port(other)
    lab.create("bad", ip_address="10.99.0.1")
    lab.create("worse", ip_address="not-an-address")
    wait_for(lambda: "lies outside 10.16.0.0/16" in lab.events("bad"), 5, "the Event")
    wait_for(lambda: "is no IP address" in lab.events("worse"), 5, "the Event")
    assert not lab.ovn.port("bad.default")
    assert lab.ovn.port(other) == before


def test_long_and_dotted_names(lab: Lab) -> None:
    for name in ("web.example.com", "a" * 70 + "." + "b" * 30):
        port = lab.run(name)
        lab.placed(port, lab.chassis(name))


def test_drift_is_put_right_at_once(lab: Lab) -> None:
    port = lab.run("web")
    lab.placed(port, lab.chassis("web"))
    addresses, chassis = lab.ovn.addresses(port), lab.chassis("web")
    lab.ovn.nbctl("lsp-del", port)
    wait_for(lambda: lab.ovn.addresses(port) == addresses, 2, "the port is back")
    lab.placed(port, chassis, 2)
    lab.ovn.nbctl("lsp-set-addresses", port, "00:00:00:00:00:99 10.16.9.9")
    wait_for(lambda: lab.ovn.addresses(port) == addresses, 2, "the addresses are back")
    lab.ovn.nbctl("remove", "Logical_Switch_Port", port, "options", "requested-chassis")
    lab.placed(port, chassis, 2)
    lab.ovn.nbctl("set", "Logical_Switch_Port", port, "options:theirs=kept", "external_ids:theirs=kept")
    lab.ovn.nbctl("lsp-set-port-security", port)
    wait_for(lambda: lab.ovn.port(port)["port_security"] != "[]", 2, "port security is back")
    assert lab.ovn.options(port)["theirs"] == "kept"
    assert "theirs=kept" in lab.ovn.port(port)["external_ids"]


def test_a_foreign_port_of_the_wanted_name_is_left_alone(lab: Lab) -> None:
    lab.ovn.nbctl(
        "ls-add",
        "elsewhere",
        "--",
        "lsp-add",
        "elsewhere",
        "web.default",
        "--",
        "set",
        "Logical_Switch_Port",
        "web.default",
        "external_ids:whose=theirs",
    )
    try:
        lab.create("web")
        wait_for(lambda: "PortRefused" in lab.events("web"), 5, "the Event")
        assert "whose=theirs" in lab.ovn.port("web.default")["external_ids"]
        other = lab.create("other")
        wait_for(lambda: lab.ovn.port(other), 5, "another VM is served")
    finally:
        lab.ovn.nbctl("--if-exists", "ls-del", "elsewhere")
    wait_for(lambda: "ovnagent-vm" in lab.ovn.port("web.default").get("external_ids", ""), 10, "the name is free, and taken")


def test_addresses_of_foreign_ports_are_taken(lab: Lab) -> None:
    mark = lab.create("mark", strategy="Halted")
    wait_for(lambda: lab.ovn.port(mark), 5, "a port to change")
    lab.ovn.nbctl("lsp-add", "ovn-default", "printer", "--", "lsp-set-addresses", "printer", "00:00:00:00:00:77 10.16.0.77")
    try:
        # News of the two sides are not ordered with each other: the agent has read Northbound's once it puts this right.
        lab.ovn.nbctl("lsp-del", mark)
        wait_for(lambda: lab.ovn.port(mark), 5, "it is put right")
        lab.create("web", ip_address="10.16.0.77")
        wait_for(lambda: "which logical switch port printer uses" in lab.events("web"), 5, "the Event")
        assert not lab.ovn.port("web.default")
    finally:
        lab.ovn.nbctl("lsp-del", "printer")
    wait_for(lambda: lab.ovn.addresses("web.default") == ["10.16.0.77"], 5, "it is free now")


def test_a_vm_waits_until_it_is_known_what_foreign_ports_use(lab: Lab) -> None:
    """Their rows have to be asked for, twice a second at most; none of so many is given away meanwhile."""
    mark = lab.create("mark", strategy="Halted")
    wait_for(lambda: lab.ovn.port(mark), 5, "a port to change")
    names = [f"printer{number}" for number in range(8)]
    try:
        for number, name in enumerate(names, 1):
            addresses = f"00:00:00:00:01:{number:02x} 10.16.77.{number}"
            added = ("lsp-add", "ovn-default", name, "--", "lsp-set-addresses", name, addresses)
            lab.ovn.nbctl(*added, "--", "lsp-del", mark)
            wait_for(lambda: lab.ovn.port(mark), 5, "it is put right: Northbound's news have come")
            lab.create(f"web{number}", strategy="Halted", ip_address=f"10.16.77.{number}")
        for number, name in enumerate(names, 1):
            vm = f"web{number}"
            wait_for(lambda vm=vm, name=name: f"which logical switch port {name} uses" in lab.events(vm), 5, "the Event")
            assert not lab.ovn.port(f"{vm}.default")
    finally:
        for name in names:
            lab.ovn.nbctl("--if-exists", "lsp-del", name)


@pytest.mark.one_process
def test_a_restarted_agent_writes_nothing(lab: Lab) -> None:
    ports = [lab.run(f"vm{number}") for number in range(3)]
    for number, port in enumerate(ports):
        lab.placed(port, lab.chassis(f"vm{number}"))
    before = lab.ovn.nbctl("list", "Logical_Switch_Port")
    lab.agent.kill()
    lab.agent.start()
    assert lab.agent.metric("ovnagent_transactions_total") == 0
    assert lab.ovn.nbctl("list", "Logical_Switch_Port") == before


@pytest.mark.one_process
def test_sigterm_ends_it_within_two_seconds(lab: Lab) -> None:
    started = time.monotonic()
    lab.agent.signal(signal.SIGTERM)
    wait_for(lambda: not any(running(agent.pidfile) for agent in lab.agent.agents), 5, "ended")
    assert time.monotonic() - started < 2
    lab.agent.start()


def test_deleted_and_created_again_while_the_agent_was_away(lab: Lab) -> None:
    port = lab.create("web", strategy="Halted")
    wait_for(lambda: lab.ovn.port(port), 5, "the port")
    addresses, uuid = lab.ovn.addresses(port), lab.kube.get("vm", "web")["metadata"]["uid"]
    lab.agent.kill()
    lab.kube.kubectl("delete", "vm", "web")
    lab.kube.apply(manifests.vm("web", "Halted"))
    fresh = lab.kube.get("vm", "web")["metadata"]["uid"]
    assert fresh != uuid
    lab.agent.start()
    wait_for(lambda: fresh in lab.ovn.port(port).get("external_ids", ""), 5, "the new VM's port")
    assert lab.ovn.addresses(port) == addresses
    lab.agent.kill()
    lab.kube.kubectl("delete", "vm", "web")
    lab.agent.start()
    wait_for(lambda: not lab.ovn.port(port), 5, "the leftover is swept")


def test_a_lost_northbound_database_costs_no_vm_its_address(lab: Lab) -> None:
    lab.run("one", ip_address="10.16.0.21")
    two = lab.run("two")
    addresses = lab.ovn.addresses(two)
    wait_for(lambda: "ovnagent.io/record" in lab.kube.get("vm", "two")["metadata"]["annotations"], 5, "the record")
    lab.agent.kill()
    lab.ovn.stop_database("nb")
    lab.ovn.empty_database("nb")
    lab.ovn.nbctl("init")
    lab.agent.start()
    wait_for(lambda: lab.ovn.addresses(two) == addresses, 10, "the address is back")
    assert lab.ovn.addresses("one.default") == ["10.16.0.21"]
    lab.placed(two, lab.chassis("two"))


@pytest.mark.one_process
def test_200_vms_at_once(lab: Lab) -> None:
    count = 200
    # What the test before this one has left is deleted, and counted: a scrape may be a fraction of a second old.
    wait_for(lambda: lab.agent.metric("ovnagent_ports") == 0, 10, "no ports are left")
    before = lab.agent.metric("ovnagent_transactions_total")
    lab.kube.apply("\n".join(manifests.vm(f"many{number}", "Halted") for number in range(count)))
    wait_for(
        lambda: (
            lab.ovn.nbctl("--bare", "--columns=name", "find", "Logical_Switch_Port", "external_ids:ovnagent-network=pods")
            .split()
            .__len__()
            == count
        ),
        30,
        "all ports",
    )
    texts = lab.ovn.nbctl(
        "--bare", "--columns=addresses", "find", "Logical_Switch_Port", "external_ids:ovnagent-network=pods"
    ).split("\n")
    ips = [text.split()[1] for text in texts if text]
    assert len(set(ips)) == count
    # kubectl creates them one after another, so batches are small; what a batch holds is one transaction.
    transactions = lab.agent.metric("ovnagent_transactions_total") - before
    assert transactions <= count
    lab.agent.kill()
    for port in lab.ovn.nbctl(
        "--bare", "--columns=name", "find", "Logical_Switch_Port", "external_ids:ovnagent-network=pods"
    ).split():
        lab.ovn.nbctl("lsp-del", port)
    lab.agent.start()
    wait_for(lambda: lab.agent.metric("ovnagent_ports") == count, 10, "all ports are back")
    assert lab.agent.metric("ovnagent_transactions_total") == 1  # 200 VMs, one transaction
    again = lab.ovn.nbctl(
        "--bare", "--columns=addresses", "find", "Logical_Switch_Port", "external_ids:ovnagent-network=pods"
    ).split("\n")
    assert {text.split()[1] for text in again if text} == set(ips)
    lab.kube.kubectl("delete", "vm", "--all", "--wait=false")
    wait_for(lambda: lab.agent.metric("ovnagent_ports") == 0, 60, "all ports gone")


def test_an_empty_answer_costs_no_cluster_its_network(lab: Lab) -> None:
    """All VMs gone from the list, and nobody saw them go: nothing is deleted before an operator says so."""
    for number in range(12):
        lab.create(f"vm{number}", strategy="Halted")
    wait_for(lambda: lab.agent.metric("ovnagent_ports") == 12, 20, "twelve ports")
    lab.agent.kill()
    lab.kube.kubectl("delete", "vm", "--all")
    lab.agent.start()
    wait_for(lambda: lab.agent.metric("ovnagent_sweep_held_ports") == 12, 10, "the sweep is held")
    assert lab.agent.metric("ovnagent_ports") == 12
    lab.ovn.nbctl("set", "NB_Global", ".", "external_ids:ovnagent-approve-sweep=lab")
    wait_for(lambda: lab.agent.metric("ovnagent_ports") == 0, 10, "the sweep goes on")


def test_a_verb_that_is_missing_is_named_and_nothing_is_deleted(lab: Lab) -> None:
    port = lab.create("web", strategy="Halted")
    wait_for(lambda: lab.ovn.port(port), 5, "the port")
    lab.agent.kill()
    size = lab.agent.log.stat().st_size
    try:
        lab.kube.kubectl("patch", "clusterrole", "ovnagent", "--type=json", "-p", '[{"op": "remove", "path": "/rules/0"}]')
        lab.agent.start(ready=False)
        wait_for(
            lambda: "grant the verbs get, list and watch on virtualmachines" in lab.agent.log.read_text()[size:],
            10,
            "it says so",
        )
        assert lab.ovn.port(port)
        # The other agent may have been the one that said so.
        wait_for(lambda: lab.agent.http("/readyz")[0] == 503, 5, "it serves, and is not ready")
    finally:
        lab.kube.kubectl("replace", "-f", str(RBAC / "rbac.yaml"))
    lab.agent.wait_ready(30)
    assert lab.ovn.port(port)


def test_orphan_and_adoption(lab: Lab) -> None:
    port = lab.run("web")
    lab.placed(port, lab.chassis("web"))
    addresses = lab.ovn.addresses(port)
    lab.kube.kubectl("delete", "vm", "web", "--cascade=orphan")
    assert lab.ovn.addresses(port) == addresses
    assert lab.kubevirt.vmi("default", "web") is not None
    lab.create("web")
    uid = lab.kube.get("vm", "web")["metadata"]["uid"]
    wait_for(lambda: uid in lab.ovn.port(port).get("external_ids", ""), 10, "adopted")
    assert lab.ovn.addresses(port) == addresses
    lab.placed(port, lab.chassis("web"))


def test_the_api_server_goes_and_comes_back(lab: Lab) -> None:
    port = lab.run("web")
    lab.kube.stop_api_server()
    lab.ovn.nbctl("lsp-del", port)
    wait_for(lambda: lab.ovn.port(port), 5, "drift is repaired from what is known")
    lab.kube.start_api_server()
    lab.kubevirt.control_plane.wait_ready()
    other = lab.create("other", strategy="Halted")
    wait_for(lambda: lab.ovn.port(other), 20, "it goes on")


@pytest.mark.one_process
def test_a_standby_takes_over(lab: Lab) -> None:
    first = lab.agent.leader()
    first.kill()
    port = lab.create("web", strategy="Halted")
    wait_for(lambda: lab.ovn.port(port), 5, "the standby works")
    second = lab.agent.leader()
    assert second is not first
    assert second.metric("ovnagent_lock_held") == 1
    first.start()
    second.kill()
    port = lab.create("other", strategy="Halted")
    wait_for(lambda: lab.ovn.port(port), 5, "and back")
    second.start()


@pytest.mark.one_process
def test_a_standby_takes_the_lock_from_a_frozen_holder(lab: Lab) -> None:
    """On a Unix socket nobody else would ever take it."""
    assert lab.ovn.nb_remote.startswith("unix:")
    first = lab.agent.leader()
    second = next(agent for agent in lab.agent.agents if agent is not first)
    kept = lab.create("kept", strategy="Halted")
    wait_for(lambda: lab.ovn.port(kept), 5, "the holder works")
    first.signal(signal.SIGSTOP)
    try:
        port = lab.create("web", strategy="Halted")
        began = time.monotonic()
        wait_for(lambda: lab.ovn.port(port), 30, "the standby has taken the lock")
        print(f"written {time.monotonic() - began:.1f} s after the VM came")
        wait_for(lambda: second.metric("ovnagent_lock_held") == 1, 2, "a scrape says so, too")
        uuids = lab.uuid(kept), lab.uuid(port)
    finally:
        first.signal(signal.SIGCONT)
    wait_for(lambda: first.metric("ovnagent_lock_held") == 0, 10, "who wakes up knows that the lock is gone")
    other = lab.create("other", strategy="Halted")
    wait_for(lambda: lab.ovn.port(other), 5, "the new holder works on")
    assert (lab.uuid(kept), lab.uuid(port)) == uuids
    assert second.metric("ovnagent_lock_held") == 1

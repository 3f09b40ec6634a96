"""`ovnagent why` on set-ups that are broken, each at one place: the first broken link is the right one. And the timelines of
migrations, as the agents tell them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from hack.lab.process import wait_for
from ovnagent.process.supervision import Supervisor
from ovnagent.serve.http import Server
from ovnagent.serve.metrics import Metrics
from ovnagent.timelines import Timelines
from tests.e2e.conftest import Lab
from tests.e2e.test_commands import frozen
from tests.shown import compare


def urls(lab: Lab) -> list[str]:
    return [word for agent in lab.agent.agents for word in ("--url", f"http://127.0.0.1:{agent.port}")]


def why(lab: Lab, *arguments: str, status: int = 1, shown: str = "") -> dict[str, Any]:
    """The one chain of a VM; the command's exit status is checked. `shown`: the docs have its text under this name."""
    common = ("why", *arguments, *urls(lab), "--config", lab.agent.config)
    (chain,) = json.loads(asked(lab, *common, "-o", "json", status=status))
    if shown:
        output = asked(lab, *common, status=status)
        compare(shown, f"ovnagent why {' '.join(arguments)}", output)
    return chain  # type: ignore[no-any-return]


def asked(lab: Lab, *arguments: object, status: int = 0) -> str:
    """What a command prints."""
    command = [sys.executable, "-m", "ovnagent", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == status, f"exit {done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout


def text(chain: dict[str, Any]) -> str:
    """The evidence of the last link."""
    return str(chain["links"][-1]["evidence"])


def migrations(lab: Lab, *arguments: str) -> str:
    return asked(lab, "migrations", *arguments, *urls(lab))


@contextmanager
def done_after(undo: Any) -> Iterator[None]:
    try:
        yield
    finally:
        undo()


def runs(lab: Lab, name: str, **annotations: str) -> str:
    """A VM that runs, is bound and up; its port."""
    port = lab.run(name, **annotations)
    lab.placed(port, lab.chassis(name))
    lab.ovn.sync()
    return port


# ---- the request, and what is granted -------------------------------------------------------------------------------


def test_a_vm_that_is_not_there(lab: Lab) -> None:
    chain = why(lab, "nobody")
    assert (chain["broken"], text(chain).endswith("VirtualMachineInstance default/nobody")) == ("request", True)


@pytest.mark.parametrize(
    ("annotations", "broken", "words", "shown"),
    [
        ({"ip_address": "10.16.0.300"}, "request", "10.16.0.300", "why-malformed"),
        ({"logical_switch": "nowhere"}, "request", "names nowhere, which is not configured", "why-network"),
        ({"ip_address": "10.99.0.1"}, "granted", "lies outside", "why-outside"),
        ({"ip_address": "10.16.0.1"}, "granted", "is the gateway of 10.16.0.0/16", ""),
    ],
    ids=["malformed", "unknown network", "outside", "gateway"],
)
def test_a_wish_that_cannot_be_granted(lab: Lab, annotations: dict[str, str], broken: str, words: str, shown: str) -> None:
    lab.create("web", "Halted", **annotations)
    chain = why(lab, "web", shown=shown)
    assert chain["broken"] == broken
    assert words in text(chain)


def test_an_address_that_another_vm_holds(lab: Lab) -> None:
    lab.create("web", "Halted", ip_address="10.16.0.15")
    wait_for(lambda: lab.ovn.port("web.default"), 10, "the port")
    lab.create("clone", "Halted", ip_address="10.16.0.15")
    chain = why(lab, "clone", shown="why-held")
    assert chain["broken"] == "granted"
    assert "which VM default/web holds" in text(chain)


# ---- the row --------------------------------------------------------------------------------------------------------


def test_a_port_name_that_somebody_else_has(lab: Lab) -> None:
    lab.ovn.nbctl("ls-add", "elsewhere", "--", "lsp-add", "elsewhere", "web.default")
    with done_after(lambda: lab.ovn.nbctl("ls-del", "elsewhere")):
        lab.create("web", "Halted")
        wait_for(lambda: "PortRefused" in lab.events("web"), 10, "the Event")
        chain = why(lab, "web", shown="why-foreign")
    assert chain["broken"] == "row"
    assert "belongs to" in text(chain)


@pytest.mark.parametrize(
    ("change", "words", "shown"),
    [
        (("lsp-del", "web.default"), "the Northbound database has no port web.default", "why-nobody-writes"),
        (("set", "Logical_Switch_Port", "web.default", "port_security=[]"), "port_security is not set, should be", ""),
    ],
    ids=["deleted", "changed"],
)
def test_a_row_that_no_agent_puts_right(lab: Lab, change: tuple[str, ...], words: str, shown: str) -> None:
    lab.create("web", "Halted", ip_address="10.16.0.15")
    wait_for(lambda: lab.ovn.port("web.default"), 10, "the port")
    with frozen(lab):
        lab.ovn.nbctl(*change)
        chain = why(lab, "web", shown=shown)
    assert chain["broken"] == "row"
    assert words in text(chain)
    assert "is an agent running" in chain["links"][-1]["remedy"]


# ---- the guest, and its chassis -------------------------------------------------------------------------------------


def test_a_vm_that_is_stopped(lab: Lab) -> None:
    lab.create("web", "Halted", ip_address="10.16.0.15")
    wait_for(lambda: lab.ovn.port("web.default"), 10, "the port")
    chain = why(lab, "web", shown="why-stopped")
    assert (chain["broken"], text(chain)) == ("guest", "the VM is stopped")
    assert "virtctl -n default start web" in chain["links"][-1]["remedy"]


def test_a_launcher_without_a_node(lab: Lab) -> None:
    lab.kubevirt.cordon(*lab.kubevirt.nodes)
    lab.create("web", ip_address="10.16.0.15")
    wait_for(lambda: "launcher" in lab.kube.kubectl("get", "pods", "-o", "name"), 20, "the launcher")
    chain = why(lab, "web", shown="why-no-node")
    assert chain["broken"] == "guest"
    assert "no launcher of it has a node yet" in text(chain)
    assert "on no node" in text(chain)


def test_a_chassis_that_ovn_does_not_know(lab: Lab) -> None:
    runs(lab, "web", ip_address="10.16.0.15")
    chassis = lab.ovn.on(lab.node("web"))
    lab.ovn.stop_controller(chassis)
    lab.ovn.sbctl("chassis-del", chassis.name)
    with done_after(lambda: lab.ovn.start_controller(chassis)):
        chain = why(lab, "web", shown="why-chassis")
    assert chain["broken"] == "chassis"
    assert f"no chassis in OVN's Southbound has the hostname {chassis.node}" in text(chain)


def test_northd_that_does_not_run(lab: Lab) -> None:
    northd = int(lab.ovn.central.directory.joinpath("ovn-northd.pid").read_text())
    os.kill(northd, signal.SIGSTOP)
    with done_after(lambda: os.kill(northd, signal.SIGCONT)):
        lab.create("web", ip_address="10.16.0.15")
        wait_for(lambda: lab.ovn.placed("web.default"), 20, "the row names a chassis")
        lab.kubevirt.wait_running("default", "web")
        chain = why(lab, "web", shown="why-northd")
    assert chain["broken"] == "northd"
    assert text(chain) == "the Southbound database has no Port_Binding web.default"


# ---- the interface --------------------------------------------------------------------------------------------------


def interface_of(lab: Lab, name: str) -> str:
    found = lab.ovn.on(lab.node(name)).vsctl(
        "--bare", "--columns=name", "find", "Interface", f'external_ids:iface-id="{name}.default"'
    )
    return found.strip()


def test_an_interface_that_is_not_plugged(lab: Lab) -> None:
    port = runs(lab, "web", ip_address="10.16.0.15")
    lab.ovn.unplug(lab.node("web"), interface_of(lab, "web"))
    lab.ovn.sync()
    chain = why(lab, "web", shown="why-plugged")
    assert chain["broken"] == "plugged"
    assert text(chain).startswith(f"the port is bound nowhere, and its guest runs on {lab.chassis('web')}")
    assert f"external_ids:iface-id={port}" in chain["links"][-1]["remedy"]


def test_an_interface_under_another_name_and_what_the_cni_says(lab: Lab) -> None:
    runs(lab, "web")
    node = lab.node("web")
    lab.ovn.on(node).vsctl("set", "Interface", interface_of(lab, "web"), "external_ids:iface-id=web.elsewhere")
    lab.ovn.sync()
    pod = lab.kubevirt.launchers("default", "web")[0]["metadata"]
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "not-plugged", "namespace": "default"},
        "involvedObject": {"kind": "Pod", "name": pod["name"], "namespace": "default", "uid": pod["uid"]},
        "type": "Warning",
        "reason": "NotPlugged",
        "message": "interface eth0: \x1b[31mno port was granted",
        "lastTimestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    lab.kube.kubectl("create", "-f", "-", stdin=json.dumps(event))
    with done_after(lambda: lab.kube.kubectl("delete", "event", "not-plugged")):
        kubeconfig = ("--kubeconfig", str(lab.kube.kubeconfig))  # the agent's own account may not read Events
        chain = why(lab, "web", *kubeconfig)
        assert "its Events could not be read" in text(why(lab, "web"))
    assert chain["broken"] == "plugged"
    assert "Event NotPlugged: interface eth0: " in text(chain)


# ---- the path -------------------------------------------------------------------------------------------------------


def test_the_path(lab: Lab) -> None:
    """The whole chain, and what OVN says of each packet: one pair of VMs for all of it."""
    runs(lab, "web", ip_address="10.16.0.15")
    other = runs(lab, "db", ip_address="10.16.0.16")
    lab.create("spare", "Halted", ip_address="10.16.0.17")
    wait_for(lambda: lab.ovn.port("spare.default"), 10, "the port")
    lab.ovn.sync()

    chain = why(lab, "web", "--to", "10.16.0.16:80/tcp", status=0)
    assert chain["broken"] == ""
    names = [link["name"] for link in chain["links"]]
    assert names == ["request", "granted", "row", "guest", "chassis", "northd", "plugged", "up", "dhcp", "path"]
    where = f"port {other} of VM default/db on chassis {lab.chassis('db')}"
    assert text(chain) == f"TCP from 10.16.0.15 to 10.16.0.16:80/tcp is delivered to {where}"

    lab.ovn.nbctl("--name=shut", "acl-add", "ovn-default", "to-lport", "1001", "ip4 && tcp.dst == 80", "drop")
    with done_after(lambda: lab.ovn.nbctl("acl-del", "ovn-default")):
        lab.ovn.sync()
        chain = why(lab, "web", "--to", "10.16.0.16:80/tcp", shown="why-acl")
        assert chain["broken"] == "path"
        assert "is dropped by ACL shut " in text(chain)
        assert "(to-lport, priority 1001, drop: ip4 && tcp.dst == 80)" in text(chain)
        assert why(lab, "web", "--to", "10.16.0.16:81", status=0)["broken"] == ""

    chain = why(lab, "web", "--to", "10.16.0.17")
    assert "would be delivered to port spare.default of VM default/spare, which is bound on no chassis" in text(chain)
    chain = why(lab, "web", "--to", "10.16.0.99:53/udp", shown="why-nobody-there")
    assert "nobody on switch ovn-default answers ARP for 10.16.0.99" in text(chain)
    chain = why(lab, "web", "--to", "10.17.0.1", shown="why-no-gateway")
    assert "nobody on switch ovn-default answers ARP for 10.16.0.1: no port of it has the gateway" in text(chain)
    assert "networks[].router" in chain["links"][-1]["remedy"]
    assert "has no IPv6 address" in text(why(lab, "web", "--to", "fd00::1"))

    router = ("lr-add", "way", "--", "lrp-add", "way", "way-pods", "0a:00:00:00:99:01", "10.16.0.1/16")
    port = ("lsp-add", "ovn-default", "pods-way", "--", "lsp-set-type", "pods-way", "router")
    more = ("lsp-set-addresses", "pods-way", "router", "--", "lsp-set-options", "pods-way", "router-port=way-pods")
    lab.ovn.nbctl(*router, "--", *port, "--", *more)
    with done_after(lambda: lab.ovn.nbctl("lr-del", "way", "--", "lsp-del", "pods-way")):
        lab.ovn.sync()
        chain = why(lab, "web", "--to", "10.17.0.1", shown="why-no-route")
        assert "ICMP from 10.16.0.15 to 10.17.0.1 is dropped: router way has no route to it" in text(chain)
        assert "is answered by router way itself" in text(why(lab, "web", "--to", "10.16.0.1", status=0))


def test_usage(lab: Lab) -> None:
    command = [sys.executable, "-m", "ovnagent", "why", "web", "--to", "10.16.0.16:99999", "--config", str(lab.agent.config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "'10.16.0.16:99999' is no ADDRESS" in done.stderr


# ---- migrations -----------------------------------------------------------------------------------------------------

STEPS = [
    "target bound",
    "options committed",
    "bound on both",
    "activated",
    "domain ready",
    "VMI moved",
    "migration over",
    "source let go",
    "last write",
]


@pytest.mark.one_process
def test_a_migration_under_way_and_its_timeline(lab: Lab) -> None:
    port = runs(lab, "web", ip_address="10.16.0.15")
    source = lab.node("web")
    lab.kubevirt.faults.delays.domain_ready = 15.0
    migration = lab.kubevirt.migrate("default", "web")
    wait_for(lambda: "," in lab.ovn.placed(port), 20, "two chassis")

    def timeline() -> dict[str, Any]:
        found = json.loads(lab.agent.http("/migrations")[1])["migrations"]
        return next((each for each in found if each["migration"] == migration), {"outcome": "", "steps": []})

    wait_for(lambda: "activated" in {each["step"] for each in timeline()["steps"]}, 10, "the target is open")

    try:
        chain = why(lab, "web", status=0, shown="why-migrating")
    except AssertionError:  # of the two databases one may be ahead of the other for a moment: once more
        chain = why(lab, "web", status=0, shown="why-migrating")
    link = next(link for link in chain["links"] if link["name"] == "chassis")
    assert "its target launcher has a node" in link["evidence"]
    assert "the last step was `" in link["evidence"]
    assert link["remedy"].startswith("waits for ")
    assert lab.kubevirt.wait_migration("default", migration) == "Succeeded"
    lab.placed(port, lab.chassis("web"))
    wait_for(lambda: timeline()["outcome"] == "done", 10, "the timeline's end")
    (shown,) = (each for each in json.loads(migrations(lab, "web", "-o", "json")) if each["migration"] == migration)
    assert (shown["source"], shown["target"], shown["unseen"]) == (source, lab.node("web"), [])
    assert sorted(step["step"] for step in shown["steps"]) == sorted(STEPS)
    at = {step["step"]: step["seconds"] for step in shown["steps"]}
    assert at["target bound"] <= at["options committed"] <= at["bound on both"] <= at["activated"] <= at["domain ready"]
    assert at["VMI moved"] <= at["last write"] == shown["seconds"]
    assert shown["late"] == []
    text_ = migrations(lab, "web", migration)
    assert all(f"  {step}" in text_ for step in STEPS)
    picture = ElementTree.fromstring(migrations(lab, "web", "-o", "svg"))
    assert picture.tag.endswith("svg")
    assert migration in migrations(lab, "-n", "default")
    assert migration not in migrations(lab, "-n", "other")
    wait_for(lambda: "last write after" in lab.events("web"), 5, "the Event with the times")


def test_what_was_late_is_said(lab: Lab) -> None:
    port = runs(lab, "web")
    lab.kubevirt.faults.suppress_announce = True
    lab.kubevirt.faults.delays.domain_ready = 0.5
    lab.kubevirt.faults.delays.migration_step = 1.0
    migration = lab.kubevirt.migrate("default", "web")
    assert lab.kubevirt.wait_migration("default", migration) == "Succeeded"
    lab.placed(port, lab.chassis("web"))
    wait_for(lambda: "no announcement was seen, and the target was opened" in migrations(lab, "web", migration), 5, "late")


def own_address() -> str:
    """An address of this machine that is not a loopback: to those the API server makes no connections."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        asked.connect(("192.0.2.1", 9))  # nothing is sent
        return str(asked.getsockname()[0])


def test_agents_are_found_through_the_api_server(lab: Lab) -> None:
    """As an operator does it: with a kubeconfig and no address."""
    timelines, supervisor = Timelines(), Supervisor()
    server = Server(own_address(), 0, Metrics(), list, list, supervisor, {"/migrations": timelines.document})
    server.start()
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "ovnagent-0", "namespace": "ovnagent", "labels": {"app": "ovnagent"}},
        "spec": {"nodeName": lab.kubevirt.nodes[0], "containers": [{"name": "ovnagent", "image": "none"}]},
    }
    lab.kube.kubectl("create", "-f", "-", stdin=json.dumps(pod))
    try:
        status = json.dumps({"status": {"podIP": own_address(), "podIPs": [{"ip": own_address()}], "phase": "Running"}})
        lab.kube.kubectl(
            "patch", "pod", "ovnagent-0", "-n", "ovnagent", "--subresource=status", "--type=merge", "-p", status
        )
        command = [sys.executable, "-m", "ovnagent", "migrations", "--kubeconfig", str(lab.kube.kubeconfig)]
        command += ["--agent-port", str(server.port)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout.split()[0]) == (0, "NAMESPACE"), done.stderr
        assert "no such migration was seen" in done.stderr
        server.stop()
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 3
        assert "agent ovnagent-0 does not answer: " in done.stderr
    finally:
        server.stop()
        lab.kube.kubectl("delete", "pod", "ovnagent-0", "-n", "ovnagent", "--force", "--grace-period=0")


@pytest.mark.one_process
def test_a_standby_says_what_it_did_not_see(lab: Lab) -> None:
    port = runs(lab, "web")
    lab.kubevirt.faults.delays.domain_ready = 5.0
    migration = lab.kubevirt.migrate("default", "web")
    wait_for(lambda: "," in lab.ovn.placed(port), 20, "two chassis")
    leader = lab.agent.leader()
    other = next(agent for agent in lab.agent.agents if agent is not leader)
    lab.agent.crash_one(leader)
    wait_for(lambda: other.metric("ovnagent_lock_held") == 1, 10, "the standby leads")
    assert lab.kubevirt.wait_migration("default", migration) == "Succeeded"
    lab.placed(port, lab.chassis("web"))

    def seen() -> dict[str, Any]:
        found = json.loads(other.http("/migrations")[1])["migrations"]
        return next((each for each in found if each["migration"] == migration), {"outcome": ""})

    wait_for(lambda: seen()["outcome"] == "done", 10, "the end")
    assert {"target bound", "options committed"} <= set(seen()["unseen"])
    assert "last write" in {step["step"] for step in seen()["steps"]}
    assert "before this agent led" in migrations(lab, "web", migration)

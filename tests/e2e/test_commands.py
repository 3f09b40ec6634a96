"""The commands for people, run as people run them, beside an agent that works."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from hack.lab.cluster import RBAC
from hack.lab.kube import command
from hack.lab.process import wait_for
from ovnagent.commands.cli import SETTLE_SECONDS
from ovnagent.commands.findings import Finding, findings, lasting
from ovnagent.commands.observer import Observer, View
from ovnagent.config.file import load
from tests.e2e.conftest import Lab


def ovnagent(lab: Lab, *arguments: str, status: int = 0) -> str:
    """What a command prints on standard output; its exit status is checked."""
    command = [sys.executable, "-m", "ovnagent", *arguments, "--config", str(lab.agent.config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == status, f"exit {done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout + (done.stderr if status == 3 else "")


def finds_nothing(lab: Lab) -> bool:
    command = [sys.executable, "-m", "ovnagent", "check", "--config", str(lab.agent.config)]
    return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0


def record(lab: Lab, vm: str) -> str:
    return str(lab.kube.get("vm", vm)["metadata"].get("annotations", {}).get("ovnagent.io/record", ""))


@contextmanager
def frozen(lab: Lab) -> Iterator[None]:
    """An agent that does not put anything right meanwhile."""
    lab.agent.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        lab.agent.signal(signal.SIGCONT)


def test_ports_shows_where_everything_is(lab: Lab) -> None:
    port = lab.run("web", ip_address="10.16.0.15")
    lab.create("clone", ip_address="10.16.0.15")
    lab.placed(port, lab.chassis("web"))
    lab.ovn.sync()
    wait_for(lambda: "AddressConflict" in lab.events("clone"), 10, "the Event")
    head, *lines = ovnagent(lab, "ports").splitlines()
    assert head.split() == ["NAMESPACE", "VM", "INTERFACE", "PORT", "ADDRESSES", "WANTED", "BOUND", "TROUBLE"]
    chassis = lab.chassis("web")
    assert ["default", "web", "default", "web.default", "10.16.0.15", chassis, chassis, "-"] in [
        line.split() for line in lines
    ]
    assert ["default", "clone", "-", "-", "-", "-", "-", "AddressConflict"] in [line.split() for line in lines]
    (entry,) = json.loads(ovnagent(lab, "ports", "web", "-n", "default", "-o", "json"))
    assert entry["situation"] == "placed"
    assert yaml.safe_load(ovnagent(lab, "ports", "web", "-o", "yaml")) == [entry]
    assert "which VM default/web holds" in ovnagent(lab, "ports", "clone", "-o", "wide")


def test_ports_follows_a_migration(lab: Lab) -> None:
    port = lab.run("web")
    lab.placed(port, lab.chassis("web"))
    command = [sys.executable, "-m", "ovnagent", "ports", "web", "--watch", "--config", str(lab.agent.config)]
    lines: list[str] = []
    # Where the tests run in the background, SIGINT is ignored, and so it would be there (bash(1), Signals).
    unignore = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=unignore) as process:
        assert process.stdout is not None
        reader = threading.Thread(target=lines.extend, args=(process.stdout,), daemon=True)
        reader.start()
        try:
            wait_for(lambda: len(lines) >= 2, 20, "the first table")
            lab.kubevirt.faults.delays.domain_ready = 3.0
            migration = lab.kubevirt.migrate("default", "web")
            assert lab.kubevirt.wait_migration("default", migration) == "Succeeded"
            lab.placed(port, lab.chassis("web"))
            end = lab.chassis("web")
            wait_for(lambda: any(",chassis" in line for line in lines), 10, "a line with two chassis")
            wait_for(lambda: f" {end} " in lines[-1] and "," not in lines[-1].split()[5], 10, "a line with the target alone")
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 130
        finally:
            process.kill()  # else a failure above would wait for it for ever


def test_nothing_to_find_where_all_is_well(lab: Lab) -> None:
    for name in ("one", "two"):
        port = lab.run(name)
        lab.placed(port, lab.chassis(name))
    lab.ovn.sync()
    assert ovnagent(lab, "check") == ""


THEFT = 'addresses="0a:00:00:00:00:77 10.16.0.15"'  # lsp-set-addresses would refuse it
PIN = ("set", "Logical_Switch_Port", "web.default", "options:requested-chassis=chassis9")


@pytest.mark.parametrize(
    ("kinds", "change", "undo"),
    [
        ({"missing"}, ("lsp-del", "web.default"), ()),
        ({"drift", "stale-pin"}, PIN, ()),
        ({"drift"}, ("lsp-set-addresses", "web.default", "0a:00:00:00:00:78 10.16.0.78"), ()),
        (
            {"duplicate", "AddressConflict"},
            ("lsp-add", "ovn-default", "thief", "--", "set", "Logical_Switch_Port", "thief", THEFT),
            ("lsp-del", "thief"),
        ),
        (  # somebody else's port of this name, on a switch of which the agent knows nothing
            {"PortRefused"},
            ("lsp-del", "web.default", "--", "ls-add", "elsewhere", "--", "lsp-add", "elsewhere", "web.default"),
            ("ls-del", "elsewhere"),
        ),
    ],
    ids=["missing", "pin", "addresses", "duplicate", "foreign"],
)
def test_what_others_broke_is_found(lab: Lab, kinds: set[str], change: tuple[str, ...], undo: tuple[str, ...]) -> None:
    port = lab.create("web", strategy="Halted", ip_address="10.16.0.15")
    wait_for(lambda: lab.ovn.port(port) and "10.16.0.15" in record(lab, "web"), 10, "port and record")
    with frozen(lab):
        lab.ovn.nbctl(*change)
        try:
            found = json.loads(ovnagent(lab, "check", "-o", "json", status=1))
        finally:
            if undo:
                lab.ovn.nbctl(*undo)
    assert {each["kind"] for each in found} == kinds
    wait_for(lambda: finds_nothing(lab), 30, "the agent puts it right")


def test_a_record_that_is_gone_is_found(lab: Lab) -> None:
    port = lab.create("web", strategy="Halted")
    wait_for(lambda: lab.ovn.port(port) and record(lab, "web"), 10, "port and record")
    with frozen(lab):
        lab.kube.kubectl("annotate", "vm", "web", "ovnagent.io/record-")
        assert ovnagent(lab, "check", status=1).startswith("record  default/web: annotation ovnagent.io/record of the ")


def test_a_chassis_that_is_gone_is_found(lab: Lab) -> None:
    lab.placed(lab.run("web"), lab.chassis("web"))
    lab.ovn.sync()
    chassis = lab.ovn.on(lab.node("web"))
    lab.ovn.stop_controller(chassis)
    lab.ovn.sbctl("chassis-del", chassis.name)
    try:
        text = ovnagent(lab, "check", status=1)
        assert f"names {chassis.name}, which the Southbound" in text
        assert "ChassisUnknown  default/web: " in text
    finally:
        lab.ovn.start_controller(chassis)
    wait_for(lambda: finds_nothing(lab), 30, "it is back")


def test_a_leftover_and_a_port_that_is_not_bound_are_found(lab: Lab) -> None:
    for name in ("gone", "web"):
        lab.placed(lab.run(name), lab.chassis(name))
    lab.ovn.sync()
    with frozen(lab):
        node = lab.node("web")
        interface = lab.ovn.on(node).vsctl(
            "--bare", "--columns=name", "find", "Interface", 'external_ids:iface-id="web.default"'
        )
        lab.ovn.unplug(node, interface.strip())
        lab.kube.kubectl("delete", "vm", "gone")
        wait_for(lambda: "gone" not in lab.kube.kubectl("get", "vmi,pods", "-o", "name"), 20, "the VMI is gone")
        lab.ovn.sync()
        text = ovnagent(lab, "check", status=1)
        assert "leftover  gone.default: " in text
        assert "unbound  web.default: VM default/web runs on chassis" in text


def test_pools(lab: Lab) -> None:
    lab.create("web", ip_address="10.16.0.15")
    wait_for(lambda: lab.ovn.port("web.default"), 5, "the port")
    line = ovnagent(lab, "pools").splitlines()[1].split()
    assert line[:3] == ["pods", "IPv4", "10.16.0.0/16"]
    assert int(line[4]) == 1
    assert [int(number) for number in line[3:]] == [65533, 1, 0, 65532]
    wide = ovnagent(lab, "pools", "-o", "wide")
    assert ["pods", "10.16.0.15", "default/web", "web.default"] in [line.split() for line in wide.splitlines()]
    (pool,) = json.loads(ovnagent(lab, "pools", "-o", "json"))
    assert pool["holders"] == [{"address": "10.16.0.15", "vm": "default/web", "port": "web.default"}]


def test_who_does_not_answer_is_named(lab: Lab) -> None:
    text = lab.agent.config.read_text()
    broken = lab.agent.config.with_name("broken.yaml")
    broken.write_text(text.replace("nb.sock", "nowhere.sock"))
    command = [sys.executable, "-m", "ovnagent", "check", "--config", str(broken), "--timeout", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 3
    assert "Northbound (unix:" in done.stderr
    assert "nowhere.sock): not complete after 2 s (OVN_Northbound: no endpoint answers); check the endpoint" in done.stderr


def test_a_right_that_is_missing_is_named(lab: Lab) -> None:
    rules = "/rules/0"
    lab.kube.kubectl("patch", "clusterrole", "ovnagent", "--type=json", "-p", f'[{{"op": "remove", "path": "{rules}"}}]')
    try:
        text = ovnagent(lab, "check", "--timeout", "3", status=3)
        assert "Kubernetes: not complete after 3 s" in text
        assert "grant the verbs get, list and watch on virtualmachines" in text
    finally:
        lab.kube.kubectl("replace", "-f", str(RBAC / "rbac.yaml"))
    lab.agent.wait_ready(30)


def test_as_a_plugin_of_kubectl(lab: Lab) -> None:
    """kubectl finds it on PATH, and asks it what completes a word."""
    path = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def kubectl(*arguments: str) -> subprocess.CompletedProcess[str]:
        words = (*command("kubectl"), *arguments)
        return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False, env=path)

    done = kubectl("ovnagent", "check", "--config", str(lab.agent.config))
    assert (done.returncode, done.stderr) == (0, "everything is as it should be\n")
    assert kubectl("ovnagent", "why", "--help").stdout.startswith("usage: kubectl ovnagent why")
    assert kubectl("__complete", "ovnagent", "wh").stdout.split() == ["why", ":4"]
    assert kubectl("__complete", "ovnagent", "why", "-o", "").stdout.split() == ["text", "json", ":4"]


def test_a_reader_that_goes_away_is_no_error(lab: Lab) -> None:
    command = f"{sys.executable} -m ovnagent ports --config {lab.agent.config} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr


def test_a_guest_whose_network_is_not_plugged_yet_is_no_finding(lab: Lab) -> None:
    lab.kubevirt.faults.delays.network = 8.0
    port = lab.create("web")
    wait_for(lambda: lab.ovn.placed(port), 10, "the launcher has a node, and the port its chassis")
    assert ovnagent(lab, "check") == ""


def test_check_has_nothing_to_say_of_an_agent_at_work(lab: Lab) -> None:
    """Migrations with all steps slow enough to be looked at, machines that come and go: each look sees something else."""
    names = ("one", "two", "three")
    for name in names:
        lab.placed(lab.run(name), lab.chassis(name))
    done = threading.Event()
    errors: list[str] = []

    def stir() -> None:
        delays = lab.kubevirt.faults.delays
        delays.migration_step = delays.domain_ready = 0.2
        number = 0
        while not done.is_set():
            number += 1
            migrations = [lab.kubevirt.migrate("default", name) for name in names]
            lab.create(f"brief{number}")
            ends = [lab.kubevirt.wait_migration("default", migration) for migration in migrations]
            errors.extend(end for end in ends if end != "Succeeded")
            lab.kube.kubectl("delete", "vm", f"brief{number}", "--wait=false")

    thread = threading.Thread(target=stir)
    thread.start()
    fleeting = 0
    lasts: list[Finding] = []

    def look() -> View:
        nonlocal fleeting
        view = observer.look_closely()
        fleeting += len(findings(view))
        return view

    try:
        with Observer(load(lab.agent.config), 30) as observer:
            end = time.monotonic() + 20
            while time.monotonic() < end:
                lasts += lasting(look, SETTLE_SECONDS)
    finally:
        done.set()
        thread.join(60)
    assert not lasts
    assert not errors
    assert fleeting, "no look came between the agent's own: this has shown nothing"

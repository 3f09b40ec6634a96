"""The commands for people, run as people run them, beside an agent that works."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import yaml

from hack.lab.process import wait_for
from tests.e2e.conftest import Lab

THEFT = 'addresses="0a:00:00:00:00:77 10.16.0.15"'  # lsp-set-addresses would refuse it


def ovnagent(lab: Lab, *arguments: str, status: int = 0) -> str:
    """What a command prints on standard output; its exit status is checked."""
    command = [sys.executable, "-m", "ovnagent", *arguments, "--config", str(lab.agent.config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == status, f"exit {done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout + (done.stderr if status == 3 else "")


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
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        reader = threading.Thread(target=lines.extend, args=(process.stdout,), daemon=True)
        reader.start()
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


def test_nothing_to_find_where_all_is_well(lab: Lab) -> None:
    for name in ("one", "two"):
        port = lab.run(name)
        lab.placed(port, lab.chassis(name))
    lab.ovn.sync()
    assert ovnagent(lab, "check") == ""


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("missing", ("lsp-del", "web.default")),
        ("drift", ("set", "Logical_Switch_Port", "web.default", "options:requested-chassis=chassis9")),
        ("stale-pin", ("set", "Logical_Switch_Port", "web.default", "options:requested-chassis=chassis9")),
        ("duplicate", ("lsp-add", "ovn-default", "thief", "--", "set", "Logical_Switch_Port", "thief", THEFT)),
    ],
)  # fmt: skip
def test_what_others_broke_is_found(lab: Lab, kind: str, change: tuple[str, ...]) -> None:
    port = lab.run("web", ip_address="10.16.0.15")
    lab.placed(port, lab.chassis("web"))
    with frozen(lab):
        lab.ovn.nbctl(*change)
        found = json.loads(ovnagent(lab, "check", "-o", "json", status=1))
        assert kind in {each["kind"] for each in found}, found
    lab.ovn.nbctl("--if-exists", "lsp-del", "thief")


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
    assert int(line[3]) == int(line[4]) + int(line[5])
    assert "10.16.0.15 default/web" in ovnagent(lab, "pools", "-o", "wide")


def test_who_does_not_answer_is_named(lab: Lab) -> None:
    text = lab.agent.config.read_text()
    broken = lab.agent.config.with_name("broken.yaml")
    broken.write_text(text.replace("nb.sock", "nowhere.sock"))
    command = [sys.executable, "-m", "ovnagent", "check", "--config", str(broken), "--timeout", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 3
    assert "Northbound (unix:" in done.stderr
    assert "nowhere.sock) is not complete after 2 s" in done.stderr

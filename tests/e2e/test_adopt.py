"""`ovnagent adopt` beside agents that work: what is handed over stays handed over."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import pytest

from hack.lab.process import wait_for
from tests.e2e.conftest import Lab
from tests.e2e.test_commands import record


def adopt(lab: Lab, *arguments: str, status: int = 0) -> str:
    command = [sys.executable, "-m", "ovnagent", "adopt", *arguments, "--config", str(lab.agent.config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == status, f"exit {done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def addresses(lab: Lab, port: str) -> str:
    """`MAC IP` of a port, empty where there is none."""
    return lab.ovn.port(port).get("addresses", "").strip('[]"')


def halted(lab: Lab, *names: str) -> None:
    for name in names:
        lab.create(name, "Halted")
    for name in names:
        wait_for(lambda name=name: addresses(lab, f"{name}.default") and record(lab, name), 20, f"{name}'s port and record")


def agrees(lab: Lab, name: str) -> Callable[[], bool]:
    """The VM's record says what its row says."""

    def asked() -> bool:
        ports = json.loads(record(lab, name) or "{}").get("ports", {})
        lease = ports.get(f"{name}.default", {"mac": "", "ips": []})
        return " ".join((lease["mac"], *lease["ips"])) == addresses(lab, f"{name}.default") != ""

    return asked


def test_a_vms_addresses_go_to_another(lab: Lab) -> None:
    halted(lab, "old", "new")
    before = addresses(lab, "old.default")
    text = adopt(lab, "--from", "old", "new")
    assert (
        f"{before.split()[1]} (MAC {before.split()[0]}) of VM default/old goes to VM default/new, port new.default" in text
    )
    assert "nothing is changed; with --yes it is done" in text
    assert addresses(lab, "old.default") == before
    assert "done" in adopt(lab, "--from", "default/old", "default/new", "--yes")
    assert addresses(lab, "new.default") == before
    assert addresses(lab, "old.default") != before
    for name in ("old", "new"):
        wait_for(agrees(lab, name), 10, f"{name}'s record")
    # Whoever leads next finds it so; and agents work on.
    lab.agent.crash_one(lab.agent.leader())
    lab.agent.wait_ready()
    lab.run("new")
    assert addresses(lab, "new.default").split()[1] == before.split()[1]  # the MAC is what the CNI gives the pod
    lab.placed("new.default", lab.chassis("new"))


def test_a_restored_vm_that_asks_for_what_the_old_one_holds(lab: Lab) -> None:
    """Its template names the address, so it gets no port before."""
    lab.create("old", "Halted", ip_address="10.16.0.15")
    wait_for(lambda: "10.16.0.15" in record(lab, "old"), 20, "the record")
    lab.create("new", "Halted", ip_address="10.16.0.15")
    wait_for(lambda: "AddressConflict" in lab.events("new"), 20, "the Event")
    text = adopt(lab, "--from", "old", "new", "--yes")
    assert "VM default/old: AddressConflict: " in text
    assert addresses(lab, "new.default").endswith(" 10.16.0.15")
    assert addresses(lab, "old.default") == ""


def test_who_runs_gives_and_takes_nothing(lab: Lab) -> None:
    halted(lab, "spare")
    lab.run("web")
    before = addresses(lab, "web.default")
    assert "VM default/web runs; stop it first" in adopt(lab, "--from", "web", "spare", "--yes", status=1)
    assert "VM default/web runs; stop it first" in adopt(lab, "--from", "spare", "web", "--yes", status=1)
    assert addresses(lab, "web.default") == before


@pytest.mark.parametrize("name", ["legacy", "web.default"])
def test_a_port_that_somebody_else_made(lab: Lab, name: str) -> None:
    lab.ovn.nbctl("lsp-add", "ovn-default", name, "--", "lsp-set-addresses", name, "0a:00:00:00:77:07 10.16.7.7")
    lab.ovn.nbctl("set", "Logical_Switch_Port", name, "external_ids:owner=somebody")
    try:
        lab.create("web", "Halted")
        wait_for(lambda: record(lab, "web") or "PortRefused" in lab.events("web"), 20, "the VM is looked at")
        uuid = lab.uuid(name)
        assert "10.16.7.7 (MAC 0a:00:00:00:77:07)" in adopt(lab, "--port", name, "web", "--yes")
        assert addresses(lab, "web.default") == "0a:00:00:00:77:07 10.16.7.7"
        assert (lab.uuid("web.default") == uuid) is (name == "web.default")
        if name == "web.default":
            assert "owner=somebody" in lab.ovn.port("web.default")["external_ids"]
        else:
            assert not lab.ovn.port(name)
        wait_for(agrees(lab, "web"), 10, "the record")
    finally:
        lab.ovn.nbctl("--if-exists", "lsp-del", name)


def test_without_an_agent_it_is_the_same(lab: Lab) -> None:
    halted(lab, "old", "new")
    before = addresses(lab, "old.default")
    lab.agent.stop()
    try:
        adopt(lab, "--from", "old", "new", "--yes")
    finally:
        lab.agent.start()
    wait_for(agrees(lab, "old"), 10, "old's record")
    assert addresses(lab, "new.default") == before


def test_a_vm_or_port_that_is_not_there(lab: Lab) -> None:
    halted(lab, "web")
    assert "knows of a VM default/nobody" in adopt(lab, "--from", "nobody", "web", status=1)
    assert "there is no VirtualMachine default/nobody" in adopt(lab, "--from", "web", "nobody", status=1)
    assert "has no logical switch port nothing" in adopt(lab, "--port", "nothing", "web", status=1)
    assert "is the agent's already" in adopt(lab, "--port", "web.default", "web", status=1)
    assert "not allowed with argument" in adopt(lab, "--port", "a", "--from", "b", "web", status=2)

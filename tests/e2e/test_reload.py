"""A configuration that changes while the agent works."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from hack.lab.process import wait_for
from tests.e2e.conftest import Lab

# An agent that is killed while the file is broken is right not to start again: no random crash here.
pytestmark = pytest.mark.one_process

EXTRA = {"name": "extra", "logicalSwitch": "extra", "subnets": [{"cidr": "172.31.0.0/28", "gateway": "172.31.0.1"}]}


class File:
    """The agent's configuration file."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.text = lab.agent.config.read_text()

    def write(self, **changes: Any) -> None:
        self.lab.agent.write_config(yaml.safe_dump({**yaml.safe_load(self.text), **changes}))

    def networks(self, *more: dict[str, Any]) -> list[dict[str, Any]]:
        return [*yaml.safe_load(self.text)["networks"], *more]

    def accepted(self, expected: bool) -> None:
        wait_for(
            lambda: self.lab.agent.metric("ovnagent_config_last_reload_successful") == float(expected),
            10,
            f"the file {'accepted' if expected else 'refused'}",
        )

    def said(self, words: str) -> None:
        wait_for(lambda: words in self.lab.agent.log.read_text(), 5, f"the log says {words!r}")


@pytest.fixture
def file(lab: Lab) -> Iterator[File]:
    made = File(lab)
    yield made
    for name in lab.kube.kubectl("get", "vm", "-o", "name").split():
        lab.delete(name.partition("/")[2])
    made.lab.agent.write_config(made.text)
    made.accepted(True)


def test_a_network_is_added_and_widened_and_nothing_is_lost(lab: Lab, file: File) -> None:
    port = lab.run("web")
    before = lab.ovn.port(port)
    lab.ovn.nbctl("--may-exist", "ls-add", "extra")
    lab.ovn.nbctl("lsp-add", "extra", "foreign", "--", "lsp-set-addresses", "foreign", "0a:00:00:00:00:99 172.31.0.5")
    try:
        lab.create("late", logical_switch="extra", ip_address="172.31.0.20")
        wait_for(lambda: "UnknownNetwork" in lab.events("late"), 10, "the Event")
        file.write(networks=file.networks(EXTRA))
        # Known now, but too small; then it is widened.
        wait_for(lambda: "AddressRefused" in lab.events("late"), 10, "the Event")
        lab.create("taken", logical_switch="extra", ip_address="172.31.0.5")
        wait_for(lambda: "foreign uses" in lab.events("taken"), 10, "the Event")
        wide = {**EXTRA, "subnets": [{"cidr": "172.31.0.0/24", "gateway": "172.31.0.1"}]}
        file.write(networks=file.networks(wide))
        wait_for(lambda: lab.ovn.addresses("late.default") == ["172.31.0.20"], 10, "the port on the new network")
        assert lab.ovn.port(port) == before
        file.write()
        file.accepted(False)
        file.said("network extra is gone from it, but 1 ports are on it")
        assert lab.ovn.addresses("late.default") == ["172.31.0.20"]
    finally:
        lab.ovn.nbctl("--if-exists", "lsp-del", "foreign")


def test_a_broken_file_changes_nothing(lab: Lab, file: File) -> None:
    port = lab.run("web")
    before = lab.ovn.port(port)
    lab.agent.write_config("networks: [")
    file.accepted(False)
    file.said("no valid YAML")
    file.write(cluster="other")
    file.said("cluster has changed, which takes a restart")
    assert lab.agent.metric("ovnagent_config_last_reload_successful") == 0
    assert lab.ovn.port(port) == before
    second = lab.create("second")
    wait_for(lambda: lab.ovn.addresses(second), 5, "the agent works by the old one")


def test_a_subnet_is_changed_under_a_running_vm(lab: Lab, file: File) -> None:
    """It keeps its address while it runs, and gets one of the new subnet for its next start."""
    file.write(networks=file.networks(EXTRA))
    port = lab.run("web", logical_switch="extra")
    lab.placed(port, lab.chassis("web"))
    (address,) = lab.ovn.addresses(port)
    before = lab.agent.log.read_text().count("configuration changed")
    file.write(networks=file.networks({**EXTRA, "subnets": [{"cidr": "172.30.0.0/28", "gateway": "172.30.0.1"}]}))
    agents = len(lab.agent.agents)  # the one that works may be the last to read it
    wait_for(lambda: lab.agent.log.read_text().count("configuration changed") >= before + agents, 10, "the file is read")
    lab.create("probe", logical_switch="extra")
    wait_for(
        lambda: any(ip.startswith("172.30.") for ip in lab.ovn.addresses("probe.default")), 10, "the new subnet is in use"
    )
    assert lab.ovn.addresses(port) == [address]
    lab.kubevirt.stop_vm("default", "web")
    wait_for(lambda: any(ip.startswith("172.30.") for ip in lab.ovn.addresses(port)), 20, "an address of the new subnet")


def test_a_network_that_is_missing_at_a_start_costs_nobody_his_port(lab: Lab, file: File) -> None:
    wide = {**EXTRA, "subnets": [{"cidr": "172.31.0.0/24", "gateway": "172.31.0.1"}]}
    file.write(networks=file.networks(wide))
    for number in range(12):
        lab.create(f"vm{number}", strategy="Halted", logical_switch="extra")
    wait_for(lambda: lab.agent.metric("ovnagent_ports") == 12, 20, "twelve ports")
    lab.agent.stop()
    file.write()
    lab.agent.start()
    file.said("12 of 12 ports are on networks that the configuration does not name: extra. They stay")
    assert lab.agent.metric("ovnagent_ports") == 12
    file.write(networks=file.networks(wide))
    wait_for(lambda: lab.agent.metric("ovnagent_problems") == 0, 10, "all is well again")
    assert lab.agent.metric("ovnagent_ports") == 12

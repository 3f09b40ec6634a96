"""Interfaces that come, go and change while the VM runs, and those in odd places, plugged by `ovnagent plug`: with real
ovs-cni, Open vSwitch, ovn-controller, API server and virt-controller, which starts the migrations by itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from hack.lab.kubevirt import objects
from hack.lab.process import wait_for
from tests.e2e.plugging import NETWORKS, OBJECTS, Lab, inside, plug_lab

pytestmark = [pytest.mark.timeout(240), pytest.mark.one_process]
GREEN = """
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: green, namespace: default}
spec: {config: '{"cniVersion":"0.4.0","type":"ovs","bridge":"br-int"}'}
"""
GREEN_NETWORK: dict[str, object] = {"name": "green", "nads": ["default/green"], "subnets": [{"cidr": "10.18.0.0/16"}]}
WEB, BLUE, GREEN_PORT = "web.default", "web.default.blue.default", "web.default.green.default"


@pytest.fixture(scope="module")
def made() -> Iterator[Lab]:
    with plug_lab("plugi", OBJECTS + GREEN, [*NETWORKS, GREEN_NETWORK]) as lab:
        yield lab


@pytest.fixture
def lab(made: Lab) -> Iterator[Lab]:
    yield made
    made.kubevirt.faults.reset()
    made.clear()


def change(lab: Lab, *steps: tuple[str, str, Any]) -> None:
    """Edit the VM as a user does: JSON patches below its template's spec."""
    patch = [{"op": op, "path": f"/spec/template/spec/{path}", "value": value} for op, path, value in steps]
    lab.kube.kubectl("patch", "vm", "web", "--type=json", "-p", json.dumps(patch))


def hot_plug(lab: Lab, name: str, nad: str) -> None:
    change(
        lab,
        ("add", "domain/devices/interfaces/-", {"name": name, "bridge": {}}),
        ("add", "networks/-", {"name": name, "multus": {"networkName": nad}}),
    )


def moved(lab: Lab) -> tuple[str, str]:
    """Wait until a migration that KubeVirt began by itself has succeeded: (source, target)."""
    source = lab.node("web")
    assert lab.kubevirt.wait_migration("default", lab.kubevirt.newest_migration("default", "web")) == "Succeeded"
    assert lab.node("web") != source
    return source, lab.node("web")


def names_of(lab: Lab) -> list[str]:
    """The interfaces of the VMI's spec."""
    vmi = lab.kubevirt.vmi("default", "web")
    assert vmi is not None
    return [each["name"] for each, _ in objects.interfaces_of(vmi)]


def test_plugged_in_and_out_of_a_running_vm(lab: Lab) -> None:
    lab.plugged(lab.run("web"), WEB)
    hot_plug(lab, "blue", "blue")
    source, target = moved(lab)
    lab.plugged(target, WEB, BLUE)
    lab.plugged(source)
    lab.bound(BLUE, target)
    change(lab, ("add", "domain/devices/interfaces/1/state", "absent"))
    source, target = moved(lab)
    lab.plugged(target, WEB)
    lab.plugged(source)
    wait_for(lambda: names_of(lab) == ["default"], 20, "virt-controller has taken the interface out of the VMI")
    wait_for(lambda: not lab.ovn.port(BLUE), 20, "the port of the interface is gone")


def test_attached_to_the_running_launcher(lab: Lab) -> None:
    """As Multus' dynamic networks controller does it, without a migration: before the agent has heard of the interface, or
    after."""
    node = lab.run("web")
    launcher = lab.launcher("web")
    lab.attach(node, "default", "web", launcher, inside("blue"))
    lab.dark(node, launcher, f"has no interface that is {inside('blue')}", inside("blue"))
    hot_plug(lab, "blue", "blue")
    lab.plugged(node, WEB, BLUE, seconds=15)
    lab.bound(BLUE, node)
    hot_plug(lab, "red", "green")
    wait_for(lambda: lab.ovn.port(GREEN_PORT), 10, "the port of the third interface")
    wait_for(lambda: GREEN_PORT in json.dumps(lab.kube.get("vm", "web")), 10, "and its record")
    lab.attach(node, "default", "web", launcher, inside("red"))
    lab.plugged(node, WEB, BLUE, GREEN_PORT, seconds=2)


def test_the_second_interface_on_a_nad_leaves_the_first_its_name(lab: Lab) -> None:
    """A port keeps its name while it is in use; at the next start both carry their interfaces' names."""
    lab.plugged(lab.run("web", nics="default,blue=blue"), WEB, BLUE)
    hot_plug(lab, "red", "blue")
    _, target = moved(lab)
    lab.plugged(target, WEB, BLUE, f"{BLUE}.red")
    launcher = lab.launcher("web")
    for nic, port in (("blue", BLUE), ("red", f"{BLUE}.red")):
        row = lab.row(launcher, target, inside(nic))
        assert row is not None
        assert row.iface_id == port, "each the right one"
        lab.bound(port, target)
    lab.restart("web")
    lab.plugged(lab.node("web"), WEB, f"{BLUE}.blue", f"{BLUE}.red")


def test_a_nad_in_the_pod_network_s_place(lab: Lab) -> None:
    node = lab.run("web", nics="main=*blue")
    lab.plugged(node, BLUE)
    row = lab.row(lab.launcher("web"), node, "eth0")
    assert row is not None
    assert row.iface_id == BLUE
    assert lab.kubevirt.wait_migration("default", lab.kubevirt.migrate("default", "web")) == "Succeeded"
    lab.plugged(lab.node("web"), BLUE)
    lab.plugged(node)
    lab.bound(BLUE, lab.node("web"))


def test_a_default_network_that_the_owner_chose(lab: Lab) -> None:
    """`v1.multus-cni.io/default-network` on the template: eth0 is attached elsewhere; KubeVirt calls it the pod network."""
    node = lab.run("web", annotations={objects.DEFAULT_NAD: "default/blue"})
    (pod,) = lab.kubevirt.launchers("default", "web")
    assert '"name": "default/blue"' in objects.annotations_of(pod)[objects.NETWORK_STATUS], "and so Multus reports it"
    lab.plugged(node, WEB)
    lab.bound(WEB, node)
    assert lab.kubevirt.wait_migration("default", lab.kubevirt.migrate("default", "web")) == "Succeeded"
    lab.plugged(lab.node("web"), WEB)


def test_a_nad_that_a_migration_changes(lab: Lab) -> None:
    """KubeVirt 1.8, LiveUpdateNADRef: the source keeps the old network's port until its launcher has ended, the target has
    the new one's."""
    source = lab.run("web", nics="default,blue=blue")
    lab.plugged(source, WEB, BLUE)
    lab.kubevirt.faults.delays.source_lingers = 3.0
    change(lab, ("replace", "networks/1/multus/networkName", "green"))
    migration = lab.kubevirt.newest_migration("default", "web")
    wait_for(lambda: lab.node("web") != source, 60, "the VM has moved")
    target = lab.node("web")
    lab.plugged(target, WEB, GREEN_PORT)
    pod = str(lab.kubevirt.launchers("default", "web")[-1]["metadata"]["name"])
    assert lab.iface_ids(source) == sorted((WEB, BLUE)), "its launcher is still there"
    assert lab.kubevirt.wait_migration("default", migration) == "Succeeded"
    lab.plugged(source)
    lab.bound(GREEN_PORT, target)
    told = [line for line in lab.plugs.on(target).log.read_text().splitlines() if f"/{pod} " in line]
    assert {line.partition(" port=")[2].split()[0] for line in told} == {WEB, GREEN_PORT}, "it never had the old one"


def test_a_hot_plug_that_fails_leaves_nothing(lab: Lab) -> None:
    """The migration by which the interface is to come fails: the target lets go of all that it had."""
    source = lab.run("web")
    lab.plugged(source, WEB)
    lab.kubevirt.faults.fails = "TargetReady"
    hot_plug(lab, "blue", "blue")
    migration = lab.kubevirt.newest_migration("default", "web")
    assert lab.kubevirt.wait_migration("default", migration) == "Failed"
    others = [each.node for each in lab.ovn.chassis if each.node != source]
    lab.plugged(source, WEB)
    for node in others:
        wait_for(lambda node=node: not any(lab.iface_ids(node)), 20, f"nothing on {node}")
    lab.bound(WEB, source)

"""From Kubernetes objects to facts: what is odd in them harms nobody."""

from __future__ import annotations

import json

import pytest

from ovnagent.core import reduce, vm
from ovnagent.core.addresses import Foreign
from ovnagent.core.ports import port_name
from ovnagent.core.vm import Interface, VmKey
from tests.desk import Desk, network, pod_object, vm_object, vmi_object

KEY = VmKey("default", "web.example.com")


def test_port_names() -> None:
    pod, nad = Interface("default", "bridge"), Interface("a", "bridge", nad="demo/net")
    twice = [nad, Interface("b", "bridge", nad="demo/net")]
    assert port_name(KEY, pod, [pod, nad]) == "web.example.com.default"
    assert port_name(KEY, nad, [pod, nad]) == "web.example.com.default.net.demo"
    assert [port_name(KEY, each, twice) for each in twice] == [
        "web.example.com.default.net.demo.a",
        "web.example.com.default.net.demo.b",
    ]


def test_an_interface_inside_the_pod_is_named_as_kubevirt_does_it() -> None:
    # Recorded: network "tenant" of the traces.
    assert vm.pod_interface(Interface("tenant", "bridge", nad="demo/tenant-net")) == "pode9da86d351c"


def test_the_target_s_node_comes_from_the_pod_s_spec_not_from_its_label() -> None:
    pod = pod_object("p", "web", node="node2", migration="m1")
    pod["metadata"]["labels"]["kubevirt.io/nodeName"] = "node1"
    assert reduce.launcher(pod).node == "node2"


def test_network_status_tells_macs_by_interface() -> None:
    status = [
        {"name": "default-net", "interface": "eth0", "mac": "0a:00:00:00:00:01", "default": True},
        {"name": "demo/net", "interface": "pod123", "mac": "0a:00:00:00:00:02"},
        "nonsense",
    ]
    pod = reduce.launcher(pod_object("p", "web", annotations={"k8s.v1.cni.cncf.io/network-status": json.dumps(status)}))
    assert pod.attached == (("eth0", "default-net", "0a:00:00:00:00:01"), ("pod123", "demo/net", "0a:00:00:00:00:02"))
    broken = reduce.launcher(pod_object("p", "web", annotations={"k8s.v1.cni.cncf.io/network-status": "{"}))
    assert broken.attached == ()


@pytest.mark.parametrize(
    ("interfaces", "networks"),
    [
        ([], []),
        ([{"name": "default"}], []),
        (["nonsense", {}], [None, {"name": "x"}]),
        ([{"name": "default", "bridge": {}}], [{"name": "default", "multus": {}}]),
    ],
)
def test_a_vm_with_nothing_to_attach_gets_no_port_and_no_blame(interfaces: list, networks: list) -> None:  # type: ignore[type-arg]
    desk = Desk()
    desk.feed("ADDED", "virtualmachines", vm_object("web", interfaces=interfaces, networks=networks))
    desk.look()
    assert not desk.rows
    assert not desk.says("web")


def test_an_exhausted_pool_is_said_and_others_keep_what_they_have() -> None:
    desk = Desk(network("10.0.0.0/29"))
    for number in range(7):
        desk.feed("ADDED", "virtualmachines", vm_object(f"vm{number}", created=f"2026-01-01T00:00:0{number}Z"))
        desk.look()
    assert len(desk.rows) == 5  # of 8 addresses: network, broadcast and gateway are not for VMs
    assert "no address is free in IPv4 subnet 10.0.0.0/29 of network pods" in desk.says("vm5")[0]
    desk.feed("DELETED", "virtualmachines", vm_object("vm0", created="2026-01-01T00:00:00Z"))
    desk.look()
    assert len(desk.rows) == 5
    assert [bool(desk.says(f"vm{number}")) for number in (5, 6)].count(True) == 1


def test_dual_stack_and_both_families_asked_for() -> None:
    desk = Desk(network("10.16.0.0/16", "fd00:10:16::/64"))
    desk.feed("ADDED", "virtualmachines", vm_object("auto"))
    desk.feed("ADDED", "virtualmachines", vm_object("six", annotations={"ovn.kubernetes.io/ip_address": "fd00:10:16::15"}))
    desk.feed(
        "ADDED",
        "virtualmachines",
        vm_object("both", annotations={"ovn.kubernetes.io/ip_address": "10.16.0.9,fd00:10:16::9"}),
    )
    desk.look()
    assert len(desk.port("auto.default").ips) == len(desk.port("six.default").ips) == 2
    assert "fd00:10:16::15" in desk.port("six.default").ips
    assert desk.port("both.default").ips == ("10.16.0.9", "fd00:10:16::9")


def test_the_guest_s_mac_is_adopted_where_none_was_asked_for() -> None:
    desk = Desk()
    desk.feed("ADDED", "virtualmachines", vm_object("web"))
    desk.feed("ADDED", "virtualmachineinstances", vmi_object("web", node="node1", macs={"default": "0A:58:00:00:00:07"}))
    desk.feed("ADDED", "pods", pod_object("p", "web", node="node1"))
    desk.look()
    assert desk.port("web.default").mac == "0a:58:00:00:00:07"


def test_a_mac_that_the_guest_does_not_have_is_said_with_the_remedy() -> None:
    desk = Desk()
    desk.feed("ADDED", "virtualmachines", vm_object("web"))
    asked = {"ovn.kubernetes.io/mac_address": "02:00:00:00:00:01"}
    vmi = vmi_object("web", node="node1", annotations=asked, macs={"default": "02:00:00:00:00:02"})
    desk.feed("ADDED", "virtualmachineinstances", vmi)
    desk.feed("ADDED", "pods", pod_object("p", "web", node="node1"))
    desk.look()
    assert desk.port("web.default").mac == "02:00:00:00:00:01"
    assert "set macAddress: 02:00:00:00:00:01 on interface default" in desk.says("web")[0]


def test_what_others_use_on_the_switch_is_taken() -> None:
    desk = Desk()
    desk.foreign["ovn-default"] = Foreign(
        {"10.16.0.15": "logical switch port printer"}, {"02:00:00:00:00:09": "logical switch port printer"}
    )
    desk.feed("ADDED", "virtualmachines", vm_object("web", annotations={"ovn.kubernetes.io/ip_address": "10.16.0.15"}))
    desk.feed(
        "ADDED", "virtualmachines", vm_object("mac", annotations={"ovn.kubernetes.io/mac_address": "02:00:00:00:00:09"})
    )
    desk.look()
    assert (
        "AddressConflict: ovn.kubernetes.io/ip_address asks for 10.16.0.15, which logical switch port printer uses"
        in desk.says("web")[0]
    )
    assert "MACConflict" in desk.says("mac")[0]
    assert not desk.rows


def test_a_foreign_port_of_the_wanted_name_is_reported_and_left_alone() -> None:
    desk = Desk()
    desk.names["web.default"] = "logical switch port web.default"
    desk.feed("ADDED", "virtualmachines", vm_object("web"))
    desk.look()
    assert not desk.rows
    assert "PortRefused: logical switch port web.default exists already" in desk.says("web")[0]


def test_two_vms_whose_ports_would_have_one_name() -> None:
    """`x.y` in namespace n and, through a NAD, `x` in namespace y: dots are legal in VM names."""
    desk = Desk(network(), network("10.1.0.0/16", name="t", switch="t", pod_network=False, nads=("m/n",)))
    desk.feed("ADDED", "virtualmachines", vm_object("x.y.n", namespace="m"))
    desk.look()
    multus = [{"name": "t", "multus": {"networkName": "m/n"}}]
    desk.feed(
        "ADDED", "virtualmachines", vm_object("x", namespace="y", interfaces=[{"name": "t", "bridge": {}}], networks=multus)
    )
    desk.look()
    assert desk.port("x.y.n.m").vm == VmKey("m", "x.y.n")
    assert "belongs to VM m/x.y.n" in desk.says("x", "y")[0]


def test_the_pod_s_own_interface_is_that_of_the_pod_network_or_of_the_nad_in_its_place() -> None:
    assert vm.pod_interface(Interface("default", "bridge")) == "eth0"
    assert vm.pod_interface(Interface("tenant", "bridge", nad="demo/tenant-net", primary=True)) == "eth0"


def test_the_names_that_stand_on_objects_and_in_the_manual() -> None:
    assert (vm.RECORD_ANNOTATION, vm.CHASSIS_ANNOTATION) == ("ovnagent.io/record", "ovnagent.io/chassis")
    assert vm.LOGICAL_SWITCH_KEY == "ovn.kubernetes.io/logical_switch"
    assert vm.ADDRESSES_ANNOTATION == "network.kubevirt.io/addresses"

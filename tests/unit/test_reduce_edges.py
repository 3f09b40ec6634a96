"""Objects at the edge of what can be read: what is left of them, and the words in which that is said."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ovnagent.core import limits, reduce, values
from ovnagent.core.vm import Interface
from tests.desk import pod_object, vm_object, vmi_object

STATUS = "k8s.v1.cni.cncf.io/network-status"
IP = "ovn.kubernetes.io/ip_address"


def interfaces(entry: dict[str, Any], of: dict[str, Any]) -> tuple[tuple[Interface, ...], tuple[str, ...]]:
    """What is made of one interface and its network, and what is complained of."""
    made = reduce.virtual_machine(vm_object("web", interfaces=[entry], networks=[{"name": entry["name"], **of}]))
    return made.interfaces, made.complaints


def test_all_that_an_object_is_told_by_is_said_where_none_of_it_can_be_read() -> None:
    obj = vm_object("No Name", namespace="No Label")
    with pytest.raises(reduce.UnreadableError) as caught:
        reduce.virtual_machine(obj)
    first, second = str(caught.value).split("; metadata.name: ")
    assert first.startswith("metadata.namespace: 'No Label' is no DNS label")
    assert second.startswith("'No Name' is no name")


def test_an_annotation_that_cannot_be_read_takes_no_room_from_the_others() -> None:
    full = limits.ANNOTATIONS_TEXT // limits.ANNOTATION
    asked: dict[str, Any] = {f"net{n}.demo.kubernetes.io/ip_pool": "x" * limits.ANNOTATION for n in range(full)}
    made = reduce.virtual_machine(vm_object("web", annotations={"a.demo.kubernetes.io/ip_pool": 5, **asked}))
    assert [value is None for _, value in made.annotations] == [True] + [False] * full


def test_a_network_status_that_is_empty_is_none() -> None:
    made = reduce.launcher(pod_object("p", "web", annotations={STATUS: ""}))
    assert (made.attached, made.complaints) == ((), ())


def test_a_network_status_of_too_many_interfaces_is_told_in_those_words() -> None:
    many = json.dumps([{"interface": "eth0"}] * (limits.ATTACHED + 1))
    made = reduce.launcher(pod_object("p", "web", annotations={STATUS: many}))
    assert made.complaints == (f"{STATUS}: it holds {limits.ATTACHED + 1} interfaces; at most {limits.ATTACHED}",)


def test_an_interface_without_a_name_that_is_one_gets_no_port() -> None:
    found, said = interfaces({"name": "no name", "bridge": {}}, {"pod": {}})
    assert found == ()
    assert said[0].startswith("interfaces.name: 'no name' is no name of an interface")


def test_an_interface_whose_nad_cannot_be_read_is_not_put_on_the_pod_network() -> None:
    found, said = interfaces({"name": "n", "bridge": {}}, {"pod": {}, "multus": {"networkName": "No NAD"}})
    assert found == ()
    assert said[0].startswith("networkName of n: ")
    found, said = interfaces({"name": "n", "bridge": {}}, {"pod": {}, "multus": {}})
    assert ([each.nad for each in found], said) == ([""], ())


def test_a_binding_of_kubevirt_s_own_goes_before_a_plugin_s() -> None:
    (found,), _ = interfaces({"name": "n", "bridge": {}, "binding": {"name": "managedtap"}}, {"pod": {}})
    assert found.binding == "bridge"


def test_of_two_macs_that_are_reported_of_one_interface_the_first_counts() -> None:
    vmi = vmi_object("web", node="node1")
    macs = ("0a:00:00:00:00:01", "0a:00:00:00:00:02")
    vmi["status"]["interfaces"] = [{"name": "default", "mac": mac} for mac in macs]
    assert reduce.instance(vmi).macs == (("default", macs[0]),)


def test_a_text_that_many_objects_hold_is_held_once() -> None:
    nodes = ["".join(("node", "1")) for _ in range(2)]
    assert nodes[0] is not nodes[1]
    one, other = (reduce.launcher(pod_object("p", "web", node=name)).node for name in nodes)
    assert one is other
    parse = reduce._shared(values.parse_name)
    assert parse(nodes[0]) is parse(nodes[1]) is one

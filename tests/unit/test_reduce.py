"""Whatever stands in an object, a fact comes of it, or the one exception that says which object it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovnagent.core import limits, records, reduce, vm
from ovnagent.core.requests import read
from tests import hostile
from tests.desk import migration_object, pod_object, vm_object, vmi_object

RECORD = json.dumps(
    {
        "vm": "default/web",
        "uid": "uid-web",
        "ports": {
            "web.default": {"interface": "default", "network": "pods", "ips": ["10.16.0.9"], "mac": "0a:58:00:00:00:01"}
        },
    }
)
STATUS = json.dumps([{"name": "cbr0", "interface": "eth0", "mac": "0a:00:00:00:00:01", "default": True},
                     {"name": "default/net", "interface": "pod123", "mac": "0a:00:00:00:00:02"}])  # fmt: skip
INTERFACES = [{"name": "default", "bridge": {}, "macAddress": "02:00:00:00:00:01"},
              {"name": "b", "binding": {"name": "managedtap"}, "state": "up"}]  # fmt: skip
NETWORKS = [{"name": "default", "pod": {}}, {"name": "b", "multus": {"networkName": "net", "default": True}}]
ASKED = {
    "ovn.kubernetes.io/ip_address": "10.16.0.15",
    "ovn.kubernetes.io/dhcp-v4-options": "lease_time=7200",
    "net.default.kubernetes.io/ip_pool.b": "10.1.0.5..10.1.0.9",
    "network.kubevirt.io/addresses": '{"default": ["10.16.0.15"]}',
}
STATE = {"migrationUid": "m1", "sourceNode": "node1", "targetNode": "node2", "completed": True, "failed": False,
         "targetNodeDomainReadyTimestamp": "2026-01-01T00:00:00Z"}  # fmt: skip


def whole() -> list[tuple[Callable[[object], vm.Fact], dict[str, Any]]]:
    """An object of each kind with everything in it."""
    machine = vm_object("web", annotations=ASKED, interfaces=INTERFACES, networks=NETWORKS, record=RECORD)
    machine["spec"]["template"]["spec"]["hostname"] = "web"
    machine["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    vmi = vmi_object("web", node="node1", annotations=ASKED | {vm.RECORD_ANNOTATION: RECORD}, interfaces=INTERFACES,
                     networks=NETWORKS, migration=STATE, macs={"default": "02:00:00:00:00:01"})  # fmt: skip
    pod = pod_object("p", "web", node="node2", migration="m1", annotations={"k8s.v1.cni.cncf.io/network-status": STATUS})
    named = {"namespace": "default", "name": "x", "uid": "u"}
    return [
        (reduce.virtual_machine, machine),
        (reduce.instance, vmi),
        (reduce.launcher, pod),
        (reduce.migration, migration_object("m1", "web", "Running")),
        (reduce.node, {"metadata": named | {"annotations": {vm.CHASSIS_ANNOTATION: "chassis1"}}}),
        (reduce.namespace, {"metadata": named | {"labels": {"kubernetes.io/metadata.name": "default", "team": ""}}}),
        (reduce.network_attachment_definition, {"metadata": named | {"annotations": {vm.LOGICAL_SWITCH_KEY: "pods"}}}),
    ]


def fact_of(function: Callable[[object], vm.Fact], obj: object) -> vm.Fact | None:
    try:
        fact = function(obj)
    except reduce.UnreadableError as unreadable:
        hostile.check_fact((str(unreadable), unreadable.namespace, unreadable.name))
        return None
    hostile.check_fact(fact)
    assert len(getattr(fact, "complaints", ())) <= limits.COMPLAINTS + 1
    hash(fact)
    if isinstance(fact, vm.VirtualMachine | vm.Instance):
        for interface in fact.interfaces:
            hostile.check_fact(read(interface, fact.annotations))
    return fact


@pytest.mark.parametrize(("function", "obj"), whole())
def test_a_whole_object_has_nothing_to_complain_of(function: Callable[[object], vm.Fact], obj: dict[str, Any]) -> None:
    fact = fact_of(function, obj)
    assert fact is not None
    assert getattr(fact, "complaints", ()) == ()
    if isinstance(fact, vm.Namespace):
        assert fact.labels == (("kubernetes.io/metadata.name", "default"), ("team", ""))
    if isinstance(fact, vm.VirtualMachine | vm.Instance):
        assert [(each.name, each.binding, each.nad) for each in fact.interfaces] == [
            ("default", "bridge", ""),
            ("b", "managedtap", "default/net"),
        ]
        assert records.parse(fact.record) is not None
        assert len(fact.annotations) == len(ASKED)


@pytest.mark.parametrize(("function", "obj"), whole())
def test_any_odd_value_at_any_place_harms_nothing(function: Callable[[object], vm.Fact], obj: dict[str, Any]) -> None:
    for path in hostile.places(obj):
        for value in (*hostile.ODD, *hostile.TEXTS):
            fact_of(function, hostile.replaced(obj, path, value))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_json_at_any_places_harms_nothing(data: st.DataObject) -> None:
    function, obj = data.draw(st.sampled_from(whole()))
    for _ in range(data.draw(st.integers(1, 4))):
        path = data.draw(st.sampled_from(list(hostile.places(obj))))
        obj = hostile.replaced(obj, path, data.draw(hostile.anything))
    fact_of(function, obj)


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        (("spec", "template", "spec", "hostname"), 'x"; output;', "hostname: 'x\"; output;' is no DNS label"),
        (("spec", "template", "spec", "domain", "devices", "interfaces", 1, "state"), "sideways", "state of interface b: "),
        (("spec", "template", "spec", "domain", "devices", "interfaces", 0, "macAddress"), 5, "it is no text"),
        (("spec", "template", "spec", "networks", 1, "multus", "networkName"), "a b", "networkName of b: "),
        (("metadata", "annotations", vm.RECORD_ANNOTATION), "[" * 5000, "it is no record and claims nothing"),
        (("metadata", "annotations", vm.RECORD_ANNOTATION), "x" * 70_000, "it is no record and claims nothing"),
        (("metadata", "creationTimestamp"), 1767225600, "metadata.creationTimestamp: it is no text"),
    ],
)
def test_what_cannot_be_read_is_absent_and_said(path: tuple[Any, ...], value: object, sentence: str) -> None:
    fact = fact_of(reduce.virtual_machine, hostile.replaced(whole()[0][1], path, value))
    assert isinstance(fact, vm.VirtualMachine)
    (complaint,) = fact.complaints
    assert sentence in complaint


@pytest.mark.parametrize("key", ["namespace", "name", "uid"])
@pytest.mark.parametrize("value", [None, 5, "", "a b", "\x00", []])
def test_an_object_that_cannot_be_named_is_set_aside(key: str, value: object) -> None:
    obj = hostile.replaced(whole()[0][1], ("metadata", key), value)
    with pytest.raises(reduce.UnreadableError) as caught:
        reduce.virtual_machine(obj)
    named = {"namespace": "default", "name": "web", "uid": ""} | {key: ""}
    assert (caught.value.namespace, caught.value.name) == (named["namespace"], named["name"])
    assert f"metadata.{key}" in str(caught.value)


def test_a_deep_network_status_tells_nothing_of_one_pod() -> None:
    pod = pod_object("p", "web", annotations={"k8s.v1.cni.cncf.io/network-status": "[" * 5000})
    fact = reduce.launcher(pod)
    assert fact.attached == ()
    assert "is no JSON" in fact.complaints[0]


@pytest.mark.parametrize("mac", ["", "0a:00:00:00:00:01 10.16.0.1", "\x01", 5, None, "ff:ff:ff:ff:ff:ff"])
def test_a_reported_mac_is_believed_only_as_a_mac(mac: object) -> None:
    vmi = vmi_object("web", node="node1")
    vmi["status"]["interfaces"] = [{"name": "default", "mac": mac}]
    assert reduce.instance(vmi).macs == ()
    status = json.dumps([{"interface": "eth0", "default": True, "name": "k8s", "mac": mac}])
    pod = pod_object("p", "web", annotations={"k8s.v1.cni.cncf.io/network-status": status})
    assert reduce.launcher(pod).attached == (("eth0", "k8s", ""),)


def test_what_a_guest_agent_reports_besides_is_left_out() -> None:
    vmi = vmi_object(
        "web", node="node1", macs={"default": "0A:00:00:00:00:01"} | {f"veth{n}": "0a:00:00:00:00:02" for n in range(999)}
    )
    assert reduce.instance(vmi).macs == (("default", "0a:00:00:00:00:01"),)


def test_thirty_interfaces_are_served_and_a_thousand_are_not() -> None:
    def machine(count: int) -> vm.VirtualMachine:
        nics = [{"name": f"nic{n}", "bridge": {}} for n in range(count)]
        networks = [{"name": f"nic{n}", "multus": {"networkName": f"net{n}"}} for n in range(count)]
        return reduce.virtual_machine(vm_object("web", interfaces=nics, networks=networks))

    assert len(machine(30).interfaces) == 30
    assert machine(30).complaints == ()
    assert len(machine(1000).interfaces) == limits.INTERFACES
    assert machine(1000).complaints == ("interfaces: there are 1000; the first 64 get ports",)


def test_annotations_that_ask_for_nothing_are_not_kept() -> None:
    noise = {f"key{n}.example.com/x": "y" * 1000 for n in range(999)} | {
        "a.b.c.kubernetes.io/colour": "red",
        "kubernetes.io": "x",
    }
    fact = reduce.virtual_machine(vm_object("web", annotations=noise | ASKED))
    assert dict(fact.annotations) == ASKED


def test_too_long_an_annotation_is_not_guessed_at() -> None:
    fact = reduce.virtual_machine(vm_object("web", annotations={"ovn.kubernetes.io/ip_address": "10.16.0.5" + " " * 9000}))
    (error,) = read(fact.interfaces[0], fact.annotations).errors
    assert "ovn.kubernetes.io/ip_address" in error


@pytest.mark.parametrize(
    "changes",
    [
        {"mac": ""},
        {"mac": "0a:00:00:00:00:01 10.16.0.1"},
        {"mac": "0a:00:00:00:00:0\x01"},
        {"ips": []},
        {"ips": "10.16.0.9"},
        {"ips": ["10.16.0.9", "10.16.0.10"]},
        {"ips": ["fd00::15%x"]},
        {"ips": [168820745]},
        {"ips": None},
        {"interface": "a b"},
        {"network": "a\nb"},
    ],
)
def test_a_record_with_one_bad_value_claims_nothing(changes: dict[str, object]) -> None:
    raw = json.loads(RECORD)
    assert records.parse(json.dumps(raw)) is not None
    raw["ports"]["web.default"] |= changes
    assert records.parse(json.dumps(raw)) is None


def test_a_record_of_many_ports_claims_nothing() -> None:
    raw = json.loads(RECORD)
    raw["ports"] = {f"p{n}": raw["ports"]["web.default"] for n in range(limits.LEASES + 1)}
    assert records.parse(json.dumps(raw)) is None

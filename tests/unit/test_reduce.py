"""Whatever stands in an object, a fact comes of it, or the one exception that says which object it is."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
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


def fact_with(number: int, path: tuple[Any, ...], value: object) -> vm.Fact:
    """Of a whole object with another value at one place, which need not be there."""
    function, obj = whole()[number]
    changed = copy.deepcopy(obj)
    inner: Any = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return function(changed)


NICS = (
    vm.Interface("default", "bridge", mac="02:00:00:00:00:01"),
    vm.Interface("b", "managedtap", state="up", nad="default/net", primary=True),
)
ATTACHED = (("eth0", "cbr0", "0a:00:00:00:00:01"), ("pod123", "default/net", "0a:00:00:00:00:02"))
SORTED = tuple(sorted(ASKED.items()))


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (0, vm.VirtualMachine("default", "web", "uid-web", "2026-01-01T00:00:00Z", True, SORTED, NICS, "web", RECORD)),
        (1, vm.Instance("default", "web", "vmi-web", "2026-01-01T00:00:01Z", False, "uid-web", "Running", "node1", SORTED,
                        NICS, "", RECORD, vm.MigrationState("m1", "node1", "node2", True, False),
                        (("default", "02:00:00:00:00:01"),))),
        (2, vm.Launcher("default", "p", "pod-p", "2026-01-01T00:00:02Z", False, "web", "vmi-web", "node2", "Running", "m1",
                        False, ATTACHED)),
        (3, vm.Migration("default", "m1", "m1", "2026-01-01T00:01:00Z", False, "web", "Running")),
        (4, vm.Node("x", "chassis1")),
        (6, vm.NetworkAttachmentDefinition("default", "x", "pods")),
    ],
)  # fmt: skip
def test_every_field_of_a_fact(number: int, expected: vm.Fact) -> None:
    function, obj = whole()[number]
    assert function(obj) == expected


@pytest.mark.parametrize(
    ("number", "path", "value", "field", "expected"),
    [
        (1, ("spec", "hostname"), "web", "hostname", "web"),
        (1, ("metadata", "deletionTimestamp"), "2026-01-01T00:00:00Z", "deleting", True),
        (1, ("status", "migrationState", "migrationUid"), "", "migration", None),
        # KubeVirt's owner alone counts, whatever its version
        (1, ("metadata", "ownerReferences", 0, "apiVersion"), "kubevirt.io/v9", "vm_uid", "uid-web"),
        (1, ("metadata", "ownerReferences", 0, "apiVersion"), "kubevirt.iox/v1", "vm_uid", ""),
        (1, ("metadata", "ownerReferences", 0, "kind"), "VirtualMachinePool", "vm_uid", ""),
        # a launcher's VMI: its owner, else the annotation; its UID: the label, else the owner
        (2, ("metadata", "annotations", "kubevirt.io/domain"), "other", "vmi", "web"),
        (2, ("metadata", "ownerReferences"), [], "vmi", "web"),
        (2, ("metadata", "ownerReferences"), [], "vmi_uid", "vmi-web"),
        (2, ("metadata", "labels", "kubevirt.io/created-by"), "v9", "vmi_uid", "v9"),
        (2, ("metadata", "labels", "kubevirt.io/created-by"), None, "vmi_uid", "vmi-web"),
        (2, ("metadata", "annotations", "kubevirt.io/ephemeral-provisioning"), "", "ephemeral", True),
        # network-status: the pod network's interface is eth0, whatever it is called; one without a name is none
        (2, ("metadata", "annotations", "k8s.v1.cni.cncf.io/network-status"), STATUS.replace('"eth0"', '"ens3"'), "attached",
         ATTACHED),
        (2, ("metadata", "annotations", "k8s.v1.cni.cncf.io/network-status"), STATUS.replace('"pod123"', '""'), "attached",
         ATTACHED[:1]),
    ],
)  # fmt: skip
def test_where_a_field_comes_from(number: int, path: tuple[Any, ...], value: object, field: str, expected: object) -> None:
    fact = fact_with(number, path, value)
    assert getattr(fact, field) == expected
    assert fact.complaints == ()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("entry", "binding"),
    [
        ({"bridge": {}}, "bridge"),
        ({"masquerade": {}}, "masquerade"),
        ({"passtBinding": {}}, "passt"),
        ({"passt": {}}, "passt"),
        ({"sriov": {}}, "sriov"),
        ({"binding": {"name": "managedtap"}}, "managedtap"),
        ({}, "bridge"),
    ],
)
def test_an_interface_s_binding(entry: dict[str, object], binding: str) -> None:
    (nic,) = reduce.virtual_machine(vm_object("web", interfaces=[{"name": "default", **entry}])).interfaces
    assert nic == vm.Interface("default", binding)


def test_an_interface_is_known_by_its_network() -> None:
    nics = [{"name": name, "bridge": {}} for name in ("a", "b", "c", "d", "a")]
    networks = [
        {"name": "a", "multus": {"networkName": "demo/net"}},
        {"name": "b", "multus": {"networkName": "", "default": True}},
        {"name": "c", "pod": {}},
        {"name": "d", "multus": {"networkName": "net", "default": False}},
    ]
    fact = reduce.virtual_machine(vm_object("web", interfaces=nics, networks=networks))
    assert fact.complaints == ()
    found = fact.interfaces
    assert [(nic.name, nic.nad, nic.primary) for nic in found] == [
        ("a", "demo/net", False),
        ("c", "", False),
        ("d", "default/net", False),
    ]


@pytest.mark.parametrize(
    ("key", "counts"),
    [
        ("ovn.kubernetes.io/ip_address", True),
        ("ovn.kubernetes.io/ip_address.x", True),
        ("ovn.kubernetes.io/colour", False),
        ("net.demo.ovn.kubernetes.io/ip_pool", True),
        ("net.demo.kubernetes.io/ip_pool.b", True),
        ("net.demo.kubernetes.io/ip_pool." + "b" * (limits.PORT - 31), True),
        ("net.demo.kubernetes.io/ip_pool." + "b" * (limits.PORT - 30), False),
        ("demo.kubernetes.io/ip_pool", False),
        ("kubernetes.io/ip_pool", False),
        ("a.b.xkubernetes.io/ip_pool", False),
        ("network.kubevirt.io/addresses", True),
        ("network.kubevirt.io/ip_pool", False),
    ],
)
def test_which_annotations_ask_for_something(key: str, counts: bool) -> None:
    assert bool(reduce.virtual_machine(vm_object("web", annotations={key: "x"})).annotations) is counts


def test_as_many_as_the_limits_say() -> None:
    def annotated(count: int, size: int) -> vm.VirtualMachine:
        asked = {f"n{n:03}.demo.kubernetes.io/ip_pool": "x" * size for n in range(count)}
        return reduce.virtual_machine(vm_object("web", annotations=asked))

    assert (len(annotated(limits.ANNOTATIONS, 1).annotations), annotated(limits.ANNOTATIONS, 1).complaints) == (512, ())
    assert len(annotated(limits.ANNOTATIONS + 1, 1).annotations) == limits.ANNOTATIONS
    assert annotated(513, 1).complaints == ("annotations: 513 of them ask for something; the first 512 by name are read",)
    assert [value is None for _, value in annotated(1, limits.ANNOTATION).annotations] == [False]
    assert [value is None for _, value in annotated(9, limits.ANNOTATION).annotations] == [False] * 8 + [True]
    nics = [{"name": f"nic{n}", "bridge": {}} for n in range(limits.INTERFACES + 1)]
    networks = [{"name": nic["name"], "multus": {"networkName": f"net{n}"}} for n, nic in enumerate(nics)]
    full = reduce.virtual_machine(vm_object("web", interfaces=nics[1:], networks=networks))
    assert (len(full.interfaces), full.complaints) == (limits.INTERFACES, ())

    def attached(count: int) -> vm.Launcher:
        status = json.dumps([{"interface": f"net{n}", "name": "x"} for n in range(count)])
        return reduce.launcher(pod_object("p", "web", annotations={"k8s.v1.cni.cncf.io/network-status": status}))

    assert len(attached(limits.ATTACHED).attached) == limits.ATTACHED
    assert (attached(limits.ATTACHED + 1).attached, len(attached(limits.ATTACHED + 1).complaints)) == ((), 1)


@pytest.mark.parametrize(("odd", "more"), [(limits.COMPLAINTS, ""), (limits.COMPLAINTS + 3, "and 3 more like these")])
def test_of_many_complaints_the_last_says_how_many_more_there_are(odd: int, more: str) -> None:
    nics = [{"name": f"nic{n}", "bridge": {}, "state": "sideways"} for n in range(odd)]
    networks = [{"name": nic["name"], "pod": {}} for nic in nics]
    told = reduce.virtual_machine(vm_object("web", interfaces=nics, networks=networks)).complaints
    assert len(told) == limits.COMPLAINTS + bool(more)
    assert told[0] == "state of interface nic0: 'sideways' is none of absent, down, up"
    assert (told[-1] == more) is bool(more)


def test_an_object_without_a_name_says_what_it_lacks() -> None:
    with pytest.raises(reduce.UnreadableError, match=r"^it has not all of metadata.namespace, metadata.name$"):
        reduce.network_attachment_definition({"metadata": {}})


@pytest.mark.parametrize(
    ("key", "value", "kept"),
    [("team", "a", True), ("team", "", True), ("team", 5, False), ("team", "a b", False), ("te am", "a", False)],
)
def test_a_label_that_is_none_is_left_out(key: str, value: object, kept: bool) -> None:
    found = reduce.namespace({"metadata": {"name": "x", "labels": {key: value, "z": "z", "a": "a"}}}).labels
    assert ((key, value) in found) is kept
    assert list(found) == sorted(found)
    assert len(found) == 2 + kept


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


DEVICES = ("spec", "template", "spec", "domain", "devices", "interfaces")
MIGRATION_STATE, STATUS_KEY = ("status", "migrationState"), "k8s.v1.cni.cncf.io/network-status"


@pytest.mark.parametrize(
    ("number", "path", "named"),
    [
        (0, ("metadata", "creationTimestamp"), "metadata.creationTimestamp"),
        (0, ("metadata", "annotations", vm.RECORD_ANNOTATION), vm.RECORD_ANNOTATION),
        (0, ("spec", "template", "spec", "hostname"), "hostname"),
        (0, (*DEVICES, 0, "macAddress"), "macAddress of interface default"),
        (0, (*DEVICES, 1, "state"), "state of interface b"),
        (0, (*DEVICES, 1, "binding", "name"), "binding of interface b"),
        (0, ("spec", "template", "spec", "networks", 1, "multus", "networkName"), "networkName of b"),
        (1, ("metadata", "ownerReferences", 0, "name"), "ownerReferences.name"),
        (1, ("metadata", "ownerReferences", 0, "uid"), "ownerReferences.uid"),
        (1, ("spec", "hostname"), "hostname"),
        (1, ("status", "phase"), "status.phase"),
        (1, ("status", "nodeName"), "status.nodeName"),
        (1, ("status", "interfaces", 0, "mac"), "status.interfaces: MAC of default"),
        (1, (*MIGRATION_STATE, "migrationUid"), "status.migrationState.migrationUid"),
        (1, (*MIGRATION_STATE, "sourceNode"), "status.migrationState.sourceNode"),
        (1, (*MIGRATION_STATE, "targetNode"), "status.migrationState.targetNode"),
        (2, ("metadata", "labels", "kubevirt.io/created-by"), "kubevirt.io/created-by"),
        (2, ("metadata", "labels", "kubevirt.io/migrationJobUID"), "kubevirt.io/migrationJobUID"),
        (2, ("spec", "nodeName"), "spec.nodeName"),
        (2, ("status", "phase"), "status.phase"),
        (3, ("spec", "vmiName"), "spec.vmiName"),
        (3, ("status", "phase"), "status.phase"),
        (4, ("metadata", "annotations", vm.CHASSIS_ANNOTATION), vm.CHASSIS_ANNOTATION),
        (6, ("metadata", "annotations", vm.LOGICAL_SWITCH_KEY), vm.LOGICAL_SWITCH_KEY),
    ],
)
def test_a_field_that_cannot_be_read_is_named(number: int, path: tuple[Any, ...], named: str) -> None:
    assert fact_with(number, path, 5).complaints == (f"{named}: it is no text",)  # type: ignore[union-attr]


@pytest.mark.parametrize("field", ['"pod123"', '"default/net"', '"0a:00:00:00:00:02"'])
def test_a_network_status_that_cannot_be_read_is_named(field: str) -> None:
    told = {STATUS_KEY: STATUS.replace(field, "5"), "kubevirt.io/domain": 5}
    pod = pod_object("p", "web", annotations=told)  # type: ignore[arg-type]
    assert reduce.launcher(pod).complaints == (f"{STATUS_KEY}: it is no text",)
    pod["metadata"]["ownerReferences"] = []
    assert reduce.launcher(pod).complaints[0] == "kubevirt.io/domain: it is no text"


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
        {"ips": {"10.16.0.9": 1}},
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


def test_equal_records_give_equal_texts() -> None:
    raw = json.loads(RECORD)
    raw["ports"]["web.a"] = raw["ports"]["web.default"] | {"ips": ["10.16.0.10"]}
    record = records.parse(json.dumps(raw))
    assert record is not None
    turned = replace(record, leases=record.leases[::-1])
    assert records.render(turned) == records.render(record)
    assert list(json.loads(records.render(record))["ports"]) == ["web.a", "web.default"]

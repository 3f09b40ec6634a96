"""What the scenarios of plugging do not say: names, metrics, and the edge for Open_vSwitch."""

from __future__ import annotations

import re
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import orjson
import pytest

from ovnagent.core import reduce
from ovnagent.core.plugging import RIVALS, Attached, Machine, Node, granted, leases, plan, rivals
from ovnagent.core.ports import port_name
from ovnagent.core.records import Lease, Record, render
from ovnagent.core.vm import Interface, Launcher, VmKey, pod_interface
from ovnagent.ovn.vswitch import _operation
from ovnagent.plugger.access import CannotReachError, PodClient
from ovnagent.plugger.metrics import PlugMetrics
from tests.desk import pod_object, vm_object, vmi_object

DOCS = Path(__file__).resolve().parents[2] / "docs" / "plugging.md"
KEYS = (
    VmKey("d", "a.b.c"),
    VmKey("b", "a"),
    VmKey("c", "a.b"),
    VmKey("x", "web"),
    VmKey("d", "a.b"),
    VmKey("eth1", "a.b.c.d"),
)
MAC = "0a:58:00:00:00:01"
NADS = ("", "d/c", "d/b.c", "x/y", "c/x", "eth1/c.d")


@pytest.mark.parametrize("name", ["eth1", "blue"])
def test_whoever_could_have_a_name_is_among_its_rivals(name: str) -> None:
    """All names that these VMs can have, by the one rule of port names, against all others'."""
    found: dict[str, set[VmKey]] = {}
    for key in KEYS:
        for nad in NADS:
            plain = port_name(key, Interface(name, "bridge", nad=nad), ())
            for port in {plain, f"{plain}.{name}"} if nad else {plain}:
                found.setdefault(port, set()).add(key)
    assert any(len(keys) > 1 for keys in found.values()), "these names would show nothing"
    for port, keys in found.items():
        for key in keys:
            assert keys - {key} <= rivals(key, port), port


def test_ordinary_names_have_one_rival_at_most() -> None:
    assert rivals(VmKey("x", "web"), "web.x") == frozenset()
    assert rivals(VmKey("x", "web"), "web.x.net.y") == {VmKey("y", "web.x.net")}


def test_a_name_of_a_hundred_dots_is_refused() -> None:
    name = ".".join("a" * 100)
    key = VmKey("default", name)
    nics: list[dict[str, Any]] = [{"name": "default", "bridge": {}}]
    record = render(Record(key, "uid-vm", ()))
    raw = orjson.loads(record)
    raw["ports"] = {f"{name}.default": {"interface": "default", "network": "n", "ips": ["10.0.0.9"], "mac": MAC}}
    machine = Machine(
        reduce.instance(vmi_object(name, "uid-vmi", "uid-vm", interfaces=nics)),
        reduce.virtual_machine(vm_object(name, "uid-vm", interfaces=nics, record=orjson.dumps(raw).decode())),
        None,
    )
    pod = reduce.launcher(pod_object("p", name, "node1", vmi_uid="uid-vmi"))
    interface = Attached("row", "veth", "", pod_uid=pod.uid, inside="eth0")
    (decision,) = plan(Node((interface,), {pod.uid: pod}, {pod.uid: machine}))
    assert decision.iface_id == ""
    assert f"more than {RIVALS} others" in decision.reason


@pytest.mark.parametrize(
    ("iface_id", "written", "phase", "expected"),
    [
        ("", "", "Succeeded", ("", "", False)),
        ("web.default", "web.default", "Succeeded", ("", "pod default/p has ended", False)),
        ("web.default", "web.default", "Running", ("web.default", "", False)),
        ("theirs", "", "Succeeded", ("theirs", "", False)),
        ("theirs", "", "Running", ("theirs", "", True)),
    ],
)
def test_what_is_said_of_a_pod_that_has_ended(
    iface_id: str, written: str, phase: str, expected: tuple[str, str, bool]
) -> None:
    pod = reduce.launcher(pod_object("p", "web", "node1", phase=phase))
    interface = Attached("row", "veth", iface_id, written, "default/p", pod.uid, "eth0")
    (decision,) = plan(Node((interface,), {pod.uid: pod}))
    assert (decision.iface_id, decision.reason, decision.ask) == expected


def test_a_vmi_without_a_vm_has_what_its_own_record_says() -> None:
    lease = Lease("web.default", "default", "pods", (ip_address("10.16.0.9"),), MAC)
    vmi = vmi_object("web", owner="", node="node1")
    vmi["metadata"]["annotations"]["ovnagent.io/record"] = render(Record(VmKey("default", "web"), "vmi-web", (lease,)))
    machine = Machine(reduce.instance(vmi), None)
    assert list(leases(machine)) == [lease]
    assert granted(machine) == {"web.default"}
    # the same of a VMI whose VM is gone: its VM's word counts, and that is not there
    vmi["metadata"]["ownerReferences"] = vmi_object("web")["metadata"]["ownerReferences"]
    assert list(leases(Machine(reduce.instance(vmi), None))) == []
    assert list(leases(Machine(reduce.instance(vmi), reduce.virtual_machine(vm_object("web"))))) == [lease]
    assert list(leases(Machine(reduce.instance(vmi), reduce.virtual_machine(vm_object("web", "another"))))) == []


@pytest.mark.parametrize(
    ("nad", "iface_id", "written", "expected"),
    [
        ("default/net", "", "", ("web.default.net.default", "")),
        ("default/other", "", "", ("", "blue is attached to NAD default/net here")),
        # somebody else has set it: rightly, or not
        ("default/net", "web.default.net.default", "", ("web.default.net.default", "")),
        ("default/net", "else", "", ("else", "iface-id else was set by somebody else and is left alone; the one that")),
    ],
)
def test_the_nad_on_which_an_interface_is(nad: str, iface_id: str, written: str, expected: tuple[str, str]) -> None:
    inside = pod_interface(Interface("blue", "bridge", nad=nad))
    status = [{"name": "cbr0", "interface": "eth0", "default": True}, {"name": "default/net", "interface": inside}]
    told = {"k8s.v1.cni.cncf.io/network-status": orjson.dumps(status).decode()}
    pod = reduce.launcher(pod_object("p", "web", "node1", annotations=told))
    lease = Lease(f"web.default.{nad.partition('/')[2]}.default", "blue", "net", (ip_address("10.16.0.9"),), MAC)
    record = render(Record(VmKey("default", "web"), "uid-web", (lease,)))
    nics, networks = [{"name": "blue", "bridge": {}}], [{"name": "blue", "multus": {"networkName": nad}}]
    machine = Machine(
        reduce.instance(vmi_object("web", node="node1", interfaces=nics, networks=networks)),
        reduce.virtual_machine(vm_object("web", interfaces=nics, networks=networks, record=record)),
    )
    interface = Attached("row", "veth", iface_id, written, "default/p", pod.uid, inside)
    (decision,) = plan(Node((interface,), {pod.uid: pod}, {pod.uid: machine}))
    assert decision.iface_id == expected[0]
    assert decision.reason.startswith(expected[1])
    assert bool(decision.reason) is bool(expected[1])


# ---- one look at a node ----------------------------------------------------------------------------------------------

WEB = VmKey("default", "web")
GRANTED = Lease("web.default", "default", "pods", (ip_address("10.16.0.9"),), MAC)


def machine(record: Record | None = None, rivals: tuple[Machine, ...] | None = (), name: str = "web") -> Machine:
    """A VM that runs on node1, by default with a port that was granted to it."""
    text = render(record or Record(WEB, "uid-web", (GRANTED,)))
    vmi = reduce.instance(vmi_object(name, uid="vmi-web", owner="uid-web", node="node1"))
    return Machine(vmi, reduce.virtual_machine(vm_object(name, "uid-web", record=text)), rivals)


def veth(row: str, iface_id: str = "", pod: str = "p", written: str | None = None, broken: bool = False) -> Attached:
    """What ovs-cni attached for a launcher; with a name that was written by the agent, unless told otherwise."""
    written = iface_id if written is None else written
    return Attached(row, row, iface_id, written, f"default/{pod}", f"pod-{pod}", "eth0", broken)


def launcher(name: str = "p", **more: Any) -> Launcher:
    return reduce.launcher(pod_object(name, "web", "node1", **more))


def look(*interfaces: Attached, pods: tuple[Launcher, ...] = (), known: Machine | None = None) -> dict[str, tuple[str, str]]:
    """Row -> (name, reason)."""
    found = {pod.uid: pod for pod in pods or (launcher(),)}
    decisions = plan(Node(interfaces, found, dict.fromkeys(found, known or machine())))
    return {each.interface.row: (each.iface_id, each.reason) for each in decisions}


def test_what_ovs_cni_did_not_attach_is_left_alone_and_has_its_name() -> None:
    bare = Attached("tap", "tap0", "web.default")
    assert (bare.written, bare.pod, bare.pod_uid, bare.inside) == ("", "", "", "")
    assert look(bare) == {}
    text = "port web.default is plugged into interface tap0 of this node already; one must go"
    assert look(bare, veth("new")) == {"new": ("", text)}


def test_a_name_that_an_ended_launcher_loses_is_free_in_the_same_look() -> None:
    pods = (launcher("old", phase="Succeeded"), launcher("p"))
    found = look(veth("dead", "web.default", "old"), veth("new"), pods=pods)
    assert found == {"dead": ("", "pod default/old has ended"), "new": ("web.default", "")}


@pytest.mark.parametrize("turned", [False, True])
def test_of_two_that_want_one_name_what_works_then_the_older_launcher_has_it(turned: bool) -> None:
    pods = (launcher("young", created="2026-01-02T00:00:00Z"), launcher("old"))
    for interfaces, winner in (
        ((veth("a", pod="young"), veth("b", pod="old")), "b"),
        ((veth("a", pod="young"), veth("b", pod="old", broken=True)), "a"),
    ):
        found = look(*(interfaces[::-1] if turned else interfaces), pods=pods)
        (loser,) = found.keys() - {winner}
        assert found[winner] == ("web.default", "")
        assert found[loser][0] == ""
        assert f"is plugged into interface {winner} of this node already" in found[loser][1]


@pytest.mark.parametrize(
    ("old", "new", "replaced"),
    [
        (veth("old", "web.default", broken=True), veth("new"), True),
        (veth("old", "web.default"), veth("new"), False),
        # both are dead, it is another pod's, or somebody else gave it the name
        (veth("old", "web.default", broken=True), veth("new", broken=True), False),
        (veth("old", "web.default", "other", broken=True), veth("new"), False),
        (veth("old", "web.default", written="", broken=True), veth("new"), False),
    ],
)
def test_a_dead_interface_gives_way_to_that_which_its_own_pod_was_given_for_it(
    old: Attached, new: Attached, replaced: bool
) -> None:
    found = look(old, new, pods=(launcher(), launcher("other")))
    assert [found["old"][0], found["new"][0]] == (["", "web.default"] if replaced else ["web.default", ""])


def test_a_name_that_somebody_took_away_is_given_again() -> None:
    assert look(veth("a", "", written="web.default")) == {"a": ("web.default", "")}


def test_what_is_said_of_a_name_that_somebody_else_set() -> None:
    theirs, pod = veth("a", "theirs", written=""), launcher()
    (decision,) = plan(Node((theirs,), {}))
    assert (decision.iface_id, decision.reason, decision.ask) == ("theirs", "", False), "it may be any pod's"
    start = "iface-id theirs was set by somebody else and is left alone; "
    for record, words in (
        (None, "the one that was granted is web.default"),
        (Record(WEB, "uid-web", ()), "none was granted: the agent has granted no port to interface default"),
    ):
        (decision,) = plan(Node((theirs,), {pod.uid: pod}, {pod.uid: machine(record)}))
        assert decision.reason.startswith(start + words)
        assert (decision.iface_id, decision.ask) == ("theirs", True), "a record may come yet"


def test_a_pod_network_that_is_a_nad_itself_is_the_pod_network() -> None:
    status = [{"name": "kube-system/ovn-default", "interface": "eth0", "default": True}]
    told = {"k8s.v1.cni.cncf.io/network-status": orjson.dumps(status).decode()}
    assert look(veth("a"), pods=(launcher(annotations=told),)) == {"a": ("web.default", "")}


@pytest.mark.parametrize("missing", ["vmi", "vmi_uid"])
def test_a_pod_that_does_not_name_a_vmi_is_no_launcher(missing: str) -> None:
    pod = replace(launcher(), **{missing: ""})
    assert look(veth("a"), pods=(pod,)) == {"a": ("", "pod default/p names no VMI as its owner")}


def test_a_vmi_of_another_name_is_not_the_launcher_s_also_with_its_uid() -> None:
    other = machine(Record(VmKey("default", "other"), "uid-web", (GRANTED,)), name="other")
    (_, reason) = look(veth("a"), known=other)["a"]
    assert reason == "pod default/p is of a VMI default/web that is gone; the one of now is another"


@pytest.mark.parametrize(
    "record",
    [
        # the pod network's interface never has a name with its own at the end: that may be another VM's port
        Record(WEB, "uid-web", (replace(GRANTED, port="web.default.default"),)),
        Record(VmKey("default", "other"), "uid-web", (GRANTED,)),
    ],
)
def test_a_record_of_another_vm_or_another_name_grants_nothing(record: Record) -> None:
    (name, reason) = look(veth("a"), known=machine(record))["a"]
    assert (name, reason.partition(":")[0]) == ("", "the agent has granted no port to interface default of VM default/web")


def test_what_a_stopped_vm_is_granted() -> None:
    stopped = Machine(None, machine().vm)
    assert list(leases(stopped)) == [GRANTED]
    assert granted(stopped) == frozenset(), "no interface of it is known"


def test_rivals() -> None:
    """Those that have the port on their own record count, with a VM or without one; those that are many where the name can
    be read in many ways."""
    taken = "port web.default is also on the record of VM b/a, whose name gives the same; rename one of them"
    more = replace(GRANTED, port="another")
    vm = reduce.virtual_machine(
        vm_object("a", "uid-a", record=render(Record(VmKey("b", "a"), "uid-a", (more, GRANTED))), namespace="b")
    )
    vmi = vmi_object("a", "vmi-a", owner="", namespace="b")
    vmi["metadata"]["annotations"]["ovnagent.io/record"] = render(Record(VmKey("b", "a"), "vmi-a", (GRANTED,)))
    nothing = replace(vm, record="")
    for rival, answer in (
        (Machine(None, vm), ("", taken)),
        (Machine(reduce.instance(vmi), None), ("", taken)),
        (Machine(None, nothing), ("web.default", "")),
        (Machine(None, None), ("web.default", "")),
    ):
        assert look(veth("a"), known=machine(rivals=(rival,))) == {"a": answer}
    # too many have names like one of its ports; this port's can be read in one way only
    assert look(veth("a"), known=machine(rivals=None)) == {"a": ("web.default", "")}


def test_all_ways_to_read_a_name() -> None:
    found = rivals(VmKey("x", "y"), "a.b.c.n.d")
    assert found == {VmKey("d", "a.b.c.n"), VmKey("b", "a"), VmKey("c", "a.b")}
    assert f"up to {RIVALS} others" in DOCS.read_text()


def test_a_write_touches_its_own_keys_only_and_only_as_they_are_known() -> None:
    """RFC 7047, 5.1: an insert into a map leaves a key that is there, a delete of pairs those with other values."""
    bare = Attached("11111111-1111-1111-1111-111111111111", "veth", "")
    keys = [["iface-id", "web.x"], ["ovnagent-plug", "web.x"], ["ovnagent-pod", "x/p"]]
    assert _operation(bare, "web.x", "x/p")["mutations"] == [["external_ids", "insert", ["map", keys]]]
    ours = Attached(bare.row, "veth", "web.x", written="web.x", pod="x/p")
    assert _operation(ours, "", "")["mutations"] == [["external_ids", "delete", ["map", keys]]]


def test_credentials_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(CannotReachError, match="not in a pod"):
        PodClient(tmp_path)


def test_the_metrics_are_those_of_the_docs() -> None:
    text = PlugMetrics().scrape().decode()
    made = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ovnagent")}
    told = set(re.findall(r"^\| `(ovnagent_plug_\w+)", DOCS.read_text(), re.MULTILINE))
    assert made - {name for name in made if name.endswith("_created")} == told

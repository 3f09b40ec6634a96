"""`ovnagent plug` on three nodes, with real ovs-cni, Open vSwitch, ovn-controller, API server and virt-controller."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from hack.lab.cluster import REPOSITORY
from hack.lab.cni import Pod
from hack.lab.process import run, wait_for
from tests.e2e.plugging import Lab, inside, labels, owner, plug_lab

pytestmark = [pytest.mark.timeout(240), pytest.mark.one_process]
USER = "system:serviceaccount:ovnagent-plug:ovnagent-plug"
BLUE = inside("blue")


@pytest.fixture(scope="module")
def made() -> Iterator[Lab]:
    with plug_lab("plug") as lab:
        yield lab


@pytest.fixture
def lab(made: Lab) -> Iterator[Lab]:
    yield made
    made.kubevirt.uncordon("node1", "node2", "node3")
    made.clear()


# ---- what should work -----------------------------------------------------------------------------------------------


def test_start_stop_restart(lab: Lab) -> None:
    node = lab.run("web", nics="default,blue=blue")
    lab.plugged(node, "web.default", "web.default.blue.default")
    assert not any("iface-id-ver" in row.ids for row in lab.rows(node))
    lab.bound("web.default", node)
    lab.kubevirt.stop_vm("default", "web")
    wait_for(lambda: not lab.rows(node), 20, "stopped")
    lab.kubevirt.start_vm("default", "web")
    lab.kubevirt.wait_running("default", "web")
    lab.plugged(lab.node("web"), "web.default", "web.default.blue.default")
    lab.restart("web")
    lab.plugged(lab.node("web"), "web.default", "web.default.blue.default")


def test_migration_there_and_back(lab: Lab) -> None:
    source = lab.run("web", nics="default,blue=blue,red=blue")
    names = ("web.default", "web.default.blue.default.blue", "web.default.blue.default.red")
    lab.plugged(source, *names)
    for _ in range(2):
        before = lab.node("web")
        assert lab.kubevirt.wait_migration("default", lab.kubevirt.migrate("default", "web")) == "Succeeded"
        assert lab.node("web") != before
        lab.plugged(lab.node("web"), *names)
        lab.plugged(before)
        lab.bound("web.default", lab.node("web"))


def test_plug_away_before_during_and_after(lab: Lab) -> None:
    lab.only("node1")
    plug = lab.plugs.on("node1")
    plug.kill()
    lab.run("web", nics="default,blue=blue")  # attached while nobody plugs
    assert lab.iface_ids("node1") == ["", ""]
    plug.start()
    lab.plugged("node1", "web.default", "web.default.blue.default")
    plug.kill()
    lab.kubevirt.stop_vm("default", "web")  # the CNI removes what it made: nothing is left
    wait_for(lambda: not lab.rows("node1"), 20, "stopped")
    lab.kubevirt.start_vm("default", "web")
    wait_for(lambda: lab.rows("node1"), 20, "the first interface is attached")
    plug.start(ready=False)  # between one ADD and the next, or right after both: they take milliseconds
    lab.plugged("node1", "web.default", "web.default.blue.default")
    before = {row.name: row.ids for row in lab.rows("node1")}
    plug.kill()
    plug.start()
    after = {row.name: row.ids for row in lab.rows("node1")}
    assert {name: ids["iface-id"] for name, ids in before.items()} == {name: ids["iface-id"] for name, ids in after.items()}
    assert plug.metric("ovnagent_plug_changes_total") == 0


def test_ovs_restarts(lab: Lab) -> None:
    lab.only("node1")
    lab.run("web")
    chassis = lab.ovn.on("node1")
    lab.ovn.stop_controller(chassis)
    lab.ovn.stop_ovs(chassis)
    wait_for(lambda: lab.plugs.on("node1").http("/readyz")[0] == 503, 15, "not ready without Open_vSwitch")
    lab.ovn.start_ovsdb(chassis)
    lab.ovn.start_vswitchd(chassis)
    lab.ovn.start_controller(chassis)
    lab.plugs.on("node1").wait_ready()
    lab.plugged("node1", "web.default")
    lab.run("more")
    lab.plugged("node1", "web.default", "more.default")


def test_a_node_dies_and_comes_back_with_what_it_had_plugged(lab: Lab) -> None:
    lab.only("node1", "node2")
    node = lab.run("web")
    lab.plugged(node, "web.default")
    lab.plugs.on(node).kill()
    lab.kubevirt.node_dies(node)
    first = lab.launcher("web")
    lab.kubevirt.force_delete_launchers("default", "web")
    wait_for(lambda: lab.launcher("web") not in ("", first), 60, "started elsewhere")
    lab.kubevirt.wait_running("default", "web")
    lab.plugged(lab.node("web"), "web.default")
    assert lab.iface_ids(node) == ["web.default"], "what it had plugged before it died"
    lab.plugs.on(node).start(ready=False)
    lab.plugged(node, "")
    lab.plugged(lab.node("web"), "web.default")
    lab.bound("web.default", lab.node("web"))
    lab.kubevirt.node_returns(node)


# ---- what is somebody else's ----------------------------------------------------------------------------------------


def test_a_foreign_iface_id_and_a_foreign_bridge_are_left_alone(lab: Lab) -> None:
    lab.only("node1")
    plug, chassis = lab.plugs.on("node1"), lab.ovn.on("node1")
    plug.kill()
    lab.run("web", nics="default,blue=blue")
    uid = lab.launcher("web")
    wrong = lab.row(uid, "node1")
    assert wrong is not None
    chassis.vsctl("set", "Interface", wrong.name, "external_ids:iface-id=somebody.else")
    chassis.vsctl("add-br", "br-other")
    pod = Pod(chassis, f"{lab.ovn.name}-other", "default", "other", uid)
    pod.make()
    pod.add("eth0", bridge="br-other")
    lab.attach("node1", "default", "right", uid, "eth0", port="web.default")  # as a CNI that knows the name
    plug.start()
    try:
        wait_for(lambda: "web.default.blue.default" in lab.iface_ids("node1"), 10, "what is ours is plugged")
        assert lab.iface_ids("node1") == sorted(["", "somebody.else", "web.default", "web.default.blue.default"])
        wait_for(lambda: "set by somebody else and is left alone" in lab.events(), 20, "an Event on the VMI")
        assert plug.metric('ovnagent_plug_changes_total{change="plugged"}') == 1
    finally:
        chassis.vsctl("del-br", "br-other")
        run("ip", "netns", "del", pod.netns)
        chassis.vsctl("remove", "Interface", wrong.name, "external_ids", "iface-id")


# ---- what tenants try, without the admission policies ---------------------------------------------------------------


def test_a_pod_that_looks_like_a_launcher(lab: Lab) -> None:
    lab.only("node1")
    lab.run("web", nics="default,blue=blue")
    lab.plugged("node1", "web.default", "web.default.blue.default")
    lab.kubevirt._context.dead.update({"node1", "node2"})  # or the kubelet would start guests in them
    vmi = str(lab.kubevirt.vmi("default", "web")["metadata"]["uid"])  # type: ignore[index]
    abroad = lab.fake("abroad", "node1", "b", labels(vmi), owner("web", vmi))
    lab.dark("node1", abroad, "says that it is of VMI b/web, which does not exist")
    made_up = lab.fake("made-up", "node2", "default", labels("made-up"), owner("web", "made-up"))
    lab.dark("node2", made_up, "pod default/made-up is of a VMI default/web that is gone")
    elsewhere = lab.fake("elsewhere", "node2", "default", labels(vmi), owner("web", vmi))
    lab.dark("node2", elsewhere, "pod default/elsewhere is no migration's target")
    lab.fake("beside", "node1", "default", labels(vmi), owner("web", vmi))
    for _ in range(20):
        assert sorted(filter(None, lab.iface_ids("node1"))) == ["web.default", "web.default.blue.default"]
        time.sleep(0.1)
    odd = {"name": "odd", "namespace": "b", "labels": labels("x"), "ownerReferences": [owner("../../x?y=#", "x")]}
    spec = {"nodeName": "node1", "containers": [{"name": "main", "image": "none"}]}
    lab.kube.apply(yaml.safe_dump({"apiVersion": "v1", "kind": "Pod", "metadata": odd, "spec": spec}))
    lab.kube.kubectl("delete", "pods", "-A", "-l", "fake=yes", "--force", "--grace-period=0")
    lab.kubevirt._context.dead.clear()
    lab.run("after")
    wait_for(lambda: "after.default" in lab.iface_ids("node1"), 10, "others get their ports")


def test_a_pod_of_a_vm_that_has_ended(lab: Lab) -> None:
    """The record still stands on the VM; the pod names no owner (the garbage collector would take it), but carries the label
    and the annotation of the launcher that was."""
    lab.only("node1")
    lab.run("web")
    vmi = str(lab.kubevirt.vmi("default", "web")["metadata"]["uid"])  # type: ignore[index]
    lab.kubevirt.stop_vm("default", "web")
    wait_for(lambda: lab.kubevirt.vmi("default", "web") is None, 30, "stopped")
    lab.kubevirt._context.dead.add("node1")
    late = lab.fake("late", "node1", "default", labels(vmi), None, annotations={"kubevirt.io/domain": "web"})
    lab.dark("node1", late, "says that it is of VMI default/web, which does not exist")
    lab.kubevirt._context.dead.clear()
    lab.kubevirt.start_vm("default", "web")
    lab.kubevirt.wait_running("default", "web")
    wait_for(lambda: "web.default" in lab.iface_ids("node1"), 10, "the VM gets its port at its next start")
    assert [each.iface_id for each in lab.rows("node1") if each.pod == late] == [""], "and the pod does not"


def test_a_vmi_without_a_vm(lab: Lab) -> None:
    """The record is on the VMI, under its own UID; its interface on a NAD could have the name of a VM's port."""
    lab.only("node1")
    spec = {
        "domain": {"devices": {"interfaces": [{"name": "blue", "bridge": {}}]}, "memory": {"guest": "64Mi"}},
        "networks": [{"name": "blue", "multus": {"networkName": "d/c"}}],
    }
    vmi = {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "spec": spec}
    lab.kube.apply(yaml.safe_dump(vmi | {"metadata": {"name": "alone", "namespace": "b"}}))
    lab.kubevirt.wait_running("b", "alone")
    lab.plugged("node1", "alone.b.c.d")
    lab.run("alone.b.c", "d", wait=False)  # the agent refuses the second one
    wait_for(lambda: len(lab.rows("node1")) == 2, 40, "attached")
    second = lab.launcher("alone.b.c", "d")
    lab.dark("node1", second, "has granted no port to interface default of VM d/alone.b.c")
    lab.cluster.agents[0].kill()
    lab.grant("d", "alone.b.c", {"default": "alone.b.c.d"})
    lab.dark("node1", second, "is also on the record of VM b/alone")


def test_launchers_that_are_huge(lab: Lab) -> None:
    """26 pods of 1 MB with a launcher's label: a list of them is longer than an answer may be."""
    lab.only("node1")
    lab.kubevirt._context.dead.add("node2")
    env = [{"name": "X", "value": "x" * 1_000_000}]
    spec = {"nodeName": "node2", "containers": [{"name": "main", "image": "none", "env": env}]}
    for number in range(26):
        meta = {"name": f"huge-{number}", "namespace": "b", "labels": labels("made-up")}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}
        lab.kube.kubectl("create", "-f", "-", stdin=json.dumps(pod))
    plug = lab.plugs.on("node2")
    plug.kill()
    plug.start()
    lab.kubevirt._context.dead.clear()
    lab.kubevirt.uncordon("node2")
    lab.kubevirt.cordon("node1")
    lab.run("web")
    lab.plugged("node2", "web.default")
    status = Path(f"/proc/{plug.pid}/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) // 1024
    assert peak < 128, f"{peak} MB: the DaemonSet's limit"


def test_a_name_that_two_vms_could_have(lab: Lab) -> None:
    """`a.b.c` on the pod network of d, and `a` of b on NAD d/c: the agent refuses the second, and it stays dark."""
    lab.only("node1")
    lab.run("a.b.c", "d")
    lab.plugged("node1", "a.b.c.d")
    lab.run("a", "b", nics="default,blue=d/c", wait=False)
    wait_for(lambda: len(lab.rows("node1")) == 3, 40, "the second is attached")
    second = lab.launcher("a", "b")
    lab.dark("node1", second, "has granted no port to interface blue of VM b/a", BLUE)
    lab.cluster.agents[0].kill()  # it would write the record anew
    lab.grant("b", "a", {"default": "a.b", "blue": "a.b.c.d"})  # he grants it to himself
    lab.dark("node1", second, "is also on the record of VM d/a.b.c", BLUE)
    lab.kubevirt.stop_vm("d", "a.b.c")  # also while the first is stopped, and its port is bound nowhere
    wait_for(lambda: lab.kubevirt.vmi("d", "a.b.c") is None, 30, "stopped")
    lab.grant("b", "a", {"default": "a.b", "blue": "a.b.c.d"})
    lab.plugs.on("node1").kill()
    lab.plugs.on("node1").start()
    lab.dark("node1", second, "is also on the record of VM d/a.b.c", BLUE)


def test_a_record_that_he_wrote_himself(lab: Lab) -> None:
    lab.only("node1")
    lab.run("victim")
    lab.cluster.agents[0].kill()  # the agent would write it anew
    lab.run("mine", "b", wait=False)
    wait_for(lambda: len(lab.rows("node1")) == 2, 40, "attached")
    lab.grant("b", "mine", {"default": "victim.default"})
    lab.dark("node1", lab.launcher("mine", "b"), "has granted no port to interface default of VM b/mine")
    lab.cluster.agents[0].start()
    wait_for(lambda: "mine.b" in lab.iface_ids("node1"), 30, "and with the agent's own record it gets its own port")


# ---- what it costs the API server ------------------------------------------------------------------------------------


def audit(lab: Lab) -> list[dict[str, object]]:
    assert lab.kube.audit_log is not None
    lines = [json.loads(line) for line in lab.kube.audit_log.read_text().splitlines()]
    return [line for line in lines if line["user"]["username"] == USER]


def test_requests_of_a_start(lab: Lab) -> None:
    before = len(audit(lab))
    lab.run("web", nics="default,blue=blue")
    lab.plugged(lab.node("web"), "web.default", "web.default.blue.default")
    new = [line for line in audit(lab)[before:] if "watch" not in str(line["requestURI"])]
    counted = Counter(f"{line['verb']} {line['objectRef']['resource']}" for line in new)  # type: ignore[index]
    print(dict(counted))
    # The VM and the VMI; once more for each of them, of the VM that could have the same name for its second port.
    assert sum(counted.values()) <= 8, counted


def test_it_needs_what_it_may_and_may_what_it_needs(lab: Lab) -> None:
    """By the API server's audit log: everything that was granted was used, and nothing was refused."""
    assert not [line for line in audit(lab) if line["responseStatus"]["code"] in (401, 403)]  # type: ignore[index]
    used = {(line["objectRef"]["resource"], line["verb"]) for line in audit(lab)}  # type: ignore[index]
    documents = yaml.safe_load_all((REPOSITORY / "deploy" / "base" / "plug-rbac.yaml").read_text())
    (role,) = (each for each in documents if each["kind"] == "ClusterRole")
    may = {(resource, verb) for rule in role["rules"] for resource in rule["resources"] for verb in rule["verbs"]}
    assert used <= may
    assert may - used <= {("events", "patch")}, f"granted, and never used: {may - used}"
    nodes = {line["requestURI"].partition("fieldSelector=")[2].partition("&")[0] for line in audit(lab)
             if line["verb"] == "list"}  # type: ignore[attr-defined]  # fmt: skip
    assert nodes == {f"spec.nodeName%3Dnode{number}" for number in (1, 2, 3)}, "each asks for its own node's pods only"


def test_the_agent_and_the_api_server_away(lab: Lab) -> None:
    """The last one: an API server that starts refuses everybody for a moment, and the audit log would be full of it."""
    lab.only("node1", "node2")
    node = lab.run("web", nics="default,blue=blue")
    lab.plugged(node, "web.default", "web.default.blue.default")
    agent = lab.cluster.agents[0]
    agent.kill()
    lab.restart("web")
    node = lab.node("web")
    lab.plugged(node, "web.default", "web.default.blue.default")
    lab.kube.stop_api_server()
    try:
        row = next(row for row in lab.rows(node) if row.iface_id == "web.default")
        for key in ("iface-id", "ovnagent-plug", "ovnagent-pod"):
            lab.ovn.on(node).vsctl("remove", "Interface", row.name, "external_ids", key)
        lab.plugged(node, "web.default", "web.default.blue.default", seconds=2)
    finally:
        lab.kube.start_api_server()
        control_plane = lab.kubevirt.control_plane  # it ends where it has lost its lease; in a cluster it is started again
        control_plane.kill("virt-controller")
        control_plane.start("virt-controller")
        control_plane.wait_ready()

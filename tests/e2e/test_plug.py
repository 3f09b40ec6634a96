"""`ovnagent plug` on three nodes, with real ovs-cni, Open vSwitch, ovn-controller, API server and virt-controller."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import yaml

from hack.lab.cluster import REPOSITORY, Cluster
from hack.lab.cni import Pod
from hack.lab.kubevirt import KubeVirt
from hack.lab.process import run, running, wait_for

pytestmark = [pytest.mark.timeout(240), pytest.mark.one_process]
USER = "system:serviceaccount:ovnagent-plug:ovnagent-plug"
NETWORKS: list[dict[str, object]] = [
    {"name": "pods", "logicalSwitch": "ovn-default", "podNetwork": True, "subnets": [{"cidr": "10.16.0.0/16"}]},
    {"name": "blue", "nads": ["d/c", "default/blue"], "subnets": [{"cidr": "10.17.0.0/16"}]},
]
BLUE = "pod" + hashlib.sha256(b"blue").hexdigest()[:11]
OBJECTS = """
apiVersion: v1
kind: Namespace
metadata: {name: b}
---
apiVersion: v1
kind: Namespace
metadata: {name: d}
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: c, namespace: d}
spec: {config: '{"cniVersion":"0.4.0","type":"ovs","bridge":"br-int"}'}
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: blue, namespace: default}
spec: {config: '{"cniVersion":"0.4.0","type":"ovs","bridge":"br-int"}'}
"""


@dataclass(frozen=True)
class Row:
    """An interface of br-int that ovs-cni attached."""

    name: str
    pod: str
    inside: str
    ids: dict[str, str]

    @property
    def iface_id(self) -> str:
        return self.ids.get("iface-id", "")


class Lab:
    def __init__(self, cluster: Cluster, kubevirt: KubeVirt) -> None:
        self.cluster, self.kubevirt = cluster, kubevirt
        self.ovn, self.kube, self.plugs = cluster.ovn, cluster.kube, kubevirt.plugs
        self.pods: list[Pod] = []

    def run(self, name: str, namespace: str = "default", nics: str = "default", wait: bool = True) -> str:
        """Apply a VM, and wait until it runs; the node."""
        interfaces = [{"name": each.partition("=")[0], "bridge": {}} for each in nics.split(",")]
        networks: list[dict[str, object]] = []
        for each in nics.split(","):
            nic, _, nad = each.partition("=")
            networks.append({"name": nic, "multus": {"networkName": nad}} if nad else {"name": nic, "pod": {}})
        keys = {"kubevirt.io/allow-pod-bridge-network-live-migration": "true"}
        spec = {"domain": {"devices": {"interfaces": interfaces}, "memory": {"guest": "64Mi"}}, "networks": networks}
        vm = {
            "apiVersion": "kubevirt.io/v1",
            "kind": "VirtualMachine",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"runStrategy": "Always", "template": {"metadata": {"annotations": keys}, "spec": spec}},
        }
        self.kube.apply(yaml.safe_dump(vm))
        if not wait:
            return ""
        self.kubevirt.wait_running(namespace, name)
        return self.node(name, namespace)

    def node(self, name: str, namespace: str = "default") -> str:
        vmi = self.kubevirt.vmi(namespace, name)
        assert vmi is not None
        return str(vmi["status"]["nodeName"])

    def rows(self, node: str) -> list[Row]:
        """What ovs-cni has attached there."""
        vsctl = self.ovn.on(node).vsctl
        ports = json.loads(vsctl("--format=json", "--columns=name,external_ids", "list", "Port"))["data"]
        interfaces = json.loads(vsctl("--format=json", "--columns=name,external_ids", "list", "Interface"))["data"]
        of = {name: dict(ids[1]) for name, ids in interfaces}
        found = []
        for name, ids in ports:
            keys = dict(ids[1])
            if "contPodUid" in keys and name in of:  # the two lists are of two moments
                found.append(Row(name, keys["contPodUid"], keys["contIface"], of[name]))
        return found

    def row(self, pod_uid: str, node: str, inside: str = "eth0") -> Row | None:
        return next((each for each in self.rows(node) if (each.pod, each.inside) == (pod_uid, inside)), None)

    def iface_ids(self, node: str) -> list[str]:
        return sorted(each.iface_id for each in self.rows(node))

    def plugged(self, node: str, *ports: str, seconds: float = 10) -> None:
        wait_for(lambda: self.iface_ids(node) == sorted(ports), seconds, f"{ports} on {node}: {self.rows(node)}")

    def bound(self, port: str, node: str, seconds: float = 10) -> None:
        """Wait until OVN has bound a port there."""
        chassis = self.ovn.sbctl("--bare", "--columns=_uuid", "find", "Chassis", f"name={self.ovn.on(node).name}").strip()
        columns = ("--bare", "--columns=chassis,up", "find", "Port_Binding", f'logical_port="{port}"')
        wait_for(lambda: self.ovn.sbctl(*columns).split() == [chassis, "true"], seconds, f"{port} bound on {node}")

    def launcher(self, name: str, namespace: str = "default") -> str:
        """UID of the newest launcher; empty while there is none."""
        if self.kubevirt.vmi(namespace, name) is None:
            return ""
        return next((str(pod["metadata"]["uid"]) for pod in reversed(self.kubevirt.launchers(namespace, name))), "")

    def restart(self, name: str) -> None:
        """Restart a VM, and wait until it runs anew."""
        first = self.launcher(name)
        self.kubevirt.restart_vm("default", name)
        wait_for(lambda: self.launcher(name) not in ("", first), 30, "restarted")
        self.kubevirt.wait_running("default", name)

    def fake(self, name: str, node: str, namespace: str, labels: dict[str, str], owner: dict[str, object]) -> str:
        """A pod that somebody made, attached by ovs-cni as every pod is; its UID."""
        meta = {"name": name, "namespace": namespace, "labels": labels, "ownerReferences": [owner]}
        spec = {"nodeName": node, "containers": [{"name": "main", "image": "none"}]}
        self.kube.apply(yaml.safe_dump({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}))
        uid = str(self.kube.get("pod", name, "-n", namespace)["metadata"]["uid"])  # type: ignore[index]
        self.attach(node, namespace, name, uid)
        return uid

    def attach(self, node: str, namespace: str, name: str, uid: str, inside: str = "eth0", port: str = "") -> None:
        netns = f"{self.ovn.name}-x{len(self.pods)}"
        pod = Pod(self.ovn.on(node), netns, namespace, name, uid)
        pod.make()
        self.pods.append(pod)
        pod.add(inside, port=port)

    def dark(self, node: str, uid: str, words: str, inside: str = "eth0") -> None:
        """An interface has no name, and plug says why."""
        log = self.plugs.on(node).log
        wait_for(lambda: any(words in line for line in log.read_text().splitlines()), 20, f"{log} says {words!r}")
        assert [each.iface_id for each in self.rows(node) if (each.pod, each.inside) == (uid, inside)] == [""]

    def events(self, namespace: str = "default") -> str:
        return self.kube.kubectl("get", "events", "-n", namespace, "--field-selector", "reason=InterfaceNotPlugged")

    def clear(self) -> None:
        if running(self.cluster.agents[0].pidfile) is None:
            self.cluster.agents[0].start()
        self.kubevirt._context.dead.clear()
        for namespace in ("default", "b", "d"):
            self.kube.kubectl("delete", "vm", "--all", "-n", namespace, "--wait=false")
        for pod in self.pods:
            run("ip", "netns", "del", pod.netns)
        self.kube.kubectl("delete", "pods", "-A", "-l", "fake=yes", "--force", "--grace-period=0")
        for pod in self.pods:
            for row in self.rows(pod.chassis.node):
                if row.pod == pod._uid:
                    pod.chassis.vsctl("del-port", "br-int", row.name)
        self.pods.clear()
        wait_for(lambda: not self.ovn.nbctl("--bare", "--columns=name", "find", "Logical_Switch_Port",
                                            "external_ids:ovnagent-cluster=lab").strip(), 40, "no ports")  # fmt: skip
        wait_for(lambda: not any(self.rows(each.node) for each in self.ovn.chassis), 20, "nothing attached")


@pytest.fixture(scope="module")
def made() -> Iterator[Lab]:
    with Cluster("plug", audit=True) as cluster, KubeVirt(cluster.kube, cluster.ovn, guests="fake") as kubevirt:
        cluster.kube.apply(OBJECTS)
        cluster.agent(NETWORKS).start()
        yield Lab(cluster, kubevirt)


@pytest.fixture
def lab(made: Lab) -> Iterator[Lab]:
    yield made
    made.kubevirt.uncordon("node1", "node2", "node3")
    made.clear()


def only(lab: Lab, *nodes: str) -> None:
    """New launchers go nowhere else."""
    lab.kubevirt.cordon(*{"node1", "node2", "node3"} - set(nodes))


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
    only(lab, "node1")
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
    only(lab, "node1")
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
    only(lab, "node1", "node2")
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
    only(lab, "node1")
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


def owner(name: str, uid: str) -> dict[str, object]:
    return {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "name": name, "uid": uid, "controller": True}


def labels(uid: str) -> dict[str, str]:
    return {"kubevirt.io": "virt-launcher", "kubevirt.io/created-by": uid, "fake": "yes"}


def test_a_pod_that_looks_like_a_launcher(lab: Lab) -> None:
    only(lab, "node1")
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


def grant(lab: Lab, namespace: str, name: str, ports: dict[str, str]) -> None:
    """Write a record for a VM, as anybody may who may edit it."""
    uid = lab.kube.get("vm", name, "-n", namespace)["metadata"]["uid"]  # type: ignore[index]
    entries = {
        port: {"interface": interface, "network": "pods", "ips": ["10.16.9.9"], "mac": "0a:58:00:00:00:09"}
        for interface, port in ports.items()
    }
    text = json.dumps({"vm": f"{namespace}/{name}", "uid": uid, "ports": entries})
    lab.kube.kubectl("annotate", "--overwrite", "vm", name, "-n", namespace, f"ovnagent.io/record={text}")


def test_a_name_that_two_vms_could_have(lab: Lab) -> None:
    """`a.b.c` on the pod network of d, and `a` of b on NAD d/c: the agent refuses the second, and it stays dark."""
    only(lab, "node1")
    lab.run("a.b.c", "d")
    lab.plugged("node1", "a.b.c.d")
    lab.run("a", "b", nics="default,blue=d/c", wait=False)
    wait_for(lambda: len(lab.rows("node1")) == 3, 40, "the second is attached")
    second = lab.launcher("a", "b")
    lab.dark("node1", second, "has granted no port to interface blue of VM b/a", BLUE)
    lab.cluster.agents[0].kill()  # it would write the record anew
    grant(lab, "b", "a", {"default": "a.b", "blue": "a.b.c.d"})  # he grants it to himself
    lab.dark("node1", second, "is also on the record of VM d/a.b.c", BLUE)
    lab.kubevirt.stop_vm("d", "a.b.c")  # also while the first is stopped, and its port is bound nowhere
    wait_for(lambda: lab.kubevirt.vmi("d", "a.b.c") is None, 30, "stopped")
    grant(lab, "b", "a", {"default": "a.b", "blue": "a.b.c.d"})
    lab.plugs.on("node1").kill()
    lab.plugs.on("node1").start()
    lab.dark("node1", second, "is also on the record of VM d/a.b.c", BLUE)


def test_a_record_that_he_wrote_himself(lab: Lab) -> None:
    only(lab, "node1")
    lab.run("victim")
    lab.cluster.agents[0].kill()  # the agent would write it anew
    lab.run("mine", "b", wait=False)
    wait_for(lambda: len(lab.rows("node1")) == 2, 40, "attached")
    grant(lab, "b", "mine", {"default": "victim.default"})
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
    only(lab, "node1", "node2")
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

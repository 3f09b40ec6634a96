"""A lab of three nodes for the tests of `ovnagent plug`: one agent, `plug` on each node, guests without a CPU."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import yaml

from hack.lab.cluster import Cluster
from hack.lab.cni import Pod
from hack.lab.kubevirt import KubeVirt
from hack.lab.process import run, running, wait_for

NETWORKS: list[dict[str, object]] = [
    {"name": "pods", "logicalSwitch": "ovn-default", "podNetwork": True, "subnets": [{"cidr": "10.16.0.0/16"}]},
    {"name": "blue", "nads": ["d/c", "default/blue"], "subnets": [{"cidr": "10.17.0.0/16"}]},
]
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


def inside(name: str) -> str:
    """What an interface on a NAD is called in its launcher (kubevirt pkg/network/namescheme)."""
    return "pod" + hashlib.sha256(name.encode()).hexdigest()[:11]


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

    def run(
        self,
        name: str,
        namespace: str = "default",
        nics: str = "default",
        wait: bool = True,
        annotations: Mapping[str, str] | None = None,
    ) -> str:
        """Apply a VM, and wait until it runs; the node. `nics`: interface, or interface=NAD, or interface=*NAD for one in
        the pod network's place."""
        interfaces = [{"name": each.partition("=")[0], "bridge": {}} for each in nics.split(",")]
        networks: list[dict[str, object]] = []
        for each in nics.split(","):
            nic, _, nad = each.partition("=")
            multus = {"networkName": nad.removeprefix("*")} | ({"default": True} if nad.startswith("*") else {})
            networks.append({"name": nic, "multus": multus} if nad else {"name": nic, "pod": {}})
        keys = {"kubevirt.io/allow-pod-bridge-network-live-migration": "true", **(annotations or {})}
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

    def only(self, *nodes: str) -> None:
        """New launchers go nowhere else."""
        self.kubevirt.cordon(*{"node1", "node2", "node3"} - set(nodes))

    def grant(self, namespace: str, name: str, ports: Mapping[str, str]) -> None:
        """Write a record for a VM (interface -> port), as anybody may who may edit it."""
        uid = self.kube.get("vm", name, "-n", namespace)["metadata"]["uid"]  # type: ignore[index]
        entries = {
            port: {"interface": interface, "network": "pods", "ips": ["10.16.9.9"], "mac": "0a:58:00:00:00:09"}
            for interface, port in ports.items()
        }
        text = json.dumps({"vm": f"{namespace}/{name}", "uid": uid, "ports": entries})
        self.kube.kubectl("annotate", "--overwrite", "vm", name, "-n", namespace, f"ovnagent.io/record={text}")

    def fake(
        self,
        name: str,
        node: str,
        namespace: str,
        labels: Mapping[str, str],
        owner: dict[str, object] | None,
        **more: object,
    ) -> str:
        """A pod that somebody made, attached by ovs-cni as every pod is; its UID. `more`: of its metadata."""
        meta = {"name": name, "namespace": namespace, "labels": labels, "ownerReferences": [owner] if owner else [], **more}
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
            self.kube.kubectl("delete", "vm,vmi", "--all", "-n", namespace, "--wait=false")
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


def owner(name: str, uid: str) -> dict[str, object]:
    return {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "name": name, "uid": uid, "controller": True}


def labels(uid: str) -> dict[str, str]:
    return {"kubevirt.io": "virt-launcher", "kubevirt.io/created-by": uid, "fake": "yes"}


@contextmanager
def plug_lab(name: str, objects: str = OBJECTS, networks: list[dict[str, object]] = NETWORKS) -> Iterator[Lab]:
    """The lab, for as long as the tests of a file take."""
    with Cluster(name, audit=True) as cluster, KubeVirt(cluster.kube, cluster.ovn, guests="fake") as kubevirt:
        cluster.kube.apply(objects)
        cluster.agent(networks).start()
        yield Lab(cluster, kubevirt)

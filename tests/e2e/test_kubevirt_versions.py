"""A VM's whole life by the hand of the KubeVirt that KUBEVIRT_VERSION names; `hack/test kubevirt-versions` runs this against
each version that is served."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from hack.lab.cluster import NETWORKS, Cluster
from hack.lab.kubevirt import KubeVirt
from hack.lab.kubevirt_build import version
from hack.lab.process import wait_for
from tests.e2e.conftest import Lab

pytestmark = pytest.mark.timeout(400)

BLUE: dict[str, object] = {"name": "blue", "nads": ["default/blue"], "subnets": [{"cidr": "192.168.10.0/24"}]}
GREEN: dict[str, object] = {"name": "green", "nads": ["default/green"], "subnets": [{"cidr": "192.168.20.0/24"}]}
NAD = """
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {{name: {name}, namespace: default}}
spec: {{config: '{{"cniVersion": "0.3.1", "type": "ovs", "bridge": "br-int"}}'}}
"""
MANIFEST = """
apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata: {name: web, namespace: default}
spec:
  runStrategy: Always
  template:
    metadata:
      annotations: {kubevirt.io/allow-pod-bridge-network-live-migration: "true"}
    spec:
      evictionStrategy: LiveMigrate
      domain: {devices: {interfaces: [{name: default, bridge: {}}]}, memory: {guest: 64Mi}}
      networks: [{name: default, pod: {}}]
"""
PORT, PLUGGED, MOVED = "web.default", "web.default.blue.default", "web.default.green.default"


@pytest.fixture(scope="module")
def life() -> Iterator[Lab]:
    with Cluster("kver") as cluster, KubeVirt(cluster.kube, cluster.ovn, guests="fake") as kubevirt:
        yield Lab(cluster, cluster.replicas([*NETWORKS, BLUE, GREEN]).start(), kubevirt)


def running(lab: Lab, addresses: list[str], port: str = PORT) -> None:
    """The VM runs, and its port is where it is, with the addresses that it always had."""
    lab.kubevirt.wait_running("default", "web")
    lab.placed(port, lab.chassis("web"), 10)
    assert lab.ovn.addresses(port) == addresses


def migrated(lab: Lab, migration: str, source: str) -> None:
    assert lab.kubevirt.wait_migration("default", migration, seconds=60) in ("Succeeded", "")
    wait_for(lambda: lab.node("web") != source, 10, f"{source} is left")


def test_a_whole_life(life: Lab) -> None:
    lab, kubevirt = life, life.kubevirt
    assert f"v{version()}" in kubevirt.virtctl("version", "--client")
    for name in ("blue", "green"):
        lab.kube.apply(NAD.format(name=name))
    lab.kube.apply(MANIFEST)
    kubevirt.wait_running("default", "web")
    addresses = lab.ovn.addresses(PORT)
    assert len(addresses) == 1
    running(lab, addresses)

    kubevirt.virtctl("stop", "web")
    kubevirt.wait_phase("default", "web", "")
    lab.placed(PORT, "")
    kubevirt.virtctl("start", "web")
    running(lab, addresses)
    before = lab.vmi("web")
    assert before is not None
    kubevirt.virtctl("restart", "web")
    wait_for(lambda: (vmi := lab.vmi("web")) and vmi["metadata"]["uid"] != before["metadata"]["uid"], 30, "a new VMI")
    running(lab, addresses)

    first = lab.node("web")
    for _ in ("there", "back"):
        source = lab.node("web")
        kubevirt.cordon(*(node for node in kubevirt.nodes if node not in (first, source)) if source != first else ())
        kubevirt.virtctl("migrate", "web")
        migrated(lab, kubevirt.newest_migration("default", "web"), source)
        running(lab, addresses)
        kubevirt.uncordon(*kubevirt.nodes)
    assert lab.node("web") == first

    path = "/spec/template/spec"
    plug = [
        {"op": "add", "path": f"{path}/domain/devices/interfaces/-", "value": {"name": "extra", "bridge": {}}},
        {"op": "add", "path": f"{path}/networks/-", "value": {"name": "extra", "multus": {"networkName": "blue"}}},
    ]
    lab.kube.kubectl("patch", "vm", "web", "--type=json", "-p", json.dumps(plug))
    wait_for(lambda: lab.ovn.port(PLUGGED), 10, "the port of the interface that is plugged in")
    if version().startswith("1.5."):  # from 1.6 on KubeVirt does that by itself, 15 s later
        kubevirt.virtctl("migrate", "web")
    migrated(lab, kubevirt.newest_migration("default", "web"), first)
    plugged = lab.ovn.addresses(PLUGGED)
    running(lab, plugged, PLUGGED)
    running(lab, addresses)

    if version() >= "1.8":
        source = lab.node("web")
        move = [{"op": "replace", "path": f"{path}/networks/1/multus/networkName", "value": "green"}]
        lab.kube.kubectl("patch", "vm", "web", "--type=json", "-p", json.dumps(move))
        migrated(lab, kubevirt.newest_migration("default", "web"), source)
        wait_for(lambda: lab.ovn.port(MOVED) and not lab.ovn.port(PLUGGED), 20, "the port is on the other network")
        running(lab, lab.ovn.addresses(MOVED), MOVED)

    source = lab.node("web")
    lab.kube.kubectl("drain", source, "--pod-selector=kubevirt.io=virt-launcher", "--delete-emptydir-data", "--timeout=60s")
    wait_for(lambda: lab.node("web") != source, 10, "drained")
    running(lab, addresses)
    kubevirt.uncordon(source)

    lab.kube.kubectl("delete", "vm", "web", "--cascade=orphan")
    assert lab.vmi("web") is not None
    lab.kube.apply(MANIFEST)
    uid = lab.kube.get("vm", "web")["metadata"]["uid"]  # type: ignore[index]
    wait_for(lambda: uid in lab.ovn.port(PORT).get("external_ids", ""), 20, "adopted")
    running(lab, addresses)
    lab.kube.kubectl("delete", "vm", "web", "--wait=false")
    wait_for(lambda: not any(lab.ovn.port(port) for port in (PORT, PLUGGED, MOVED)), 30, "nothing is left")
    assert not re.findall("Traceback|CRITICAL", lab.agent.log.read_text())

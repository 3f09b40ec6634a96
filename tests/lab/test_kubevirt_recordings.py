"""The imitated half of KubeVirt (kubelet, CNI, virt-handler) writes what was recorded: the same fields in the same order,
object by object, while the real other half works with it."""

from __future__ import annotations

import copy
import difflib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hack.lab.kube import ControlPlane
from hack.lab.kubevirt import KubeVirt, objects
from hack.lab.ovn import OvnLab
from tests.lab.recording import Event, Recorder, Story, load, stories

NAMESPACE = "demo"

NAD = {"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition", "spec": {"config": "{}"}}
SCENARIOS = (
    "create-and-start",
    "migration-succeeds",
    "migration-fails",
    "migration-cancelled-while-running",
    "migration-pending-then-cancelled",
    "stop",
    "start",
    "restart",
    "delete",
    "halted-then-started",
    "delete-orphan",
    "recreate-adopts-orphan",
    "delete-foreground",
    "standalone-vmi",
    "standalone-vmi-powers-off",
)


def created(traces: Path, scenario: str, resource: str) -> dict[str, Any]:
    """The object that the user created in a recording, as it was sent."""
    event = next(each for each in load(traces / f"{scenario}.jsonl") if each.type == "ADDED" and each.resource == resource)
    obj = copy.deepcopy(dict(event.object))
    kept = ("name", "namespace", "labels", "annotations", "finalizers")
    obj["metadata"] = {key: value for key, value in obj["metadata"].items() if key in kept}
    return obj


class Scenes:
    """Plays every scenario once, one after the other, and keeps what was recorded of each."""

    def __init__(self, kube: ControlPlane, kubevirt: KubeVirt, traces: Path) -> None:
        self._events: list[Event] = []
        self._scenes: dict[str, slice] = {}
        self._kube, self._kubevirt = kube, kubevirt
        self._recorder = Recorder(kube.kubeconfig)
        try:
            self._play(traces)
        finally:
            self._recorder.stop()

    def stories(self, scenario: str) -> list[Story]:
        scene = self._scenes[scenario]
        return stories(self._events[scene], before=self._events[: scene.start])

    def _play(self, traces: Path) -> None:
        kubevirt, kubectl = self._kubevirt, self._kube.kubectl
        vm1, vm2 = (created(traces, name, "virtualmachines") for name in ("create-and-start", "halted-then-started"))
        vmi3 = created(traces, "standalone-vmi", "virtualmachineinstances")
        kubectl("create", "namespace", NAMESPACE)
        for each in (vm1, vm2, vmi3):
            for network in each["spec"].get("template", each)["spec"]["networks"]:
                if "multus" in network:
                    name = network["multus"]["networkName"].rpartition("/")[2]
                    self._kube.apply(json.dumps(NAD | {"metadata": {"name": name, "namespace": NAMESPACE}}))

        self._create(vm1)
        kubevirt.wait_running(NAMESPACE, "vm1")
        self._cut("create-and-start")
        assert kubevirt.wait_migration(NAMESPACE, kubevirt.migrate(NAMESPACE, "vm1")) == "Succeeded"
        self._cut("migration-succeeds")

        kubevirt.faults.fails = "Running"
        failed = kubevirt.migrate(NAMESPACE, "vm1")
        assert kubevirt.wait_migration(NAMESPACE, failed) == "Failed"
        kubevirt.faults.reset()
        self._cut("migration-fails")

        kubectl("-n", NAMESPACE, "delete", "vmim", failed)
        kubevirt.faults.stalls = True
        migration = kubevirt.migrate(NAMESPACE, "vm1")
        kubevirt.wait_migration(NAMESPACE, migration, "Running")
        kubevirt.wait_for(
            lambda: "targetNodeDomainDetected" in kubevirt.vmi(NAMESPACE, "vm1")["status"]["migrationState"],
            "target domain detected",
        )
        kubevirt.cancel_migration(NAMESPACE, migration)
        kubevirt.faults.reset()
        self._cut("migration-cancelled-while-running")

        finished = kubevirt.migrate(NAMESPACE, "vm1")
        kubevirt.wait_migration(NAMESPACE, finished)
        self._cut("between")
        kubectl("-n", NAMESPACE, "delete", "vmim", finished)  # the real recording begins with such a deletion
        here = kubevirt.vmi(NAMESPACE, "vm1")["status"]["nodeName"]
        others = [node for node in kubevirt.nodes if node != here]
        kubevirt.cordon(*others)
        migration = kubevirt.migrate(NAMESPACE, "vm1")
        kubevirt.wait_migration(NAMESPACE, migration, "Scheduling")
        kubevirt.cancel_migration(NAMESPACE, migration)
        self._cut("migration-pending-then-cancelled")
        kubevirt.uncordon(*others)

        kubevirt.restart_vm(NAMESPACE, "vm1")  # the next real recordings begin with one launcher
        self._restarted("vm1")
        self._cut("between")
        kubevirt.stop_vm(NAMESPACE, "vm1")
        self._cut("stop")
        kubevirt.start_vm(NAMESPACE, "vm1")
        kubevirt.wait_running(NAMESPACE, "vm1")
        self._cut("start")
        kubevirt.restart_vm(NAMESPACE, "vm1")
        self._restarted("vm1")
        self._cut("restart")
        kubectl("-n", NAMESPACE, "delete", "vm", "vm1")
        self._cut("delete")

        self._create(vm2)
        kubevirt.start_vm(NAMESPACE, "vm2")
        kubevirt.wait_running(NAMESPACE, "vm2")
        self._cut("halted-then-started")
        kubectl("-n", NAMESPACE, "delete", "vm", "vm2", "--cascade=orphan")
        self._cut("delete-orphan")
        vm2["spec"]["runStrategy"] = "Always"
        self._create(vm2)
        self._cut("recreate-adopts-orphan")
        kubectl("-n", NAMESPACE, "delete", "vm", "vm2", "--cascade=foreground")
        self._cut("delete-foreground")

        self._create(vmi3)
        kubevirt.wait_running(NAMESPACE, "vmi3")
        self._cut("standalone-vmi")
        kubevirt.power_off(NAMESPACE, "vmi3")
        kubevirt.wait_for(
            lambda: all(objects.phase_of(pod) == "Succeeded" for pod in kubevirt.launchers(NAMESPACE, "vmi3")),
            "launcher completed",
        )
        kubectl("-n", NAMESPACE, "delete", "vmi", "vmi3")
        self._cut("standalone-vmi-powers-off")

    def _create(self, obj: dict[str, Any]) -> None:
        self._kube.kubectl("create", "-f", "-", stdin=json.dumps(obj))

    def _restarted(self, vm: str) -> None:
        self._kubevirt.wait_phase(NAMESPACE, vm, "Scheduling")
        self._kubevirt.wait_running(NAMESPACE, vm)

    def _cut(self, scenario: str) -> None:
        """All that has happened since the last cut belongs to this scenario."""
        start = len(self._events)
        self._events += self._recorder.cut()
        self._scenes[scenario] = slice(start, len(self._events))


@pytest.fixture(scope="module")
def scenes(traces: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scenes]:
    directory = tmp_path_factory.mktemp("k")
    with (
        ControlPlane(directory / "kube") as kube,
        OvnLab("kvrec", directory / "ovn") as ovn,
        KubeVirt(kube, ovn, port_seconds=0) as kubevirt,
    ):
        yield Scenes(kube, kubevirt, traces)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_imitated_half_writes_what_was_recorded(scenario: str, scenes: Scenes, traces: Path) -> None:
    real, ours = (
        [f"{story.resource}: {mark}" for story in each for mark in ("---", *story.marks)]
        for each in (stories(load(traces / f"{scenario}.jsonl")), scenes.stories(scenario))
    )
    difference = list(difflib.unified_diff(real, ours, "recorded", "lab", lineterm=""))
    assert not difference, "\n".join(difference)

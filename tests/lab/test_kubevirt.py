"""The imitated half of KubeVirt with the real other half: what is plugged where, guests that end, migrations that go wrong,
nodes that die."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from hack.lab.kube import ControlPlane
from hack.lab.kubevirt import KubeVirt, objects
from hack.lab.kubevirt.api import MIGRATIONS, PODS, VMIS, VMS, Key
from hack.lab.ovn import OvnLab
from hack.lab.process import wait_for
from ovnagent.core.vm import Interface, pod_interface
from tests.lab.naming import ports_named

NAMESPACE = "default"
NAD = {"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition", "spec": {"config": "{}"}}
POD_NETWORK = {"default": {"pod": {}}}
Machine = Callable[..., str]


@pytest.fixture(scope="module")
def ovn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OvnLab]:
    with OvnLab("kvtst", tmp_path_factory.mktemp("o") / "ovn") as ovn:
        ovn.nbctl("ls-add", "pods")
        yield ovn


@pytest.fixture(scope="module")
def kube(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("k") / "kube") as kube:
        kube.kubectl("create", "namespace", "red")
        for namespace, name in ((NAMESPACE, "blue-net"), ("red", "net")):
            kube.apply(json.dumps(NAD | {"metadata": {"name": name, "namespace": namespace}}))
        yield kube


@pytest.fixture(scope="module")
def running(kube: ControlPlane, ovn: OvnLab) -> Iterator[KubeVirt]:
    with KubeVirt(kube, ovn, port_seconds=0) as kubevirt:
        yield kubevirt


@pytest.fixture
def kubevirt(running: KubeVirt, ovn: OvnLab) -> Iterator[KubeVirt]:
    """The stand-in; no VM, fault or plugged interface is left for the next test."""
    yield running
    running.faults.reset()
    for node in running.nodes:
        running.node_returns(node)
    for resource in (VMS, VMIS, MIGRATIONS):
        for obj in running.api.all(resource):
            running.api.delete(resource, obj)
    running.wait_for(lambda: not any(running.api.all(each) for each in (VMS, VMIS, MIGRATIONS, PODS)), "all gone")
    wait_for(lambda: not attached(ovn), 5, "all interfaces unplugged")


@pytest.fixture
def machine(kubevirt: KubeVirt) -> Machine:
    """Creates a VM and, if it starts, waits until it runs; its name."""
    numbers = itertools.count(1)

    def create(
        networks: Mapping[str, Mapping[str, Any]] = POD_NETWORK, strategy: str = "Always", binding: str = "bridge"
    ) -> str:
        name = f"vm{next(numbers)}"
        spec = {
            "domain": {
                "devices": {"interfaces": [{"name": each, binding: {}} for each in networks]},
                "memory": {"guest": "64Mi"},
            },
            "networks": [{"name": each, **network} for each, network in networks.items()],
        }
        vm = {
            "apiVersion": "kubevirt.io/v1",
            "kind": "VirtualMachine",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {"runStrategy": strategy, "template": {"spec": spec}},
        }
        kubevirt.api.create(VMS, vm)
        if strategy in ("Always", "RerunOnFailure"):
            kubevirt.wait_running(NAMESPACE, name)
        return name

    return create


def attached(ovn: OvnLab) -> set[tuple[str, str]]:
    """(node, interface in the pod) of all interfaces that the CNI has in br-int. (Their names are `ovnagent plug`'s.)"""
    found = set()
    for chassis in ovn.chassis:
        rows = json.loads(chassis.vsctl("--format=json", "--columns=external_ids", "list", "Port"))["data"]
        found |= {(chassis.node, dict(ids[1])["contIface"]) for (ids,) in rows if "contIface" in dict(ids[1])}
    return found


def node_of(kubevirt: KubeVirt, vm: str) -> str:
    node: str = kubevirt.vmi(NAMESPACE, vm)["status"]["nodeName"]
    return node


def state_of(kubevirt: KubeVirt, vm: str) -> dict[str, Any]:
    state: dict[str, Any] = kubevirt.vmi(NAMESPACE, vm)["status"].get("migrationState", {})
    return state


# ---- VMs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "end", "runs_again"),
    [
        ("Always", KubeVirt.power_off, True),
        ("Always", KubeVirt.crash, True),
        ("Always", KubeVirt.force_delete_launchers, True),
        ("RerunOnFailure", KubeVirt.power_off, False),
        ("RerunOnFailure", KubeVirt.crash, True),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_what_happens_when_a_guest_ends(
    kubevirt: KubeVirt, machine: Machine, strategy: str, end: Callable[..., None], runs_again: bool
) -> None:
    vm = machine(strategy=strategy)
    first = kubevirt.vmi(NAMESPACE, vm)["metadata"]["uid"]
    end(kubevirt, NAMESPACE, vm)
    if runs_again:
        kubevirt.wait_for(
            lambda: any_running(kubevirt, vm) and kubevirt.vmi(NAMESPACE, vm)["metadata"]["uid"] != first,
            "another VMI runs",
        )
    else:
        kubevirt.wait_phase(NAMESPACE, vm, "")
        kubevirt.wait_for(lambda: printable(kubevirt, vm) == "Stopped", "Stopped")


def printable(kubevirt: KubeVirt, vm: str) -> str:
    """What `kubectl get vm` shows as STATUS."""
    found = kubevirt.api.get(VMS, Key(NAMESPACE, vm)) or {}
    status: str = found.get("status", {}).get("printableStatus", "")
    return status


def any_running(kubevirt: KubeVirt, vm: str) -> bool:
    vmi = kubevirt.vmi(NAMESPACE, vm)
    return vmi is not None and objects.phase_of(vmi) == "Running"


# ---- interfaces -----------------------------------------------------------------------------------------------------


def test_interfaces_are_attached_as_kubevirt_names_them(kubevirt: KubeVirt, machine: Machine, ovn: OvnLab) -> None:
    vm = machine(
        {
            "default": {"pod": {}},
            "blue": {"multus": {"networkName": "blue-net"}},
            "red1": {"multus": {"networkName": "red/net"}},
            "red2": {"multus": {"networkName": "red/net"}},
        }
    )
    node = node_of(kubevirt, vm)
    inside = {pod_interface(Interface(name, "bridge", nad="a/b")) for name in ("blue", "red1", "red2")}
    assert attached(ovn) == {(node, "eth0"), *((node, each) for each in inside)}
    (pod,) = kubevirt.launchers(NAMESPACE, vm)
    reported = json.loads(pod["metadata"]["annotations"][objects.NETWORK_STATUS])
    assert [each["name"] for each in reported] == ["ovn-kubernetes", "default/blue-net", "red/net", "red/net"]
    macs = [each["mac"] for each in kubevirt.vmi(NAMESPACE, vm)["status"]["interfaces"]]
    assert macs == [each["mac"] for each in reported]

    kubevirt.stop_vm(NAMESPACE, vm)
    kubevirt.wait_phase(NAMESPACE, vm, "")
    assert not attached(ovn)


def test_sriov_is_not_attached(machine: Machine, ovn: OvnLab) -> None:
    machine({"blue": {"multus": {"networkName": "blue-net"}}}, binding="sriov")
    assert not attached(ovn)


def test_behind_masquerade_the_guest_has_another_mac_than_the_pod(kubevirt: KubeVirt, machine: Machine) -> None:
    vm = machine(binding="masquerade")
    (pod,) = kubevirt.launchers(NAMESPACE, vm)
    (reported,) = json.loads(pod["metadata"]["annotations"][objects.NETWORK_STATUS])
    (interface,) = kubevirt.vmi(NAMESPACE, vm)["status"]["interfaces"]
    assert interface["mac"] != reported["mac"]
    assert not kubevirt.guest(NAMESPACE, vm).announces


def test_the_guest_has_the_mac_of_its_first_launcher_and_keeps_it(kubevirt: KubeVirt, machine: Machine) -> None:
    vm = machine()
    (pod,) = kubevirt.launchers(NAMESPACE, vm)
    (reported,) = json.loads(pod["metadata"]["annotations"][objects.NETWORK_STATUS])
    assert kubevirt.guest(NAMESPACE, vm).nics[0].mac == reported["mac"]
    kubevirt.wait_migration(NAMESPACE, kubevirt.migrate(NAMESPACE, vm))
    assert kubevirt.guest(NAMESPACE, vm).nics[0].mac == reported["mac"]


@pytest.mark.parametrize("label", ["", "of a migration"])
def test_pods_that_only_look_like_launchers_plug_nothing(
    kubevirt: KubeVirt, machine: Machine, ovn: OvnLab, label: str
) -> None:
    vm = machine()
    before = attached(ovn)
    migration = ""
    if label:
        migration = kubevirt.migrate(NAMESPACE, vm)
        kubevirt.wait_migration(NAMESPACE, migration)
        wait_for(lambda: len(attached(ovn)) == 1, 5, "source unplugged")
        before = attached(ovn)
    names = [kubevirt.attachment_pod(NAMESPACE, vm, migration), kubevirt.ephemeral_launcher(NAMESPACE, vm)]
    pods = [Key(NAMESPACE, name) for name in names]
    kubevirt.wait_for(
        lambda: all(objects.phase_of(kubevirt.api.get(PODS, pod) or {}) in ("Running", "") for pod in pods),
        "both run, or KubeVirt has taken them away",
    )
    assert attached(ovn) == before


# ---- migrations -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "order",
    [
        ("domain ready", "node name", "source completed", "succeeded"),
        ("source completed", "domain ready", "node name", "succeeded"),
        ("domain ready", "succeeded", "node name", "source completed"),
        ("succeeded", "source completed", "domain ready", "node name"),
    ],
    ids=" - ".join,
)
def test_the_end_of_a_migration_may_be_written_in_any_order(
    kubevirt: KubeVirt, machine: Machine, ovn: OvnLab, order: tuple[str, ...]
) -> None:
    kubevirt.faults.end_order = order
    vm = machine()
    source = node_of(kubevirt, vm)
    migration = kubevirt.migrate(NAMESPACE, vm)
    assert kubevirt.wait_migration(NAMESPACE, migration) == "Succeeded"
    kubevirt.wait_for(lambda: node_of(kubevirt, vm) != source, "node name flipped")
    wait_for(lambda: attached(ovn) == {(node_of(kubevirt, vm), "eth0")}, 5, "source unplugged")
    assert objects.phase_of(kubevirt.vmi(NAMESPACE, vm)) == "Running"
    assert kubevirt.guest(NAMESPACE, vm).node == node_of(kubevirt, vm)


@pytest.mark.parametrize(
    ("fault", "phase"),
    [
        *(("target_dies", phase) for phase in ("Scheduling", "Scheduled", "PreparingTarget", "TargetReady", "Running")),
        *(("fails", phase) for phase in ("PreparingTarget", "TargetReady", "Running")),
    ],
)
def test_a_migration_that_fails_leaves_the_guest_where_it_is(
    kubevirt: KubeVirt, machine: Machine, ovn: OvnLab, fault: str, phase: str
) -> None:
    setattr(kubevirt.faults, fault, phase)
    vm = machine()
    source = node_of(kubevirt, vm)
    migration = kubevirt.migrate(NAMESPACE, vm)
    assert kubevirt.wait_migration(NAMESPACE, migration) == "Failed"
    if phase == "Scheduling":  # before the hand-off the VMI never mentions it
        assert "failed" not in state_of(kubevirt, vm)
    elif phase != "Scheduled":  # in which the hand-off comes
        kubevirt.wait_for(lambda: state_of(kubevirt, vm).get("failed") is True, "failure written")
    wait_for(lambda: attached(ovn) == {(source, "eth0")}, 5, "target unplugged")
    assert kubevirt.guest(NAMESPACE, vm).node == source == node_of(kubevirt, vm)


def test_a_vm_deleted_in_the_middle_of_its_migration_is_gone_altogether(
    kubevirt: KubeVirt, machine: Machine, kube: ControlPlane, ovn: OvnLab
) -> None:
    kubevirt.faults.stalls = True
    vm = machine()
    migration = kubevirt.migrate(NAMESPACE, vm)
    kubevirt.wait_migration(NAMESPACE, migration, "Running")
    kube.kubectl("-n", NAMESPACE, "delete", "vm", vm, "--timeout=20s")
    assert not attached(ovn)
    kubevirt.wait_for(lambda: not any(kubevirt.api.all(each) for each in (VMIS, MIGRATIONS, PODS)), "all objects gone")


def test_a_source_that_lingers_stays_plugged(kubevirt: KubeVirt, machine: Machine, ovn: OvnLab) -> None:
    kubevirt.faults.delays.source_lingers = 0.5
    vm = machine()
    kubevirt.wait_migration(NAMESPACE, kubevirt.migrate(NAMESPACE, vm))
    assert len(attached(ovn)) == 2
    wait_for(lambda: len(attached(ovn)) == 1, 5, "source unplugged")


@pytest.mark.parametrize("silent", [False, True], ids=["announced", "silent"])
def test_ovn_hears_the_target(kubevirt: KubeVirt, machine: Machine, ovn: OvnLab, silent: bool) -> None:
    """With the row of a migration in place, SB reports the target as activated if and only if it has announced itself."""
    kubevirt.faults.suppress_announce = silent
    kubevirt.faults.delays.source_lingers = 1.5  # the row is looked at while both are plugged
    vm = machine()
    port, source = f"{vm}.default", node_of(kubevirt, vm)
    ovn.nbctl("lsp-add", "pods", port)
    naming = ports_named(kubevirt, ovn)
    try:
        naming.__enter__()
        migration = kubevirt.migrate(NAMESPACE, vm)
        kubevirt.wait_migration(NAMESPACE, migration, "Scheduled", "PreparingTarget", "TargetReady")
        (target,) = {objects.node_of(pod) for pod in kubevirt.launchers(NAMESPACE, vm)} - {source}
        chassis = ",".join(ovn.on(node).name for node in (source, target))
        ovn.nbctl("lsp-set-options", port, f"requested-chassis={chassis}", "activation-strategy=rarp")
        ovn.sync()
        assert kubevirt.wait_migration(NAMESPACE, migration) == "Succeeded"
        kubevirt.wait_for(lambda: node_of(kubevirt, vm) == target, "node name flipped")

        def activated() -> str:
            return ovn.sbctl("--bare", "--columns=options", "find", "Port_Binding", f'logical_port="{port}"')

        if silent:
            assert "additional-chassis-activated" not in activated()
        else:
            mark = f"additional-chassis-activated={ovn.on(target).name}"
            wait_for(lambda: mark in activated(), 2, "target activated")
    finally:
        naming.__exit__(None, None, None)
        ovn.nbctl("lsp-del", port)


# ---- nodes ----------------------------------------------------------------------------------------------------------


def test_a_vm_whose_node_dies_runs_elsewhere_once_its_pod_is_gone(kubevirt: KubeVirt, machine: Machine, ovn: OvnLab) -> None:
    vm = machine()
    dead, first = node_of(kubevirt, vm), kubevirt.vmi(NAMESPACE, vm)["metadata"]["uid"]
    kubevirt.node_dies(dead)
    assert objects.phase_of(kubevirt.vmi(NAMESPACE, vm)) == "Running"
    kubevirt.force_delete_launchers(NAMESPACE, vm)
    kubevirt.wait_for(
        lambda: any_running(kubevirt, vm) and kubevirt.vmi(NAMESPACE, vm)["metadata"]["uid"] != first, "another VMI runs"
    )
    alive = node_of(kubevirt, vm)
    assert attached(ovn) == {(dead, "eth0"), (alive, "eth0")}
    assert alive != dead

    kubevirt.node_returns(dead)
    wait_for(lambda: attached(ovn) == {(alive, "eth0")}, 5, "stale interface unplugged")

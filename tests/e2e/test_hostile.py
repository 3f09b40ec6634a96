"""What a tenant may create, with the rights of his namespace and behind KubeVirt's own webhooks, beside a VM of somebody
else's: that VM's row stays as it is, it moves and others start meanwhile, and the tenant is told what was refused.

The admission policies of deploy/base/policy.yaml are *not* applied here: what holds without them holds with them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from hack.lab.process import wait_for
from tests.e2e.conftest import Lab

pytestmark = [pytest.mark.timeout(240), pytest.mark.one_process]
SPACE = "mallory"
USER = f"--as=system:serviceaccount:{SPACE}:{SPACE}"
RIGHTS = [
    {"apiGroups": ["kubevirt.io"], "resources": ["*"], "verbs": ["*"]},
    {"apiGroups": [""], "resources": ["pods", "pods/status"], "verbs": ["*"]},
    {"apiGroups": ["k8s.cni.cncf.io"], "resources": ["*"], "verbs": ["*"]},
]
VICTIM = "victim"
PORT = f"{VICTIM}.default"
PREFIX = "ovn.kubernetes.io/"
SECONDS = 5.0
"""For an innocent VM to be placed. On an idle machine it takes 0.1 s; the fuzzer measures."""
DEEP = "[" * 5000
MIGRATING = {"options", "external_ids", "up", "tag", "dynamic_addresses"}


@dataclass
class Stage:
    """The lab, a tenant who means harm, and the VM of somebody else's."""

    lab: Lab
    count: int = 0
    emptied: bool = False
    """The row was deleted, and another has taken its place."""

    def tenant(self, *arguments: str, obj: dict[str, Any] | None = None) -> str:
        """kubectl with his rights; its output, or what it was refused with."""
        try:
            return self.lab.kube.kubectl(USER, "-n", SPACE, *arguments, stdin=json.dumps(obj) if obj else None)
        except RuntimeError as error:
            return f"refused: {error}"

    def create(self, obj: dict[str, Any]) -> str:
        return self.tenant("create", "-f", "-", obj=obj)

    def vm(self, name: str, annotations: dict[str, Any] | None = None, record: str = "", **interface: Any) -> dict[str, Any]:
        nic = {"name": "default", "bridge": {}, **interface}
        return {
            "apiVersion": "kubevirt.io/v1",
            "kind": "VirtualMachine",
            "metadata": {"name": name, "annotations": {"ovnagent.io/record": record} if record else {}},
            "spec": {
                "runStrategy": "Always",
                "template": {
                    "metadata": {"annotations": annotations or {}},
                    "spec": {
                        "domain": {"devices": {"interfaces": [nic]}, "memory": {"guest": "64Mi"}},
                        "networks": [{"name": "default", "pod": {}}],
                    },
                },
            },
        }

    def pod(self, name: str, vmi: str, uid: str, **annotations: str) -> dict[str, Any]:
        """A launcher that KubeVirt did not make."""
        owner = {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "name": vmi, "uid": uid}
        labels = {"kubevirt.io": "virt-launcher", "kubevirt.io/created-by": uid}
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": labels, "annotations": annotations, "ownerReferences": [owner]},
            "spec": {"nodeName": self.elsewhere(), "containers": [{"name": "main", "image": "none"}]},
        }

    def elsewhere(self) -> str:
        """A node on which the victim does not run."""
        return next(node for node in self.lab.kubevirt.nodes if node != self.lab.node(VICTIM))

    def says(self, name: str) -> str:
        """What he is told of an object of his."""
        return self.lab.kube.kubectl("get", "events", "-n", SPACE, "--field-selector", f"involvedObject.name={name}")

    def told(self, name: str, pattern: str) -> None:
        try:
            wait_for(lambda: re.search(pattern, self.says(name)), 10, f"an Event on {name}")
        except TimeoutError:
            raise AssertionError(f"{name} is not told {pattern!r}, but: {self.says(name)}") from None

    # -- the innocent

    def row(self) -> dict[str, str]:
        """The victim's row, without what a migration changes."""
        return {key: value for key, value in self.lab.ovn.port(PORT).items() if key not in MIGRATING}

    def life_goes_on(self) -> None:
        """The victim moves, or another VM starts: in turn, for either takes its time."""
        self.count += 1
        lab = self.lab
        if self.count % 2:
            name = f"beside-{self.count}"
            port = lab.create(name)
            wait_for(lambda: lab.ovn.placed(port), 30, f"{name} placed")
            lab.kubevirt.wait_running("default", name)
            lab.placed(port, lab.chassis(name), SECONDS)
            lab.delete(name)
        else:
            migration = lab.kubevirt.migrate("default", VICTIM)
            assert lab.kubevirt.wait_migration("default", migration) == "Succeeded"
            lab.placed(PORT, lab.chassis(VICTIM), SECONDS)

    def healthy(self) -> None:
        for agent in self.lab.agent.agents:
            for path in ("/healthz", "/readyz"):
                status, text = agent.http(path)
                assert status == 200, (agent.name, path, text)
            assert agent.metric("ovnagent_thread_restarts_total") == 0

    def clean_up(self) -> None:
        kube = self.lab.kube
        kinds = "vm,vmi,network-attachment-definitions,virtualmachineinstancemigrations"
        kube.kubectl("delete", kinds, "--all", "-n", SPACE, "--wait=false")
        kube.kubectl("delete", "pods", "--all", "-n", SPACE, "--force", "--grace-period=0", "--wait=false")
        names = ("--bare", "--columns=name", "list", "Logical_Switch_Port")
        wait_for(lambda: f".{SPACE}" not in self.lab.ovn.nbctl(*names), 60, "the tenant's ports gone")
        left = ("get", "vm,vmi", "-n", SPACE, "-o", "name")
        wait_for(lambda: not kube.kubectl(*left).strip(), 60, "the tenant's VMs gone")


@pytest.fixture(scope="module")
def stage(session_lab: Lab) -> Iterator[Stage]:
    lab = session_lab
    lab.kube.kubectl("create", "namespace", SPACE)
    lab.kube.kubectl("create", "serviceaccount", SPACE, "-n", SPACE)
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": SPACE, "namespace": SPACE}}
    lab.kube.kubectl("create", "-f", "-", stdin=json.dumps({**role, "rules": RIGHTS}))
    lab.kube.kubectl("create", "rolebinding", SPACE, "-n", SPACE, f"--role={SPACE}", f"--serviceaccount={SPACE}:{SPACE}")
    lab.agent.wait_ready()
    lab.run(VICTIM)
    made = Stage(lab)
    yield made
    made.clean_up()
    lab.delete(VICTIM)
    lab.kube.kubectl("delete", "namespace", SPACE, "--wait=false")


@pytest.fixture(autouse=True)
def untouched(stage: Stage) -> Iterator[None]:
    """After each attack the victim's row is the very row that it was, and the agents are well."""
    before = stage.row()
    assert before
    yield
    after = stage.row()
    if stage.emptied:
        del before["_uuid"], after["_uuid"]
        stage.emptied = False
    assert after == before
    stage.lab.placed(PORT, stage.lab.chassis(VICTIM), SECONDS)
    stage.healthy()
    assert "Warning" not in stage.lab.events(VICTIM)
    stage.clean_up()


def annotated(key: str, value: str) -> Callable[[Stage], dict[str, Any]]:
    return lambda stage: stage.vm("attacker", {PREFIX + key: value})


def victims_ip(stage: Stage) -> str:
    (ip,) = stage.lab.ovn.addresses(PORT)
    return ip


def recorded(mac: str) -> Callable[[Stage], dict[str, Any]]:
    """A new VM that brings a record."""

    def make(stage: Stage) -> dict[str, Any]:
        entry = {"interface": "default", "network": "pods", "ips": [victims_ip(stage)], "mac": mac}
        record = {"vm": f"{SPACE}/attacker", "uid": "made-up", "ports": {f"attacker.{SPACE}": entry}}
        return stage.vm("attacker", record=json.dumps(record))

    return make


ATTACKS: dict[str, tuple[Callable[[Stage], dict[str, Any]], str]] = {
    "deep addresses": (lambda stage: stage.vm("attacker", {"network.kubevirt.io/addresses": DEEP}), "InvalidRequest"),
    "deep record": (lambda stage: stage.vm("attacker", record=DEEP), "Unreadable"),
    "control character in a record": (recorded("0a:00:00:00:00:01\x00"), "Unreadable"),
    "half a surrogate": (annotated("ip_address", "\ud800"), "InvalidRequest"),
    "gateway by MAC": (annotated("mac_address", "0a:00:00:00:00:01 10.16.0.1"), "InvalidRequest"),
    "broadcast MAC": (annotated("mac_address", "ff:ff:ff:ff:ff:ff"), "InvalidRequest"),
    "gateway's address": (annotated("ip_address", "10.16.0.1"), "AddressRefused.*gateway"),
    "victim's address": (
        lambda stage: annotated("ip_address", victims_ip(stage))(stage),
        f"AddressConflict.*default/{VICTIM}",
    ),
    "victim's address in a pair": (
        lambda stage: annotated("allowed_address_pairs", victims_ip(stage))(stage),
        f"AddressConflict.*default/{VICTIM}",
    ),
    "address with a zone": (annotated("ip_address", "fe80::1%eth0"), "InvalidRequest"),
    "link-local address": (annotated("ip_address", "fe80::1"), "AddressRefused|InvalidRequest"),
    "wide pools": (annotated("ip_pool", ",".join(f"10.16.{n}.0..10.16.{n}.255" for n in range(200))), "InvalidRequest"),
    "a /20 of pairs": (annotated("allowed_address_pairs", "10.16.0.0/20"), "InvalidRequest"),
    "an option that is a program": (
        annotated("dhcp-v4-options", f'lease_time=3600); outport="{PORT}"; output; //'),
        "InvalidRequest",
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_the_webhooks_let_through_harms_nobody(stage: Stage, attack: str) -> None:
    make, reason = ATTACKS[attack]
    answer = stage.create(make(stage))
    assert "created" in answer, answer
    stage.told("attacker", reason)
    stage.life_goes_on()


def test_a_record_with_his_own_uid_gets_nobodys_address(stage: Stage) -> None:
    stage.create(stage.vm("attacker"))
    wait_for(lambda: stage.lab.ovn.port(f"attacker.{SPACE}"), 10, "his own port")
    uid = stage.tenant("get", "vm", "attacker", "-o", "jsonpath={.metadata.uid}")
    mine = stage.lab.ovn.addresses(f"attacker.{SPACE}")
    for ip in (victims_ip(stage), "10.16.0.1"):
        lease = {"interface": "default", "network": "pods", "ips": [ip], "mac": "0a:00:00:00:00:01"}
        record = {"vm": f"{SPACE}/attacker", "uid": uid, "ports": {f"attacker.{SPACE}": lease}}
        patch = {"metadata": {"annotations": {"ovnagent.io/record": json.dumps(record)}}}
        stage.tenant("patch", "vm", "attacker", "--type=merge", "-p", json.dumps(patch))
        wait_for(lambda: mine[0] in stage.tenant("get", "vm", "attacker", "-o", "yaml"), 10, "the record is put right")
        assert stage.lab.ovn.addresses(f"attacker.{SPACE}") == mine


def test_a_launcher_of_somebody_elses_vmi(stage: Stage) -> None:
    """In his own namespace, with the victim's name and UID, on another node; its network-status is a lie, or too deep."""
    vmi = stage.lab.vmi(VICTIM)
    assert vmi is not None
    lie = json.dumps([{"name": "k8s", "interface": "eth0", "default": True, "mac": "0a:00:00:00:00:01"}])
    for name, status in (("deep", DEEP), ("lie", lie)):
        made = stage.pod(name, VICTIM, vmi["metadata"]["uid"], **{"k8s.v1.cni.cncf.io/network-status": status})
        answer = stage.create(made)
        assert "created" in answer, answer
    stage.life_goes_on()
    assert not stage.lab.ovn.port(f"{VICTIM}.{SPACE}")


def test_a_vmi_that_says_it_is_of_the_victims_vm(stage: Stage) -> None:
    uid = stage.lab.kube.kubectl("get", "vm", VICTIM, "-o", "jsonpath={.metadata.uid}")
    made = stage.vm(VICTIM)
    vmi = {**made, "kind": "VirtualMachineInstance", "spec": made["spec"]["template"]["spec"]}
    owner = {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "name": VICTIM, "uid": uid, "controller": True}
    vmi["metadata"]["ownerReferences"] = [owner]
    stage.create(vmi)
    stage.life_goes_on()
    row = stage.lab.ovn.port(f"{VICTIM}.{SPACE}")
    assert not row or victims_ip(stage) not in row["addresses"]


def test_a_migration_of_somebody_elses_vm(stage: Stage) -> None:
    """KubeVirt's webhook refuses one of a VMI that is not in its namespace; a VMI of that name it may have."""
    migration = {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachineInstanceMigration",
        "metadata": {"name": "his"},
        "spec": {"vmiName": VICTIM},
    }
    assert "refused" in stage.create(migration)
    stage.create(stage.vm(VICTIM))
    wait_for(lambda: "created" in stage.create(migration), 20, "a migration of his own VM of that name")
    stage.life_goes_on()


def test_names_of_virtual_ports(stage: Stage) -> None:
    """A VM that is called like the virtual port of an address, and one that shares that address."""
    assert "created" in stage.create(stage.vm("10.16.9.99"))
    assert "created" in stage.create(stage.vm("attacker", {PREFIX + "allowed_address_pairs": "10.16.9.99"}))
    wait_for(lambda: stage.lab.ovn.port("10.16.9.99.ovn-default"), 10, "the virtual port")
    stage.life_goes_on()


def hostile_and_older(stage: Stage) -> str:
    """His VM, which claims the victim's address by a record from its beginning on; the victim's address."""
    ip = victims_ip(stage)
    make, _ = ATTACKS["victim's address"]
    stage.create(make(stage))
    stage.told("attacker", "AddressConflict")
    uid = stage.tenant("get", "vm", "attacker", "-o", "jsonpath={.metadata.uid}")
    lease = {"interface": "default", "network": "pods", "ips": [ip], "mac": "0a:00:00:00:00:01"}
    record = {"vm": f"{SPACE}/attacker", "uid": uid, "ports": {f"attacker.{SPACE}": lease}}
    patch = {"metadata": {"annotations": {"ovnagent.io/record": json.dumps(record)}}}
    stage.tenant("patch", "vm", "attacker", "--type=merge", "-p", json.dumps(patch))
    return ip


def test_failover_and_restart_beside_an_attacker(stage: Stage) -> None:
    """The leader is killed, then both; who comes after it believes rows, not records."""
    ip = hostile_and_older(stage)
    leader = stage.lab.agent.leader()
    leader.kill()
    wait_for(lambda: stage.lab.agent.metric("ovnagent_lock_held") == 1, 20, "the standby leads")
    leader.start()
    stage.lab.agent.kill()
    stage.lab.agent.start()
    stage.life_goes_on()
    assert victims_ip(stage) == ip
    assert ip not in stage.lab.ovn.port(f"attacker.{SPACE}").get("addresses", "")


def test_an_emptied_northbound_database_beside_an_attacker(stage: Stage) -> None:
    """Both rows are gone, records are all there is: both run, both claim the address, and the elder has it."""
    ip = hostile_and_older(stage)
    before = stage.row()
    stage.emptied = True
    stage.lab.ovn.nbctl("lsp-del", PORT, "--", "--if-exists", "lsp-del", f"attacker.{SPACE}")
    wait_for(lambda: stage.row().get("addresses") == before["addresses"], 10, "the victim's row is there again")
    assert ip not in stage.lab.ovn.port(f"attacker.{SPACE}").get("addresses", "")
    stage.life_goes_on()

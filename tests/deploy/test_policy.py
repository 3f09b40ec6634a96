"""The admission policies before a real API server: what tenants may not write, and what everybody still may."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import yaml

from hack.lab.cluster import REPOSITORY
from hack.lab.kube import ControlPlane
from hack.lab.process import wait_for

BASE = REPOSITORY / "deploy" / "base"
AGENT = "system:serviceaccount:ovnagent:ovnagent"
KUBEVIRT = "system:serviceaccount:kubevirt:kubevirt-controller"
ADMIN = "an-admin"
TENANT = "system:serviceaccount:tenant:default"
RECORD = "ovnagent.io/record"
RIGHTS = """
apiVersion: v1
kind: Namespace
metadata: {name: tenant}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: kubevirt-controller}
rules:
  - {apiGroups: [kubevirt.io], resources: ["*"], verbs: ["*"]}
  - {apiGroups: [""], resources: [pods], verbs: ["*"]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: kubevirt-controller}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: kubevirt-controller}
subjects: [{kind: ServiceAccount, name: kubevirt-controller, namespace: kubevirt}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: look-first} # kubectl reads what it patches; the agent does not
rules: [{apiGroups: [kubevirt.io], resources: ["*"], verbs: [get]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: look-first}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: look-first}
subjects: [{kind: ServiceAccount, name: ovnagent, namespace: ovnagent}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: an-admin}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}
subjects: [{kind: User, name: an-admin}]
---
# All that a namespace has to offer, as some clusters give it to their tenants.
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: everything, namespace: tenant}
rules: [{apiGroups: ["*"], resources: ["*"], verbs: ["*"]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: everything, namespace: tenant}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: everything}
subjects: [{kind: ServiceAccount, name: default, namespace: tenant}]
"""


@pytest.fixture(scope="module")
def kube(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("policy") / "kube") as made:
        made.apply(RIGHTS)
        for name in ("namespace.yaml", "rbac.yaml", "policy.yaml"):
            made.kubectl("apply", "-f", str(BASE / name))
        made.kubectl("wait", "--for=create", "--timeout=30s", "serviceaccount/default", "-n", "tenant")
        probe = vm("probe", {"ovnagent.io/probe": "1"})  # a policy takes effect some time after it was written
        wait_for(lambda: "ovnagent alone" in attempt(made, TENANT, "create", probe), 30, "the policy of annotations works")
        wait_for(lambda: "KubeVirt alone" in attempt(made, TENANT, "create", pod("probe")), 30, "that of launchers works")
        yield made


def attempt(kube: ControlPlane, user: str, *arguments: object) -> str:
    """What is said when somebody tries; empty if he may. Dictionaries become standard input."""
    words = [each for each in arguments if isinstance(each, str)]
    objects = [each for each in arguments if isinstance(each, dict)]
    stdin = yaml.safe_dump_all(objects) if objects else None
    try:
        kube.kubectl("--as", user, "-n", "tenant", *words, *(("-f", "-") if objects else ()), stdin=stdin)
    except RuntimeError as error:
        return str(error)
    return ""


def vm(name: str, annotations: object = None, template: object = None, kind: str = "VirtualMachine") -> dict[str, object]:
    spec: dict[str, object] = {"domain": {"devices": {}}}
    if kind == "VirtualMachine":
        spec = {"runStrategy": "Halted", "template": {"metadata": {"annotations": template or {}}, "spec": spec}}
    meta = {"name": name, "namespace": "tenant", "annotations": annotations or {}}
    return {"apiVersion": "kubevirt.io/v1", "kind": kind, "metadata": meta, "spec": spec}


def pod(name: str, labels: dict[str, str] | None = None, owners: list[dict[str, object]] | None = None) -> dict[str, object]:
    labels = {"kubevirt.io": "virt-launcher"} if labels is None else labels
    meta = {"name": name, "namespace": "tenant", "labels": labels, "ownerReferences": owners or []}
    spec = {"nodeName": "nowhere", "containers": [{"name": "main", "image": "none"}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}


def patch(kube: ControlPlane, user: str, what: str, annotations: dict[str, str | None]) -> str:
    return attempt(kube, user, "patch", what, "--type=merge", "-p", json.dumps({"metadata": {"annotations": annotations}}))


def test_the_record_is_the_agent_s(kube: ControlPlane) -> None:
    assert attempt(kube, TENANT, "create", vm("web")) == ""
    what = "vm/web"
    assert "ovnagent.io/record is written by ovnagent alone" in patch(kube, TENANT, what, {RECORD: "{}"})
    assert patch(kube, AGENT, what, {RECORD: "mine"}) == ""
    assert "ovnagent.io/record" in patch(kube, TENANT, what, {RECORD: "{}"})
    assert "ovnagent.io/else" in patch(kube, TENANT, what, {"ovnagent.io/else": "x"})
    # Neither KubeVirt, for which a restore with patches asks on a tenant's behalf, nor an administrator.
    assert "ovnagent.io/record" in patch(kube, KUBEVIRT, what, {RECORD: "{}"})
    assert "ovnagent.io/record" in patch(kube, ADMIN, what, {RECORD: "{}"})
    # Everything else goes on, and whoever takes the record away costs himself the network at the next start at most.
    assert patch(kube, TENANT, what, {"my.own/key": "x"}) == ""
    assert attempt(kube, TENANT, "label", what, "a=b") == ""
    assert patch(kube, TENANT, what, {RECORD: None}) == ""
    assert "ovnagent.io/record" in patch(kube, TENANT, what, {RECORD: "mine"}), "nor may he put an old one back"


def test_the_vmi_s_record_too(kube: ControlPlane) -> None:
    assert attempt(kube, TENANT, "create", vm("alone", kind="VirtualMachineInstance")) == ""
    assert "ovnagent.io/record" in patch(kube, TENANT, "vmi/alone", {RECORD: "{}"})
    assert patch(kube, AGENT, "vmi/alone", {RECORD: "mine"}) == ""
    assert attempt(kube, TENANT, "label", "vmi/alone", "a=b") == ""


def test_a_template_has_none(kube: ControlPlane) -> None:
    """KubeVirt would copy it to the VMI."""
    assert "ovnagent alone" in attempt(kube, TENANT, "create", vm("bad", template={RECORD: "{}"}))
    assert attempt(kube, TENANT, "create", vm("good", template={"ovn.kubernetes.io/ip_address": "10.16.0.15"})) == ""
    change = json.dumps({"spec": {"template": {"metadata": {"annotations": {RECORD: "{}"}}}}})
    assert "ovnagent alone" in attempt(kube, TENANT, "patch", "vm/good", "--type=merge", "-p", change)
    odd = vm("odd")
    odd["spec"]["template"]["metadata"]["annotations"] = ["no", "map"]  # type: ignore[index]
    assert attempt(kube, TENANT, "create", odd) == "", "what is odd there is KubeVirt's to refuse"
    assert attempt(kube, TENANT, "label", "vm/odd", "a=b") == ""


def test_a_backup_comes_back_with_its_record(kube: ControlPlane) -> None:
    """A new object gets a UID of its own: the record is a wish."""
    assert attempt(kube, TENANT, "create", vm("restored", {RECORD: '{"uid":"old"}'})) == ""
    assert "ovnagent.io/record" in patch(kube, TENANT, "vm/restored", {RECORD: '{"uid":"new"}'})


def test_launchers_are_kubevirt_s(kube: ControlPlane) -> None:
    owner = {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "name": "web", "uid": "x", "controller": True}
    assert "KubeVirt alone" in attempt(kube, TENANT, "create", pod("fake", owners=[owner]))
    assert attempt(kube, KUBEVIRT, "create", pod("real", owners=[owner])) == ""
    assert attempt(kube, TENANT, "create", pod("plain", {"app": "web"})) == "", "other pods are nobody's concern"
    assert "KubeVirt alone" in attempt(kube, TENANT, "label", "pod/plain", "kubevirt.io=virt-launcher")
    assert "KubeVirt alone" in attempt(kube, TENANT, "label", "--overwrite", "pod/real", "kubevirt.io/created-by=other")
    assert "KubeVirt alone" in attempt(kube, TENANT, "label", "pod/real", "kubevirt.io-"), "nor may he hide one"
    assert attempt(kube, TENANT, "label", "pod/real", "my=label") == ""
    assert attempt(kube, TENANT, "annotate", "pod/real", "my=annotation") == ""
    adopt = json.dumps({"metadata": {"ownerReferences": [owner, owner | {"uid": "y", "controller": False}]}})
    assert "KubeVirt alone" in attempt(kube, TENANT, "patch", "pod/real", "--type=merge", "-p", adopt)


def test_a_replica_set_makes_no_launchers(kube: ControlPlane) -> None:
    """Its controller has no more rights over VMIs than the tenant for whom it works."""
    controller = "system:serviceaccount:kube-system:replicaset-controller"
    assert attempt(kube, controller, "create", pod("of-a-replica-set", {"app": "web"})) == ""
    assert "KubeVirt alone" in attempt(kube, controller, "create", pod("of-another"))

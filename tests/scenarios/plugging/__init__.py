"""Scenarios of one node's plugging, as text: facts and iface-ids, step by step.

vm web nics=default,blue:default/net       a VirtualMachine in namespace default (or `vm ns/web`); nics are interfaces, each
                                           with its NAD behind the colon (none: the pod network; `*` before it: in its place)
vmi web node=node1                         its VMI, with the VM's nics unless nics= says others; uid=, owner=, phase=
grant web default=web.default              the agent's record: interface=port ...; uid=: under another UID
grant vmi/web default=web.default          the same, on a VMI
pod p1 web                                 a launcher on node1; phase=, migration=, vmi=<uid of the VMI>, node=, created=;
                                           created-by=: its label says another UID; owner=: its ownerReference another
                                           VMI's name, or (-) it has none
attached p1 blue default/net               the pod's network-status says so of an interface
gone vm web | gone pod p1 | ...            the object is deleted
missing pod p1                             the pod is not on the list, and it is not known why (a node came back, a restart)
cni p1 default                             ovs-cni attached an interface of the VM in the pod; as=: under this interface name
broken p1 default                          its device is gone
del p1 default                             ovs-cni removed it
somebody p1 default x.y                    somebody else sets its iface-id
hand tap0 x.y                              somebody plugs in an interface by hand
api away | api back                        the API server
restart                                    plug forgets everything
=> p1 default web.default                  the interface's iface-id
=> p1 default dark has granted no port     it has none, and the sentence holds these words
=> p1 default says by somebody else        it has one, and the sentence holds these words
=> nothing written                         since the line before the last step
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from ovnagent.core import reduce
from ovnagent.core.plugging import Attached, Decision, Machine, Node, granted, plan, rivals
from ovnagent.core.records import Record, render
from ovnagent.core.vm import RECORD_ANNOTATION, Interface, Launcher, VmKey, pod_interface
from tests.desk import pod_object, vm_object, vmi_object
from tests.scenarios.script import play

HERE = "node1"


def run(path: Path) -> int:
    """Play a scenario; returns the number of expectations met. Raises AssertionError that names the line."""
    return play(path, Player())


class Player:
    """One node's plugging at a desk. Imitated is only that a question is answered and that a write is there afterwards."""

    def __init__(self) -> None:
        self.vms: dict[VmKey, dict[str, Any]] = {}
        self.vmis: dict[VmKey, dict[str, Any]] = {}
        self.pods: dict[str, dict[str, Any]] = {}
        self.missing: set[str] = set()
        """Pods that the watch does not tell of."""
        self.rows: dict[str, Attached] = {}
        self.machines: dict[str, Machine] = {}
        self.gone: set[str] = set()
        self.asked: list[str] = []
        self.api = True
        self.writes: list[Decision] = []
        self.decisions: dict[str, Decision] = {}

    # -- steps

    def step(self, text: str) -> None:
        self.writes.clear()
        self.asked.clear()
        verb, *words = text.split()
        values = dict(word.split("=", 1) for word in words if "=" in word)
        names = [word for word in words if "=" not in word]
        getattr(self, f"_{verb}")(names, values)
        self.look()

    def _vm(self, names: list[str], values: dict[str, str]) -> None:
        key = _key(names[0])
        old = self.vms.get(key, {}).get("metadata", {}).get("annotations", {})
        interfaces, networks = _nics(values.get("nics", "default"))
        self.vms[key] = vm_object(
            key.name, values.get("uid", f"uid-{key.name}"), None, interfaces, networks, namespace=key.namespace
        )
        self.vms[key]["metadata"]["annotations"] = dict(old)

    def _vmi(self, names: list[str], values: dict[str, str]) -> None:
        key = _key(names[0])
        owner = values.get("owner", self.vms[key]["metadata"]["uid"] if key in self.vms else "")
        if "nics" in values:
            interfaces, networks = _nics(values["nics"])
        elif key in self.vms:
            spec = self.vms[key]["spec"]["template"]["spec"]
            interfaces, networks = spec["domain"]["devices"]["interfaces"], spec["networks"]
        else:
            interfaces, networks = _nics("default")
        self.vmis[key] = vmi_object(
            key.name,
            values.get("uid", ""),
            owner,
            values.get("node", ""),
            values.get("phase", "Running"),
            interfaces=interfaces,
            networks=networks,
            namespace=key.namespace,
        )

    def _grant(self, names: list[str], values: dict[str, str]) -> None:
        text, objects = names[0], self.vms
        if text.startswith("vmi/"):
            text, objects = text[4:], self.vmis
        key = _key(text)
        ports = {port: interface for interface, port in values.items() if interface != "uid"}
        lease = {"network": "pods", "ips": ["10.16.0.9"], "mac": "0a:58:00:00:00:01"}
        record = render(Record(key, values.get("uid", objects[key]["metadata"]["uid"]), ()))
        raw = json.loads(record) | {"ports": {port: {"interface": each, **lease} for port, each in ports.items()}}
        objects[key]["metadata"]["annotations"][RECORD_ANNOTATION] = json.dumps(raw)

    def _pod(self, names: list[str], values: dict[str, str]) -> None:
        key = _key(names[1])
        old = self.pods.get(names[0])
        vmi_uid = values.get("vmi") or (self.vmis[key]["metadata"]["uid"] if key in self.vmis else "")
        pod = pod_object(
            names[0], key.name, values.get("node", HERE), values.get("phase", "Running"), values.get("migration", ""),
            vmi_uid, values.get("created", "2026-01-01T00:00:02Z"), namespace=values.get("namespace", key.namespace),
        )  # fmt: skip
        if "created-by" in values:
            pod["metadata"]["labels"]["kubevirt.io/created-by"] = values["created-by"]
        if values.get("owner") == "-":
            pod["metadata"]["ownerReferences"] = []
        elif "owner" in values:
            pod["metadata"]["ownerReferences"][0]["name"] = values["owner"]
        if old is not None:
            pod["metadata"]["annotations"] = old["metadata"]["annotations"]
        self.pods[names[0]] = pod
        self.missing.discard(names[0])

    def _attached(self, names: list[str], _: dict[str, str]) -> None:
        pod, interface, nad = names
        entry = {"name": nad, "interface": _inside(interface, self._key_of(pod), self), "mac": "0a:58:00:00:00:01"}
        self.pods[pod]["metadata"]["annotations"]["k8s.v1.cni.cncf.io/network-status"] = json.dumps([entry])

    def _gone(self, names: list[str], _: dict[str, str]) -> None:
        kind, name = names
        if kind == "pod":
            del self.pods[name]
        else:
            del {"vm": self.vms, "vmi": self.vmis}[kind][_key(name)]

    def _missing(self, names: list[str], _: dict[str, str]) -> None:
        self.missing.add(names[1])

    def _cni(self, names: list[str], values: dict[str, str]) -> None:
        pod, interface = names
        name = values.get("as", f"{pod}-{interface}")
        inside = _inside(interface, self._key_of(pod), self)
        self.rows[name] = Attached(row=name, name=name, iface_id="", pod_uid=f"pod-{pod}", inside=inside)

    def _broken(self, names: list[str], _: dict[str, str]) -> None:
        row = "-".join(names)
        self.rows[row] = replace(self.rows[row], broken=True)

    def _del(self, names: list[str], _: dict[str, str]) -> None:
        del self.rows["-".join(names)]

    def _somebody(self, names: list[str], _: dict[str, str]) -> None:
        row = "-".join(names[:2])
        self.rows[row] = replace(self.rows[row], iface_id=names[2])

    def _hand(self, names: list[str], _: dict[str, str]) -> None:
        self.rows[names[0]] = Attached(row=names[0], name=names[0], iface_id=names[1])

    def _api(self, names: list[str], _: dict[str, str]) -> None:
        self.api = names[0] == "back"

    def _restart(self, _names: list[str], _values: dict[str, str]) -> None:
        self.machines.clear()
        self.gone.clear()

    # -- what plug does

    def look(self) -> None:
        for _ in range(6):
            launchers = {pod.uid: pod for name in self.pods if (pod := self._launcher(name)) is not None}
            node = Node(tuple(self.rows.values()), launchers, dict(self.machines), frozenset(self.gone))
            before = node
            decisions = plan(node)
            for each in decisions:
                if each.changes:
                    self.writes.append(each)
                    self._commit(each, launchers.get(each.interface.pod_uid))
                if each.ask:
                    self._ask(each, launchers.get(each.interface.pod_uid))
            self.decisions = {each.interface.name: each for each in decisions}
            known = Node(tuple(self.rows.values()), launchers, dict(self.machines), frozenset(self.gone))
            if known == before:
                return
        raise AssertionError(f"it does not come to rest: {self.decisions}")

    def _launcher(self, name: str) -> Launcher | None:
        pod = reduce.launcher(self.pods[name])
        return pod if pod.node == HERE and name not in self.missing else None

    def _commit(self, decision: Decision, pod: Launcher | None) -> None:
        name, iface_id = decision.interface.name, decision.iface_id
        of = f"{pod.namespace}/{pod.name}" if pod is not None and iface_id else ""
        self.rows[name] = replace(self.rows[name], iface_id=iface_id, written=iface_id, pod=of)

    def _ask(self, decision: Decision, pod: Launcher | None) -> None:
        if not self.api:
            return
        uid = decision.interface.pod_uid
        self.asked.append(uid)
        if pod is not None:
            machine = self._machine(pod.key)
            others = {other for port in granted(machine) for other in rivals(pod.key, port)}
            self.machines[uid] = replace(machine, rivals=tuple(self._machine(each) for each in sorted(others)))
        elif not any(each["metadata"]["uid"] == uid for each in self.pods.values()):
            self.gone.add(uid)

    def _machine(self, key: VmKey) -> Machine:
        vmi, vm = self.vmis.get(key), self.vms.get(key)
        return Machine(reduce.instance(vmi) if vmi else None, reduce.virtual_machine(vm) if vm else None)

    def _key_of(self, pod: str) -> VmKey:
        found = reduce.launcher(self.pods[pod])
        return found.key

    # -- expectations

    def expect(self, text: str) -> None:
        if text == "nothing written":
            assert not self.writes, f"written: {self.writes}"
        elif text == "nothing asked":
            assert not self.asked, f"asked about: {self.asked}"
        elif found := re.fullmatch(r"(\S+) (\S+) (dark|says) (.*)", text):
            decision = self.decisions[f"{found[1]}-{found[2]}"]
            assert (decision.iface_id == "") == (found[3] == "dark"), f"its iface-id is {decision.iface_id!r}"
            assert found[4] in decision.reason, f"it says: {decision.reason}"
        elif found := re.fullmatch(r"(\S+) (\S+) (\S+)", text):
            row, wanted = self.rows[f"{found[1]}-{found[2]}"], "" if found[3] == "-" else found[3]
            reason = self.decisions[row.name].reason if row.name in self.decisions else ""
            assert row.iface_id == wanted, f"its iface-id is {row.iface_id!r}; {reason}"
        else:
            raise AssertionError("no such expectation")


def _key(text: str) -> VmKey:
    namespace, slash, name = text.rpartition("/")
    return VmKey(namespace if slash else "default", name)


def _nics(text: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    interfaces, networks = [], []
    for each in text.split(","):
        name, _, nad = each.partition(":")
        interfaces.append({"name": name, "bridge": {}})
        if nad:
            networks.append({"name": name, "multus": {"networkName": nad.lstrip("*"), "default": nad.startswith("*")}})
        else:
            networks.append({"name": name, "pod": {}})
    return interfaces, networks


def _inside(interface: str, key: VmKey, player: Player) -> str:
    """The interface's name in the launcher."""
    for objects in (player.vmis, player.vms):
        if key in objects:
            reduced = reduce.instance(objects[key]) if objects is player.vmis else reduce.virtual_machine(objects[key])
            for each in reduced.interfaces:
                if each.name == interface:
                    return pod_interface(each)
    return pod_interface(Interface(interface, "bridge", nad="" if interface == "default" else "some/nad"))

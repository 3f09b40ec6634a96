"""The agent's core at a desk: Kubernetes objects in, rows out, with no database, no API server and no clock.

Everything that decides is the real code (store, locate, plan, the difference to the rows present); what is imitated is
only that a committed row is there afterwards.
"""

from __future__ import annotations

import ipaddress
import itertools
import json
from collections.abc import Callable, Mapping
from typing import Any

from ovnagent.commands.observer import View
from ovnagent.core import deletion, reduce, vm
from ovnagent.core.addresses import Foreign
from ovnagent.core.attachments import Labels
from ovnagent.core.books import Books
from ovnagent.core.deletion import NO_BRAKE
from ovnagent.core.free import NONE_TAKEN, taken_with
from ovnagent.core.networks import AddressRange, Network, Networks, Subnet
from ovnagent.core.placement import Binding, ChassisTable, Whereabouts, locate
from ovnagent.core.plan import Case, Result, World, plan
from ovnagent.core.ports import Port, PresentPort
from ovnagent.core.problems import Problem
from ovnagent.core.virtual_ports import virtual_ports
from ovnagent.core.vm import VmKey
from ovnagent.difference import changes, virtual_changes
from ovnagent.kube.store import Store, identity
from ovnagent.ovn.changes import Change, CreatePort, DeletePort, UpdatePort

REDUCERS: Mapping[str, Callable[[Mapping[str, Any]], vm.Fact]] = {
    "virtualmachines": reduce.virtual_machine,
    "virtualmachineinstances": reduce.instance,
    "virtualmachineinstancemigrations": reduce.migration,
    "pods": reduce.launcher,
    "nodes": reduce.node,
}


def network(
    cidr: str = "10.16.0.0/16",
    *more: str,
    name: str = "pods",
    switch: str = "ovn-default",
    reserved: tuple[tuple[str, str], ...] = (),
    pod_network: bool = True,
    nads: tuple[str, ...] = (),
) -> Network:
    """A network whose gateways are the first addresses of its subnets."""
    subnets = []
    for text in (cidr, *more):
        net = ipaddress.ip_network(text)
        spans = tuple(
            AddressRange(ipaddress.ip_address(first), ipaddress.ip_address(last))
            for first, last in reserved
            if ipaddress.ip_address(first) in net
        )
        subnets.append(Subnet(net, net[1], spans))
    return Network(name, switch, tuple(subnets), pod_network, nads)


class Desk:
    """One agent at a desk. Nodes node1..node9 have the chassis chassis1..chassis9."""

    def __init__(self, *networks: Network) -> None:
        self.networks = Networks(networks or (network(),))
        self.chassis = {f"node{number}": (f"chassis{number}",) for number in range(1, 10)}
        self.foreign: dict[str, Foreign] = {}
        self.names: dict[str, str] = {}
        self.namespaces: dict[str, Labels] = {}
        self.brake = NO_BRAKE
        self.nads: dict[str, str] = {}
        self.unsure: dict[VmKey, str] = {}
        self.virtual: dict[str, PresentPort] = {}
        self.rows: dict[str, PresentPort] = {}
        self.before: dict[str, PresentPort] = {}
        self.bindings: dict[str, Binding] = {}
        self.records: dict[VmKey, str] = {}
        self.problems: dict[VmKey, tuple[Problem, ...]] = {}
        self.writes: list[Change] = []
        self.now = 0.0
        self._uuids = itertools.count(1)
        self.dirty: set[VmKey] = set()
        self.store = Store(lambda keys, _: self.dirty.update(keys))
        self.forget()

    def forget(self) -> None:
        """As a restart does it: all memory is lost, the rows and the objects are still there."""
        self.books = Books()
        self.before.clear()
        self.seen: dict[VmKey, tuple[Whereabouts, float]] = {}
        self.problems.clear()

    def feed(self, event: str, resource: str, obj: Mapping[str, Any]) -> None:
        """An event of a watch; nothing is computed yet."""
        fact = REDUCERS[resource](obj)
        if event == "DELETED":
            self.store.delete(type(fact), identity(fact))
        else:
            self.store.put(fact)

    def look(self, *keys: VmKey) -> list[Result]:
        """Reconcile these VMs (all of them by default) in one batch; what is freed is looked at again."""
        batch = set(keys) or self.store.keys() | {row.port.vm for row in self.rows.values()} | self.seen.keys()
        self.dirty.clear()
        cases = [self._case(key) for key in sorted(batch)]
        planned = plan(cases, self.books, self.world())
        results, self.books = list(planned.results), planned.books
        again = set()
        for result, case in zip(results, cases, strict=True):
            for change in changes(result, case.present):
                self._apply(change)
            self.problems[result.key] = result.problems
            if result.record:
                self.records[result.key] = result.record
            for other, troubles in self.problems.items():
                if any(set(problem.waits_for) & set(result.freed) for problem in troubles):
                    again.add(other)
        if again:
            self.look(*again)
        wanted = virtual_ports("lab", self.books, self.rows)
        for _, change in virtual_changes(wanted, self.virtual):
            self._apply(change)
        return results

    def view(self) -> View:
        """What an observer sees."""
        cases = [self._case(key) for key in sorted(self.store.keys() | {row.port.vm for row in self.rows.values()})]
        world = self.world()
        planned = plan(cases, Books(), world)
        results = {result.key: result for result in planned.results}
        found = {case.facts.key: case for case in cases}
        by_vm = {key: case.present for key, case in found.items() if case.present}
        absent = [key for key in by_vm if found[key].facts.empty]
        held = deletion.brake(absent, by_vm, self.networks, len(self.rows), False, "lab")
        return View(world, planned.books, found, results, self.bindings, brake=held)

    def world(self) -> World:
        return World(
            cluster="lab",
            networks=self.networks,
            chassis=ChassisTable(dict(self.chassis), self.store.node_chassis()),
            foreign=dict(self.foreign),
            names=dict(self.names),
            holders=dict(self.rows),
            before=dict(self.before),
            virtual=dict(self.virtual),
            nads={**self.store.nads(), **self.nads},
            namespaces=dict(self.namespaces),
            brake=self.brake,
        )

    def _case(self, key: VmKey) -> Case:
        facts = self.store.facts(key)
        where = locate(facts)
        if key not in self.seen or self.seen[key][0] != where:
            self.seen[key] = where, self.now
        present = tuple(row for name, row in sorted(self.rows.items()) if row.port.vm == key)
        return Case(facts, where, self.now - self.seen[key][1], present, dict(self.bindings), self.unsure.get(key, ""))

    def _apply(self, change: Change) -> None:
        self.writes.append(change)
        match change:
            case CreatePort(port):
                assert port.name not in self.rows
                assert port.name not in self.virtual
                self._rows_of(port)[port.name] = PresentPort(str(next(self._uuids)), port)
                self.before.pop(port.name, None)
            case UpdatePort(present, port):
                self._rows_of(port)[port.name] = PresentPort(present.uuid, port)
                self.before.pop(port.name, None)
            case DeletePort(present):
                del self._rows_of(present.port)[present.port.name]

    def _rows_of(self, port: Port) -> dict[str, PresentPort]:
        return self.virtual if port.type == "virtual" else self.rows

    # -- short-hand

    def port(self, name: str) -> Port:
        return (self.rows.get(name) or self.virtual[name]).port

    def placed(self, name: str) -> str:
        """`chassis1,chassis2 rarp`, `chassis1`, or `-` for a port that asks for none."""
        port = self.port(name)
        return " ".join(filter(None, (port.option("requested-chassis"), port.option("activation-strategy")))) or "-"

    def says(self, name: str, namespace: str = "default") -> list[str]:
        """`Reason: message` of a VM's problems."""
        return [f"{problem.reason}: {problem.message}" for problem in self.problems.get(VmKey(namespace, name), ())]


def uid_of(kind: str, name: str) -> str:
    """A UID that says whose it is."""
    return f"{kind}-{name.replace('.', '-')}"


def record_text(name: str, uid: str, ips: str, mac: str = "0a:00:00:00:00:99", network: str = "pods") -> str:
    """A record as somebody may forge it."""
    lease = {"interface": "default", "network": network, "ips": ips.split(","), "mac": mac}
    return json.dumps({"vm": f"default/{name}", "uid": uid, "ports": {f"{name}.default": lease}})


def foreign(ips: Mapping[str, str], macs: Mapping[str, str] | None = None) -> Foreign:
    """Address or MAC -> who uses it, on one switch."""
    taken = NONE_TAKEN
    for ip in ips:
        taken = taken_with(taken, ipaddress.ip_address(ip))
    return Foreign(dict(ips), dict(macs or {}), taken)


def vm_object(
    name: str,
    uid: str = "",
    annotations: Mapping[str, Any] | None = None,
    interfaces: list[dict[str, Any]] | None = None,
    networks: list[dict[str, Any]] | None = None,
    record: str = "",
    created: str = "2026-01-01T00:00:00Z",
    namespace: str = "default",
) -> dict[str, Any]:
    """A VirtualMachine with one bridge interface on the pod network, unless told otherwise."""
    return {
        "metadata": {
            "namespace": namespace,
            "name": name,
            "uid": uid or uid_of("uid", name),
            "creationTimestamp": created,
            "annotations": {vm.RECORD_ANNOTATION: record} if record else {},
        },
        "spec": {
            "template": {
                "metadata": {"annotations": dict(annotations or {})},
                "spec": vmi_spec(interfaces, networks),
            }
        },
    }


def vmi_spec(interfaces: list[dict[str, Any]] | None = None, networks: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    return {
        "domain": {"devices": {"interfaces": interfaces if interfaces is not None else [{"name": "default", "bridge": {}}]}},
        "networks": networks if networks is not None else [{"name": "default", "pod": {}}],
    }


def vmi_object(
    name: str,
    uid: str = "",
    owner: str | None = None,
    node: str = "",
    phase: str = "Running",
    annotations: Mapping[str, Any] | None = None,
    interfaces: list[dict[str, Any]] | None = None,
    networks: list[dict[str, Any]] | None = None,
    migration: Mapping[str, Any] | None = None,
    macs: Mapping[str, str] | None = None,
    namespace: str = "default",
) -> dict[str, Any]:
    """A VMI of the VM of its name; `owner=""`: standalone."""
    owner = uid_of("uid", name) if owner is None else owner
    reference = {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "name": name, "uid": owner, "controller": True}
    status: dict[str, Any] = {"phase": phase}
    if node:
        status["nodeName"] = node
    if migration:
        status["migrationState"] = dict(migration)
    if macs:
        status["interfaces"] = [{"name": interface, "mac": mac} for interface, mac in macs.items()]
    return {
        "metadata": {
            "namespace": namespace,
            "name": name,
            "uid": uid or uid_of("vmi", name),
            "creationTimestamp": "2026-01-01T00:00:01Z",
            "annotations": dict(annotations or {}),
            "ownerReferences": [reference] if owner else [],
        },
        "spec": vmi_spec(interfaces, networks),
        "status": status,
    }


def pod_object(
    name: str,
    vmi: str,
    node: str = "",
    phase: str = "Running",
    migration: str = "",
    vmi_uid: str = "",
    created: str = "2026-01-01T00:00:02Z",
    annotations: Mapping[str, str] | None = None,
    namespace: str = "default",
) -> dict[str, Any]:
    """A launcher."""
    vmi_uid = vmi_uid or uid_of("vmi", vmi)
    labels = {"kubevirt.io": "virt-launcher", "kubevirt.io/created-by": vmi_uid}
    if migration:
        labels["kubevirt.io/migrationJobUID"] = migration
    owner = {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "name": vmi, "uid": vmi_uid}
    return {
        "metadata": {
            "namespace": namespace,
            "name": name,
            "uid": uid_of("pod", name),
            "creationTimestamp": created,
            "labels": labels,
            "annotations": {"kubevirt.io/domain": vmi, **(annotations or {})},
            "ownerReferences": [owner],
        },
        "spec": {"nodeName": node} if node else {},
        "status": {"phase": phase},
    }


def migration_object(
    uid: str, vmi: str, phase: str, created: str = "2026-01-01T00:01:00Z", namespace: str = "default"
) -> dict[str, Any]:
    return {
        "metadata": {"namespace": namespace, "name": uid, "uid": uid, "creationTimestamp": created},
        "spec": {"vmiName": vmi},
        "status": {"phase": phase},
    }

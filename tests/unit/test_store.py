"""Who is woken by what, and what is remembered."""

from __future__ import annotations

from ovnagent.core import reduce
from ovnagent.core.vm import Namespace, NetworkAttachmentDefinition, Node, VirtualMachine, VmKey
from ovnagent.kube import store as store_module
from ovnagent.kube.store import Store
from tests.desk import migration_object, pod_object, vm_object, vmi_object

A, B, C = (VmKey("default", name) for name in "abc")


class Woken:
    """A store, and who was woken since the last look."""

    def __init__(self) -> None:
        self.keys: set[VmKey] = set()
        self.urgent = False
        self.store = Store(self._changed)

    def _changed(self, keys: object, urgent: bool) -> None:
        self.keys |= set(keys)  # type: ignore[call-overload]
        self.urgent = self.urgent or urgent

    def look(self) -> set[VmKey]:
        found, self.keys, self.urgent = self.keys, set(), False
        return found


def nad(name: str, network: str) -> NetworkAttachmentDefinition:
    return NetworkAttachmentDefinition("default", name, network)


def on_nad(name: str, network: str) -> dict[str, object]:
    multus = [{"name": "net", "multus": {"networkName": network}}]
    return vm_object(name, interfaces=[{"name": "net", "bridge": {}}], networks=multus)


def test_a_node_wakes_whom_it_concerns_and_only_where_its_chassis_changes() -> None:
    woken = Woken()
    woken.store.put(reduce.instance(vmi_object("a", node="node1")))
    woken.store.put(reduce.launcher(pod_object("pod-b", "b", node="node1")))
    woken.store.put(reduce.instance(vmi_object("c", node="node2")))
    woken.look()
    woken.store.put(Node("node1", ""))
    assert woken.look() == set(), "it says nothing of a chassis"
    woken.store.put(Node("node1", "one"))
    assert woken.look() == {A, B}
    before = woken.store.node_chassis()
    woken.store.put(Node("node1", "one"))
    assert woken.look() == set()
    assert woken.store.node_chassis() is before, "and nobody has to compare"
    woken.store.put(Node("node1", "two"))
    assert woken.look() == {A, B}
    assert (dict(before), dict(woken.store.node_chassis())) == ({"node1": "one"}, {"node1": "two"})
    woken.store.delete(Node, ("", "node1"))
    assert woken.look() == {A, B}
    assert dict(woken.store.node_chassis()) == {}


def test_a_migrations_target_is_a_node_of_the_vm() -> None:
    woken = Woken()
    state = {"migrationUid": "m1", "sourceNode": "node1", "targetNode": "node2"}
    woken.store.put(reduce.instance(vmi_object("a", node="node1", migration=state)))
    woken.look()
    woken.store.put(Node("node2", "two"))
    assert woken.look() == {A}
    woken.store.put(reduce.instance(vmi_object("a", node="node1")))
    woken.look()
    woken.store.put(Node("node2", "three"))
    assert woken.look() == set(), "the migration is over"


def test_a_nad_wakes_the_vms_with_an_interface_on_it() -> None:
    woken = Woken()
    for name, network in (("a", "red"), ("b", "default/red"), ("c", "blue")):
        woken.store.put(reduce.virtual_machine(on_nad(name, network)))
    woken.look()
    woken.store.put(nad("red", "net1"))
    assert woken.look() == {A, B}
    before = woken.store.nads()
    woken.store.put(nad("red", "net1"))
    assert woken.look() == set()
    woken.store.replace(NetworkAttachmentDefinition, [nad("red", "net1"), nad("blue", "net1")])
    assert woken.look() == {C}
    woken.store.replace(NetworkAttachmentDefinition, [nad("blue", "net1")])
    assert woken.look() == {A, B}
    assert (dict(before), dict(woken.store.nads())) == ({"default/red": "net1"}, {"default/blue": "net1"})
    woken.store.delete(VirtualMachine, ("default", "c"))
    woken.look()
    woken.store.put(nad("blue", "net2"))
    assert woken.look() == set(), "C is gone"


def test_a_namespaces_labels_wake_its_vms() -> None:
    woken = Woken()
    for name, namespace in (("a", "default"), ("b", "default"), ("c", "other")):
        woken.store.put(reduce.virtual_machine(vm_object(name, namespace=namespace)))
    woken.look()
    labelled = Namespace("default", (("team", "red"),))
    woken.store.put(labelled)
    assert woken.look() == {A, B}
    woken.store.put(labelled)
    assert woken.look() == set()
    woken.store.replace(Namespace, [labelled, Namespace("other", ())])
    assert woken.look() == {VmKey("other", "c")}


def test_what_moves_a_guest_is_urgent() -> None:
    woken = Woken()
    woken.store.put(reduce.virtual_machine(vm_object("a")))
    assert not woken.urgent
    woken.store.put(reduce.launcher(pod_object("pod-a", "a")))
    assert woken.urgent
    woken.look()
    woken.store.put(reduce.instance(vmi_object("a", node="node1")))
    woken.look()
    asked = vmi_object("a", node="node1", annotations={"ovn.kubernetes.io/ip_address": "10.16.0.9"})
    woken.store.put(reduce.instance(asked))
    assert woken.keys == {A}
    assert not woken.urgent, "he may change it 200 times a second"
    woken.store.put(reduce.migration(migration_object("m1", "a", "Pending")))
    assert woken.urgent


def test_only_a_deletion_of_what_uses_an_address_is_evidence() -> None:
    woken = Woken()
    vm = reduce.virtual_machine(vm_object("a"))
    woken.store.put(vm)
    woken.store.put(reduce.migration(migration_object("m1", "a", "Succeeded")))
    woken.store.replace(VirtualMachine, [])
    woken.store.delete(type(reduce.migration(migration_object("m1", "a", "Succeeded"))), ("default", "m1"))
    assert woken.store.seen_deleted() == set(), "the VM was merely missing from a list"
    woken.store.put(vm)
    woken.store.delete(VirtualMachine, ("default", "a"))
    assert woken.store.seen_deleted() == {A}
    woken.store.put(vm)
    assert woken.store.seen_deleted() == set()


def test_deletions_that_nobody_asks_for_do_not_pile_up() -> None:
    woken = Woken()
    for number in range(store_module.REMEMBERED_DELETIONS + 100):
        woken.store.put(reduce.virtual_machine(vm_object(f"vm{number}")))
        woken.store.delete(VirtualMachine, ("default", f"vm{number}"))
    remembered = woken.store.seen_deleted()
    assert len(remembered) == store_module.REMEMBERED_DELETIONS
    assert VmKey("default", f"vm{store_module.REMEMBERED_DELETIONS + 99}") in remembered
    assert VmKey("default", "vm0") not in remembered


def test_a_launcher_that_cannot_be_read_keeps_the_rows_of_its_namespace() -> None:
    woken = Woken()
    launcher = reduce.launcher(pod_object("pod-a", "a", node="node1"))
    woken.store.set_aside(type(launcher), ("default", "odd"), "odd")
    assert woken.store.unsure(woken.store.facts(A)) == "odd", "it may be A's"
    assert not woken.store.unsure(woken.store.facts(VmKey("other", "a")))
    woken.store.put(reduce.virtual_machine(vm_object("a")))
    assert not woken.store.unsure(woken.store.facts(A)), "a VM that is there loses nothing"
    woken.store.put(reduce.virtual_machine(vm_object("b")))
    woken.store.delete(VirtualMachine, B)
    woken.look()
    woken.store.delete(type(launcher), ("default", "odd"))
    assert not woken.store.unsure(woken.store.facts(B))
    assert B in woken.look(), "it is gone, and nobody kept it waiting any longer"

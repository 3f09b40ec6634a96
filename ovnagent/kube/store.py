"""What Kubernetes says, as facts, found by VM."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from types import MappingProxyType

from ovnagent.core.vm import (
    Fact,
    Facts,
    Instance,
    Launcher,
    Migration,
    Namespace,
    NetworkAttachmentDefinition,
    Node,
    VirtualMachine,
    VmKey,
)

Identity = tuple[str, str]
"""(namespace, name); the namespace of a Node is empty."""
Labels = tuple[tuple[str, str], ...]
SURROUNDINGS = (Node, NetworkAttachmentDefinition, Namespace)
OfVm = VirtualMachine | Instance | Migration | Launcher
"""What belongs to one VM; Nodes and NADs concern all that use them."""
Changed = Callable[[Iterable[VmKey], bool], None]
"""(VMs whose facts changed, whether a guest may be on the move)."""

REMEMBERED_DELETIONS = 20_000
"""VMs that were seen to be deleted are remembered until their rows are gone; the oldest beyond so many are forgotten, and
then count as merely missing. On a standby nobody reports rows as gone."""


@dataclass(frozen=True, slots=True)
class SetAside:
    """An object that could not be read."""

    reason: str
    known: bool
    """An earlier version of it could be read, and is what counts meanwhile."""


class Store:
    """Thread-safe. `changed` is told of each VM that a change concerns: an object in which nothing that counts changed
    wakes nobody; a Node or NAD wakes the VMs that are on it."""

    def __init__(self, changed: Changed) -> None:
        self._lock = threading.Lock()
        self._changed = changed
        self._objects: dict[type[Fact], dict[Identity, Fact]] = {
            kind: {} for kind in (VirtualMachine, Instance, Migration, Launcher, *SURROUNDINGS)
        }
        self._by_key: dict[VmKey, tuple[OfVm, ...]] = {}
        self._by_node, self._by_nad = _Index(), _Index()
        self._surroundings: set[type[Fact]] = set()
        """Those of SURROUNDINGS that have changed since `_publish`."""
        self._relabelled: set[str] = set()
        """Namespaces that have changed since `_publish`."""
        self._node_chassis: Mapping[str, str] = MappingProxyType({})
        self._nads: Mapping[str, str] = MappingProxyType({})
        self._namespaces: Mapping[str, Labels] = MappingProxyType({})
        self._deleted: OrderedDict[VmKey, None] = OrderedDict()
        self._aside: dict[type[Fact], dict[Identity, SetAside]] = {kind: {} for kind in self._objects}
        self._nameless: dict[type[Fact], int] = {}

    # -- writing

    def put(self, fact: Fact) -> None:
        """An object as it is now."""
        with self._lock:
            keys, urgent = self._put(fact)
            keys |= self._publish()
        self._tell(keys, urgent)

    def delete(self, kind: type[Fact], name: Identity) -> None:
        """An object was seen to be deleted."""
        with self._lock:
            keys = self._remove(kind, name) | self._readable(kind, name)
            if kind in (VirtualMachine, Instance, Launcher):
                self._note_deletion(keys, kind)
            keys |= self._publish()
        self._tell(keys, kind in (Launcher, Migration))

    def replace(
        self, kind: type[Fact], facts: Iterable[Fact], aside: Mapping[Identity, str] | None = None, nameless: int = 0
    ) -> None:
        """All objects of a kind, from a complete list. What is not in it is gone, but nobody saw it go. `aside`: those that
        could not be read, and why; `nameless`: how many of them did not even have a name."""
        urgent = False
        with self._lock:
            keys: set[VmKey] = set()
            names = set(aside or ())
            for fact in facts:
                names.add(identity(fact))
                concerned, hurry = self._put(fact)
                keys |= concerned
                urgent = urgent or hurry
            for name in self._objects[kind].keys() - names:
                keys |= self._remove(kind, name)
            for name in self._aside[kind].keys() - names:
                keys |= self._readable(kind, name)
            for name, reason in (aside or {}).items():
                self._set_aside(kind, name, reason)
            if self._nameless.get(kind) and not nameless:  # it could have been any deleted VM's
                keys |= self._deleted.keys()
            self._nameless[kind] = nameless
            keys |= self._publish()
        self._tell(keys, urgent)

    def set_aside(self, kind: type[Fact], name: Identity, reason: str) -> None:
        """An object is there, but cannot be read. What was known of it stays as it was."""
        with self._lock:
            self._set_aside(kind, name, reason)

    def _set_aside(self, kind: type[Fact], name: Identity, reason: str) -> None:
        self._aside[kind][name] = SetAside(reason, name in self._objects[kind])

    def _readable(self, kind: type[Fact], name: Identity) -> set[VmKey]:
        """An object is not set aside any more; the VMs that had to be left alone for its sake."""
        if self._aside[kind].pop(name, None) is None:
            return set()
        if kind is Launcher:  # it could have been any deleted VM's of its namespace
            return {key for key in self._deleted if key.namespace == name[0]}
        return {VmKey(*name)} if kind in (VirtualMachine, Instance) else set()

    def _put(self, fact: Fact) -> tuple[set[VmKey], bool]:
        """The VMs that the change concerns, and whether a guest may be on the move."""
        kind, name = type(fact), identity(fact)
        old = self._objects[kind].get(name)
        keys = self._readable(kind, name)
        if old == fact:
            return keys, False
        keys |= self._remove(kind, name)
        self._objects[kind][name] = fact
        if isinstance(fact, SURROUNDINGS):
            self._surroundings.add(kind)
            return keys | self._users(fact), False
        self._by_key[fact.key] = (*self._by_key.get(fact.key, ()), fact)
        if isinstance(fact, VirtualMachine | Instance):
            self._deleted.pop(fact.key, None)
        for index, used in self._uses(fact):
            index.add(used, fact.key)
        return keys | {fact.key}, _moving(old, fact)

    def _remove(self, kind: type[Fact], name: Identity) -> set[VmKey]:
        old = self._objects[kind].pop(name, None)
        if old is None:
            return set()
        if isinstance(old, SURROUNDINGS):
            self._surroundings.add(kind)
            return self._users(old)
        entries = tuple(fact for fact in self._by_key[old.key] if fact is not old)
        if entries:
            self._by_key[old.key] = entries
        else:
            del self._by_key[old.key]
        for index, used in self._uses(old):
            index.remove(used, old.key)
        return {old.key}

    def _note_deletion(self, keys: set[VmKey], kind: type[Fact]) -> None:
        """Remember the VMs of which the last object that uses an address was seen to go."""
        left = (VirtualMachine, Instance, Launcher) if kind is Launcher else (VirtualMachine, Instance)
        for key in keys:
            if not any(isinstance(fact, left) for fact in self._by_key.get(key, ())):
                self._deleted[key] = None
        while len(self._deleted) > REMEMBERED_DELETIONS:
            self._deleted.popitem(last=False)

    def _users(self, fact: Node | NetworkAttachmentDefinition | Namespace) -> set[VmKey]:
        if isinstance(fact, Node):
            return self._by_node.of(fact.name) if fact.chassis else set()
        if isinstance(fact, Namespace):
            self._relabelled.add(fact.name)  # whose VMs are looked for once, not for each of 5,000 in a list
            return set()
        return self._by_nad.of(fact.nad)

    def _uses(self, fact: OfVm) -> list[tuple[_Index, str]]:
        return [(self._by_node, node) for node in _nodes(fact)] + [(self._by_nad, nad) for nad in _nads(fact)]

    def _publish(self) -> set[VmKey]:
        """What others read of Nodes, NADs and namespaces is never changed, but replaced where it is different. The VMs of
        namespaces that have changed."""
        if Node in self._surroundings:
            nodes = (fact for fact in self._objects[Node].values() if isinstance(fact, Node))
            self._node_chassis = MappingProxyType({node.name: node.chassis for node in nodes if node.chassis})
        if NetworkAttachmentDefinition in self._surroundings:
            nads = self._objects[NetworkAttachmentDefinition].values()
            named = (fact for fact in nads if isinstance(fact, NetworkAttachmentDefinition) and fact.network)
            self._nads = MappingProxyType({nad.nad: nad.network for nad in named})
        if Namespace in self._surroundings:
            spaces = (fact for fact in self._objects[Namespace].values() if isinstance(fact, Namespace))
            self._namespaces = MappingProxyType({space.name: space.labels for space in spaces})
        self._surroundings.clear()
        if not self._relabelled:
            return set()
        keys = {key for key in self._by_key if key.namespace in self._relabelled}
        self._relabelled.clear()
        return keys

    def _tell(self, keys: set[VmKey], urgent: bool) -> None:
        if keys:
            self._changed(keys, urgent)

    # -- reading

    def facts(self, key: VmKey) -> Facts:
        with self._lock:
            entries = self._by_key.get(key, ())
        return Facts(
            key=key,
            vm=next((fact for fact in entries if isinstance(fact, VirtualMachine)), None),
            vmi=next((fact for fact in entries if isinstance(fact, Instance)), None),
            migrations=tuple(sorted((f for f in entries if isinstance(f, Migration)), key=_age)),
            launchers=tuple(sorted((f for f in entries if isinstance(f, Launcher)), key=_age)),
        )

    def keys(self) -> set[VmKey]:
        """All VMs of which anything is known."""
        with self._lock:
            return set(self._by_key)

    def unsure(self, facts: Facts) -> str:
        """Why these facts may lack something that is there but cannot be read, so that nothing may be concluded from
        them; empty if they are all there is. An object that could be read before is known well enough."""
        key = facts.key
        with self._lock:
            for kind in (VirtualMachine, Instance):
                aside = self._aside[kind].get(key)
                if aside is not None and not aside.known:
                    return aside.reason
            if not facts.empty:
                return ""
            if any(self._nameless.values()):
                return "an object without a name was listed"
            for (namespace, _), aside in self._aside[Launcher].items():
                if namespace == key.namespace and not aside.known:
                    return aside.reason
        return ""

    def aside(self, kind: type[Fact]) -> dict[Identity, SetAside]:
        """Objects of a kind that cannot be read."""
        with self._lock:
            return dict(self._aside[kind])

    def quarantined(self, kind: type[Fact]) -> int:
        """How many objects of a kind cannot be read."""
        with self._lock:
            return len(self._aside[kind]) + self._nameless.get(kind, 0)

    def was_deleted(self, key: VmKey) -> bool:
        """Nothing is left of the VM, and its last object was seen to be deleted. That is not so of one that is merely
        missing from a list: a list can be wrong."""
        with self._lock:
            return key in self._deleted

    def seen_deleted(self) -> set[VmKey]:
        """All VMs that were seen to be deleted and are remembered."""
        with self._lock:
            return set(self._deleted)

    def forget(self, key: VmKey) -> None:
        """No row is left of a deleted VM: its deletion need not be remembered."""
        with self._lock:
            self._deleted.pop(key, None)

    def node_chassis(self) -> Mapping[str, str]:
        """Node name -> chassis name, where the Node's annotation gives one. Never changes: a change makes a new one."""
        return self._node_chassis

    def nads(self) -> Mapping[str, str]:
        """`namespace/name` of a NAD -> the network it names itself. Never changes: a change makes a new one."""
        return self._nads

    def namespaces(self) -> Mapping[str, Labels]:
        """Namespace -> its labels. Never changes: a change makes a new one."""
        return self._namespaces


class _Index:
    """What VMs use -> the VMs, with how many of their facts say so."""

    def __init__(self) -> None:
        self._users: dict[str, dict[VmKey, int]] = {}

    def add(self, used: str, key: VmKey) -> None:
        users = self._users.setdefault(used, {})
        users[key] = users.get(key, 0) + 1

    def remove(self, used: str, key: VmKey) -> None:
        users = self._users[used]
        users[key] -= 1
        if not users[key]:
            del users[key]
        if not users:
            del self._users[used]

    def of(self, used: str) -> set[VmKey]:
        return set(self._users.get(used, ()))


def identity(fact: Fact) -> Identity:
    return ("", fact.name) if isinstance(fact, Node | Namespace) else (fact.namespace, fact.name)


def _nodes(fact: OfVm) -> Set[str]:
    """The nodes by which a fact places a guest."""
    if isinstance(fact, Instance) and fact.migration is not None:
        return {fact.node, fact.migration.source_node, fact.migration.target_node} - {""}
    return {fact.node} - {""} if isinstance(fact, Launcher | Instance) else set()


def _nads(fact: OfVm) -> Set[str]:
    if isinstance(fact, VirtualMachine | Instance):
        return {interface.nad for interface in fact.interfaces if interface.nad}
    return set()


def _moving(old: Fact | None, new: OfVm) -> bool:
    """A change that says where a guest is, or will be, and for which no guest should wait."""
    if isinstance(new, Instance):
        return not isinstance(old, Instance) or (old.node, old.migration, old.phase) != (new.node, new.migration, new.phase)
    return isinstance(new, Launcher | Migration)


def _age(fact: Migration | Launcher) -> tuple[str, str]:
    return fact.created, fact.name

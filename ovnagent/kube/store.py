"""What Kubernetes says, as facts, found by VM."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping

from ovnagent.core.vm import (
    Fact,
    Facts,
    Instance,
    Launcher,
    Migration,
    NetworkAttachmentDefinition,
    Node,
    VirtualMachine,
    VmKey,
)

Identity = tuple[str, str]
"""(namespace, name); the namespace of a Node is empty."""


class Store:
    """Thread-safe. `changed` is told of each VM whose facts really changed: an object in which nothing that counts
    changed wakes nobody. `surroundings` is told of Nodes and NADs."""

    def __init__(self, changed: Callable[[Iterable[VmKey]], None], surroundings: Callable[[], None]) -> None:
        self._lock = threading.Lock()
        self._changed = changed
        self._surroundings = surroundings
        self._objects: dict[type[Fact], dict[Identity, Fact]] = {
            kind: {} for kind in (VirtualMachine, Instance, Migration, Launcher, Node, NetworkAttachmentDefinition)
        }
        self._by_key: dict[VmKey, dict[tuple[type[Fact], Identity], Fact]] = {}
        self._deleted: set[VmKey] = set()

    # -- writing

    def put(self, fact: Fact) -> None:
        """An object as it is now."""
        with self._lock:
            keys = self._put(fact)
        self._tell(type(fact), keys)

    def delete(self, fact: Fact) -> None:
        """An object was seen to be deleted."""
        with self._lock:
            keys = self._remove(type(fact), _identity(fact))
            self._deleted |= {key for key in keys if key not in self._by_key}
        self._tell(type(fact), keys)

    def replace(self, kind: type[Fact], facts: Iterable[Fact]) -> None:
        """All objects of a kind, from a complete list. What is not in it is gone, but nobody saw it go."""
        with self._lock:
            keys: set[VmKey] = set()
            names = set()
            for fact in facts:
                names.add(_identity(fact))
                keys |= self._put(fact)
            for identity in self._objects[kind].keys() - names:
                keys |= self._remove(kind, identity)
        self._tell(kind, keys)

    def _put(self, fact: Fact) -> set[VmKey]:
        kind, identity = type(fact), _identity(fact)
        old = self._objects[kind].get(identity)
        if old == fact:
            return set()
        keys = self._remove(kind, identity)
        self._objects[kind][identity] = fact
        if not isinstance(fact, Node | NetworkAttachmentDefinition):
            self._by_key.setdefault(fact.key, {})[kind, identity] = fact
            self._deleted.discard(fact.key)
            keys.add(fact.key)
        return keys

    def _remove(self, kind: type[Fact], identity: Identity) -> set[VmKey]:
        old = self._objects[kind].pop(identity, None)
        if old is None or isinstance(old, Node | NetworkAttachmentDefinition):
            return set()
        entries = self._by_key[old.key]
        del entries[kind, identity]
        if not entries:
            del self._by_key[old.key]
        return {old.key}

    def _tell(self, kind: type[Fact], keys: set[VmKey]) -> None:
        if kind in (Node, NetworkAttachmentDefinition):
            self._surroundings()
        elif keys:
            self._changed(keys)

    # -- reading

    def facts(self, key: VmKey) -> Facts:
        with self._lock:
            entries = tuple(self._by_key.get(key, {}).values())
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

    def seen_deleted(self) -> set[VmKey]:
        """VMs of which nothing is left and whose last object was seen to be deleted. One that is merely missing from a
        list is not among them: a list can be wrong."""
        with self._lock:
            return set(self._deleted)

    def forget(self, key: VmKey) -> None:
        """No row is left of a deleted VM: its deletion need not be remembered."""
        with self._lock:
            self._deleted.discard(key)

    def node_chassis(self) -> Mapping[str, str]:
        """Node name -> chassis name, where the Node's annotation gives one."""
        with self._lock:
            nodes = [fact for fact in self._objects[Node].values() if isinstance(fact, Node)]
        return {node.name: node.chassis for node in nodes if node.chassis}

    def nads(self) -> Mapping[str, str]:
        """`namespace/name` of a NAD -> the network it names itself."""
        with self._lock:
            found = [
                fact
                for fact in self._objects[NetworkAttachmentDefinition].values()
                if isinstance(fact, NetworkAttachmentDefinition)
            ]
        return {nad.nad: nad.network for nad in found if nad.network}


def _identity(fact: Fact) -> Identity:
    return ("", fact.name) if isinstance(fact, Node) else (fact.namespace, fact.name)


def _age(fact: Migration | Launcher) -> tuple[str, str]:
    return fact.created, fact.name

"""What the parts of the stand-in share: the API, the queue, the state that lives on nodes and not in objects."""

from __future__ import annotations

import threading
import time
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Literal

from hack.lab.guest import BaseGuest
from hack.lab.kubevirt import objects
from hack.lab.kubevirt.api import MIGRATIONS, PODS, VMIS, Api, Key, Obj, Resource, key_of, uid_of
from hack.lab.kubevirt.faults import Faults
from hack.lab.kubevirt.workqueue import WorkQueue

Kind = Literal["vmi", "migration", "pod"]


@dataclass(frozen=True, slots=True)
class Attachment:
    """An interface of a launcher that is plugged into br-int."""

    name: str
    """Of the VMI's interface."""
    inside: str
    """The interface's name in the pod."""
    network: str
    """As Multus reports it: `namespace/name` of the NAD, or the default network's name."""
    default: bool
    tap: str
    """In the pod's namespace."""
    iface_id: str
    """Of the port that it should get; nobody tells the CNI."""
    mac: str
    """On the wire. Before the CNI was called: the one it is to be asked for."""
    silent: bool
    """Nothing announces this interface after a migration: the pod's MAC is on the wire (masquerade, passt)."""
    guest_mac: str = ""
    """The guest has one already: it is migrated here."""


@dataclass
class Sandbox:
    """What a node holds for a pod."""

    pod: Key
    uid: str
    node: str
    address: str
    """The pod's own; it says nothing about the guest's, which is OVN's."""
    attachments: list[Attachment] = field(default_factory=list)
    answered: dict[str, str] = field(default_factory=dict)
    """Interface in the pod -> MAC that the CNI has answered."""
    plugged: bool = False
    guest: BaseGuest | None = None
    incoming: bool = False
    """The guest came, or is to come, by a migration."""
    finished: bool = False
    """The launcher has ended without a guest."""

    @property
    def ended(self) -> bool:
        return self.finished or (self.guest is not None and self.guest.end is not None)


class Context:
    """Shared by all parts."""

    def __init__(self, api: Api, faults: Faults, queue: WorkQueue) -> None:
        self.api = api
        self.faults = faults
        self.queue = queue
        self.dead: set[str] = set()
        """Nodes whose kubelet and virt-handler do nothing."""
        self.switched: set[str] = set()
        """UIDs of VMIs whose guest runs on a migration's target while the VMI does not say so yet."""
        self.sandboxes: dict[str, Sandbox] = {}
        """By the pod's UID."""
        self._first: dict[Hashable, float] = {}
        self._pods: dict[str, set[Key]] = {}
        self._lock = threading.Lock()

    # ---- when to look at what

    def look(self, kind: Kind, key: Key, delay: float = 0.0) -> None:
        """Look at an object again."""
        self.queue.add((kind, key), delay)

    def due(self, kind: Kind, obj: Obj, step: str, seconds: float) -> bool:
        """Whether this many seconds have passed since the first such question; else the object is looked at then."""
        mark = (uid_of(obj), step)
        with self._lock:
            first = self._first.setdefault(mark, time.monotonic())
        left = first + seconds - time.monotonic()
        if left <= 0:
            return True
        self.look(kind, key_of(obj), left)
        return False

    def notice(self, _kind: str, resource: Resource, obj: Obj) -> None:
        """An object has changed: whoever depends on it looks again."""
        key = key_of(obj)
        if resource == VMIS:
            self.look("vmi", key)
            for pod in self.launchers(uid_of(obj)):
                self.look("pod", key_of(pod))
        elif resource == MIGRATIONS:
            self.look("migration", key)
            self.look("vmi", Key(key.namespace, obj["spec"].get("vmiName", "")))
        elif resource == PODS:
            self.look("pod", key)
            if created_by := objects.labels_of(obj).get(objects.CREATED_BY):
                with self._lock:
                    self._pods.setdefault(created_by, set()).add(key)
                for owner in obj["metadata"].get("ownerReferences") or ():
                    self.look("vmi", Key(key.namespace, owner["name"]))

    # ---- what belongs together

    def launchers(self, vmi_uid: str) -> list[Obj]:
        """All pods that were created for a VMI and still exist, the oldest first; ephemeral ones too."""
        with self._lock:
            keys = list(self._pods.get(vmi_uid, ()))
        pods = [pod for key in keys if (pod := self.api.get(PODS, key)) is not None]
        pods = [pod for pod in pods if objects.labels_of(pod).get(objects.CREATED_BY) == vmi_uid]
        return sorted(pods, key=lambda pod: (pod["metadata"]["creationTimestamp"], pod["metadata"]["name"]))

    def migration(self, uid: str) -> Obj | None:
        return next((each for each in self.api.all(MIGRATIONS) if uid_of(each) == uid), None)

    def sandbox(self, pod: Obj | None) -> Sandbox | None:
        return self.sandboxes.get(uid_of(pod)) if pod is not None else None

"""The agent's own ports: by name, and by the VM that they belong to."""

from __future__ import annotations

import re

from immutables import Map

from ovnagent.core.ports import Port, PresentPort
from ovnagent.core.vm import VmKey

_NAME = re.compile(r"[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?")
"""What a Kubernetes object may be called (RFC 1123 subdomain)."""


def vm_of(port: Port) -> VmKey | None:
    """The VM that a row belongs to; None for a virtual port, and where external_ids hold what no VM can be called."""
    key = port.vm
    if port.type == "virtual" or not (_NAME.fullmatch(key.namespace) and _NAME.fullmatch(key.name)):
        return None
    return key


class OwnPorts:
    """Bookkeeping by row. The maps are replaced, never changed: whoever has read one has a frozen copy."""

    def __init__(self) -> None:
        self.ports: Map[str, PresentPort] = Map()
        self.by_vm: Map[VmKey, tuple[PresentPort, ...]] = Map()
        self.virtual: Map[str, PresentPort] = Map()
        self._rows: dict[str, tuple[VmKey | None, PresentPort]] = {}  # by UUID

    def get(self, row_id: str) -> PresentPort | None:
        return self._rows[row_id][1] if row_id in self._rows else None

    def uuid(self, name: str) -> str:
        """Of the port with this name, or an empty string."""
        row = self.ports.get(name) or self.virtual.get(name)
        return row.uuid if row is not None else ""

    def put(self, row: PresentPort) -> set[VmKey | None]:
        """Note a row as it is now; returns whom that concerns (None: those of no VM), nobody if it is no news."""
        if (old := self.get(row.uuid)) is not None and (old.port, old.dns_row) == (row.port, row.dns_row):
            return set()
        concerned = self.remove(row.uuid)
        key = vm_of(row.port)
        self._rows[row.uuid] = key, row
        if key is None:
            self.virtual = self.virtual.set(row.port.name, row)
        else:
            self.ports = self.ports.set(row.port.name, row)
            self.by_vm = self.by_vm.set(key, tuple(sorted((*self.by_vm.get(key, ()), row), key=_by_name)))
        return concerned | {key}

    def remove(self, row_id: str) -> set[VmKey | None]:
        """Forget a row; returns whom that concerns."""
        if row_id not in self._rows:
            return set()
        key, row = self._rows.pop(row_id)
        # Where two rows change names in one update, the other one may have this name already.
        if key is None:
            if self.virtual.get(row.port.name) is row:
                self.virtual = self.virtual.delete(row.port.name)
            return {key}
        if self.ports.get(row.port.name) is row:
            self.ports = self.ports.delete(row.port.name)
        left = tuple(each for each in self.by_vm[key] if each is not row)
        self.by_vm = self.by_vm.set(key, left) if left else self.by_vm.delete(key)
        return {key}


def _by_name(row: PresentPort) -> str:
    return row.port.name

"""`ovnagent adopt`: addresses handed to a VM by an operator's word.

Agents remember who holds what for as long as they lead, so a row that somebody else moves is put back. The command
therefore takes their place for a moment: it takes the Northbound lock, as a replica does whose leader has died, writes the
records on the VMs and the rows in one transaction, and gives the lock back. An agent that gets the lock knows nothing any
more, and reads rows and records: it finds them in agreement. Nothing is lost wherever it is interrupted: before the
transaction the rows still say what was, and an agent writes the records back; after it, both say what is to be.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ovnagent.commands.handover import ForeignRow, Handover, NewRecord, RefusedHandoverError
from ovnagent.commands.observer import CannotLookError, Observer
from ovnagent.core.identity import lease_of
from ovnagent.core.ports import CLUSTER, Port, PresentPort, own_external_ids, own_options
from ovnagent.core.vm import RECORD_ANNOTATION, VmKey
from ovnagent.kube.client import ApiError, Client
from ovnagent.ovn.aside import QueryError, select
from ovnagent.ovn.changes import Change, DeletePort, Known, Operation, UpdatePort, operations
from ovnagent.ovn.transaction import NotCommittedError, RefusedError

LOCK_SECONDS = 5.0
SEEN_SECONDS = 10.0
"""So long it may take until the records that were written are seen."""
FOLLOW_SECONDS = 1.0
"""How much longer than this command an agent may take to see them. An agent that has not puts the old state back; then that
is said, and nothing is lost."""
STAY_SECONDS = 3.0
"""For so long the rows must stay as they were written, once an agent may write again."""
SETTLED_SECONDS = 20.0
RECORD_PATH = "/metadata/annotations/" + RECORD_ANNOTATION.replace("/", "~1")


class FailedHandoverError(Exception):
    """It was begun and is undone; the message says why."""


class Operator(Observer):
    """An observer that may write once."""

    def foreign_row(self, name: str) -> ForeignRow:
        """Somebody else's logical switch port, with its addresses.

        Raises RefusedHandoverError, or CannotLookError."""
        columns = ["_uuid", "name", "type", "addresses", "dynamic_addresses", "port_security", "options", "external_ids"]
        try:
            rows = self._select("Logical_Switch_Port", [["name", "==", name]], columns)
            if not rows:
                raise RefusedHandoverError(f"the Northbound database has no logical switch port {name}")
            uuid = rows[0]["_uuid"][1]
            switches = self._select("Logical_Switch", [["ports", "includes", ["uuid", uuid]]], ["name"])
        except QueryError as error:
            raise CannotLookError(f"Northbound: {error}") from None
        return _foreign(rows[0], str(switches[0]["name"]) if switches else "", self._config.cluster)

    def _select(self, table: str, where: Sequence[Sequence[Any]], columns: Sequence[str]) -> list[dict[str, Any]]:
        return select(self._config.northbound, "OVN_Northbound", table, where, columns)

    def carry_out(self, decide: Callable[[], Handover], say: Callable[[str], None]) -> Handover:
        """Do what `decide` says once nobody else may write.

        Raises RefusedHandoverError, CannotLookError or FailedHandoverError: nothing is changed then."""
        client = Client(self._config.kubernetes)
        with self._alone():
            say("the lock is held: no agent writes now")
            handover = decide()
            written: list[NewRecord] = []
            try:
                for record in handover.records:
                    _patch(client, record.vm, record.uid, record.old, record.new)
                    written.append(record)
                self._until(lambda: all(self._shows(record) for record in handover.records), SEEN_SECONDS)
                time.sleep(FOLLOW_SECONDS)
                say("the records are written")
                self._transact(handover.changes)
            except (ApiError, RefusedError, NotCommittedError, TimeoutError, OSError) as error:
                for record in reversed(written):
                    _patch(client, record.vm, record.uid, record.new, record.old)
                raise FailedHandoverError(f"nothing is changed: {error}") from error
        say("the rows are written, and the lock is given back")
        self._confirm(handover)
        return handover

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self._northbound.steal_lock()
        try:
            self._until(lambda: self._northbound.has_lock, LOCK_SECONDS)
            yield
        except TimeoutError:
            raise CannotLookError(f"the lock was not to be had within {LOCK_SECONDS:g} s; nothing is changed") from None
        finally:
            self._northbound.release_lock()

    def _shows(self, record: NewRecord) -> bool:
        vm = self._kube.facts(record.vm).vm
        return vm is None or vm.record == record.new

    def _until(self, reached: Callable[[], bool], seconds: float) -> None:
        end = time.monotonic() + seconds
        while not reached():
            if time.monotonic() > end:
                raise TimeoutError(f"not within {seconds:g} s")
            time.sleep(0.02)

    def _transact(self, changes: Sequence[Change]) -> None:
        """All of it, and only if the rows are what they were."""
        snapshot = self._northbound.snapshot
        known = Known(snapshot.switches, snapshot.dhcp, snapshot.routers)
        guards = [_unchanged(change.present) for change in changes if isinstance(change, UpdatePort | DeletePort)]
        self._northbound.writer.transact([*guards, *operations(changes, known, self._config.cluster)])

    def _confirm(self, handover: Handover) -> None:
        """The rows stay as they were written, also once an agent leads again."""
        end, since = time.monotonic() + SETTLED_SECONDS, time.monotonic()
        while time.monotonic() - since < STAY_SECONDS:
            rows = self._northbound.snapshot.ports
            right = all(name in rows and rows[name].port.ips == ips for name, ips in handover.expected.items())
            if not right:
                since = time.monotonic()
            if time.monotonic() > end:
                raise FailedHandoverError("an agent has put back what was there before: try again")
            time.sleep(0.05)


def _foreign(row: Mapping[str, Any], switch: str, cluster: str) -> ForeignRow:
    name, external_ids = str(row["name"]), _map(row["external_ids"])
    if external_ids.get(CLUSTER) == cluster:
        raise RefusedHandoverError(f"port {name} is the agent's already; hand over a VM's addresses with --from")
    if row["type"]:
        raise RefusedHandoverError(f"port {name} is of type {row['type']}, and no VM's")
    addresses = tuple(each for each in _set(row["addresses"]) if "dynamic" not in each) or _set(row["dynamic_addresses"])
    port = Port(
        name=name,
        switch=switch,
        addresses=tuple(sorted(_set(row["addresses"]))),
        port_security=tuple(sorted(_set(row["port_security"]))),
        options=own_options(_map(row["options"]), external_ids),
        external_ids=own_external_ids(external_ids),
    )
    lease = lease_of(Port(name, switch, addresses)) if len(addresses) == 1 else None
    if lease is None:
        raise RefusedHandoverError(f"port {name} has no address that can be taken over: {', '.join(addresses) or 'none'}")
    return ForeignRow(PresentPort(row["_uuid"][1], port), lease.mac.lower(), lease.ips)


def _set(value: Any) -> tuple[str, ...]:
    """A set in OVSDB's notation (RFC 7047, 5.1)."""
    return tuple(value[1]) if isinstance(value, list) and value[0] == "set" else (value,)


def _map(value: Any) -> dict[str, str]:
    return dict(value[1])


def _unchanged(present: PresentPort) -> Operation:
    columns = ["name", "addresses"]
    row = {"name": present.port.name, "addresses": ["set", list(present.port.addresses)]}
    where = [["_uuid", "==", ["uuid", present.uuid]]]
    wait = {"op": "wait", "table": "Logical_Switch_Port", "where": where, "timeout": 0}
    return {**wait, "columns": columns, "until": "==", "rows": [row]}


def _patch(client: Client, vm: VmKey, uid: str, old: str, new: str) -> None:
    """Write a record on the VM of this UID, if it is `old` now."""
    if old == new:
        return
    path = f"/apis/kubevirt.io/v1/namespaces/{vm.namespace}/virtualmachines/{vm.name}?fieldManager=ovnagent"
    if not old:
        patch: Any = {"metadata": {"uid": uid, "annotations": {RECORD_ANNOTATION: new}}}
        client.request("PATCH", path, patch, content_type="application/merge-patch+json")
        return
    change = {"op": "replace", "path": RECORD_PATH, "value": new} if new else {"op": "remove", "path": RECORD_PATH}
    patch = [
        {"op": "test", "path": "/metadata/uid", "value": uid},
        {"op": "test", "path": RECORD_PATH, "value": old},
        change,
    ]
    client.request("PATCH", path, patch, content_type="application/json-patch+json")

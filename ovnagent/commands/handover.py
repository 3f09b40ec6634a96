"""What `ovnagent adopt` would do, as values: addresses handed from one VM, or from somebody else's port, to a VM.

It is the agent's own plan, made as if the records said already what they are to say: whatever speaks against it is the
sentence that the agent would say.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ovnagent.commands.observer import View
from ovnagent.core.addresses import Foreign
from ovnagent.core.books import Books
from ovnagent.core.free import taken_without
from ovnagent.core.identity import guest_may_run, lease_of
from ovnagent.core.networks import IPAddress
from ovnagent.core.owner import Owner
from ovnagent.core.plan import Case, Result, World, plan
from ovnagent.core.ports import INTERFACE, PresentPort, port_name
from ovnagent.core.records import Lease, Record, parse, render
from ovnagent.core.vm import Interface, VmKey
from ovnagent.difference import changes
from ovnagent.ovn.changes import Change, DeletePort


class RefusedHandoverError(Exception):
    """It cannot be done; the message says why, and what to do first."""


@dataclass(frozen=True, slots=True)
class NewRecord:
    """A VM's record annotation, as it is and as it is to be."""

    vm: VmKey
    uid: str
    old: str
    new: str
    """Empty: it is taken away."""


@dataclass(frozen=True, slots=True)
class Handover:
    """What is to be written, all of it or nothing."""

    summary: tuple[str, ...]
    """Sentences for the operator."""
    changes: tuple[Change, ...]
    records: tuple[NewRecord, ...]
    expected: Mapping[str, tuple[str, ...]]
    """Port name -> the addresses that it has afterwards."""


@dataclass(frozen=True, slots=True)
class ForeignRow:
    """Somebody else's logical switch port."""

    row: PresentPort
    """In the agent's terms: none of its external_ids are."""
    mac: str
    ips: tuple[IPAddress, ...]


def from_vm(view: View, source: VmKey, target: VmKey) -> Handover:
    """Hand what one VM holds to another, interface by interface of the same name on the same switch.

    Raises RefusedHandoverError."""
    if source == target:
        raise RefusedHandoverError("that is the same VM")
    giver = view.cases.get(source)
    if giver is None:
        raise RefusedHandoverError(f"neither Kubernetes nor the Northbound database knows of a VM {source}")
    if guest_may_run(giver.facts, view.results[source].owner):
        raise RefusedHandoverError(f"VM {source} runs; stop it first: its guest uses the addresses")
    case, owner = _stopped(view, target)
    interfaces = {each.name: each for each in owner.interfaces if each.state != "absent"}
    rows = [row for row in giver.present if row.port.external_id(INTERFACE) in interfaces and lease_of(row.port)]
    if not rows:
        raise RefusedHandoverError(
            f"VM {source} holds nothing for an interface that VM {target} has as well ({', '.join(interfaces) or 'none'})"
        )
    leases = {
        name: replace(lease, port=port_name(target, interfaces[name], owner.interfaces))
        for row in rows
        if (name := row.port.external_id(INTERFACE)) and (lease := lease_of(row.port)) is not None
    }
    handed = frozenset(row.port.name for row in rows)
    left = tuple(row for row in giver.present if row.port.name not in handed)
    cases = {source: _without(giver, handed, left), target: _with(case, owner, leases)}
    results = _planned(view, view.world, cases)
    _check(results[target], leases)
    done = [*changes(results[target], case.present), *changes(results[source], giver.present)]
    kept = {port.name for port in results[source].wanted}
    done += [DeletePort(row) for row in rows if row.port.name not in kept]  # the plan has not seen them
    text = [_sentence(f"VM {source}", target, lease) for lease in leases.values()]
    text += [f"VM {source} gets {', '.join(port.ips)} (port {port.name})" for port in results[source].wanted if port.ips]
    text += [f"VM {source}: {each.reason}: {each.message}" for each in results[source].problems]
    records = [NewRecord(target, owner.uid, _record(case), results[target].record)]
    if giver.facts.vm is not None:
        records.append(NewRecord(source, giver.facts.vm.uid, giver.facts.vm.record, results[source].record))
    expected = {lease.port: tuple(map(str, lease.ips)) for lease in leases.values()}
    return Handover(tuple(text), tuple(done), tuple(records), expected)


def from_port(view: View, foreign: ForeignRow, target: VmKey, interface: str = "") -> Handover:
    """Take over somebody else's port with its addresses. A port of the VM's own name stays as a row; of any other name it
    is deleted, and the VM's takes its place.

    Raises RefusedHandoverError."""
    port = foreign.row.port
    owner = _owner(view, target)
    case = view.cases[target]
    name, attached = _attached(view, owner, port.switch, interface)
    if name != port.name:
        _stopped(view, target)
        binding = view.bindings.get(port.name)
        if binding is not None and binding.chassis:
            raise RefusedHandoverError(f"port {port.name} is bound on {binding.chassis}: unplug it there first")
    addresses = [str(ip) for ip in foreign.ips]
    networks = [each for each in view.world.networks.all if each.logical_switch == port.switch and each.has_all(addresses)]
    if not networks:
        raise RefusedHandoverError(f"no configured network on switch {port.switch} has {', '.join(addresses)}")
    lease = Lease(name, attached.name, networks[0].name, foreign.ips, foreign.mac)
    leases = {attached.name: lease}
    results = _planned(view, _without_foreign(view.world, foreign), {target: _with(case, owner, leases)})
    _check(results[target], leases)
    present = (*case.present, foreign.row) if name == port.name else case.present
    done = changes(results[target], present)
    if name != port.name:
        done.append(DeletePort(foreign.row))
    record = NewRecord(target, owner.uid, _record(case), results[target].record)
    expected = {name: tuple(map(str, foreign.ips))}
    return Handover((_sentence(f"port {port.name}", target, lease),), tuple(done), (record,), expected)


def _sentence(source: str, target: VmKey, lease: Lease) -> str:
    return f"{', '.join(map(str, lease.ips))} (MAC {lease.mac}) of {source} goes to VM {target}, port {lease.port}"


# ---- what has to be so ----------------------------------------------------------------------------------------------


def _owner(view: View, key: VmKey) -> Owner:
    result = view.results.get(key)
    if result is None or result.owner is None or not result.owner.present or result.owner.kind != "VirtualMachine":
        raise RefusedHandoverError(f"there is no VirtualMachine {key} that could hold an address")
    return result.owner


def _stopped(view: View, key: VmKey) -> tuple[Case, Owner]:
    owner, case = _owner(view, key), view.cases[key]
    if guest_may_run(case.facts, owner):
        raise RefusedHandoverError(f"VM {key} runs; stop it first: a guest that runs keeps its addresses")
    return case, owner


def _attached(view: View, owner: Owner, switch: str, interface: str) -> tuple[str, Interface]:
    """(name of the port, the interface) of the VM that is on this switch."""
    wanted = {port.external_id(INTERFACE): port for port in view.results[owner.key].wanted}
    found = []
    for each in owner.interfaces:
        port = wanted.get(each.name)
        if each.state == "absent" or interface not in ("", each.name) or (port is not None and port.switch != switch):
            continue
        found.append((port.name if port is not None else port_name(owner.key, each, owner.interfaces), each))
    if len(found) != 1:
        names = ", ".join(each.name for _, each in found)
        raise RefusedHandoverError(
            f"VM {owner.key} has {names or 'no interface'} on switch {switch}; name one with --interface"
        )
    return found[0]


# ---- as if ----------------------------------------------------------------------------------------------------------


def _record(case: Case) -> str:
    return case.facts.vm.record if case.facts.vm is not None else ""


def _with(case: Case, owner: Owner, leases: Mapping[str, Lease]) -> Case:
    """The VM as if its record named these leases (interface -> lease), and those of its other interfaces."""
    before = parse(_record(case))
    own = before.leases if before is not None and before.uid in owner.uids else ()
    kept = tuple(lease for lease in own if lease.interface not in leases)
    record = render(Record(owner.key, owner.uid, (*kept, *leases.values())))
    assert case.facts.vm is not None
    facts = replace(case.facts, vm=replace(case.facts.vm, record=record))
    if facts.vmi is not None:
        facts = replace(facts, vmi=replace(facts.vmi, record=""))
    present = tuple(row for row in case.present if row.port.external_id(INTERFACE) not in leases)
    return replace(case, facts=facts, present=present)


def _without(case: Case, handed: frozenset[str], left: tuple[PresentPort, ...]) -> Case:
    """The VM as if it had never held these ports."""
    facts = case.facts
    if facts.vm is not None:
        before = parse(facts.vm.record)
        kept = tuple(lease for lease in before.leases if lease.port not in handed) if before is not None else ()
        record = render(replace(before, leases=kept)) if before is not None and kept else ""
        facts = replace(facts, vm=replace(facts.vm, record=record))
    if facts.vmi is not None:
        facts = replace(facts, vmi=replace(facts.vmi, record=""))
    return replace(case, facts=facts, present=left)


def _without_foreign(world: World, foreign: ForeignRow) -> World:
    port = foreign.row.port
    others = world.foreign.get(port.switch, Foreign())
    ips, taken = dict(others.ips), others.taken
    for ip in foreign.ips:
        ips.pop(str(ip), None)
        taken = taken_without(taken, ip)
    macs = {mac: user for mac, user in others.macs.items() if mac != foreign.mac}
    names = {name: user for name, user in world.names.items() if name != port.name}
    return replace(world, names=names, foreign={**world.foreign, port.switch: Foreign(ips, macs, taken)})


def _planned(view: View, world: World, instead: Mapping[VmKey, Case]) -> dict[VmKey, Result]:
    holders = dict(world.holders)
    for key, case in instead.items():
        kept = {row.port.name for row in case.present}
        for row in view.cases[key].present:
            if row.port.name not in kept:
                holders.pop(row.port.name, None)
    cases = [instead.get(key, case) for key, case in view.cases.items()]
    found = plan(cases, Books(), replace(world, holders=holders))
    return {result.key: result for result in found.results}


def _check(result: Result, leases: Mapping[str, Lease]) -> None:
    """Raises RefusedHandoverError with the agent's own sentence where a lease would not be granted."""
    ports = {port.name: port for port in result.wanted}
    for lease in leases.values():
        port = ports.get(lease.port)
        got = {ipaddress.ip_address(ip) for ip in port.ips} if port is not None else set()
        if got != set(lease.ips):
            why = "; ".join(f"{each.reason}: {each.message}" for each in result.problems)
            has = f"would get {', '.join(port.ips)}" if port is not None and port.ips else "would get none"
            raise RefusedHandoverError(
                f"VM {result.key} cannot have {', '.join(map(str, lease.ips))} on port {lease.port}: it {has}; "
                f"{why or 'what its annotations ask for, or its network, does not agree with them'}"
            )

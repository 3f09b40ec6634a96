"""What `ovnagent check` finds: what is not as it should be, and what to do about it."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from ovnagent.announce import object_ref
from ovnagent.commands.observer import View
from ovnagent.commands.text import slow
from ovnagent.core.deletion import go_ahead
from ovnagent.core.placement import Situation
from ovnagent.core.plan import Case
from ovnagent.core.plugging import Attached, Machine, Node, granted, plan, rivals
from ovnagent.core.ports import INTERFACE, NETWORK, Port, PresentPort
from ovnagent.core.vm import RECORD_ANNOTATION, VmKey, pod_interface
from ovnagent.ovn.changes import CreatePort, CreateSwitch, DeletePort, DeleteRows, PutRouterPort, UpdatePort

AGENT = "a running agent puts it right: see its log and /readyz"
PAUSE_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Finding:
    """What is not as it should be, and what to do about it."""

    kind: str
    """`missing`, `drift`, `leftover`, `record`, `duplicate`, `stale-pin`, `unbound`, or a problem's reason
    (AddressConflict...)."""
    what: str
    message: str


def lasting(look: Callable[[], View], seconds: float) -> list[Finding]:
    """What is found by every look in so many seconds, word for word: what an agent is just about to do, and the steps of a
    migration, are different each time, or gone."""
    found = findings(look())
    end = time.monotonic() + seconds
    with slow(f"{len(found)} found; looking for {seconds:g} s whether it stays so"):
        while found and time.monotonic() < end:
            time.sleep(PAUSE_SECONDS)
            again = set(findings(look()))
            found = [finding for finding in found if finding in again]
    return found


def findings(view: View) -> list[Finding]:
    """Everything that is not as it should be, at this moment."""
    parts = (_infrastructure, _ports, _records, _duplicates, _stale_pins, _unbound, _problems)
    return [finding for part in parts for finding in part(view)]


def _infrastructure(view: View) -> Iterator[Finding]:
    for change in view.infrastructure:
        match change:
            case CreateSwitch(name):
                yield Finding("missing", name, f"the logical switch is not there; {AGENT}")
            case PutRouterPort(port, present, right):
                if not present:
                    text = f"router {port.router} has no port on switch {port.switch}"
                elif right:
                    text = f"switch {port.switch} has no port that leads to it"
                else:
                    text = f"MAC, networks or advertisements of the port on router {port.router} are not as configured"
                yield Finding("drift" if present and not right else "missing", port.name, f"{text}; {AGENT}")
            case DeleteRows(table, uuids):
                yield Finding("leftover", table, f"{len(uuids)} rows that no port uses any more; {AGENT}")
            case CreatePort(virtual):
                yield Finding("missing", virtual.name, f"the port of an address that VMs share is not there; {AGENT}")
            case UpdatePort(row, virtual):
                text = f"the port of an address that VMs share: {difference(row.port, virtual)}"
                yield Finding("drift", virtual.name, f"{text}; {AGENT}")
            case DeletePort(row):
                yield Finding("leftover", row.port.name, f"no VMs share its address; {AGENT}")


def _ports(view: View) -> Iterator[Finding]:
    for key in view.results:
        for change in view.changes(key):
            match change:
                case CreatePort(port):
                    yield Finding("missing", port.name, f"the port of VM {key} is not there; {AGENT}")
                case UpdatePort(present, port):
                    yield Finding("drift", port.name, f"the port of VM {key}: {difference(present.port, port)}; {AGENT}")
                case DeletePort(present):
                    remedy = AGENT
                    if key in view.brake.vms or present.port.name in view.brake.ports:
                        remedy = f"an agent asks before it deletes so many: {go_ahead(view.world.cluster)}"
                    yield Finding("leftover", present.port.name, f"{_why_left(view, key, present)}; {remedy}")


def _why_left(view: View, key: VmKey, row: PresentPort) -> str:
    network = row.port.external_id(NETWORK)
    if network and view.world.networks.named(network) is None:
        return f"its network {network} is not configured"
    return f"there is no VM {key}" if view.cases[key].facts.empty else f"VM {key} does not use it any more"


def difference(is_: Port, wanted: Port) -> str:
    """`options:requested-chassis is chassis9, should be chassis1`, for each column or key that differs."""
    before, after = _values(is_), _values(wanted)
    return ", ".join(
        f"{name} is {before.get(name) or 'not set'}, should {f'be {after[name]}' if after.get(name) else 'not be set'}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    )


def _values(port: Port) -> dict[str, str]:
    """A row's columns and keys, as ovn-nbctl names them."""
    values = {
        "switch": port.switch,
        "addresses": ", ".join(port.addresses),
        "port_security": ", ".join(port.port_security),
        "type": port.type,
        "enabled": str(port.enabled).lower(),
        "DNS": port.dns,
    }
    for column, options in (("dhcpv4_options", port.dhcpv4), ("dhcpv6_options", port.dhcpv6)):
        if options is not None:
            values[column] = " ".join((options.cidr, *(f"{key}={value}" for key, value in options.options)))
    values |= {f"options:{key}": value for key, value in port.options}
    return values | {f"external_ids:{key}": value for key, value in port.external_ids}


def _records(view: View) -> Iterator[Finding]:
    for key, result in view.results.items():
        ref, facts = object_ref(result, view.cases[key]), view.cases[key].facts
        if ref is None or not result.record:
            continue
        holder = facts.vm if ref.kind == "VirtualMachine" else facts.vmi
        if holder is not None and holder.record != result.record:
            state = "is not what it holds" if holder.record else "is missing"
            text = (
                f"annotation {RECORD_ANNOTATION} of the {ref.kind} {state}: should the Northbound database be lost, so are "
                f"its addresses; may the agent patch {ref.kind}s, and does nobody else take the annotation away?"
            )
            yield Finding("record", str(key), text)


def _duplicates(view: View) -> Iterator[Finding]:
    users: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for row in view.world.holders.values():
        foreign = view.world.foreign.get(row.port.switch)
        for address in filter(None, (*row.port.ips, row.port.mac)):
            users[row.port.switch, address].append(row.port.name)
            if foreign is not None and (other := foreign.ips.get(address) or foreign.macs.get(address)):
                users[row.port.switch, address].append(other)
    for (switch, address), names in sorted(users.items()):
        if len(names) > 1:
            text = f"used on switch {switch} by {', '.join(sorted(names))}; change all but one"
            yield Finding("duplicate", address, text)


def _stale_pins(view: View) -> Iterator[Finding]:
    known = {name for names in view.world.chassis.by_hostname.values() for name in names}
    for row in view.world.holders.values():
        gone = [name for name in row.port.requested_chassis if name not in known]
        if gone:
            text = (
                f"options:requested-chassis of the port of VM {row.port.vm} names {', '.join(gone)}, which the Southbound "
                "database does not know; start ovn-controller there, or stop the VM"
            )
            yield Finding("stale-pin", row.port.name, text)


def _unbound(view: View) -> Iterator[Finding]:
    """Ports of guests that run: before that, whoever plugs may still be about to."""
    for key, result in view.results.items():
        case = view.cases[key]
        if case.where.situation is not Situation.PLACED or case.facts.vmi is None or case.facts.vmi.phase != "Running":
            continue
        for port in result.wanted:
            binding, wanted = view.bindings.get(port.name), port.requested_chassis
            bound = binding.chassis if binding is not None else ""
            if len(wanted) == 1 and port.enabled and bound != wanted[0]:
                where = f"on {bound}" if bound else "nowhere"
                why = why_unbound(case, port, view.cases)
                text = f"VM {key} runs on chassis {wanted[0]}, but the port is bound {where}; {why}"
                yield Finding("unbound", port.name, text)


def why_unbound(case: Case, port: Port, cases: Mapping[VmKey, Case]) -> str:
    """What is known of its interface from here: the pod's network-status says whether a CNI has attached it, and whether
    `ovnagent plug` would give it the port's name follows from the same facts as on the node. `cases`: other VMs, by whose
    records it may be kept from it."""
    vmi = case.facts.vmi
    assert vmi is not None
    pod = next((pod for pod in case.facts.launchers if pod.alive and pod.node == vmi.node), None)
    interface = next((each for each in vmi.interfaces if each.name == port.external_id(INTERFACE)), None)
    if pod is None or interface is None:
        return f"its interface there should have external_ids:iface-id={port.name}"
    inside = pod_interface(interface)
    where = f"{inside} of pod {pod.name} on node {pod.node}"
    if all(name != inside for name, _, _ in pod.attached):
        return f"no CNI has attached {where}: see the pod's Events and its network-status"
    unplugged = f"{where} is attached and not plugged into it (external_ids:iface-id)"
    machine = Machine(vmi, case.facts.vm)
    others = {other for name in granted(machine) for other in rivals(vmi.key, name) if other in cases}
    known = tuple(Machine(cases[other].facts.vmi, cases[other].facts.vm) for other in sorted(others))
    attached = Attached(row="", name="", iface_id="", pod_uid=pod.uid, inside=inside)
    facts = Node((attached,), {pod.uid: pod}, {pod.uid: replace(machine, rivals=known)})
    if reason := plan(facts)[0].reason:
        return f"{unplugged}: {reason}"
    return f"{unplugged}: see the VMI's Events (InterfaceNotPlugged), and whether ovnagent-plug runs on that node"


def _problems(view: View) -> Iterator[Finding]:
    for key, result in view.results.items():
        for problem in result.problems:
            yield Finding(problem.reason, str(key), problem.message)

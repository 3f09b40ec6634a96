"""`ovnagent why`: one ordered chain from the request to the packet, as values.

    request    what the VM asks for, and whether it can be read
    granted    its addresses
    row        the port in the Northbound database is as it should be
    guest      the VM runs, and where
    chassis    the row names the chassis of that place; in a migration: which line of the migration table applies
    northd     the Southbound database knows the port
    plugged    the chassis has claimed the port: its interface is there, under the port's name
    up         the chassis has installed the port's flows
    dhcp       who answers the guest's DHCP
    path       with an address to reach: OVN's own verdict (trace.py)

The chain ends at the first link that is broken: what lies behind it follows from it. A function of one look (`View`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from ovnagent.commands.findings import difference, why_unbound
from ovnagent.commands.observer import View
from ovnagent.core import problems
from ovnagent.core.dhcp import DhcpOptions
from ovnagent.core.owner import Owner
from ovnagent.core.placement import GRACE_SECONDS, RESCUE_SECONDS, SILENT_BINDINGS, Line, Situation
from ovnagent.core.plan import Case, Result
from ovnagent.core.ports import INTERFACE, NETWORK, Port
from ovnagent.core.problems import Problem
from ovnagent.core.vm import Interface, VmKey
from ovnagent.ovn.changes import CreatePort, CreateSwitch, UpdatePort

AGENT = "is an agent running, and does it lead? kubectl -n ovnagent get pods; its log and /readyz say more"
REQUEST = {problems.INVALID_REQUEST, problems.UNKNOWN_NETWORK, problems.NETWORK_REFUSED, problems.UNREADABLE}
GRANT = {
    problems.ADDRESS_CONFLICT,
    problems.ADDRESS_REFUSED,
    problems.MAC_CONFLICT,
    problems.MAC_MISMATCH,
    problems.POOL_EXHAUSTED,
}
ROW = {problems.PORT_REFUSED, problems.INTERNAL_ERROR}


class State(Enum):
    OK = "ok"
    BROKEN = "broken"
    WAITING = "waiting"
    """Not there yet, and nothing is wrong: a step of a start or of a migration."""
    UNSEEN = "not seen"
    """It cannot be seen from here."""
    FAILED = "not asked"
    """Who could tell could not be asked."""


@dataclass(frozen=True, slots=True)
class Link:
    """One link of the chain."""

    name: str
    state: State
    evidence: str
    """What was seen, and where."""
    remedy: str = ""
    """What to do, or what it waits for."""


@dataclass(frozen=True, slots=True)
class Chain:
    """What is so of one interface of a VM."""

    vm: str
    interface: str
    port: str
    links: tuple[Link, ...]

    @property
    def broken(self) -> Link | None:
        """The first broken link."""
        return next((link for link in self.links if link.state is State.BROKEN), None)


def chains(view: View, key: VmKey, interface: str = "") -> list[Chain]:
    """A chain for each of the VM's interfaces, or for the one that is named."""
    result, case = view.results.get(key), view.cases.get(key)
    if result is None or case is None or (case.facts.vm is None and case.facts.vmi is None):
        text = f"Kubernetes has neither a VirtualMachine nor a VirtualMachineInstance {key}"
        remedy = f"kubectl get vm,vmi --all-namespaces | grep {key.name}"
        return [Chain(str(key), interface, "", (Link("request", State.BROKEN, text, remedy),))]
    found = _interfaces(result, case)
    names = [each.name for each in found]
    if interface and interface not in names:
        text = f"VM {key} has no interface {interface}; it has {', '.join(names) or 'none'}"
        remedy = "choose one of them with --interface"
        return [Chain(str(key), interface, "", (Link("request", State.BROKEN, text, remedy),))]
    if not found:
        text = f"VM {key} has no interfaces"
        remedy = "add one to spec.template.spec.domain.devices.interfaces"
        return [Chain(str(key), "", "", (Link("request", State.BROKEN, text, remedy),))]
    return [_chain(view, result, case, each) for each in found if interface in ("", each.name)]


def _interfaces(result: Result, case: Case) -> Sequence[Interface]:
    if result.owner is not None:
        return [each for each in result.owner.interfaces if each.state != "absent"]
    vm = case.facts.vmi or case.facts.vm
    return vm.interfaces if vm is not None else ()


def _chain(view: View, result: Result, case: Case, interface: Interface) -> Chain:
    port = next((each for each in result.wanted if each.external_id(INTERFACE) == interface.name), None)
    links: list[Link] = []
    for link in _links(view, result, case, interface, port):
        links.append(link)
        if link.state is State.BROKEN:
            break
    name = port.name if port is not None else next((row.port.name for row in case.present if _is(row.port, interface)), "")
    return Chain(str(result.key), interface.name, name, tuple(links))


def _is(port: Port, interface: Interface) -> bool:
    return port.external_id(INTERFACE) == interface.name


def _links(view: View, result: Result, case: Case, interface: Interface, port: Port | None) -> Iterator[Link]:
    yield _request(view, result, interface, port)
    yield _granted(result, interface, port)
    if port is None and (troubles := told(result, interface, ROW)):
        yield _trouble("row", troubles, "")
        return
    if port is None:  # nothing was refused, and nothing is wanted: the agent's own fault, or the owner is going
        text = f"no port is wanted for interface {interface.name}: the VM is being deleted, or cannot be planned"
        yield Link("row", State.BROKEN, text, AGENT)
        return
    yield _row(view, result, interface, port)
    yield (guest := _guest(result, case, interface))
    if guest.state is State.WAITING:
        return
    yield _chassis(view, result, case, port)
    yield from _southbound(view, case, port)
    yield _dhcp(interface, port)


def told(result: Result, interface: Interface, reasons: set[str]) -> list[Problem]:
    """The VM's problems with one of these reasons, of this interface or of the whole VM."""
    return [each for each in result.problems if each.reason in reasons and each.interface in ("", interface.name)]


def _trouble(name: str, troubles: Sequence[Problem], but: str) -> Link:
    text = "; ".join(f"{each.reason}: {each.message}" for each in troubles)
    return Link(name, State.BROKEN, f"{text}{f' ({but})' if but else ''}", "change what the sentence names; it says how")


def _request(view: View, result: Result, interface: Interface, port: Port | None) -> Link:
    held = f"the port keeps {', '.join(port.ips)}" if port is not None and port.ips else ""
    if troubles := told(result, interface, REQUEST):
        return _trouble("request", troubles, held)
    if port is None and not told(result, interface, GRANT | ROW):
        where = f"NAD {interface.nad}" if interface.nad else "the pod network"
        known = ", ".join(view.world.networks.names())
        if interface.binding == "sriov":
            text = f"interface {interface.name} is bound by SR-IOV, which passes OVN by"
        else:
            text = f"interface {interface.name} is on {where}, which no configured network has ({known} are configured)"
        remedy = (
            "nothing, if another network plugin serves it; else name the NAD under networks[].nads of the agent's "
            "configuration, or set podNetwork there"
        )
        return Link("request", State.BROKEN, text, remedy)
    asked = _asked(result.owner)
    network = port.external_id(NETWORK) if port is not None else ""
    on = f"interface {interface.name} ({interface.binding})" + (f" on network {network}" if network else "")
    return Link("request", State.OK, f"{on} asks for {asked or 'any free address'}")


def _asked(owner: Owner | None) -> str:
    if owner is None:
        return ""
    keys = ("ip_address", "ip_pool", "mac_address", "addresses")
    return ", ".join(
        f"{value} ({key})" for key, value in owner.annotations if value is not None and any(part in key for part in keys)
    )


def _granted(result: Result, interface: Interface, port: Port | None) -> Link:
    if troubles := told(result, interface, GRANT):
        return _trouble("granted", troubles, f"the port keeps {', '.join(port.ips)}" if port is not None else "")
    if port is None or not port.ips:
        if troubles := told(result, interface, ROW):
            return Link("granted", State.OK, "nothing speaks against it")
        return Link("granted", State.BROKEN, "no address is granted, and no reason is known", AGENT)
    return Link("granted", State.OK, f"{', '.join(port.ips)}, MAC {port.mac}, held for as long as the VM exists")


def _row(view: View, result: Result, interface: Interface, port: Port) -> Link:
    if troubles := told(result, interface, ROW):
        return _trouble("row", troubles, "")
    for change in view.changes(result.key):
        match change:
            case CreatePort(wanted) if wanted.name == port.name:
                return Link("row", State.BROKEN, f"the Northbound database has no port {port.name}", AGENT)
            case UpdatePort(present, wanted) if wanted.name == port.name:
                return Link("row", State.BROKEN, f"port {port.name}: {difference(present.port, wanted)}", AGENT)
    if CreateSwitch(port.switch) in view.infrastructure:
        return Link("row", State.BROKEN, f"there is no logical switch {port.switch}", AGENT)
    return Link("row", State.OK, f"port {port.name} on switch {port.switch} is as it should be")


def _guest(result: Result, case: Case, interface: Interface) -> Link:
    facts, where = case.facts, case.where
    vmi = facts.vmi
    phase = f"VMI phase {vmi.phase or 'unknown'}" if vmi is not None else "there is no VMI"
    describe = f"kubectl -n {result.key.namespace} describe vmi {result.key.name}"
    if where.situation is Situation.UNCLEAR:
        text = f"the launchers do not say clearly where the guest is ({phase}): {_launchers(case)}"
        return Link("guest", State.BROKEN, text, f"{describe}; look at its launcher pods")
    if where.situation is Situation.STOPPED:
        if vmi is None:
            text, remedy = "the VM is stopped", f"virtctl -n {result.key.namespace} start {result.key.name}"
        elif vmi.final:
            text, remedy = f"the guest has ended ({phase})", describe
        else:
            text, remedy = f"no launcher of it has a node yet ({phase}): {_launchers(case)}", describe
        return Link("guest", State.BROKEN, text, remedy)
    if interface.state == "down":
        remedy = "set state: up on the interface in spec.template.spec.domain.devices"
        return Link("guest", State.BROKEN, f"interface {interface.name} is switched off (state: down)", remedy)
    if vmi is None or vmi.phase not in ("Running", "Scheduled"):
        return Link("guest", State.WAITING, f"on node {where.node}, {phase}", "KubeVirt starts the guest")
    text = f"runs on node {where.node or where.target} ({phase})"
    if where.situation in (Situation.MIGRATING, Situation.SWITCHED):
        text += f", on its way from {where.node or '?'} to {where.target} (migration {migration_name(case)})"
    return Link("guest", State.OK, text)


def _launchers(case: Case) -> str:
    pods = [f"pod {pod.name} {pod.phase or 'Pending'} on {pod.node or 'no node'}" for pod in case.facts.launchers]
    return ", ".join(pods) or "it has no launcher pod"


def migration_name(case: Case) -> str:
    """Of the migration under way; its UID where the object is gone."""
    uid = case.where.migration
    return next((each.name for each in case.facts.migrations if each.uid == uid), uid)


WAITS = {
    Line.TARGET_BOUND: "the guest to be moved by KubeVirt, and to announce itself on the target",
    Line.ACTIVATED: "KubeVirt to end the migration, and the source's interface to be unplugged",
    Line.ANNOUNCEMENT_DUE: f"the guest's announcement (RARP) on the target, for {RESCUE_SECONDS:g} s; then it is opened",
    Line.ANNOUNCEMENT_LOST: "KubeVirt to end the migration, and the source's interface to be unplugged",
    Line.SOURCE_HOLDS_ON: f"the source's interface to be unplugged, for {GRACE_SECONDS:g} s at most",
}
"""What a migration's line waits for."""


def _chassis(view: View, result: Result, case: Case, port: Port) -> Link:
    placement = result.placements.get(port.name)
    names = ", ".join(port.requested_chassis)
    if placement is None:
        return Link("chassis", State.OK, f"requested-chassis is {names or 'not set'}")
    if placement.problem:
        return Link("chassis", State.BROKEN, placement.problem, "the sentence says what is missing")
    if placement.line is Line.CONTRADICTION:
        remedy = "wait a moment; the agent looks again"
        return Link("chassis", State.BROKEN, placement.line.value, remedy)
    if placement.line in WAITS:
        text = f"{placement.line.value}: requested-chassis is {names}, activation-strategy {placement.strategy or 'not set'}"
        binding = view.bindings.get(port.name)
        if placement.line is Line.TARGET_BOUND and binding is not None and names.split(", ")[-1] in binding.activated:
            text += "; the guest has announced itself there, and traffic goes there"
            return Link("chassis", State.OK, text, "waits for KubeVirt to say that the target's domain is ready")
        return Link("chassis", State.OK, text, f"waits for {WAITS[placement.line]}")
    return Link(
        "chassis", State.OK, f"requested-chassis is {names}, the chassis of node {case.where.node or case.where.target}"
    )


def _southbound(view: View, case: Case, port: Port) -> Iterator[Link]:
    binding, wanted = view.bindings.get(port.name), port.requested_chassis
    if binding is None:
        remedy = "is ovn-northd running, and connected to both databases?"
        yield Link("northd", State.BROKEN, f"the Southbound database has no Port_Binding {port.name}", remedy)
        return
    yield Link("northd", State.OK, f"the Southbound database has Port_Binding {port.name}")
    places = {binding.chassis, *binding.additional} - {""}
    moving = len(wanted) > 1
    plug = (
        f"on that node run: ovs-vsctl --columns=name,external_ids,error,ofport find Interface "
        f"external_ids:iface-id={port.name}. Nothing: it is not plugged. An error, or ofport -1: the device is gone. "
        "Neither: is ovn-controller running there, and connected?"
    )
    if moving and places & set(wanted):
        missing = [name for name in wanted if name not in places]
        if not missing:
            yield Link("plugged", State.OK, f"bound on {' and '.join(wanted)}")
        elif missing == [wanted[-1]] and case.where.situation is Situation.MIGRATING:
            text = f"bound on {', '.join(sorted(places))}; not yet on {missing[0]}, the migration's target"
            yield Link(
                "plugged", State.OK, text, f"on {missing[0]} it waits for the CNI to plug the target launcher's interface"
            )
        else:
            yield Link("plugged", State.OK, f"bound on {', '.join(sorted(places))}; {missing[0]} has let go")
    elif binding.chassis in wanted:
        yield Link("plugged", State.OK, f"bound on {binding.chassis}")
    elif not case.facts.vmi or case.facts.vmi.phase != "Running":
        text = f"not bound on {wanted[0] if wanted else 'any chassis'}; the launcher is still being set up"
        yield Link("plugged", State.WAITING, text, "the CNI plugs the interface")
        return
    else:
        where = f"on {binding.chassis}, which the row does not name" if binding.chassis else "nowhere"
        text = f"the port is bound {where}, and its guest runs on {wanted[0] if wanted else 'no chassis'}"
        text += f"; {why_unbound(case, port, view.cases)}" if not binding.chassis and case.facts.vmi is not None else ""
        yield Link("plugged", State.BROKEN, text, plug)
        return
    if binding.up or moving:
        note = "up" if binding.up else "up is false, which means nothing while two chassis are named"
        yield Link("up", State.OK, f"Port_Binding: {note}")
    else:
        text = f"the port is bound on {binding.chassis}, but Port_Binding:up is false: its flows are not installed"
        yield Link(
            "up",
            State.BROKEN,
            text,
            f"on that node: is ovs-vswitchd running, and what does ovn-controller's log say? {plug}",
        )


def _dhcp(interface: Interface, port: Port) -> Link:
    rows = [row for row in (port.dhcpv4, port.dhcpv6) if row is not None]
    if rows:
        return Link("dhcp", State.OK, f"OVN answers: {'; '.join(_options(row) for row in rows)}")
    if interface.binding in SILENT_BINDINGS:
        return Link("dhcp", State.OK, "KubeVirt answers inside the launcher, with an address that only the guest sees")
    bridge = interface.binding == "bridge" and not interface.nad
    if bridge:
        text = "OVN does not; KubeVirt's own server in the launcher answers with the pod's address, if the CNI gave it one"
        return Link("dhcp", State.UNSEEN, text, "the CNI has to give the pod the port's address")
    text = f"nobody: network {port.external_id(NETWORK)} has no dhcp section, and the VM asks for none"
    remedy = "configure the address in the guest, or set networks[].dhcp, or the annotation dhcp-v4-options on the VM"
    return Link("dhcp", State.UNSEEN, text, remedy)


def _options(row: DhcpOptions) -> str:
    wanted = ("server_id", "lease_time", "router", "mtu", "dns_server")
    return f"{row.cidr} with " + ", ".join(f"{key}={value}" for key, value in row.options if key in wanted)

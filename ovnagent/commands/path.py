"""The last link of `ovnagent why --to`: what OVN says of the first packet to an address."""

from __future__ import annotations

import ipaddress
import re
from typing import Any

from ovnagent.commands.chain import Link, State
from ovnagent.commands.observer import View
from ovnagent.commands.trace import Destination, Flow, TraceError, Verdict, answer, packet, question, read, run
from ovnagent.config.file import Config
from ovnagent.core.networks import IPAddress, Network
from ovnagent.core.ports import NETWORK, Port
from ovnagent.ovn.aside import QueryError, select


def path(view: View, config: Config, port: Port, to: Destination) -> Link:
    """What becomes of a packet from a port's own address. Two questions to ovn-trace: who has the next hop's address, and
    what happens to the packet that is sent there."""
    ip = next((each for each in _ips(port) if each.version == to.ip.version), None)
    if ip is None:
        text = f"port {port.name} has no IPv{to.ip.version} address, and {to.ip} is one"
        return Link("path", State.BROKEN, text, f"give network {port.external_id(NETWORK)} a subnet of that family")
    network = view.world.networks.named(port.external_id(NETWORK))
    hop, missing = _next_hop(network, to.ip)
    if hop is None:
        return Link("path", State.BROKEN, missing, "set the subnet's gateway, and a router that has it (networks[].router)")
    try:
        via = answer(run(config.southbound, config.tls, port.switch, question(port.name, port.mac, ip, hop)))
        if not via:
            return _unanswered(view, network, port, hop, to)
        verdict = read(run(config.southbound, config.tls, port.switch, packet(port.name, port.mac, ip, via, to)))
    except TraceError as error:
        return Link("path", State.FAILED, f"OVN could not be asked: {error}")
    return tell(view, config, f"{to.protocol.upper()} from {ip} to {to}", verdict)


def _ips(port: Port) -> list[IPAddress]:
    return [ipaddress.ip_address(each) for each in port.ips]


def _next_hop(network: Network | None, to: IPAddress) -> tuple[IPAddress | None, str]:
    """(whom the guest asks ARP for, ""), or (None, why there is nobody)."""
    subnets = [subnet for subnet in network.subnets if subnet.version == to.version] if network is not None else []
    if any(to in subnet for subnet in subnets):
        return to, ""
    gateway = next((subnet.gateway for subnet in subnets if subnet.gateway is not None), None)
    if gateway is None:
        name = network.name if network is not None else "of the port"
        return None, f"{to} lies outside network {name}, which has no gateway"
    return gateway, ""


def _unanswered(view: View, network: Network | None, port: Port, hop: IPAddress, to: Destination) -> Link:
    user = view.world.foreign[port.switch].ips.get(str(hop), "") if port.switch in view.world.foreign else ""
    if user:
        text = f"OVN itself does not answer ARP for {hop}, which is {user}'s; the question goes to the switch's other ports"
        return Link("path", State.UNSEEN, text, f"ask {user}: nothing of that can be seen from here")
    what = "the gateway" if hop != to.ip else "that address"
    text = f"nobody on switch {port.switch} answers ARP for {hop}: no port of it has {what}"
    remedy = f"ovn-nbctl find Logical_Switch_Port and lr-list say who should have {hop}"
    if network is not None and hop != to.ip and not network.router:
        remedy = f"set networks[].router for network {network.name}, or connect a router that has {hop} to the switch"
    return Link("path", State.BROKEN, text, remedy)


def tell(view: View, config: Config, what: str, verdict: Verdict) -> Link:
    """A verdict in a sentence."""
    flow = verdict.dropped
    if verdict.acl is not None:
        does = "rejected" if verdict.rejected else "dropped"
        return Link(
            "path", State.BROKEN, f"{what} is {does} by {_acl(config, verdict.acl)}", "change that ACL, or what it matches"
        )
    if flow is not None:
        text, remedy = _drop(flow)
        return Link("path", State.BROKEN, f"{what} is dropped: {text}", remedy)
    if verdict.asks:
        text = f"{what}: router {verdict.asks} does not know the next hop's MAC, and no port of OVN's has that address"
        return Link(
            "path",
            State.BROKEN,
            text,
            "is there such an address? The router asks by ARP, which somebody outside of OVN may answer",
        )
    if verdict.answered:
        return Link("path", State.OK, f"{what} is answered by router {verdict.answered} itself")
    if not verdict.port:
        return Link("path", State.BROKEN, f"{what} ends nowhere, and OVN does not say why", "run ovn-trace by hand")
    if verdict.type:
        text = f"{what} leaves OVN by {verdict.type} port {verdict.port}; what lies beyond cannot be seen from here"
        return Link("path", State.OK, text)
    return _delivered(view, what, verdict.port)


def _delivered(view: View, what: str, port: str) -> Link:
    row, binding = view.world.holders.get(port), view.bindings.get(port)
    whose = f" of VM {row.port.vm}" if row is not None else ""
    if binding is None or not binding.chassis:
        text = f"{what} would be delivered to port {port}{whose}, which is bound on no chassis"
        remedy = (
            f"ovnagent why -n {row.port.vm.namespace} {row.port.vm.name}" if row is not None else "is it plugged anywhere?"
        )
        return Link("path", State.BROKEN, text, remedy)
    return Link("path", State.OK, f"{what} is delivered to port {port}{whose} on chassis {binding.chassis}")


def _drop(flow: Flow) -> tuple[str, str]:
    """(why, what to do) of a logical flow that drops."""
    match flow.stage.removeprefix("ls_").removeprefix("lr_"):
        case "in_check_port_sec" | "in_apply_port_sec" | "in_port_sec_l2" | "in_port_sec_ip" | "in_port_sec_nd":
            return "port security does not let the port send from this address", "allow it, or see annotation port_security"
        case "out_check_port_sec" | "out_apply_port_sec" | "out_port_sec_l2" | "out_port_sec_ip":
            return "the destination port's own port security does not let it pass", "look at that port's port_security"
        case "in_ip_routing":
            return f"router {flow.datapath} has no route to it", f"ovn-nbctl lr-route-list {flow.datapath}; add a route"
        case "in_l2_unknown" | "in_l2_lkup":
            return f"switch {flow.datapath} has no port with that MAC", "is the destination's port there?"
        case stage if "_acl" in stage:
            return f"switch {flow.datapath} drops what no ACL allows ({flow.match})", "add an ACL that allows it"
        case "in_policy" | "in_policy_ecmp":
            return f"a policy of router {flow.datapath} ({flow.match})", f"ovn-nbctl lr-policy-list {flow.datapath}"
    where = f"in {flow.datapath}, stage {flow.stage} ({flow.match}, priority {flow.priority})"
    return where, "ovn-trace by hand shows the way up to there"


CONDITIONS = re.compile(r"^(?:\(?reg\d+\[\d+\] == \d\)? && )*")
"""What northd puts before an ACL's own match."""


def _acl(config: Config, flow: Flow) -> str:
    """The ACL behind a logical flow, by its priority and match; with its name and UUID where the Northbound tells them."""
    priority = flow.priority - 1000
    match = CONDITIONS.sub("", flow.match)
    direction = "to-lport" if flow.stage.startswith("ls_out") else "from-lport"
    plain = f"an ACL of {flow.datapath} ({direction}, priority {priority}, {match})"
    try:
        where: list[list[Any]] = [["priority", "==", priority], ["direction", "==", direction]]
        rows = select(config.northbound, "OVN_Northbound", "ACL", where, ["_uuid", "name", "match", "action"])
    except QueryError:
        return plain
    for row in rows:
        if row["match"] in flow.match:
            name = f" {row['name']}" if isinstance(row["name"], str) and row["name"] else ""
            return f"ACL{name} {row['_uuid'][1]} ({direction}, priority {priority}, {row['action']}: {row['match']})"
    return plain

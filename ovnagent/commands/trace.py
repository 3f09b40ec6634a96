"""OVN's own verdict on a packet: `ovn-trace` on the Southbound database, read and told in a sentence.

Reading is a function of the program's text (`read`), and the packet one of addresses (`packet`); only `run` starts anything.
What ovn-trace cannot know: whether a chassis has installed its flows, what conntrack holds, and what lies beyond OVN.
"""

from __future__ import annotations

import ipaddress
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from ovnagent.commands.text import slow
from ovnagent.core.networks import IPAddress
from ovnagent.ovn.connection import Tls

PROGRAM = "ovn-trace"
SECONDS = 60.0
"""It copies the Southbound database first."""
SOURCE_PORT = 40000
ACL_OFFSET = 1000
"""A logical flow's priority over that of its ACL (northd: OVN_ACL_PRI_OFFSET)."""
ACL_PRIORITIES = range(ACL_OFFSET, ACL_OFFSET + 32768)


@dataclass(frozen=True, slots=True)
class Destination:
    """What is to be reached."""

    ip: IPAddress
    port: int = 0
    """0: an echo request."""
    protocol: str = "icmp"

    def __str__(self) -> str:
        if not self.port:
            return str(self.ip)
        host = f"[{self.ip}]" if self.ip.version == 6 else str(self.ip)
        return f"{host}:{self.port}/{self.protocol}"


def destination(text: str) -> Destination:
    """`ADDRESS`, `ADDRESS:PORT` (TCP) or `ADDRESS:PORT/tcp|udp`; an IPv6 address with a port stands in brackets.

    Raises ValueError with a sentence."""
    sentence = f"{text!r} is no ADDRESS or ADDRESS:PORT/tcp|udp; an IPv6 address with a port stands in brackets"
    found = re.fullmatch(r"(?:\[(?P<six>[^]]+)\]|(?P<four>[^:/]+)):(?P<port>\d{1,5})(?:/(?P<protocol>tcp|udp))?", text)
    try:
        if found is None:
            return Destination(ipaddress.ip_address(text))
        port = int(found["port"])
        if not 1 <= port <= 65535:
            raise ValueError(sentence)
        return Destination(ipaddress.ip_address(found["six"] or found["four"]), port, found["protocol"] or "tcp")
    except ValueError:
        raise ValueError(sentence) from None


# ---- packets, as ovn-trace's microflows (ovn-trace(8)) --------------------------------------------------------------


def packet(port: str, mac: str, ip: IPAddress, via: str, to: Destination) -> str:
    """The first packet to a destination; `via`: the MAC that it is sent to."""
    family = f"ip{to.ip.version}"
    if to.port:
        rest = f"{to.protocol}.src == {SOURCE_PORT} && {to.protocol}.dst == {to.port}"
    else:
        rest = "icmp4.type == 8" if to.ip.version == 4 else "icmp6.type == 128"
    return (
        f'inport == "{port}" && eth.src == {mac} && eth.dst == {via} && {family}.src == {ip} && {family}.dst == {to.ip} '
        f"&& ip.ttl == 64 && {rest}"
    )


def question(port: str, mac: str, ip: IPAddress, wanted: IPAddress) -> str:
    """Who has this address? By ARP, or by neighbour solicitation."""
    start = f'inport == "{port}" && eth.src == {mac}'
    if wanted.version == 4:
        return (
            f"{start} && eth.dst == ff:ff:ff:ff:ff:ff && arp.op == 1 && arp.sha == {mac} && arp.spa == {ip} && "
            f"arp.tha == 00:00:00:00:00:00 && arp.tpa == {wanted}"
        )
    last = wanted.packed[-3:]
    group = ipaddress.IPv6Address(ipaddress.IPv6Address("ff02::1:ff00:0").packed[:13] + last)
    multicast = ":".join(("33", "33", "ff", *(f"{octet:02x}" for octet in last)))
    return (
        f"{start} && eth.dst == {multicast} && ip6.src == {ip} && ip6.dst == {group} && ip.ttl == 255 && icmp6.type == 135 "
        f"&& icmp6.code == 0 && nd.target == {wanted} && nd.sll == {mac}"
    )


# ---- what ovn-trace says --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Flow:
    """A logical flow that the packet met."""

    datapath: str
    stage: str
    match: str
    priority: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a packet."""

    port: str = ""
    """Delivered to this port; empty where it is not."""
    type: str = ""
    """That port's; empty for a VM's."""
    answered: str = ""
    """The router that answers by itself."""
    dropped: Flow | None = None
    rejected: bool = False
    acl: Flow | None = None
    """The flow of the ACL that drops or rejects it."""
    asks: str = ""
    """The router that does not know the next hop's MAC, and asks for it."""

    @property
    def acl_priority(self) -> int:
        return self.acl.priority - ACL_OFFSET if self.acl is not None else 0


STAGE = re.compile(r"^\s*\d+\. (\S+?)(?: \([^)]*\))?: (.*), priority (\d+)(?:, uuid [0-9a-f]+)?$")
BLOCK = re.compile(r'^\s*(?:ingress|egress)\(dp="([^"]*)"')
OUTPUT = re.compile(r'^\s*/\* output to "([^"]*)", type "([^"]*)" \*/$')


def read(text: str) -> Verdict:
    """The verdict on a unicast packet, from the text of `ovn-trace --detailed`."""
    datapath, flow, acl = "", Flow("", "", "", 0), None
    answered = ""
    last = Verdict()
    for line in text.splitlines():
        action = line.strip()
        if found := BLOCK.match(line):
            datapath, acl = found[1], None
        elif found := STAGE.match(line):
            flow = Flow(datapath, found[1], found[2], int(found[3]))
            if "_acl" in flow.stage and flow.priority in ACL_PRIORITIES and not flow.stage.endswith(("_hint", "_action")):
                acl = flow
        elif action.startswith("reject {"):
            return Verdict(rejected=True, dropped=flow, acl=acl)
        elif action in ("drop;", "/* drop */;") or "no match (implicit drop)" in action:
            return Verdict(dropped=flow, acl=acl if "_acl" in flow.stage else None)
        elif flow.stage == "lr_in_arp_request" and action.startswith(("arp {", "nd_ns {")):
            return Verdict(asks=datapath)
        elif flow.stage == "lr_in_ip_input" and action in ("icmp4.type = 0;", "icmp6.type = 129;"):
            answered = datapath
        elif (found := OUTPUT.match(line)) and found[2] != "patch":
            last = Verdict(port=found[1], type=found[2], answered=answered)
    if not last.port and flow.stage:  # an ACL that logs drops without a word
        return Verdict(dropped=flow, acl=acl if "_acl" in flow.stage else None)
    return last


def answer(text: str) -> str:
    """The MAC with which OVN itself answers a `question`; empty where it does not."""
    replying = False
    for line in text.splitlines():
        action = line.strip()
        if found := STAGE.match(line):
            replying = found[1] in ("ls_in_arp_rsp", "ls_in_arp_nd_rsp", "lr_in_ip_input")
        elif replying and (found := re.match(r"(?:nd_na\w* \{ ?)?eth\.src = ([0-9a-f:]{17});", action)):
            return found[1]
    return ""


# ---- the program ----------------------------------------------------------------------------------------------------


class TraceError(Exception):
    """It could not be asked; the message says why."""


def run(southbound: str, tls: Tls | None, switch: str, flow: str) -> str:
    """What ovn-trace says of a packet that enters a logical switch, new to every conntrack zone.

    Raises TraceError."""
    command: Sequence[str] = (
        PROGRAM,
        f"--db={southbound}",
        "--no-leader-only",
        "--detailed",
        *(("--ct=new",) * 8),
        *(("-p", str(tls.private_key), "-c", str(tls.certificate), "-C", str(tls.ca)) if tls is not None else ()),
        switch,
        flow,
    )
    try:
        with slow("asking OVN (ovn-trace copies the Southbound database first)"):
            done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except FileNotFoundError:
        raise TraceError(
            "ovn-trace is not on PATH; run this where OVN's tools are (package ovn-common), with endpoints that are reached "
            "from there"
        ) from None
    except subprocess.TimeoutExpired:
        raise TraceError(f"ovn-trace has not ended within {SECONDS:g} s") from None
    if done.returncode != 0:
        raise TraceError(f"ovn-trace: {done.stderr.strip()[-500:]}")
    return done.stdout

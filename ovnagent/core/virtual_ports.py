"""Addresses that several ports of a switch may use in turn, as keepalived moves them, and OVN's virtual ports for them.

A virtual port belongs to no VM: it is part of the network, and follows from what all VMs may use.
"""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Collection, Mapping

from ovnagent.core import ports
from ovnagent.core.books import Books
from ovnagent.core.networks import IPAddress
from ovnagent.core.ports import Port, PresentPort


def virtual_name(ip: IPAddress, switch: str) -> str:
    """The name of the virtual port of an address."""
    return f"{ip}.{switch}"


def virtual_ports(cluster: str, books: Books, taken: Collection[str] = ()) -> list[Port]:
    """A port of type `virtual` (ovn-nb(5)) for each shared address: OVN binds it to that parent which announces the
    address, and routers send there what is for it.

    `taken`: names of other ports. A VM may be called like an address; no VM's name holds an `@`."""
    found = []
    for switch, ip, holders in books.shared():
        name = virtual_name(ip, switch)
        # By their keys, as core/ports.py has it.
        options = {"virtual-ip": str(ip), "virtual-parents": ",".join(sorted(holder.port for holder in holders))}
        external_ids = {ports.CLUSTER: cluster, ports.EXTRA_OPTIONS: ",".join(options)}
        found.append(
            Port(
                name=_other_name(ip, switch) if name in taken else name,
                switch=switch,
                type="virtual",
                options=tuple(options.items()),
                external_ids=tuple(external_ids.items()),
            )
        )
    return found


def _other_name(ip: IPAddress, switch: str) -> str:
    return f"{ip}@{switch}"


def shares(rows: Mapping[str, PresentPort], switch: str, ip: IPAddress, port: str) -> bool:
    """This port shares the address by the agent's own rows (name -> virtual port): who shared an address before the agent
    was started goes on, whoever asks for it first now."""
    for name in (virtual_name(ip, switch), _other_name(ip, switch)):
        row = rows.get(name)
        if row is not None and (row.port.switch, row.port.option("virtual-ip")) == (switch, str(ip)):
            return port in _parents(row.port)
    return False


def shared_by(rows: Mapping[str, PresentPort]) -> Mapping[tuple[str, str], list[IPAddress]]:
    """(logical switch, port) -> the addresses that it shares by the agent's own rows. It reads all of them."""
    found: defaultdict[tuple[str, str], list[IPAddress]] = defaultdict(list)
    for row in rows.values():
        try:
            ip = ipaddress.ip_address(row.port.option("virtual-ip"))
        except ValueError:
            continue  # somebody mangled it; the row is written anew
        for port in _parents(row.port):
            found[row.port.switch, port].append(ip)
    return found


def _parents(port: Port) -> list[str]:
    return port.option("virtual-parents").split(",")

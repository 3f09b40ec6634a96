"""Addresses that several ports of a switch may use in turn, as keepalived moves them, and OVN's virtual ports for them.

A virtual port belongs to no VM: it is part of the network, and follows from what all VMs may use.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

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
        options = {"virtual-ip": str(ip), "virtual-parents": ",".join(sorted(holder.port for holder in holders))}
        external_ids = {ports.CLUSTER: cluster, ports.EXTRA_OPTIONS: ",".join(sorted(options))}
        found.append(
            Port(
                name=f"{ip}@{switch}" if name in taken else name,
                switch=switch,
                type="virtual",
                options=tuple(sorted(options.items())),
                external_ids=tuple(sorted(external_ids.items())),
            )
        )
    return found


def standing_shares(rows: Iterable[PresentPort]) -> Mapping[tuple[str, str], frozenset[str]]:
    """(logical switch, address) -> names of the ports that share it by the agent's own rows: who shared an address before
    the agent was started goes on, whoever asks for it first now."""
    return {
        (row.port.switch, row.port.option("virtual-ip")): frozenset(row.port.option("virtual-parents").split(","))
        for row in rows
        if row.port.type == "virtual"
    }

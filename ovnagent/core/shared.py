"""Addresses that several ports of a switch may use in turn, as keepalived moves them, and OVN's virtual ports for them."""

from __future__ import annotations

from collections.abc import Iterator

from ovnagent.core import ports
from ovnagent.core.addresses import Books
from ovnagent.core.networks import IPAddress
from ovnagent.core.ports import Port
from ovnagent.core.vm import VmKey

NO_VM = VmKey("", "")
"""Whose virtual ports are: they belong to all VMs that share the address, and to none."""


def virtual_name(ip: IPAddress, switch: str) -> str:
    """The name of the virtual port of an address."""
    return f"{ip}.{switch}"


def virtual_ports(cluster: str, books: Books) -> Iterator[Port]:
    """A port of type `virtual` (ovn-nb(5)) for each shared address: OVN binds it to that parent which announces the
    address, and routers send there what is for it."""
    for switch, ip, holders in books.shared():
        options = {"virtual-ip": str(ip), "virtual-parents": ",".join(sorted(holder.port for holder in holders))}
        external_ids = {ports.CLUSTER: cluster, ports.EXTRA_OPTIONS: ",".join(sorted(options))}
        yield Port(
            name=virtual_name(ip, switch),
            switch=switch,
            type="virtual",
            options=tuple(sorted(options.items())),
            external_ids=tuple(sorted(external_ids.items())),
        )

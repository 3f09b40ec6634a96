"""What others use on the agent's switches: the addresses of their ports, and of the routers behind them."""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ForeignPort:
    """A logical switch port that is not the agent's."""

    name: str
    switch: str
    """Empty where the port is on none of the agent's switches, and only its name matters."""
    ips: tuple[str, ...]
    """In the form in which ipaddress writes them."""
    macs: tuple[str, ...]
    """In lower case."""
    router_port: str
    """The logical router port that a port of type `router` leads to, or empty."""

    @property
    def phrase(self) -> str:
        return f"router port {self.router_port}" if self.router_port else f"logical switch port {self.name}"


def foreign_port(
    name: str,
    switch: str,
    type_: str,
    entries: Iterable[str],
    options: Mapping[str, str],
) -> ForeignPort:
    """`entries`: those of `addresses` and `dynamic_addresses`: `MAC IP...`, `dynamic IP...`, `MAC dynamic`, `router`,
    `unknown` (ovn-nb(5)). What is no address is passed over."""
    words = [entry.split() for entry in entries]
    ips = [ip for entry in words for ip in entry[1:]]
    if type_ == "virtual":
        ips.append(options.get("virtual-ip", ""))
    return ForeignPort(
        name=name,
        switch=switch,
        ips=_ips(ips),
        macs=tuple(dict.fromkeys(entry[0].lower() for entry in words if entry and ":" in entry[0])),
        router_port=options.get("router-port", "") if type_ == "router" else "",
    )


class Uses(dict[str, str]):
    """Address -> phrase that names its user; it is free when the last of several users lets go."""

    def __init__(self) -> None:
        super().__init__()
        self._users: dict[str, list[str]] = {}

    def add(self, address: str, phrase: str) -> None:
        users = self._users.setdefault(address, [])
        users.append(phrase)
        self[address] = users[0]

    def drop(self, address: str, phrase: str) -> None:
        users = self._users[address]
        users.remove(phrase)
        if users:
            self[address] = users[0]
        else:
            del self[address], self._users[address]


class Inventory:
    """Bookkeeping by row, O(1) a change. The mappings may be read from any thread; they are changed in place."""

    def __init__(self) -> None:
        self.ips: defaultdict[str, Uses] = defaultdict(Uses)
        """Switch -> IP -> phrase that names the user."""
        self.macs: defaultdict[str, Uses] = defaultdict(Uses)
        self.names = Uses()
        """Port name -> phrase that names the user."""
        self._ports: dict[str, ForeignPort] = {}  # by row UUID
        self._routers: dict[str, tuple[str, tuple[str, ...]]] = {}  # router port -> MAC, IPs
        self._attached: defaultdict[str, set[str]] = defaultdict(set)  # router port -> row UUIDs

    def put(self, row_id: str, port: ForeignPort) -> bool:
        """Note a port as it is now; False if that is no news."""
        if self._ports.get(row_id) == port:
            return False
        self.remove(row_id)
        self._ports[row_id] = port
        self._attached[port.router_port].add(row_id)
        for uses, what in self._uses(port):
            uses.add(what, port.phrase)
        return True

    def remove(self, row_id: str) -> bool:
        """Forget a port; False if it was not known."""
        port = self._ports.pop(row_id, None)
        if port is None:
            return False
        self._attached[port.router_port].discard(row_id)
        for uses, what in self._uses(port):
            uses.drop(what, port.phrase)
        return True

    def put_router_port(self, name: str, mac: str, networks: Sequence[str]) -> bool:
        """Note a router port; True if it is behind one of the agent's switches."""
        return self._change_router_port(name, (mac.lower(), _ips(networks)))

    def remove_router_port(self, name: str) -> bool:
        return self._change_router_port(name, None)

    def _change_router_port(self, name: str, now: tuple[str, tuple[str, ...]] | None) -> bool:
        attached = [(row_id, self._ports[row_id]) for row_id in self._attached.get(name, ())]
        for row_id, _ in attached:
            self.remove(row_id)
        if now is None:
            self._routers.pop(name, None)
        else:
            self._routers[name] = now
        for row_id, port in attached:
            self.put(row_id, port)
        return bool(attached)

    def _uses(self, port: ForeignPort) -> Iterator[tuple[Uses, str]]:
        """What a port uses: its name, and on the agent's switches its addresses, those of its router included."""
        yield self.names, port.name
        if port.switch:
            mac, ips = self._routers.get(port.router_port, ("", ()))
            for ip in dict.fromkeys((*port.ips, *ips)):
                yield self.ips[port.switch], ip
            for address in dict.fromkeys((*port.macs, mac)):
                if address:
                    yield self.macs[port.switch], address


def _ips(texts: Iterable[str]) -> tuple[str, ...]:
    """Addresses, with or without a prefix length, as ipaddress writes them, each once."""
    found: dict[str, None] = {}
    for text in texts:
        try:
            found[str(ipaddress.ip_interface(text).ip)] = None
        except ValueError:
            continue
    return tuple(found)

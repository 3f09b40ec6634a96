"""What others use on the agent's switches: the addresses of their ports, and of the routers behind them."""

from __future__ import annotations

import ipaddress
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from immutables import Map

from ovnagent.core.addresses import Foreign

K = TypeVar("K")


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
    words = [split for entry in entries if (split := entry.split())]
    ips = [ip for entry in words for ip in entry[1:]]
    if type_ == "virtual":
        ips.append(options.get("virtual-ip", ""))
    return ForeignPort(
        name=name,
        switch=switch,
        ips=_ips(ips),
        macs=tuple(dict.fromkeys(mac for entry in words for mac in _mac(entry[0]))),
        router_port=options.get("router-port", "") if type_ == "router" else "",
    )


class Uses(Generic[K]):
    """Who uses what; a thing is free when the last of its users lets go."""

    def __init__(self) -> None:
        self.now: Map[K, str] = Map()
        """Thing -> its user (the first one where there are several). Replaced, never changed."""
        self._further: dict[K, list[str]] = {}

    def add(self, thing: K, user: str) -> None:
        if thing in self.now:
            self._further.setdefault(thing, []).append(user)
        else:
            self.now = self.now.set(thing, user)

    def drop(self, thing: K, user: str) -> None:
        further = self._further.get(thing, [])
        if self.now[thing] != user:
            further.remove(user)
        elif further:
            self.now = self.now.set(thing, further.pop(0))
        else:
            self.now = self.now.delete(thing)
        if not further:
            self._further.pop(thing, None)


class Inventory:
    """Bookkeeping by row, O(log n) a change."""

    def __init__(self) -> None:
        self.ips: defaultdict[str, Uses[str]] = defaultdict(Uses)
        """Switch -> who uses which IP address there; users are phrases that name them."""
        self.macs: defaultdict[str, Uses[str]] = defaultdict(Uses)
        self.names: Uses[str] = Uses()
        """Who has which port name."""
        self.foreign: Map[str, Foreign] = Map()
        """Switch -> what is used there, as of `refresh`; the same object as before where nothing has changed."""
        self._changed: set[str] = set()  # switches, since `refresh`
        self._ports: dict[str, ForeignPort] = {}  # by row UUID
        self._routers: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {}  # router port -> MACs, IPs
        self._attached: defaultdict[str, set[str]] = defaultdict(set)  # router port -> row UUIDs

    def refresh(self) -> Map[str, Foreign]:
        """Bring `foreign` up to date, and return it."""
        for switch in self._changed - {""}:
            used = Foreign(self.ips[switch].now, self.macs[switch].now)
            if used.ips or used.macs:
                self.foreign = self.foreign.set(switch, used)
            elif switch in self.foreign:
                self.foreign = self.foreign.delete(switch)
        self._changed.clear()
        return self.foreign

    def put(self, row_id: str, port: ForeignPort) -> bool:
        """Note a port as it is now; False if that is no news."""
        if self._ports.get(row_id) == port:
            return False
        self.remove(row_id)
        self._changed.add(port.switch)
        self._ports[row_id] = port
        if port.router_port:
            self._attached[port.router_port].add(row_id)
        for uses, what in self._uses(port):
            uses.add(what, port.phrase)
        return True

    def remove(self, row_id: str) -> bool:
        """Forget a port; False if it was not known."""
        port = self._ports.pop(row_id, None)
        if port is None:
            return False
        self._changed.add(port.switch)
        if port.router_port:
            self._attached[port.router_port].discard(row_id)
            if not self._attached[port.router_port]:
                del self._attached[port.router_port]
        for uses, what in self._uses(port):
            uses.drop(what, port.phrase)
        return True

    def put_router_port(self, name: str, mac: str, networks: Sequence[str]) -> bool:
        """Note a router port; True if it is behind one of the agent's switches."""
        return self._change_router_port(name, (_mac(mac), _ips(networks)))

    def remove_router_port(self, name: str) -> bool:
        return self._change_router_port(name, None)

    def _change_router_port(self, name: str, now: tuple[tuple[str, ...], tuple[str, ...]] | None) -> bool:
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

    def _uses(self, port: ForeignPort) -> Iterator[tuple[Uses[str], str]]:
        """What a port uses: its name, and on the agent's switches its addresses, those of its router included."""
        yield self.names, port.name
        if port.switch:
            macs, ips = self._routers.get(port.router_port, ((), ()))
            for ip in dict.fromkeys((*port.ips, *ips)):
                yield self.ips[port.switch], ip
            for mac in dict.fromkeys((*port.macs, *macs)):
                yield self.macs[port.switch], mac


def _ips(texts: Iterable[str]) -> tuple[str, ...]:
    """Addresses, with or without a prefix length or a zone, as ipaddress writes them, each once."""
    found: dict[str, None] = {}
    for text in texts:
        try:
            found[str(ipaddress.ip_address(text.partition("/")[0].partition("%")[0]))] = None
        except ValueError:
            continue
    return tuple(found)


_MAC = re.compile("[0-9a-f]{1,2}(:[0-9a-f]{1,2}){5}")


def _mac(text: str) -> tuple[str, ...]:
    """A MAC with two digits for each byte (OVS reads `a:0:0:0:0:1`, too), or nothing."""
    if _MAC.fullmatch(text := text.lower()) is None:
        return ()
    return (text if len(text) == 17 else ":".join(part.zfill(2) for part in text.split(":")),)

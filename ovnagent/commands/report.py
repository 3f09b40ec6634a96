"""What `ovnagent ports` and `ovnagent pools` show, as values and as text."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import yaml

from ovnagent.commands.observer import View
from ovnagent.core.networks import Network, Subnet
from ovnagent.core.ports import INTERFACE, NETWORK, Port
from ovnagent.core.vm import VmKey
from ovnagent.ovn.changes import CreatePort, DeletePort, UpdatePort


@dataclass(frozen=True, slots=True)
class PortLine:
    """One port; or a VM that should have one and gets none, with empty fields. Addresses are those in NB."""

    namespace: str
    vm: str
    interface: str
    port: str
    addresses: tuple[str, ...]
    wanted: tuple[str, ...]
    """Names of chassis, the main one first."""
    bound: tuple[str, ...]
    trouble: tuple[str, ...]
    """`missing`, `drift` or `leftover` of the row, and the reasons of the VM's problems."""
    mac: str
    network: str
    situation: str
    details: str
    """The problems' sentences."""

    @property
    def id(self) -> tuple[str, str, str]:
        return self.namespace, self.vm, self.port


@dataclass(frozen=True, slots=True)
class Held:
    address: str
    vm: str
    port: str


@dataclass(frozen=True, slots=True)
class PoolLine:
    """The addresses of one family on a network."""

    network: str
    family: str
    cidr: str
    size: int
    """How many ports may have, used or not."""
    used: int
    """By VMs of this network."""
    others: int
    """By other ports of the switch, by VMs of other networks on it, and as shared addresses."""
    free: int
    holders: tuple[Held, ...]
    """Sorted by address."""


PORT_COLUMNS = ("namespace", "vm", "interface", "port", "addresses", "wanted", "bound", "trouble")
PORT_COLUMNS_WIDE = (*PORT_COLUMNS, "mac", "network", "situation", "details")
POOL_COLUMNS = ("network", "family", "cidr", "size", "used", "others", "free")
HOLDER_COLUMNS = ("network", "address", "vm", "port")


# ---- values ---------------------------------------------------------------------------------------------------------


def port_lines(view: View, namespace: str = "", vm: str = "") -> list[PortLine]:
    """All ports, or those of a namespace or a VM."""
    return [
        line
        for key in view.results
        if namespace in ("", key.namespace) and vm in ("", key.name)
        for line in _port_lines(view, key)
    ]


def _port_lines(view: View, key: VmKey) -> Iterator[PortLine]:
    result, case = view.results[key], view.cases[key]
    present = {row.port.name: row.port for row in case.present}
    states: dict[str, str] = {}
    ports: dict[str, Port] = {port.name: port for port in result.wanted}
    for change in view.changes(key):
        match change:
            case CreatePort(port):
                states[port.name] = "missing"
            case UpdatePort(_, port):
                states[port.name] = "drift"
            case DeletePort(row):
                states[row.port.name], ports[row.port.name] = "leftover", row.port
    reasons = tuple(dict.fromkeys(problem.reason for problem in result.problems))
    details = "; ".join(problem.message for problem in result.problems)
    situation = case.where.situation.value
    for name, port in ports.items():
        binding, shown, state = view.bindings.get(name), present.get(name, port), states.get(name, "")
        yield PortLine(
            namespace=key.namespace,
            vm=key.name,
            interface=port.external_id(INTERFACE),
            port=name,
            addresses=shown.ips,
            wanted=port.requested_chassis if state != "leftover" else (),
            bound=tuple(filter(None, (binding.chassis, *binding.additional))) if binding is not None else (),
            trouble=(*filter(None, (state,)), *reasons),
            mac=shown.mac,
            network=port.external_id(NETWORK),
            situation=situation,
            details=details,
        )
    if reasons and not ports:
        yield PortLine(key.namespace, key.name, "", "", (), (), (), reasons, "", "", situation, details)


def news(before: Sequence[PortLine], now: Sequence[PortLine], columns: Sequence[str]) -> list[PortLine]:
    """Lines that are new or changed in one of these columns, and those that are gone, which say so."""

    def shown(line: PortLine) -> tuple[object, ...]:
        return tuple(getattr(line, column) for column in columns)

    known, ids = {shown(line) for line in before}, {line.id for line in now}
    gone = [replace(line, wanted=(), bound=(), trouble=("gone",), details="") for line in before if line.id not in ids]
    return [*(line for line in now if shown(line) not in known), *gone]


def pool_lines(view: View) -> list[PoolLine]:
    """The address pools: a line for each network and family."""
    return [_pool_line(view, network, subnet) for network in view.world.networks.all for subnet in network.subnets]


def _pool_line(view: View, network: Network, subnet: Subnet) -> PoolLine:
    book, foreign = view.books[network.logical_switch], view.world.foreign.get(network.logical_switch)
    own = sorted(
        (ip, holder)
        for ip, holder in book.ips.items()
        if ip.version == subnet.version and book.leases[holder].network == network.name
    )
    # A holder may sit where nobody else is put: outside a subnet that was changed, in a range reserved since.
    candidates = {*book.ips, *book.shared, *map(ipaddress.ip_address, foreign.ips if foreign is not None else ())}
    taken = {ip for ip in candidates if not subnet.refuse(ip)}
    return PoolLine(
        network=network.name,
        family=f"IPv{subnet.version}",
        cidr=str(subnet.cidr),
        size=subnet.size,
        used=len(own),
        others=len(taken - {ip for ip, _ in own}),
        free=subnet.size - len(taken),
        holders=tuple(Held(str(ip), str(holder.key), holder.port) for ip, holder in own),
    )


# ---- text -----------------------------------------------------------------------------------------------------------


def render(lines: Sequence[Any], style: str, columns: Sequence[str] = (), among: Sequence[Any] = ()) -> str:
    """Lines (dataclasses) as a table of these columns (as wide as `among` needs as well), or all of them as JSON or YAML."""
    raw = [asdict(line) for line in lines]
    if style == "json":
        return json.dumps(raw, indent=2)
    if style == "yaml":
        text: str = yaml.safe_dump(json.loads(json.dumps(raw)), sort_keys=False, allow_unicode=True)
        return text.rstrip("\n")
    return table(raw, columns, [asdict(line) for line in among])


def holders(lines: Sequence[PoolLine]) -> str:
    """Who holds what, as a table."""
    rows = [{"network": line.network, **asdict(held)} for line in lines for held in line.holders]
    return table(rows, HOLDER_COLUMNS)


def table(rows: Sequence[Mapping[str, object]], columns: Sequence[str], among: Sequence[Mapping[str, object]] = ()) -> str:
    """Columns as wide as their content, the heads in capitals, `-` for nothing."""
    cells = [[column.upper() for column in columns], *([_cell(row[column]) for column in columns] for row in rows)]
    wide = [*cells, *([_cell(row[column]) for column in columns] for row in among)]
    widths = [max(len(line[index]) for line in wide) for index in range(len(columns))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in cells
    )


def _cell(value: object) -> str:
    text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return text or "-"

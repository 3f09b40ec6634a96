"""What `ovnagent ports`, `check` and `pools` say, as values and as text."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import yaml

from ovnagent.core.placement import Situation
from ovnagent.core.ports import INTERFACE, NETWORK, Port
from ovnagent.core.shared import NO_VM
from ovnagent.difference import changes
from ovnagent.observer import View
from ovnagent.ovn.changes import CreatePort, DeletePort, UpdatePort

FORMATS = ("table", "wide", "json", "yaml")


@dataclass(frozen=True, slots=True)
class PortLine:
    """One port, wanted or present. Chassis are names, comma-separated, the main one first."""

    namespace: str
    vm: str
    interface: str
    port: str
    addresses: str
    wanted: str
    bound: str
    trouble: str
    mac: str
    network: str
    situation: str
    details: str


@dataclass(frozen=True, slots=True)
class Finding:
    """What is not as it should be, and what to do about it."""

    kind: str
    """`missing`, `drift`, `leftover`, `duplicate`, `stale-pin`, `unbound`, or a problem's reason (AddressConflict...)."""
    what: str
    message: str


@dataclass(frozen=True, slots=True)
class PoolLine:
    network: str
    family: str
    cidr: str
    size: int
    used: int
    free: int
    holders: tuple[str, ...]
    """`address VM`, sorted by address."""


# ---- ports ----------------------------------------------------------------------------------------------------------


def port_lines(view: View, namespace: str = "", vm: str = "") -> list[PortLine]:
    """All ports, or those of a namespace or a VM; also a line for each VM that should have a port and gets none."""
    found = []
    for key, result in view.results.items():
        if key == NO_VM or (namespace and key.namespace != namespace) or (vm and key.name != vm):
            continue
        trouble = ",".join(dict.fromkeys(problem.reason for problem in result.problems))
        details = "; ".join(problem.message for problem in result.problems)
        situation = view.cases[key].where.situation.value
        present = {row.port.name: row.port for row in view.cases[key].present}
        for port in result.wanted:
            shown = present.get(port.name, port)
            found.append(
                PortLine(
                    namespace=key.namespace,
                    vm=key.name,
                    interface=port.external_id(INTERFACE),
                    port=port.name,
                    addresses=",".join(shown.ips),
                    wanted=",".join(port.requested_chassis),
                    bound=_bound(view, port.name),
                    trouble=trouble,
                    mac=shown.mac,
                    network=port.external_id(NETWORK),
                    situation=situation,
                    details=details,
                )
            )
        if result.problems and not result.wanted:
            found.append(PortLine(key.namespace, key.name, "", "", "", "", "", trouble, "", "", situation, details))
    return found


def _bound(view: View, port: str) -> str:
    binding = view.bindings.get(port)
    return ",".join(filter(None, (binding.chassis, *binding.additional))) if binding is not None else ""


# ---- check ----------------------------------------------------------------------------------------------------------


def findings(view: View) -> list[Finding]:
    """Everything that is not as it should be."""
    return [*_drift(view), *_duplicates(view), *_pins(view), *_problems(view)]


def _drift(view: View) -> Iterator[Finding]:
    remedy = "a running agent puts it right: see its log and /readyz"
    for key, result in view.results.items():
        for change in changes(result, view.cases[key].present):
            match change:
                case CreatePort(port):
                    yield Finding("missing", port.name, f"port of VM {key} is not there; {remedy}")
                case UpdatePort(present, port):
                    yield Finding("drift", port.name, f"{_difference(present.port, port)}; {remedy}")
                case DeletePort(present):
                    yield Finding("leftover", present.port.name, f"VM {key} does not use it any more; {remedy}")


def _difference(is_: Port, wanted: Port) -> str:
    return ", ".join(
        f"{name} is {getattr(is_, name)!r}, should be {getattr(wanted, name)!r}"
        for name in Port.__dataclass_fields__
        if getattr(is_, name) != getattr(wanted, name)
    )


def _duplicates(view: View) -> Iterator[Finding]:
    users: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for row in view.world.holders.values():
        foreign = view.world.foreign.get(row.port.switch)
        for address in (*row.port.ips, row.port.mac):
            if address:
                users[row.port.switch, address].append(row.port.name)
                other = (foreign.ips.get(address) or foreign.macs.get(address)) if foreign is not None else None
                if other:
                    users[row.port.switch, address].append(other)
    for (switch, address), names in sorted(users.items()):
        if len(names) > 1:
            text = f"used on switch {switch} by {', '.join(sorted(names))}; change all but one"
            yield Finding("duplicate", address, text)


def _pins(view: View) -> Iterator[Finding]:
    known = {name for names in view.world.chassis.by_hostname.values() for name in names}
    for row in view.world.holders.values():
        gone = [name for name in row.port.requested_chassis if name not in known]
        if gone:
            text = f"requested-chassis names {', '.join(gone)}, which SB does not know; start ovn-controller there"
            yield Finding("stale-pin", row.port.name, text)
    for key, result in view.results.items():
        if view.cases[key].where.situation is not Situation.PLACED:
            continue
        for port in result.wanted:
            binding, wanted = view.bindings.get(port.name), port.requested_chassis
            if len(wanted) == 1 and port.enabled and (binding is None or binding.chassis != wanted[0]):
                where = f"on {binding.chassis}" if binding is not None and binding.chassis else "nowhere"
                text = (
                    f"VM {key} runs on chassis {wanted[0]}, but the port is bound {where}; is its interface plugged into "
                    f"br-int there, with external_ids:iface-id={port.name}?"
                )
                yield Finding("unbound", port.name, text)


def _problems(view: View) -> Iterator[Finding]:
    for key, result in view.results.items():
        for problem in result.problems:
            yield Finding(problem.reason, str(key), problem.message)


# ---- pools ----------------------------------------------------------------------------------------------------------


def pool_lines(view: View) -> list[PoolLine]:
    """The address pools: a line for each network and family."""
    found = []
    for network in view.world.networks.all:
        book = view.world.books[network.logical_switch]
        used = dict(view.world.books.used(network))
        for subnet in network.subnets:
            holders = sorted(
                (ip, holder.key)
                for ip, holder in book.ips.items()
                if ip.version == subnet.version and book.leases[holder].network == network.name
            )
            count = used[subnet.version]
            found.append(
                PoolLine(
                    network=network.name,
                    family=f"IPv{subnet.version}",
                    cidr=str(subnet.cidr),
                    size=subnet.size,
                    used=count,
                    free=max(0, subnet.size - count),
                    holders=tuple(f"{ip} {key}" for ip, key in holders),
                )
            )
    return found


# ---- text -----------------------------------------------------------------------------------------------------------

PORT_COLUMNS = ("namespace", "vm", "interface", "port", "addresses", "wanted", "bound", "trouble")
PORT_COLUMNS_WIDE = (*PORT_COLUMNS, "mac", "network", "situation", "details")
POOL_COLUMNS = ("network", "family", "cidr", "size", "used", "free")


def render(lines: Sequence[Any], style: str, columns: Sequence[str], wide: Sequence[str] = ()) -> str:
    """Lines (dataclasses) as a table of these columns, or all of them as JSON or YAML."""
    raw = [asdict(line) for line in lines]
    if style == "json":
        return json.dumps(raw, indent=2)
    if style == "yaml":
        text: str = yaml.safe_dump(json.loads(json.dumps(raw)), sort_keys=False)
        return text.rstrip("\n")
    return table(raw, wide if style == "wide" and wide else columns)


def table(rows: Iterable[Mapping[str, object]], columns: Sequence[str]) -> str:
    """Columns as wide as their content, the heads in capitals, `-` for nothing."""
    cells = [[column.upper() for column in columns]]
    cells += [[_cell(row[column]) for column in columns] for row in rows]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in cells
    )


def _cell(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "-"
    return str(value) if value not in ("", None) else "-"


def twice(first: Sequence[Finding], second: Callable[[], Sequence[Finding]]) -> list[Finding]:
    """What both looks have found: what an agent was just about to do is no finding."""
    if not first:
        return []
    known = {(finding.kind, finding.what) for finding in first}
    return [finding for finding in second() if (finding.kind, finding.what) in known]

"""The record: what a VM holds, written on the VM itself, so that a lost Northbound database costs no VM its addresses.

    ovnagent.io/record: {"vm":"default/testvm","uid":"c8d0...","ports":{"testvm.default":
                         {"interface":"default","network":"pods","ips":["10.16.0.9"],"mac":"0a:58:..."}}}

A record that carries another UID was copied (clone, template) or brought back (backup restored, object re-created). It is
a wish then, never a claim. Whoever may edit the VM may edit the record: it is read as strictly as everything else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from ovnagent.core import limits, values
from ovnagent.core.networks import IPAddress
from ovnagent.core.vm import VmKey


@dataclass(frozen=True, slots=True)
class Lease:
    """The addresses that one port of a VM holds on a network."""

    port: str
    interface: str
    network: str
    ips: tuple[IPAddress, ...]
    mac: str


@dataclass(frozen=True, slots=True)
class Record:
    """All leases of a VM, with the identity they belong to."""

    vm: VmKey
    uid: str
    leases: tuple[Lease, ...]


def render(record: Record) -> str:
    """The annotation's text; equal records give equal texts."""
    ports = {
        lease.port: {
            "interface": lease.interface,
            "network": lease.network,
            "ips": [str(ip) for ip in lease.ips],
            "mac": lease.mac,
        }
        for lease in sorted(record.leases, key=lambda lease: lease.port)
    }
    return orjson.dumps({"vm": str(record.vm), "uid": record.uid, "ports": ports}).decode()


def parse(text: str) -> Record | None:
    """The record in an annotation, or None where it holds none that can be read: a damaged record claims nothing, and
    the agent writes it anew."""
    try:
        raw = values.parse_json(text, limits.RECORD)
        namespace, _, name = values.parse_namespaced(raw["vm"]).partition("/")
        values.check_count(len(raw["ports"]), limits.LEASES, "ports")
        return Record(VmKey(namespace, name), values.parse_uid(raw["uid"]), tuple(_leases(raw["ports"].items())))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _leases(items: Iterable[tuple[str, Mapping[str, Any]]]) -> Iterable[Lease]:
    for port, entry in items:
        ips = tuple(values.parse_ip(ip) for ip in entry["ips"])
        if not isinstance(entry["ips"], list) or not 1 <= len(ips) == len({ip.version for ip in ips}):
            raise ValueError(f"ips of {port} is no list of one address a family")
        yield Lease(
            port=values.parse_line(port, limits.PORT),
            interface=values.parse_interface(entry["interface"]),
            network=values.parse_title(entry["network"]),
            ips=ips,
            mac=values.parse_mac(entry["mac"]),
        )

"""The record: what a VM holds, written on the VM itself, so that a lost Northbound database costs no VM its addresses.

    ovnagent.io/record: {"vm":"default/testvm","uid":"c8d0...","ports":{"testvm.default":
                         {"interface":"default","network":"pods","ips":["10.16.0.9"],"mac":"0a:58:..."}}}

A record that carries another UID was copied (clone, template) or brought back (backup restored, object re-created). It is
a wish then, never a claim.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable
from dataclasses import dataclass

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
    return json.dumps({"vm": str(record.vm), "uid": record.uid, "ports": ports}, separators=(",", ":"))


def parse(text: str) -> Record | None:
    """The record in an annotation, or None where it holds none that can be read: a damaged record claims nothing, and
    the agent writes it anew."""
    try:
        raw = json.loads(text)
        namespace, _, name = raw["vm"].partition("/")
        return Record(VmKey(namespace, name), str(raw["uid"]), tuple(_leases(raw["ports"].items())))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _leases(items: Iterable[tuple[str, dict[str, object]]]) -> Iterable[Lease]:
    for port, entry in items:
        ips = entry["ips"]
        if not isinstance(ips, list):
            raise ValueError(f"ips of {port} is no list")
        yield Lease(
            port=port,
            interface=str(entry["interface"]),
            network=str(entry["network"]),
            ips=tuple(ipaddress.ip_address(ip) for ip in ips),
            mac=str(entry["mac"]),
        )

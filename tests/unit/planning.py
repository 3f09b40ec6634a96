"""What the tests of the plan do at the desk."""

from __future__ import annotations

from typing import Any

from ovnagent.core.plan import Case, Result
from ovnagent.core.ports import Port
from ovnagent.core.vm import VmKey
from tests.desk import Desk, network, pod_object, vm_object, vmi_object

KEY = VmKey("default", "sick")
OVN = "ovn.kubernetes.io"
NADS = [{"name": "n", "multus": {"networkName": "d/c"}}]
TENANT = network("10.17.0.0/24", name="tenant", switch="tenant", pod_network=False, nads=("d/c",))


def asking(ip: str) -> dict[str, str]:
    return {f"{OVN}/ip_address": ip} if ip else {}


def feed(desk: Desk, name: str, ip: str = "", **more: Any) -> None:
    desk.feed("MODIFIED", "virtualmachines", vm_object(name, annotations=asking(ip), **more))


def running(desk: Desk, name: str, ip: str = "", **more: Any) -> None:
    feed(desk, name, ip, **more)
    desk.feed("MODIFIED", "virtualmachineinstances", vmi_object(name, node="node1", annotations=asking(ip)))
    desk.feed("MODIFIED", "pods", pod_object(f"{name}-1", name, node="node1"))


def cases(desk: Desk) -> list[Case]:
    keys = desk.store.keys() | {row.port.vm for row in desk.rows.values()}
    return [desk._case(key) for key in sorted(keys)]


def rows(results: tuple[Result, ...]) -> dict[str, Port]:
    return {port.name: port for result in results for port in result.wanted}


def of(results: tuple[Result, ...], name: str) -> Result:
    return next(result for result in results if result.key.name == name)

"""Chassis and bindings, against a real Southbound ovsdb-server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hack.lab.databases import Server, server
from hack.lab.process import wait_for
from ovnagent.core.placement import Binding
from ovnagent.ovn.snapshot import SouthboundSnapshot
from ovnagent.ovn.southbound import Southbound

SECONDS = 10


@dataclass
class Eye:
    sb: Server
    southbound: Southbound
    bindings: set[str] = field(default_factory=set)
    moved: set[str] = field(default_factory=set)
    chassis: int = 0

    @property
    def now(self) -> SouthboundSnapshot:
        return self.southbound.snapshot

    def chassis_changed(self) -> None:
        self.chassis += 1

    def bindings_changed(self, ports: set[str], moved: bool) -> None:
        self.bindings |= ports
        self.moved |= ports if moved else set()

    def expect(self, port: str, binding: Binding | None) -> None:
        wait_for(lambda: self.now.bindings.get(port) == binding, SECONDS, f"{port} bound as {binding}")


@pytest.fixture
def eye(tmp_path: Path) -> Iterator[Eye]:
    threads = set(threading.enumerate())
    with server(tmp_path / "sb", "OVN_Southbound") as sb:
        sb.sbctl("init")
        for number in (1, 2):
            sb.sbctl("chassis-add", f"chassis{number}", "geneve", f"10.99.0.1{number}")
            sb.sbctl("set", "Chassis", f"chassis{number}", f"hostname=node{number}")
        found = Eye(sb, None)  # type: ignore[arg-type]
        found.southbound = Southbound(sb.remote, found.bindings_changed, found.chassis_changed)
        found.southbound.start()
        wait_for(lambda: found.now.complete, SECONDS, "the copy of SB")
        yield found
        found.southbound.stop()
    left = set(threading.enumerate()) - threads
    assert not left


def bind(sb: Server, port: str, chassis: str) -> None:
    sb.sbctl("lsp-bind", port, chassis)


def add_ports(sb: Server, *names: str) -> None:
    """As northd does: one datapath, and a binding for each port."""
    datapath = {"op": "insert", "table": "Datapath_Binding", "uuid-name": "dp", "row": {"tunnel_key": 1}}
    rows = [
        {
            "op": "insert",
            "table": "Port_Binding",
            "row": {"logical_port": name, "datapath": ["named-uuid", "dp"], "tunnel_key": number, "up": False},
        }
        for number, name in enumerate(names, 1)
    ]
    sb.transact(datapath, *rows)


def chassis_uuid(sb: Server, name: str) -> str:
    return sb.sbctl("get", "Chassis", name, "_uuid")


def test_chassis_come_are_renamed_and_go(eye: Eye) -> None:
    assert dict(eye.now.chassis_by_hostname) == {"node1": ("chassis1",), "node2": ("chassis2",)}
    before = eye.chassis
    eye.sb.sbctl("set", "Chassis", "chassis2", "hostname=node1")
    both = {"node1": ("chassis1", "chassis2")}
    wait_for(lambda: dict(eye.now.chassis_by_hostname) == both, SECONDS, "two chassis with one hostname")
    eye.sb.sbctl("chassis-del", "chassis1")
    wait_for(lambda: dict(eye.now.chassis_by_hostname) == {"node1": ("chassis2",)}, SECONDS, "one chassis gone")
    assert eye.chassis >= before + 2


def test_only_watched_ports_are_copied(eye: Eye) -> None:
    add_ports(eye.sb, "vm1", "vm2")
    bind(eye.sb, "vm1", "chassis1")
    bind(eye.sb, "vm2", "chassis2")
    assert eye.now.bindings.get("vm1") is None
    eye.southbound.watch({"vm1"})
    eye.expect("vm1", Binding("chassis1", (), (), True))
    assert eye.bindings == {"vm1"}
    eye.southbound.watch({"vm2"})
    eye.expect("vm2", Binding("chassis2", (), (), True))
    eye.expect("vm1", None)
    eye.southbound.watch(set())
    eye.expect("vm2", None)


def test_a_migration_as_sb_shows_it(eye: Eye) -> None:
    add_ports(eye.sb, "vm1")
    eye.southbound.watch({"vm1"})
    eye.expect("vm1", Binding("", (), (), False))
    bind(eye.sb, "vm1", "chassis1")
    eye.sb.sbctl("set", "Port_Binding", "vm1", f"additional_chassis={chassis_uuid(eye.sb, 'chassis2')}")
    eye.expect("vm1", Binding("chassis1", ("chassis2",), (), True))
    eye.sb.sbctl("set", "Port_Binding", "vm1", "options:additional-chassis-activated=chassis2")
    eye.expect("vm1", Binding("chassis1", ("chassis2",), ("chassis2",), True))
    chassis2 = chassis_uuid(eye.sb, "chassis2")
    eye.bindings.clear()
    eye.sb.sbctl("set", "Port_Binding", "vm1", f"chassis={chassis2}", "additional_chassis=[]", "up=false")
    eye.expect("vm1", Binding("chassis2", (), ("chassis2",), False))
    assert eye.bindings == {"vm1"}


def test_a_binding_that_is_read_for_the_first_time_has_not_moved(eye: Eye) -> None:
    add_ports(eye.sb, "vm1", "vm2")
    bind(eye.sb, "vm1", "chassis1")
    eye.southbound.watch({"vm1"})
    eye.expect("vm1", Binding("chassis1", (), (), True))
    wait_for(lambda: eye.bindings == {"vm1"}, SECONDS, "it is told of")
    assert eye.moved == set()
    eye.southbound.watch({"vm1", "vm2"})
    eye.expect("vm2", Binding("", (), (), False))
    assert eye.moved == set()
    bind(eye.sb, "vm2", "chassis2")
    wait_for(lambda: eye.moved == {"vm2"}, SECONDS, "it has moved")
    eye.southbound.watch({"vm2"})
    wait_for(lambda: eye.moved == {"vm1", "vm2"}, SECONDS, "what is not known any more is others' news, too")


def test_a_chassis_that_goes_takes_its_bindings_along(eye: Eye) -> None:
    add_ports(eye.sb, "vm1")
    bind(eye.sb, "vm1", "chassis1")
    eye.southbound.watch({"vm1"})
    eye.expect("vm1", Binding("chassis1", (), (), True))
    eye.sb.sbctl("chassis-del", "chassis1")
    eye.expect("vm1", Binding("", (), (), True))


def test_while_sb_is_away_the_chassis_known_last_stand(eye: Eye) -> None:
    add_ports(eye.sb, "vm1")
    eye.southbound.watch({"vm1"})
    eye.expect("vm1", Binding("", (), (), False))
    eye.sb.stop()
    wait_for(lambda: not eye.now.complete, SECONDS, "the loss noticed")
    assert dict(eye.now.chassis_by_hostname) == {"node1": ("chassis1",), "node2": ("chassis2",)}
    assert eye.now.ever_complete
    eye.sb.start()
    wait_for(lambda: eye.now.complete, SECONDS, "SB back")
    bind(eye.sb, "vm1", "chassis2")
    eye.expect("vm1", Binding("chassis2", (), (), True))


def test_ports_may_be_watched_that_do_not_exist_yet(eye: Eye) -> None:
    eye.southbound.watch({"vm1", "vm9"})
    add_ports(eye.sb, "vm1")
    eye.expect("vm1", Binding("", (), (), False))
    assert eye.now.bindings.get("vm9") is None

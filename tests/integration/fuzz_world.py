"""What the fuzzer runs against: the whole agent as a process, a small API server, a real ovsdb-server and a real northd; and
the innocent VMs beside it, of which everything is remembered."""

from __future__ import annotations

import ipaddress
import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hack.lab.cluster import Agent
from hack.lab.process import running, wait_for
from ovnagent.core.ports import CLUSTER
from ovnagent.serve.http import ANSWERING
from tests.desk import migration_object, pod_object, uid_of, vm_object, vmi_object
from tests.integration import test_border_northd
from tests.integration.hostile_objects import Obj, Victim, wire
from tests.integration.nb_history import History, Row
from tests.integration.northd import Flow, Northd, northd, select, tokens
from tests.object_server import ObjectServer

PATIENCE = 30.0
"""For whatever has no bound in this test, and for what has one before it is called lost."""
HOME = "innocent"
NETWORKS = [
    {
        "name": "pods",
        "logicalSwitch": "ovn-default",
        "podNetwork": True,
        "subnets": [
            {"cidr": "10.16.0.0/16", "gateway": "10.16.0.1"},
            {"cidr": "fd00:10:16::/64", "gateway": "fd00:10:16::1"},
        ],
        "dhcp": {"dnsServers": ["10.16.0.2", "fd00:10:16::2"], "domain": "vm.example"},
        "dnsDomain": "vm.example",
    },
    {"name": "tenant", "nads": ["innocent/net"], "subnets": [{"cidr": "192.168.0.0/16", "gateway": "192.168.0.1"}]},
]
NOBODY_S = {"10.16.0.1", "fd00:10:16::1", "192.168.0.1", "10.16.0.50"}
"""Gateways, and the address of a port of somebody else's."""
STEADY = ("addresses", "port_security", "dhcpv4_options", "dhcpv6_options", "type", "enabled", "external_ids")
"""Columns that stay as they are while a VM moves, but for what `settled` leaves out."""
COLUMNS = ("name", "options", *STEADY)
FOREIGN = ("Logical_Switch_Port", "DHCP_Options", "DNS", "Logical_Router", "Logical_Router_Port", "ACL", "NB_Global")


def entries(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def requested(row: Row) -> str:
    found: str = row["options"].get("requested-chassis", "")
    return found


@dataclass
class Innocent(Victim):
    """A VM that minds its own business, and what was measured of it."""

    started: float = 0.0
    moved: float = 0.0
    waits: list[float] = field(default_factory=list)

    @property
    def port(self) -> str:
        return f"{self.name}.{HOME}"


@dataclass
class World:
    """All real parts, and what the test knows of them."""

    ovn: Northd
    server: ObjectServer
    agent: Agent
    history: History
    foreign: dict[str, Any]
    shapes: set[Any]
    planted: set[Flow]
    """What northd makes of the rows of others."""
    residents: list[Innocent] = field(default_factory=list)
    hostile: dict[tuple[str, str, str], None] = field(default_factory=dict)
    """(kind, namespace, name) of what is there now."""
    objects: int = 0
    threads: int = 0
    memory: list[int] = field(default_factory=list)
    """KiB after each batch."""

    # -- innocents

    def innocent(self, name: str) -> Innocent:
        return Innocent(name, HOME, uid_of("uid", name), uid_of("vmi", name), f"move-{name}")

    def put(self, kind: str, obj: dict[str, Any]) -> None:
        self.server.put(*wire(kind, obj))

    def start(self, vm: Innocent) -> None:
        """The VM, its VMI, and a launcher that is bound to a node."""
        interfaces, networks = devices()
        self.put("virtualmachines", vm_object(vm.name, interfaces=interfaces, networks=networks, namespace=HOME))
        self.put("virtualmachineinstances", self.vmi(vm))
        vm.started = time.monotonic()
        self.put("pods", pod_object(f"a-{vm.name}", vm.name, "node1", namespace=HOME))

    def vmi(self, vm: Innocent, node: str = "node1", **migration: Any) -> dict[str, Any]:
        interfaces, networks = devices()
        return vmi_object(
            vm.name, node=node, interfaces=interfaces, networks=networks, migration=migration or None, namespace=HOME
        )

    def migrate(self, vm: Innocent) -> None:
        self.put("virtualmachineinstancemigrations", migration_object(vm.migration, vm.name, "Running", namespace=HOME))
        vm.moved = time.monotonic()
        created = "2026-01-01T00:01:01Z"  # after the source
        target = pod_object(f"b-{vm.name}", vm.name, "node2", migration=vm.migration, created=created, namespace=HOME)
        self.put("pods", target)

    def arrive(self, vm: Innocent) -> None:
        """The migration has succeeded, and the source is gone."""
        state = {"migrationUid": vm.migration, "sourceNode": "node1", "targetNode": "node2", "completed": True}
        state["targetNodeDomainReadyTimestamp"] = "2026-01-01T00:02:00Z"
        self.put("virtualmachineinstances", self.vmi(vm, "node2", **state))
        self.put("virtualmachineinstancemigrations", migration_object(vm.migration, vm.name, "Succeeded", namespace=HOME))
        self.put("pods", pod_object(f"a-{vm.name}", vm.name, "node1", phase="Succeeded", namespace=HOME))

    def bound(self, vms: list[Innocent], chassis: str) -> None:
        """ovn-controller has claimed their ports: there is none here, so the test says it in its place."""
        where = self.ovn.sb.sbctl("--bare", "--columns=_uuid", "find", "Chassis", f"name={chassis}")
        for vm in vms:
            for port in ports_of(vm):
                found: dict[str, Any] = {"table": "Port_Binding", "where": [["logical_port", "==", port]]}
                self.ovn.sb.transact({"op": "update", **found, "row": {"chassis": ["uuid", where]}})

    def placed(self, vms: list[Innocent], chassis: str, since: str, what: str) -> list[float]:
        """How long it took each of them, on all its ports, from `since` on."""

        def times(vm: Innocent) -> list[float | None]:
            start = getattr(vm, since)
            return [self.history.first(port, start, lambda row: requested(row) == chassis) for port in ports_of(vm)]

        try:
            self.history.wait(lambda: all(None not in times(vm) for vm in vms), PATIENCE, what)
        except TimeoutError as error:
            late = {port: self.history.now(port) for vm in vms if None in times(vm) for port in ports_of(vm)}
            raise AssertionError(f"{error}: {late}; the agent says:\n{self.agent.log.read_text()[-3000:]}") from None
        waits = [max(at for at in times(vm) if at is not None) - getattr(vm, since) for vm in vms]
        for vm, wait in zip(vms, waits, strict=True):
            vm.waits.append(wait)
        return waits

    # -- others

    def put_hostile(self, objects: list[Obj]) -> None:
        for obj in objects:
            key = obj.kind, str(obj.meta.get("namespace", "")), str(obj.meta["name"])
            self.objects += key not in self.hostile
            self.hostile[key] = None
            self.server.put(*obj)

    def clean_up(self, vms: list[Innocent]) -> None:
        """All VMs of a batch are deleted, the innocent ones last."""
        for key in self.hostile:
            self.server.delete(*key)
        self.hostile.clear()
        for vm in vms:
            for kind, name in (
                ("pods", f"a-{vm.name}"),
                ("pods", f"b-{vm.name}"),
                ("virtualmachineinstancemigrations", vm.migration),
                ("virtualmachineinstances", vm.name),
                ("virtualmachines", vm.name),
            ):
                self.server.delete(kind, HOME, name)
        left = {port for vm in self.residents for port in ports_of(vm)}
        own = lambda: {row["name"] for row in self.own()}  # noqa: E731
        try:
            self.history.wait(lambda: own() <= left, PATIENCE, "rows of deleted VMs gone")
        except TimeoutError:
            log = self.agent.log.read_text()[-3000:]
            raise AssertionError(f"rows without a VM: {own() - left}; the agent says:\n{log}") from None

    def own(self) -> list[Row]:
        return [row for row in self.history.rows.values() if row["external_ids"].get(CLUSTER) == "lab"]

    # -- what must hold

    def check(self, vms: list[Innocent]) -> None:
        self.check_agent()
        with self.history.changed:
            for vm in (*vms, *self.residents):
                self.check_innocent(vm)
        rows, flows = wait_for(self.rows_and_flows, PATIENCE, "no row changes while northd follows")
        check_unique(rows)
        assert self.foreign_rows() == self.foreign
        self.check_flows(rows, flows)

    def rows_and_flows(self) -> tuple[list[Row], list[Flow]] | None:
        """Those that belong together: a hostile VM may still be served while this looks. None where a row has changed."""
        with self.history.changed:
            rows = list(self.history.rows.values())
        self.ovn.nb.nbctl("--wait=sb", "sync")
        flows = self.ovn.flows()
        with self.history.changed:
            return (rows, flows) if rows == list(self.history.rows.values()) else None

    def check_agent(self) -> None:
        assert running(self.agent.pidfile), self.agent.log.read_text()[-3000:]
        for path in ("/healthz", "/readyz"):
            status, text = self.agent.http(path)
            assert status == 200, (path, text)
        for metric in ("ovnagent_thread_restarts_total", "ovnagent_refused_total", "ovnagent_scrape_errors_total"):
            assert self.agent.metric(metric) == 0, f"{metric}: {self.agent.log.read_text()[-3000:]}"
        assert self.agent.metric("ovnagent_sweep_held_ports") == 0
        reasons = Counter(reason for found in self.server.events.values() for reason in found)
        assert not reasons["InternalError"], [key for key, found in self.server.events.items() if "InternalError" in found]

    def check_innocent(self, vm: Innocent) -> None:
        """Each of its rows was at every moment what its own facts say, and it was told of nothing that is wrong."""
        path = ["", "chassis1", "chassis1,chassis2", "chassis2,chassis1", "chassis2"]
        for port in ports_of(vm):
            past = [row for _, row in self.history.past[port]]
            lives = [row for row in past if row is not None]
            assert len(lives) == len(past), f"{port} was deleted"
            for column in STEADY:
                seen = {json.dumps(settled(row[column]), sort_keys=True) for row in lives}
                assert len(seen) == 1, f"{port}: {column} was {seen}"
            assert all(entries(row["addresses"]) == entries(row["port_security"]) for row in lives)
            assert {row["external_ids"].get("ovnagent-vmi-uid", vm.vmi_uid) for row in lives} == {vm.vmi_uid}
            assert {row["external_ids"].get("ovnagent-migration", vm.migration) for row in lives} == {vm.migration}
            at = [path.index(requested(row)) for row in lives]
            assert at == sorted(at), f"{port} was placed on {[path[each] for each in at]}"
        assert self.server.events.get((HOME, vm.name), set()) <= FRIENDLY_EVENTS, self.server.events[HOME, vm.name]

    def foreign_rows(self) -> dict[str, Any]:
        """All rows of others, whole."""
        answer = self.ovn.nb.transact(*({"op": "select", "table": table, "where": []} for table in FOREIGN))
        found: dict[str, Any] = {}
        for table, result in zip(FOREIGN, answer, strict=True):
            for row in result["rows"]:
                ids = dict(row["external_ids"][1]) if "external_ids" in row else {}
                if table == "NB_Global":
                    row = {key: row[key] for key in ("options", "ssl", "ipsec", "name")}  # northd counts in the others
                if ids.get(CLUSTER) != "lab":
                    uuid = json.dumps(row.pop("_uuid", table))
                    found[uuid] = {key: value for key, value in row.items() if key not in BY_NORTHD}
        return found

    def check_flows(self, rows: list[Row], flows: list[Flow]) -> None:
        """The logical flows are such as friendly VMs have, answer for no address but the rows', and quote nothing else."""
        flows = [flow for flow in flows if flow not in self.planted]
        strange = [flow for flow in flows if flow.shape not in self.shapes]
        assert not strange, strange[0]
        assert "probe" in {row["name"] for row in rows}
        assert self.ovn.complaints("ovn-default", "probe") == ""
        given = {ip for row in rows for entry in entries(row["addresses"]) for ip in entry.split()[1:]}
        given |= {row["options"]["virtual-ip"] for row in rows if "virtual-ip" in row["options"]}
        words = [entry.split()[0] for row in rows for entry in (*entries(row["addresses"]), *entries(row["port_security"]))]
        local = {test_border_northd.link_local(mac) for mac in words if re.fullmatch("([0-9a-f]{2}:){5}[0-9a-f]{2}", mac)}
        (answer,) = self.ovn.nb.transact(select("DHCP_Options", "options"))
        texts = {value for row in answer["rows"] for _, value in row["options"][1] if value[:1] == '"'}
        texts |= {row["options"]["hostname"] for row in rows if "hostname" in row["options"]}
        texts |= {json.dumps(row["name"], ensure_ascii=False) for row in rows} | test_border_northd.CONSTANTS
        for flow in flows:
            answered = set(re.findall(r"(?:arp\.tpa|nd\.target) == \{?([0-9a-f.:]+)", flow.match))
            assert answered <= given | local, flow
            assert not answered & (NOBODY_S - {"10.16.0.50"}), flow
            quoted = {word for text in (flow.match, flow.actions) for word in tokens(text) if word[0] == '"'}
            assert quoted <= texts, flow

    def nothing_grows(self) -> None:
        pid = running(self.agent.pidfile)
        status = Path(f"/proc/{pid}/status").read_text()
        threads, memory = (int(re.search(rf"^{key}:\s+(\d+)", status, re.MULTILINE)[1]) for key in ("Threads", "VmRSS"))  # type: ignore[index]
        self.memory.append(memory)
        # All but one of those that answer HTTP may not have been needed yet at the beginning.
        assert threads < self.threads + ANSWERING, f"{threads} threads, at the beginning {self.threads}"
        wait_for(lambda: self.agent.metric("ovnagent_records_pending") == 0, PATIENCE, "no record waits")
        wait_for(lambda: sum(self.quarantined().values()) == 0, PATIENCE, "nothing is set aside any more")

    def quarantined(self) -> dict[str, float]:
        lines = self.agent.http("/metrics")[1].splitlines()
        return {line.split()[0]: float(line.split()[1]) for line in lines if line.startswith("ovnagent_quarantined{")}


FRIENDLY_EVENTS = {"AddressAssigned", "MigrationPrepared", "MigrationDone"}
BY_NORTHD = {"up", "_version", "dynamic_addresses", "nb_cfg", "sb_cfg", "hv_cfg"}
"""Columns that OVN writes."""


def settled(value: Any) -> Any:
    """Without what changes when the VM starts and moves."""
    changing = ("ovnagent-migration", "ovnagent-vmi-uid")
    return {key: each for key, each in value.items() if key not in changing} if isinstance(value, dict) else value


def devices() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """An interface on the pod network, one on the NAD."""
    interfaces: list[dict[str, Any]] = [{"name": "default", "bridge": {}}, {"name": "tenant", "bridge": {}}]
    return interfaces, [{"name": "default", "pod": {}}, {"name": "tenant", "multus": {"networkName": "net"}}]


def ports_of(vm: Innocent) -> tuple[str, str]:
    return vm.port, f"{vm.port}.net.{HOME}"


def check_unique(rows: list[Row]) -> None:
    """No address and no MAC stands on two ports of a network, nobody has what is nobody's."""
    held: Counter[tuple[str, str]] = Counter()
    for row in rows:
        if row["name"] == "elsewhere":
            continue
        for entry in entries(row["addresses"]):
            mac, *ips = entry.split()
            switch = row["external_ids"].get("ovnagent-network", "pods")
            held.update([(switch, mac), *((switch, ip) for ip in ips)])
            assert row["name"] == "foreign" or not NOBODY_S & set(ips), row
            assert all(ipaddress.ip_address(ip) for ip in ips)
    twice = {what: count for what, count in held.items() if count > 1}
    assert not twice, twice


@contextmanager
def world_in(tmp_path: Path) -> Iterator[World]:
    with northd(tmp_path / "ovn", "23.03") as ovn:
        ovn.nb.nbctl("ls-add", "tenant")
        shapes = friendly_shapes(ovn)
        for number in (1, 2, 3):
            ovn.sb.sbctl("chassis-add", f"chassis{number}", "geneve", f"10.99.0.1{number}")
            ovn.sb.sbctl("set", "Chassis", f"chassis{number}", f"hostname=node{number}")
        plant(ovn)
        planted = set(ovn.flows())
        shapes |= {flow.shape for flow in planted}
        server = ObjectServer(tmp_path)
        history = History(ovn.nb.directory, "OVN_Northbound", "Logical_Switch_Port", *COLUMNS)
        config = {
            "cluster": "lab",
            "ovn": {"northbound": [ovn.nb.remote], "southbound": [ovn.sb.remote]},
            "kubernetes": {"kubeconfig": str(server.kubeconfig)},
            "networks": NETWORKS,
        }
        agent = Agent(tmp_path / "agent", config)
        made = World(ovn, server, agent, history, {}, shapes, planted)
        try:
            agent.start()
            made.foreign = made.foreign_rows()
            yield made
        finally:
            agent.stop()
            history.close()
            server.close()


def friendly_shapes(ovn: Northd) -> set[Any]:
    """What flows look like where nobody means harm."""
    found = set()
    for rows in (test_border_northd.friendly(), test_border_northd.virtuals()):
        test_border_northd.write(ovn, rows)
        found |= {flow.shape for flow in ovn.flows()}
    ovn.clear()
    return found


def plant(ovn: Northd) -> None:
    """Rows of others: a port by hand, one of another cluster that says it is an attacker's, and what belongs to ports."""
    ids = "external_ids:ovnagent-cluster=other external_ids:ovnagent-vm=tenant-0/h0-0 external_ids:ovnagent-vm-uid=uid-h0-0"
    for command in (
        "ls-add ovn-default",
        "ls-add elsewhere",
        "lsp-add ovn-default foreign",
        "lsp-add ovn-default probe",
        "lsp-add elsewhere elsewhere",
        f"set Logical_Switch_Port elsewhere {ids}",
        "create DHCP_Options cidr=10.16.0.0/16 options:lease_time=7",
        "lr-add edge",
        "lrp-add edge edge-elsewhere 02:00:00:00:00:01 10.20.0.1/16",
    ):
        ovn.nb.nbctl(*command.split())
    ovn.nb.nbctl("lsp-set-addresses", "foreign", "0a:00:00:00:ff:01 10.16.0.50")
    ovn.nb.nbctl("lsp-set-addresses", "probe", "0a:00:00:00:ff:02 10.16.255.1")
    ovn.nb.nbctl("lsp-set-addresses", "elsewhere", "0a:00:00:00:ff:01 10.16.0.7")
    ovn.nb.nbctl("--wait=sb", "sync")

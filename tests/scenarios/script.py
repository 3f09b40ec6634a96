"""Scenarios as text: facts and rows, step by step.

vm web ip_address=10.16.0.15        a VirtualMachine, created or changed; keys are ovn.kubernetes.io annotations,
                                    uid=, created=, record-of=<vm> (a copied record), mac= (interfaces[].macAddress),
                                    binding=, record=<ip>[,<ip>][/<mac>] (one that somebody forged, with the VM's own UID)
vmi web node=node1                  its VMI; phase=, uid=, owner= (empty: standalone), and of migrationState:
                                    state=<migration> [source=node1] [target=node2] [ready] [failed] [completed]
pod p1 web node=node1               a launcher; phase=, migration=, vmi=<uid of the VMI>
migration m1 web phase=Running
gone vm web | gone pod p1 web ...   the object is deleted
sb web.default chassis1 also chassis2 open chassis2
                                    SB: chassis, additional chassis, activated ones; `-` for none
chassis node4 none                  SB knows no chassis (or these) for a node
after 30 s                          time passes
restart                             the agent forgets everything but the objects and rows
recorded                            the agent's records stand on the VMs
nb lost | nb backup | nb restored   the Northbound database is lost (with a restart), saved, brought back (with one);
                                    `nb lost seen`, `nb restored seen`: an agent that had its copy goes on (nothing else
                                    is remembered: the lock was lost with the connection)
reserved 10.16.0.5 10.16.0.9        the network's reserved range (nothing: none)
foreign 10.16.0.7 0a:00:00:00:00:07 others use these on the switch (nothing: nobody uses anything)
=> web.default chassis1,chassis2 rarp    this port asks for these chassis (`-`: none)
=> web.default has 10.16.0.15            and has this address, or MAC
=> web.default has not 10.16.0.15
=> 10.16.0.50 is shared by a.default,b.default
=> no web.default                        this port is not there
=> web says AddressConflict ...holds     the VM has this problem, whose sentence holds these words
=> web says nothing
=> nothing written                       since the line before the last step
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from ovnagent.core.networks import AddressRange, Networks
from ovnagent.core.placement import Binding
from ovnagent.core.ports import PresentPort
from ovnagent.core.vm import RECORD_ANNOTATION, VmKey
from tests.desk import Desk, foreign, migration_object, pod_object, record_text, uid_of, vm_object, vmi_object


def run(path: Path) -> int:
    """Play a scenario; returns the number of expectations met. Raises AssertionError that names the line."""
    return play(path, _Player())


class Player(Protocol):
    """Who plays a scenario: takes its steps, and raises AssertionError where an expectation is not met."""

    def step(self, text: str) -> None: ...

    def expect(self, text: str) -> None: ...


def play(path: Path, player: Player) -> int:
    """Line by line; returns the number of expectations met. Raises AssertionError that names the line."""
    met = 0
    for number, line in enumerate(path.read_text().splitlines(), 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        try:
            if text.startswith("=>"):
                player.expect(text[2:].strip())
                met += 1
            else:
                player.step(text)
        except AssertionError as error:
            raise AssertionError(f"{path.name}:{number}: {text}\n  {error}") from None
    return met


class _Player:
    def __init__(self) -> None:
        self.desk = Desk()
        self.clock = 0
        self.vms: dict[str, dict[str, Any]] = {}
        self.backup: dict[str, PresentPort] = {}

    def step(self, text: str) -> None:
        desk = self.desk
        desk.writes.clear()
        self.clock += 1
        event = "MODIFIED"
        words = text.split()
        if words[0] == "gone":
            event, words = "DELETED", words[1:]
        kind, *words = words
        values = dict(word.split("=", 1) for word in words if "=" in word)
        flags = {word for word in words if "=" not in word}
        names = [word for word in words if "=" not in word]
        stamp = f"2026-01-01T01:{self.clock // 60:02d}:{self.clock % 60:02d}Z"
        match kind:
            case "vm":
                uid = values.get("uid", "") or uid_of("uid", names[0])
                record = ""
                if "record-of" in values:
                    record = desk.records[next(key for key in desk.records if key.name == values["record-of"])]
                elif "record" in values:
                    record = record_text(names[0], uid, *values["record"].split("/"))
                annotations = {
                    f"ovn.kubernetes.io/{k}": v
                    for k, v in values.items()
                    if k in ("ip_address", "ip_pool", "mac_address", "logical_switch", "allowed_address_pairs")
                }
                interface = {"name": "default", values.get("binding", "bridge"): {}}
                if "mac" in values:
                    interface["macAddress"] = values["mac"]
                created = values.get("created", "2026-01-01T00:00:00Z")
                made = vm_object(names[0], uid, annotations, [interface], record=record, created=created)
                desk.feed(event, "virtualmachines", made)
                self.vms[names[0]] = made
            case "vmi":
                state = None
                if "state" in values:
                    state = {
                        "migrationUid": values["state"],
                        "sourceNode": values.get("source", ""),
                        "targetNode": values.get("target", ""),
                    }
                    state |= {"targetNodeDomainReadyTimestamp": stamp} if "ready" in flags else {}
                    state |= {flag: True for flag in ("failed", "completed") if flag in flags}
                keys = ("ip_address", "ip_pool", "mac_address", "allowed_address_pairs")
                annotations = {f"ovn.kubernetes.io/{k}": v for k, v in values.items() if k in keys}
                macs = {"default": values["reported"]} if "reported" in values else None
                interface = [{"name": "default", values.get("binding", "bridge"): {}}]
                desk.feed(event, "virtualmachineinstances", vmi_object(
                    names[0], values.get("uid", ""), values.get("owner"), values.get("node", ""),
                    values.get("phase", "Running"), annotations, interface, migration=state, macs=macs))  # fmt: skip
            case "pod":
                created = self._first_seen(f"pod {names[0]}", stamp)
                desk.feed(event, "pods", pod_object(
                    names[0], names[1], values.get("node", ""), values.get("phase", "Running"), values.get("migration", ""),
                    values.get("vmi", ""), created))  # fmt: skip
            case "migration":
                created = self._first_seen(f"migration {names[0]}", stamp)
                desk.feed(
                    event,
                    "virtualmachineinstancemigrations",
                    migration_object(names[0], names[1], values.get("phase", ""), created),
                )
            case "sb":
                self._binding(names)
            case "chassis":
                desk.chassis[names[0]] = tuple(name for name in names[1:] if name != "none")
            case "after":
                desk.now += float(names[0])
            case "restart":
                desk.forget()
            case "recorded":
                for name, made in self.vms.items():
                    text = desk.records.get(VmKey("default", name), "")
                    made["metadata"]["annotations"][RECORD_ANNOTATION] = text
                    if desk.store.facts(VmKey("default", name)).vm is not None:
                        desk.feed(event, "virtualmachines", made)
            case "nb":
                self._northbound(names[0], "seen" in names)
            case "reserved":
                (known,) = desk.networks.all
                spans = tuple(AddressRange(*map(ipaddress.ip_address, pair)) for pair in [names] if pair)
                subnets = tuple(replace(subnet, reserved=spans) for subnet in known.subnets)
                desk.networks = Networks((replace(known, subnets=subnets),))
            case "foreign":
                ips = {name: "port theirs" for name in names if "." in name}
                macs = {name: "port theirs" for name in names if "." not in name}
                desk.foreign["ovn-default"] = foreign(ips, macs)
            case _:
                raise AssertionError("no such step")
        desk.look()

    def _northbound(self, what: str, seen: bool) -> None:
        desk = self.desk
        if what == "backup":
            self.backup = dict(desk.rows)
            return
        before, desk.rows = desk.rows, dict(self.backup) if what == "restored" else {}
        desk.virtual.clear()
        desk.forget()
        if seen:
            desk.before |= {name: row for name, row in before.items() if row != desk.rows.get(name)}

    def _first_seen(self, what: str, stamp: str) -> str:
        self.created = getattr(self, "created", {})
        return self.created.setdefault(what, stamp)

    def _binding(self, words: list[str]) -> None:
        port, chassis, *rest = words
        lists: dict[str, list[str]] = {"also": [], "open": []}
        current: list[str] = []
        for word in rest:
            if word in lists:
                current = lists[word]
            else:
                current.append(word)
        self.desk.bindings[port] = Binding("" if chassis == "-" else chassis, tuple(lists["also"]), tuple(lists["open"]))

    def expect(self, text: str) -> None:
        desk = self.desk
        if text == "nothing written":
            assert not desk.writes, f"written: {desk.writes}"
        elif found := re.fullmatch(r"no (\S+)", text):
            assert found[1] not in desk.rows, f"it is there: {desk.rows[found[1]]}"
        elif found := re.fullmatch(r"(\S+) says nothing", text):
            assert not desk.says(found[1]), desk.says(found[1])
        elif found := re.fullmatch(r"(\S+) says (\S+)(.*)", text):
            said = desk.says(found[1])
            assert any(line.startswith(found[2]) and found[3].strip() in line for line in said), f"it says {said}"
        elif found := re.fullmatch(r"(\S+) has (\S+)", text):
            port = desk.port(found[1])
            assert found[2] in (*port.ips, port.mac), f"it has {port.addresses}"
        elif found := re.fullmatch(r"(\S+) has not (\S+)", text):
            port = desk.port(found[1])
            assert found[2] not in (*port.ips, port.mac), f"it has {port.addresses}"
        elif found := re.fullmatch(r"(\S+) is shared by (\S+)", text):
            assert desk.port(f"{found[1]}.ovn-default").option("virtual-parents") == found[2]
        elif found := re.fullmatch(r"(\S+) (.+)", text):
            assert found[1] in desk.rows, f"there is no such port; there are {sorted(desk.rows)}"
            assert desk.placed(found[1]) == found[2], f"it asks for {desk.placed(found[1])}"
        else:
            raise AssertionError("no such expectation")


def scenarios() -> list[Path]:
    return sorted(Path(__file__).parent.glob("*.txt"))

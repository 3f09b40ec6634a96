"""The Northbound database is brought back from a backup that is 200 changes old, while VMs run and migrate. What was written
after it is read from the database's own file, so that nothing between two looks is missed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hack.lab import manifests
from hack.lab.fake_guest import FakeGuest
from hack.lab.peer import Peer
from hack.lab.process import wait_for
from tests.e2e.conftest import Lab
from tests.integration.nb_file import Row, writes

OWN = "ovnagent-cluster"
OURS = ("addresses", "port_security", "options", "external_ids")
PEER = "10.16.255.10"
SECONDS = 60.0


@dataclass(frozen=True)
class Hour:
    """What has been done since the backup."""

    backup: Path
    reused: frozenset[str]
    """Ports whose address a foreign port has, in the backup, that was removed since."""


def apply(lab: Lab, vms: dict[str, str]) -> None:
    """VMs that are halted -> the address that each asks for; none where it is empty."""
    lab.kube.apply("\n".join(manifests.vm(n, "Halted", **({"ip_address": ip} if ip else {})) for n, ip in vms.items()))


def held(lab: Lab, vms: dict[str, str]) -> None:
    """Until these VMs hold these addresses, by row and by record."""

    def missing() -> dict[str, str]:
        rows = {name.removesuffix(".default"): row["addresses"][0].split()[1:] for name, row in own(lab).items()}
        return {name: ip for name, ip in vms.items() if rows.get(name) != [ip]}

    wait_for(lambda: not missing(), SECONDS, "the rows")
    recorded(lab)


def addressed(lab: Lab, wanted: dict[str, list[str]]) -> None:
    """Until the agent's rows are these, with these addresses."""

    def wrong() -> dict[str, object]:
        found = {name: row["addresses"] for name, row in own(lab).items()}
        return {name: found.get(name) for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name)}

    try:
        wait_for(lambda: not wrong(), SECONDS, "all addresses")
    except TimeoutError:
        raise AssertionError(f"these are not what they were: {wrong()}") from None


def recorded(lab: Lab) -> None:
    """Until every VM's record says what its row does."""

    def told() -> bool:
        rows = own(lab)
        for vm in lab.kube.get("vm")["items"]:
            text = vm["metadata"].get("annotations", {}).get("ovnagent.io/record")
            for port, lease in json.loads(text)["ports"].items() if text else ():
                if port not in rows or rows[port]["addresses"][0].split()[1:] != lease["ips"]:
                    return False
            if not text:
                return False
        return True

    wait_for(told, SECONDS, "the records")


def own(lab: Lab) -> dict[str, Row]:
    """The agent's rows, by name."""
    columns = "--columns=name," + ",".join(OURS)
    text = lab.ovn.nbctl("--format=json", columns, "find", "Logical_Switch_Port", f"external_ids:{OWN}=lab")
    found: dict[str, Row] = {}
    for values in json.loads(text)["data"]:
        row: Row = dict(zip(("name", *OURS), values, strict=True))
        for column in ("addresses", "port_security"):
            value = row[column]
            row[column] = value[1] if isinstance(value, list) else [value]
        for column in ("options", "external_ids"):
            row[column] = dict(row[column][1])
        found[row["name"]] = row
    return found


def foreign(lab: Lab, verb: str, numbers: range, network: str = "") -> None:
    for number in numbers:
        words = [verb, "ovn-default", f"theirs{number}"] if verb == "lsp-add" else [verb, f"theirs{number}"]
        ip = f"{network}.{number}"
        more = ["--", "lsp-set-addresses", f"theirs{number}", f"0a:00:00:00:01:{number:02x} {ip}"] if network else []
        lab.ovn.nbctl(*words, *more)


@pytest.fixture
def answering() -> Iterator[None]:
    FakeGuest.answers = True
    yield
    FakeGuest.answers = False


@pytest.fixture
def peer(lab: Lab, answering: None) -> Iterator[Peer]:
    with Peer(lab.ovn, "node3", PEER) as peer:
        yield peer
    for number in range(50):
        lab.ovn.nbctl("--if-exists", "lsp-del", f"theirs{number}")


def an_hour(lab: Lab, directory: Path) -> Hour:
    still = {name: f"10.16.1.{number}" for number, name in enumerate(("still", "moves", "moved", "goes"), 1)}
    for name, ip in still.items():
        lab.create(name, ip_address=ip)
    before = {f"b{number}": f"10.16.2.{number + 1}" for number in range(60)}
    apply(lab, before)
    foreign(lab, "lsp-add", range(20), "10.16.200")
    for name in still:
        lab.kubevirt.wait_running("default", name)
        lab.placed(f"{name}.default", lab.chassis(name), 20)
    held(lab, before)
    backup = directory / "nb.backup"
    backup.write_bytes(subprocess.run(["ovsdb-client", "backup", lab.ovn.nb_remote], check=True, capture_output=True).stdout)

    changes = 0
    # 30 are deleted, and others get their addresses; a running one of them, too.
    lab.kube.kubectl("delete", "vm", "goes", *(f"b{number}" for number in range(30)))
    wait_for(lambda: not any(f"b{number}.default" in own(lab) for number in range(30)), SECONDS, "30 are gone")
    foreign(lab, "lsp-del", range(10))
    after = {f"n{number}": f"10.16.2.{number + 1}" for number in range(30)}
    # of the foreign ports' that were removed, too
    after |= {f"n{number}": f"10.16.200.{number - 30}" for number in range(31, 40)}
    after |= {f"n{number}": f"10.16.4.{number}" for number in range(40, 60)}
    apply(lab, after)
    lab.create("late", ip_address="10.16.1.4")
    changes += 31 + 10 + len(after) + 1
    # 30 change their addresses among themselves: off them, each to the next one's; half of them ask for nothing any more.
    names = [f"b{number}" for number in range(30, 60)]
    apply(lab, {name: f"10.16.3.{number}" for number, name in enumerate(names, 1)})
    held(lab, {name: f"10.16.3.{number}" for number, name in enumerate(names, 1)})
    exchanged = {name: before[names[(number + 1) % 30]] for number, name in enumerate(names)}
    apply(lab, exchanged)
    held(lab, exchanged)
    apply(lab, dict.fromkeys(names[:15], ""))
    changes += 30 + 30 + 15
    held(lab, {**exchanged, **after})
    lab.kubevirt.wait_running("default", "late")
    assert lab.kubevirt.wait_migration("default", lab.kubevirt.migrate("default", "moved")) == "Succeeded"
    lab.placed("moved.default", lab.chassis("moved"), 20)
    lab.placed("late.default", lab.chassis("late"), 20)
    changes += 1
    recorded(lab)
    foreign(lab, "lsp-add", range(20, 50), "10.16.201")
    changes += 30
    assert changes >= 200
    return Hour(backup, frozenset(f"n{number}.default" for number in range(31, 40)))


def restore(lab: Lab, how: str, backup: Path) -> int:
    """Bring it about. `file`: the server starts on the backup; `anew`: the agents are killed, too, and start after it;
    `live`: into the running server; `emptied`: there is no backup, all is lost. Returns the number of the transaction after
    which all is somebody's answer to it."""
    file = lab.ovn.central.directory / "nb.db"
    if how == "live":
        with backup.open("rb") as content:
            subprocess.run(["ovsdb-client", "restore", lab.ovn.nb_remote], stdin=content, check=True)
        # All rows were replaced at once, those of others too.
        gone = [write for write in writes(file, "Logical_Switch_Port") if write.after is None and write.before]
        return max(each.transaction for each in gone if each.before.get("external_ids", {}).get(OWN) != "lab")  # type: ignore[union-attr]
    lab.ovn.stop_database("nb")
    if how == "emptied":
        lab.ovn.empty_database("nb")
        lab.ovn.nbctl("init")
        return 0
    if how == "anew":
        lab.agent.kill()
    file.write_bytes(backup.read_bytes())
    lab.ovn.start_database("nb")
    if how == "anew":
        lab.agent.start(ready=False)
    return 0


@pytest.mark.one_process
def test_every_vm_has_its_own_addresses_again_in_one_pass(lab: Lab, peer: Peer, tmp_path: Path) -> None:
    """By each way in turn; each begins where all is as it was before the first."""
    past = an_hour(lab, tmp_path)
    first = {name: row["addresses"] for name, row in own(lab).items()}
    for how in ("file", "anew", "live", "emptied"):
        brought_back(lab, peer, past, how)
        assert {name: row["addresses"] for name, row in own(lab).items()} == first


def brought_back(lab: Lab, peer: Peer, past: Hour, how: str) -> None:
    expected = own(lab)
    address = expected["still.default"]["addresses"][0].split()[1]
    assert peer.ping(address)
    lab.kubevirt.faults.delays.migration_step = 1.0
    moving = lab.kubevirt.migrate("default", "moves")
    wait_for(lambda: "," in lab.ovn.placed("moves.default"), 20, "a migration is under way")
    # Who has just started cannot know that a foreign port with an address on record is one of the past.
    waiting = past.reused if how == "anew" else frozenset()
    wanted = {name: row["addresses"] for name, row in expected.items() if name not in waiting}
    with peer.stream(address) as stream:
        began = stream.mark()
        since = restore(lab, how, past.backup)
        addressed(lab, wanted)
        took = stream.mark() - began
        lab.kubevirt.faults.reset()
        assert lab.kubevirt.wait_migration("default", moving, seconds=60) == "Succeeded"
        for name in ("still", "moves", "moved", "late"):
            lab.placed(f"{name}.default", lab.chassis(name), 40)
        loss = stream.loss(began)
    now = own(lab)

    passes, touched = set(), set()
    for write in writes(lab.ovn.central.directory / "nb.db", "Logical_Switch_Port"):
        row = write.after or write.before or {}
        if write.transaction <= since or row.get("external_ids", {}).get(OWN) != "lab":
            continue
        if write.after is None or any(map(write.changed, OURS)):
            touched.add(write.name)
        if write.changed("addresses"):
            passes.add(write.transaction)
            assert sorted((write.after or {})["addresses"]) == wanted.get(write.name), f"{write.name} had another address"
    print(f"{how}: all addresses {took:.2f} s after, {len(touched)} rows written, {loss.lost} of {loss.sent} packets lost")
    # Who has the books still, for the connection was not lost, looks at what has changed in batches of 64.
    assert len(passes) == (2 if how == "live" else 1)
    if how != "emptied":
        assert "still.default" not in touched, "it is in the backup as it should be"
    if how == "file":  # started anew, the agents come a second after northd has gone by the backup: that is OVN's part
        assert loss.lost == 0, "of the guest to which nothing happened"
    assert now.keys() == wanted.keys()
    for name in now.keys() - {"moves.default"}:
        assert {column: now[name][column] for column in OURS} == {column: expected[name][column] for column in OURS}, name
    if how != "emptied":
        check_what_is_told(lab, past)


def check_what_is_told(lab: Lab, past: Hour) -> None:
    """Of foreign ports that the backup has brought back, whose addresses VMs have by now."""
    phrase = "logical switch port theirs"
    for name in (port.removesuffix(".default") for port in past.reused):
        wait_for(lambda name=name: phrase in lab.events(name), 20, f"{name} is told")
    foreign(lab, "lsp-del", range(10))
    wait_for(lambda: past.reused <= own(lab).keys(), 20, "who was told has its port")


def test_the_files_reader_reads_what_is_there(lab: Lab) -> None:
    """The end of the file's story is what the database holds."""
    port = lab.create("web", strategy="Halted", ip_address="10.16.9.1")
    wait_for(lambda: lab.ovn.port(port), 10, "the port")
    lab.ovn.nbctl("set", "Logical_Switch_Port", port, "options:theirs=1", "external_ids:theirs=1")
    lab.ovn.nbctl("set", "Logical_Switch_Port", port, "options:theirs=2")
    lab.ovn.nbctl("lsp-set-addresses", port, "00:00:00:00:00:99 10.16.9.9")
    wait_for(lambda: lab.ovn.addresses(port) == ["10.16.9.1"], 5, "the addresses are back")
    rows: dict[str, Any] = {}
    for write in writes(lab.ovn.central.directory / "nb.db", "Logical_Switch_Port"):
        rows[write.uuid] = write.after
    found = next(row for row in rows.values() if row and row["name"] == port)
    assert {key: found[key] for key in ("options", "external_ids")} == {
        key: own(lab)[port][key] for key in ("options", "external_ids")
    }
    assert sorted(found["addresses"]) == own(lab)[port]["addresses"]
    assert found["options"]["theirs"] == "2"

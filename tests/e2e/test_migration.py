"""Live migrations on a real control plane and a real OVN: the options at each step, and after every kind of end."""

from __future__ import annotations

import os
import random
import re
import signal
import threading
import time

import pytest

from hack.lab.process import wait_for
from tests.e2e.conftest import Lab
from tests.integration.nb_file import writes

KILLS = int(os.environ.get("KILLS", "8"))
ENDS = ("Succeeded", "Failed")
TABLE_SECONDS = 1.0
"""After the last fact of any end, the options are the table's last lines within so long."""


def start(lab: Lab, name: str = "web") -> tuple[str, str]:
    """A VM that runs; its port and chassis."""
    port = lab.run(name)
    chassis = lab.chassis(name)
    lab.placed(port, chassis)
    return port, chassis


def prepared(lab: Lab, port: str, chassis: str) -> str:
    """Wait for the list of two; the target."""
    text = wait_for(lambda: re.fullmatch(rf"{chassis},(\S+) rarp", lab.ovn.placed(port)), 10, "A,B rarp")
    return str(text[1])


class Watch:
    """Every value that a port's options have while it watches."""

    def __init__(self, lab: Lab, port: str) -> None:
        self.lab, self.port = lab, port
        self.seen: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Watch:
        self.seen.append(self.lab.ovn.placed(self.port))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            placed = self.lab.ovn.placed(self.port)
            if self.seen[-1] != placed:
                self.seen.append(placed)


def test_around_three_nodes(lab: Lab) -> None:
    port, chassis = start(lab)
    addresses = lab.ovn.addresses(port)
    for number in range(1, 4):
        here = lab.node("web")
        target = f"node{int(here[-1]) % 3 + 1}"
        lab.kubevirt.cordon(*(node for node in lab.kubevirt.nodes if node != target))
        there = lab.ovn.on(target).name
        with Watch(lab, port) as watch:
            name = lab.kubevirt.migrate("default", "web")
            assert lab.kubevirt.wait_migration("default", name) == "Succeeded"
            lab.placed(port, there, TABLE_SECONDS + 1)
        lab.kubevirt.uncordon(*lab.kubevirt.nodes)
        assert watch.seen == [chassis, f"{chassis},{there} rarp", there], f"migration {number}"
        chassis = there
    assert lab.ovn.addresses(port) == addresses
    wait_for(lambda: "MigrationDone" in lab.events("web"), 5, "the Event")


def test_a_target_that_waits_for_a_node(lab: Lab) -> None:
    port, chassis = start(lab)
    lab.kubevirt.cordon(*lab.kubevirt.nodes)
    name = lab.kubevirt.migrate("default", "web")
    wait_for(lambda: len(lab.kubevirt.launchers("default", "web")) == 2, 10, "the target's pod")
    assert lab.ovn.placed(port) == chassis
    lab.kubevirt.uncordon(*lab.kubevirt.nodes)
    prepared(lab, port, chassis)
    assert lab.kubevirt.wait_migration("default", name) == "Succeeded"
    lab.placed(port, lab.chassis("web"), TABLE_SECONDS + 1)


@pytest.mark.parametrize("phase", ["PreparingTarget", "Running"])
def test_a_migration_that_fails(lab: Lab, phase: str) -> None:
    port, chassis = start(lab)
    lab.kubevirt.faults.fails = phase
    name = lab.kubevirt.migrate("default", "web")
    prepared(lab, port, chassis)
    assert lab.kubevirt.wait_migration("default", name) == "Failed"
    lab.placed(port, chassis, TABLE_SECONDS)
    assert lab.chassis("web") == chassis


@pytest.mark.parametrize("phase", ["Scheduling", "Running"])
def test_a_target_that_dies(lab: Lab, phase: str) -> None:
    port, chassis = start(lab)
    lab.kubevirt.faults.target_dies = phase
    name = lab.kubevirt.migrate("default", "web")
    assert lab.kubevirt.wait_migration("default", name) == "Failed"
    lab.placed(port, chassis, TABLE_SECONDS)


def test_cancelled_while_running_and_while_pending(lab: Lab) -> None:
    port, chassis = start(lab)
    lab.kubevirt.faults.stalls = True
    name = lab.kubevirt.migrate("default", "web")
    prepared(lab, port, chassis)
    lab.kubevirt.wait_migration("default", name, "Running")
    lab.kubevirt.cancel_migration("default", name)
    lab.kubevirt.wait_migration("default", name, "Failed")
    lab.placed(port, chassis, TABLE_SECONDS)
    lab.kubevirt.faults.reset()
    lab.kubevirt.cordon(*lab.kubevirt.nodes)
    name = lab.kubevirt.migrate("default", "web")
    wait_for(
        lambda: len([p for p in lab.kubevirt.launchers("default", "web") if not p["spec"].get("nodeName")]) == 1,
        10,
        "unbound",
    )
    lab.kubevirt.cancel_migration("default", name)
    assert lab.ovn.placed(port) == chassis


def test_the_announcement_is_lost(lab: Lab) -> None:
    """Nobody announces the target: it is opened within a second of its domain being ready."""
    port, chassis = start(lab)
    lab.kubevirt.faults.suppress_announce = True
    lab.kubevirt.faults.delays.migration_step = 0.5
    name = lab.kubevirt.migrate("default", "web")
    target = prepared(lab, port, chassis)

    def ready() -> bool:
        vmi = lab.kubevirt.vmi("default", "web")
        return bool(vmi and (vmi["status"].get("migrationState") or {}).get("targetNodeDomainReadyTimestamp"))

    wait_for(ready, 20, "the domain is ready")
    lab.placed(port, f"{target},{chassis} rarp", 1.0)
    assert lab.kubevirt.wait_migration("default", name) == "Succeeded"
    lab.placed(port, target, 3)


@pytest.mark.parametrize("order", [
    ("source completed", "domain ready", "node name", "succeeded"),
    ("domain ready", "succeeded", "node name", "source completed"),
    ("domain ready", "node name", "source completed", "succeeded"),
])  # fmt: skip
def test_the_end_in_other_orders(lab: Lab, order: tuple[str, ...]) -> None:
    port, chassis = start(lab)
    lab.kubevirt.faults.end_order = order
    lab.kubevirt.faults.delays.migration_step = 0.1
    with Watch(lab, port) as watch:
        name = lab.kubevirt.migrate("default", "web")
        target = prepared(lab, port, chassis)
        assert lab.kubevirt.wait_migration("default", name) == "Succeeded"
        lab.placed(port, target, 5)
    assert chassis not in watch.seen[1:], f"the source was written as the last word: {watch.seen}"


def test_a_source_that_lingers_keeps_the_list_until_the_grace_period_is_over(lab: Lab) -> None:
    port, chassis = start(lab)
    lab.kubevirt.faults.delays.source_lingers = 33.0
    name = lab.kubevirt.migrate("default", "web")
    target = prepared(lab, port, chassis)
    assert lab.kubevirt.wait_migration("default", name) == "Succeeded"
    ended = time.monotonic()
    took = lab.placed(port, target, 35)
    assert 25 < took < 33, f"{time.monotonic() - ended}"
    wait_for(
        lambda: len([p for p in lab.kubevirt.launchers("default", "web") if p["status"]["phase"] == "Running"]) == 1,
        10,
        "gone",
    )


def test_the_agent_is_frozen_over_the_switch(lab: Lab) -> None:
    """Stopped right after A,B: the guest moves all the same, and the options are put right when it goes on."""
    port, chassis = start(lab)
    name = lab.kubevirt.migrate("default", "web")
    target = prepared(lab, port, chassis)
    lab.agent.signal(signal.SIGSTOP)
    try:
        assert lab.kubevirt.wait_migration("default", name) == "Succeeded"
        bound = lab.ovn.sbctl("--bare", "--columns=options", "find", "Port_Binding", f'logical_port="{port}"')
        assert f"additional-chassis-activated={target}" in bound or lab.ovn.placed(port) == f"{chassis},{target} rarp"
    finally:
        lab.agent.signal(signal.SIGCONT)
    lab.placed(port, target, TABLE_SECONDS + 2)


@pytest.mark.parametrize("end", ["held", "killed"])
def test_virt_controller_is_away_over_the_switch(lab: Lab, end: str) -> None:
    """virt-handlers bring the guest over. Nobody says that the migration is over: the list stays, and costs nothing."""
    port, chassis = start(lab)
    control_plane = lab.kubevirt.control_plane
    lab.kubevirt.faults.delays.migration_step = 0.3
    name = lab.kubevirt.migrate("default", "web")
    target = prepared(lab, port, chassis)
    lab.kubevirt.wait_migration("default", name, "Running")
    if end == "held":
        control_plane.hold("virt-controller")
    else:
        control_plane.kill("virt-controller")
    try:
        wait_for(lambda: lab.chassis("web") == target, 20, "the guest is on the target")
        bound = ("--bare", "--columns=options", "find", "Port_Binding", f'logical_port="{port}"')
        wait_for(lambda: f"additional-chassis-activated={target}" in lab.ovn.sbctl(*bound), 10, "the target is open")
        assert lab.ovn.placed(port) == f"{chassis},{target} rarp"
    finally:
        if end == "held":
            control_plane.resume("virt-controller")
        else:
            control_plane.start("virt-controller")
            control_plane.wait_ready()
    assert lab.kubevirt.wait_migration("default", name, seconds=60) == "Succeeded"
    lab.placed(port, target, TABLE_SECONDS)


def test_the_agent_is_killed_at_any_moment(lab: Lab) -> None:
    port, _ = start(lab)
    moments = random.Random(7)
    for _ in range(KILLS):
        name = lab.kubevirt.migrate("default", "web")
        moment = moments.uniform(0, 1.2)
        threading.Event().wait(moment)
        lab.agent.kill()
        lab.agent.start()
        assert lab.kubevirt.wait_migration("default", name) == "Succeeded", f"killed after {moment:.2f} s"
        lab.placed(port, lab.chassis("web"), 35)


def phases(lab: Lab) -> list[str]:
    return [each.get("status", {}).get("phase", "") for each in lab.kube.get("vmim")["items"]]


@pytest.mark.one_process
def test_the_holder_is_killed_while_20_migrations_run(lab: Lab) -> None:
    """Again and again. What was written is read from the database's file: each port has its list of two before the switch,
    ends where its guest is, and never asks for nothing."""
    names = [f"many{number}" for number in range(20)]
    for name in names:
        lab.create(name)
    for name in names:
        lab.kubevirt.wait_running("default", name, 60)
        lab.placed(f"{name}.default", lab.chassis(name), 20)
    sources = {f"{name}.default": lab.chassis(name) for name in names}
    began, kills = time.time(), []
    lab.kubevirt.faults.delays.migration_step = 0.5
    migrations = [lab.kubevirt.migrate("default", name) for name in names]
    while any(phase not in ENDS for phase in phases(lab)):
        holder = lab.agent.leader()
        kills.append(time.time())
        holder.kill()
        holder.start()
    for name, migration in zip(names, migrations, strict=True):
        assert lab.kubevirt.wait_migration("default", migration, seconds=60) == "Succeeded"
        lab.placed(f"{name}.default", lab.chassis(name), 40)

    history: dict[str, list[str]] = {port: [] for port in sources}
    times = []
    for write in writes(lab.ovn.central.directory / "nb.db", "Logical_Switch_Port"):
        if write.at >= began and write.name in sources and write.changed("options"):
            assert write.after is not None
            history[write.name].append(write.after["options"].get("requested-chassis", ""))
            times.append(write.at)
    for port, source in sources.items():
        target = lab.chassis(port.removesuffix(".default"))
        assert history[port][0] == f"{source},{target}", history[port]
        assert history[port][-1] == target, history[port]
        assert set(history[port]) <= {f"{source},{target}", f"{target},{source}", target}, history[port]
    after = [min((at for at in times if at > kill), default=kill) - kill for kill in kills]
    print(f"{len(kills)} kills; the next row {', '.join(f'{each:.2f}' for each in after)} s after")
    assert len(kills) >= 3


def test_deleted_in_the_middle(lab: Lab) -> None:
    port, chassis = start(lab)
    lab.kubevirt.faults.stalls = True
    lab.kubevirt.migrate("default", "web")
    prepared(lab, port, chassis)
    lab.kube.kubectl("delete", "vm", "web", "--wait=false")
    wait_for(lambda: not lab.ovn.port(port), 30, "port gone")


def test_orphaned_adopted_migrated_deleted(lab: Lab) -> None:
    """`--cascade=orphan`, a new VM of the name adopts the guest, it migrates, and a foreground delete takes all of it."""
    port, _ = start(lab)
    addresses = lab.ovn.addresses(port)
    lab.kube.kubectl("delete", "vm", "web", "--cascade=orphan")
    lab.create("web")
    wait_for(lambda: (vmi := lab.vmi("web")) and vmi["metadata"].get("ownerReferences"), 20, "the VMI adopted")
    assert lab.kubevirt.wait_migration("default", lab.kubevirt.migrate("default", "web")) == "Succeeded"
    lab.placed(port, lab.chassis("web"))
    assert lab.ovn.addresses(port) == addresses
    lab.kube.kubectl("delete", "vm", "web", "--cascade=foreground", "--wait=false")
    wait_for(lambda: not lab.ovn.port(port), 20, "port gone")


def test_a_chassis_that_registers_under_a_new_name(lab: Lab) -> None:
    """The pin follows, and stays as it is while the node has no chassis at all."""
    port, chassis = start(lab)
    node = lab.ovn.on(lab.node("web"))
    try:
        lab.ovn.stop_controller(node, kill=True)
        node.vsctl("set", "Open_vSwitch", ".", "external_ids:system-id=renamed")
        lab.ovn.sbctl("chassis-del", chassis)  # its tunnel's address is unique: the new one cannot register beside it
        lab.ovn.start_controller(node)
        lab.placed(port, "renamed", 5)
    finally:
        lab.ovn.stop_controller(node)
        node.vsctl("set", "Open_vSwitch", ".", f"external_ids:system-id={chassis}")
        lab.ovn.sbctl("--if-exists", "chassis-del", "renamed")
        lab.ovn.start_controller(node)
    lab.placed(port, chassis, 10)


def test_look_alikes_change_nothing(lab: Lab) -> None:
    """Attachment pods of hot-plugged volumes carry a migration's label, ephemeral pods that of a launcher."""
    port, chassis = start(lab)
    lab.kubevirt.ephemeral_launcher("default", "web")
    lab.kubevirt.attachment_pod("default", "web")
    lab.kubevirt.cordon(*lab.kubevirt.nodes)
    name = lab.kubevirt.migrate("default", "web")
    wait_for(lambda: len(lab.kubevirt.launchers("default", "web")) >= 2, 10, "the target's pod")
    lab.kubevirt.attachment_pod("default", "web", name)
    assert lab.ovn.placed(port) == chassis


def test_a_node_that_dies_and_comes_back_gets_no_traffic(lab: Lab) -> None:
    """The pin is the fence: the old chassis still has the interface, and the port is bound where the new launcher is."""
    port, chassis = start(lab)
    dead = lab.node("web")
    lab.kubevirt.node_dies(dead, guests_survive=True)
    try:
        lab.kubevirt.force_delete_launchers("default", "web")
        wait_for(
            lambda: (vmi := lab.vmi("web")) and vmi["status"].get("nodeName") not in ("", None, dead),
            30,
            "a new launcher",
        )
        lab.placed(port, lab.chassis("web"))
        lab.ovn.sync()
        bound = lab.ovn.sbctl("--bare", "--columns=chassis", "find", "Port_Binding", f'logical_port="{port}"').strip()
        name = lab.ovn.sbctl("--bare", "--columns=name", "list", "Chassis", bound).strip()
        assert name == lab.chassis("web") != chassis
    finally:
        lab.kubevirt.node_returns(dead)


@pytest.mark.one_process
def test_fifty_migrations_at_once(lab: Lab) -> None:
    """From the target's launcher being seen bound to the options being committed, as the agent measures it itself."""
    names = [f"many{number}" for number in range(50)]
    for name in names:
        lab.create(name)
    for name in names:
        lab.kubevirt.wait_running("default", name, 120)
    lab.agent.kill()
    lab.agent.start()
    migrations = [lab.kubevirt.migrate("default", name) for name in names]
    for migration in migrations:
        assert lab.kubevirt.wait_migration("default", migration, seconds=120) == "Succeeded"
    for name in names:
        lab.placed(f"{name}.default", lab.chassis(name), 10)
    assert lab.agent.metric("ovnagent_migration_prepare_seconds_count") == 50
    text = lab.agent.http("/metrics")[1]
    buckets = dict(re.findall(r'ovnagent_migration_prepare_seconds_bucket\{le="([^"]+)"\} (\S+)', text))
    print({edge: int(float(count)) for edge, count in buckets.items()})
    assert float(buckets["0.05"]) >= 49, buckets

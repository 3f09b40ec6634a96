"""From bytes to transaction: 2,000 hostile objects go through the whole agent, a process as it is deployed, into a real
ovsdb-server and a real northd, and beside each of them an innocent VM gets its port, keeps it and moves.

FUZZ_SEED=<seed> does a run again, FUZZ_BATCH=<number> one batch of it; FUZZ_BATCHES sets how many there are.
"""

from __future__ import annotations

import os
import random
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.lab.process import running
from tests.desk import vm_object
from tests.integration import hostile_objects
from tests.integration.fuzz_world import Innocent, World, entries, world_in
from tests.integration.hostile_objects import Obj

SEED = os.environ.get("FUZZ_SEED") or str(random.randrange(10**6))
BATCHES = int(os.environ.get("FUZZ_BATCHES") or 20)
ONLY = os.environ.get("FUZZ_BATCH")
GROUPS = 20
"""In a batch: so many hostile groups of five objects, and so many innocent VMs."""
CALM = (0, BATCHES // 3, 2 * BATCHES // 3)
"""Before these batches there is one in which nobody means harm: what this machine can do at this moment."""
SECONDS = 1.0
"""Within which an innocent VM gets its port, and has both chassis listed when the target of its migration is bound."""
SCALE = 4
"""Where the machine is busy with other things: so many times what it takes in friendly company, in the same run."""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with world_in(tmp_path) as made:
        yield made


def run_batch(world: World, number: int, calm: bool) -> list[float]:
    """One batch, and all that must hold after it; how long the innocent ones waited."""
    rng = random.Random(f"{SEED}/{number}")
    name = f"c{number}" if calm else f"h{number}"
    vms: list[Innocent] = [world.innocent(f"i{name}-{index}") for index in range(GROUPS)]
    victims = [*world.residents, *vms]

    def others() -> Iterator[list[Obj]]:
        for index in range(GROUPS):
            made = f"{name}-{index}"
            yield hostile_objects.friendly(made, "tenant-0") if calm else hostile_objects.group(rng, made, victims)

    for vm, group in zip(vms, others(), strict=True):
        world.put_hostile(group)
        world.start(vm)
    waits = world.placed(vms, "chassis1", "started", "innocent VMs placed")
    for vm in vms:
        row = world.history.now(vm.port)
        assert row is not None
        vm.mac, *vm.ips = entries(row["addresses"])[0].split()
    world.ovn.nb.nbctl("--wait=sb", "sync")
    world.bound(vms, "chassis1")
    for vm, group in zip(vms, others(), strict=True):  # the same names, with something else in them, or gone
        world.put_hostile(group)
        world.migrate(vm)
        for obj in group if not calm and rng.random() < 0.3 else ():
            if rng.random() < 0.5:
                key = obj.kind, str(obj.meta.get("namespace", "")), str(obj.meta["name"])
                del world.hostile[key]
                world.server.delete(*key)
    waits += world.placed(vms, "chassis1,chassis2", "moved", "both chassis listed")
    world.bound(vms, "chassis2")
    for vm in vms:
        world.arrive(vm)
    world.placed(vms, "chassis2", "moved", "innocent VMs arrived")
    world.check(vms)
    world.clean_up(vms)
    world.nothing_grows()
    world.server.forget()
    return waits


def settle_down(world: World) -> None:
    """VMs that stay for the whole run, and a first batch that nothing is measured by: all code is loaded after it."""
    world.residents = [world.innocent(name) for name in ("resident-1", "resident-2", "tenant-0.net")]
    for vm in world.residents:
        world.start(vm)
    world.placed(world.residents, "chassis1", "started", "residents placed")
    for vm in world.residents:
        row = world.history.now(vm.port)
        assert row is not None
        vm.mac, *vm.ips = entries(row["addresses"])[0].split()
    world.threads = 10**6
    run_batch(world, 1000, calm=True)
    status = Path(f"/proc/{running(world.agent.pidfile)}/status").read_text()
    world.threads = int(status.partition("Threads:")[2].split()[0])
    world.memory.clear()


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def judge(waits: list[float], friendly: list[float]) -> None:
    """Say how long the innocent have waited, and whether that is too long. `friendly`: in friendly company, in this run."""
    limit = max(SECONDS, SCALE * max(friendly, default=0.0))
    text = (
        f"{len(waits)} waits of innocent VMs: p50 {statistics.median(waits):.3f}, p99 {percentile(waits, 0.99):.3f}, "
        f"p100 {max(waits):.3f} s; in friendly company p100 {max(friendly, default=0.0):.3f} s; limit {limit:.2f} s"
    )
    print(text)
    assert max(waits) <= limit, text


@pytest.mark.timeout(900)
def test_hostile_objects_cost_the_innocent_nothing(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    print(f"FUZZ_SEED={SEED}")
    settle_down(world)
    world.objects, began = 0, time.monotonic()
    friendly, waits = [], []
    for number in [int(ONLY)] if ONLY else range(BATCHES):
        if number in CALM:
            before = world.objects
            friendly += run_batch(world, 2000 + number, calm=True)
            world.objects = before
        print(f"FUZZ_SEED={SEED} FUZZ_BATCH={number}")
        waits += run_batch(world, number, calm=False)
    took = time.monotonic() - began
    world.check(world.residents[:0])
    memory = f"memory {world.memory[0] >> 10} -> {world.memory[-1] >> 10} MiB; FUZZ_SEED={SEED}"
    with capsys.disabled():
        print(f"\n{world.objects} hostile objects in {took:.0f} s; {memory}")
        judge(waits, friendly)
    if not ONLY:
        assert world.objects >= 100 * BATCHES
        assert world.memory[-1] <= world.memory[len(world.memory) // 4] + (48 << 10), world.memory


@pytest.mark.timeout(300)
def test_a_flood_costs_others_a_batch(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """2,000 VMs of a tenant at once, and one more that asks for something else 200 times a second, as long as it lasts."""
    settle_down(world)
    friendly = run_batch(world, 2000, calm=True)
    done = threading.Event()

    def flood() -> None:
        for number in range(2000):
            world.put("virtualmachines", vm_object(f"f{number}", namespace="tenant-0"))

    def flicker() -> None:
        number = 0
        while not done.wait(0.005):
            number += 1
            wish = {"ovn.kubernetes.io/ip_address": f"10.16.7.{number % 250 + 1}"}
            world.put("virtualmachines", vm_object("flicker", annotations=wish, namespace="tenant-1"))

    threads = [threading.Thread(target=flicker), threading.Thread(target=flood)]
    for thread in threads:
        thread.start()
    vms = [world.innocent(f"beside-{number}") for number in range(GROUPS)]
    try:
        for vm in vms:
            world.start(vm)
        waits = world.placed(vms, "chassis1", "started", "innocent VMs placed")
        for vm in vms:
            world.migrate(vm)
        waits += world.placed(vms, "chassis1,chassis2", "moved", "both chassis listed")
    finally:
        done.set()
        for thread in threads:
            thread.join()
    world.check_agent()
    for vm in vms:
        world.check_innocent(vm)
    for number in range(2000):
        world.server.delete("virtualmachines", "tenant-0", f"f{number}")
    world.server.delete("virtualmachines", "tenant-1", "flicker")
    world.clean_up(vms)
    world.nothing_grows()
    with capsys.disabled():
        print()
        judge(waits, friendly)

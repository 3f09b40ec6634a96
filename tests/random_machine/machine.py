"""Episodes of steps. Each step is a function of its number and of what is there: one may be left out, and the others still
mean something. So an episode that fails is made shorter by leaving out steps, and printed as sentences.

    python -m tests.random_machine                           10,000 steps with a new seed
    MACHINE_SEED=<seed> python -m tests.random_machine       the same again
    MACHINE_SEED=<seed>/<episode> ...                        one episode of it
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from tests.random_machine import others
from tests.random_machine.cluster import MIGRATIONS, NAMES, PODS, VMIS, VMS, Cluster, Machine
from tests.random_machine.driver import Driver
from tests.random_machine.invariants import Invariants, ViolationError
from tests.random_machine.kubevirt import Action, next_actions
from tests.random_machine.users import next_mishaps, next_wishes
from tests.random_machine.world import World

STEPS = 100
"""In an episode."""
REST = 25
"""After so many steps, on average, all news is told and all grace periods are over."""
LAG = 0.3
GRACE = 31.0
ROUNDS = 60


@dataclass(frozen=True)
class Failure:
    """An episode that failed."""

    name: str
    """`<seed>/<episode>`."""
    what: str
    steps: tuple[int, ...]
    """Those that are needed for it."""
    story: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join([f"MACHINE_SEED={self.name}: {self.what}", *self.story, f"{self.what}"])


class Episode:
    """Some steps from an empty cluster on, and all that must hold."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.cluster = Cluster(world.api)
        self.cluster.now = world.clock.monotonic
        self.driver, self.nb, self.sb = world.driver, world.nb, world.sb
        self.invariants = Invariants(self.cluster, self.driver, self.nb, self.sb, world.clock)
        self.story: list[str] = []
        self.driver.hung.clear()
        self.invariants.say = lambda text: self.story.append(f"         {text}")
        self.rested = 0
        """Where in the story the last rest was."""
        self.subnet, self.network, self.blue = "10.16.0.0/28", "pods", True
        self.robbed = False

    def run(self, steps: Sequence[int]) -> None:
        """Raises ViolationError (or whatever else goes wrong)."""
        self.begin()
        for number in steps:
            rng = Random(f"{self.name}/{number}")
            self.step(number, rng)
        self.the_end()

    def begin(self) -> None:
        """A new agent, and nothing that it has to do."""
        self.world.configure(self.subnet, self.network, self.blue)
        self.nb.catch_up()
        self.nb.listener = self.invariants.on_write
        if self.driver.agent is not None:
            self.driver.stop()
        self.driver.start()
        self.after(Random(self.name), 0.0)

    # -- steps

    def step(self, number: int, rng: Random) -> None:
        if not self.robbed and Random(f"{self.name}/{number}/another").random() < OTHERS:
            self.story.append(f"{number:4} another agent leads for a moment, before the next transaction")
            self.driver.meanwhile = self._another_leads
        kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
        if kind == "rest":
            self.story.append(f"{number:4} rest")
            self.rest()
            return
        if kind in CONTROL and not any(True for _ in self._control(rng)):
            kind = "wish"  # all is done that anybody has asked for
        found = list(getattr(self, f"_{kind}")(rng))
        if found:
            text, act = rng.choice(found)
            self.story.append(f"{number:4} {text}")
            act(rng)
        self.after(rng, LAG)

    def _control(self, rng: Random) -> Iterator[Action]:
        for machine in self.machines():
            yield from next_actions(self.cluster, machine)

    def _much(self, rng: Random) -> Iterator[Action]:
        """Some more of it at once."""
        yield "at once:", lambda rng: self._several(rng, rng.randrange(2, 8), lambda: self._control(rng))

    def _one_machine(self, rng: Random) -> Iterator[Action]:
        """One machine gets on while the others stand."""
        able = [machine for machine in self.machines() if any(True for _ in next_actions(self.cluster, machine))]
        if able:
            machine = rng.choice(able)
            times = rng.randrange(1, 7)
            yield (
                f"{machine.name} gets on:",
                lambda rng: self._several(rng, times, lambda: next_actions(self.cluster, machine)),
            )

    def _wish(self, rng: Random) -> Iterator[Action]:
        yield from next_wishes(self.cluster, rng.choice(self.machines()))

    def _mishap(self, rng: Random) -> Iterator[Action]:
        for machine in self.machines():
            yield from next_mishaps(self.cluster, machine)

    def _edit(self, rng: Random) -> Iterator[Action]:
        yield from others.next_edits(self.nb, self.invariants)

    def _empty(self, rng: Random) -> Iterator[Action]:
        yield others.empty(self.nb, self.invariants)

    def _kill(self, rng: Random) -> Iterator[Action]:
        def kill(rng: Random) -> None:
            self._several(rng, rng.randrange(1, 5), lambda: self._anything(rng))
            self.driver.tell(rng, 0.1)
            lines = int(10 ** rng.uniform(1, 3.7))
            killed = not self.robbed and self.driver.settle(lines)
            self.story.append(f"     killed after {lines} lines" if killed else "     killed, idle")
            self.nb.catch_up()
            if rng.random() < 0.5:  # what waited was sent a moment before
                self.write_records()
            self.restart()

        yield "the agent is killed and started anew, while", kill

    def _several(self, rng: Random, times: int, actions: Callable[[], Iterator[Action]]) -> None:
        for _ in range(times):
            if found := list(actions()):
                text, act = rng.choice(found)
                self.story.append(f"     {text}")
                act(rng)

    def _anything(self, rng: Random) -> Iterator[Action]:
        yield from self._control(rng)
        yield from self._wish(rng)

    def _gap(self, rng: Random) -> Iterator[Action]:
        kind = rng.choice([VMS, VMIS, MIGRATIONS, PODS])
        yield f"a gap in the watch of {kind}: all are listed", lambda _: self.driver.gap(kind)

    def _hang(self, rng: Random) -> Iterator[Action]:
        kind, times = rng.choice([VMS, VMIS, VMIS, VMIS, MIGRATIONS, PODS, PODS]), rng.randrange(3, 15)
        yield f"the watch of {kind} hangs for {times} steps", lambda _: self.driver.hung.update({kind: times})

    def _lock(self, rng: Random) -> Iterator[Action]:
        yield "the lock changes hands", lambda _: self.rob(not self.robbed)

    def _another_leads(self) -> None:
        """It takes the lock, does all that there is to do, and ends. The first one has the lock again then."""
        self.story.append("         another agent leads")
        first = self.driver
        self.driver = self.invariants.driver = Driver(self.world.path, self.world.api, self.world.clock)
        self.driver.start(steal=True)
        self.driver.settle()
        self.nb.catch_up()
        self.driver.stop()
        self.driver = self.invariants.driver = first
        self.driver.wait_for_lock(True)
        self.story.append("         the first one goes on")

    def _configure(self, rng: Random) -> Iterator[Action]:
        def change(**changes: Any) -> Callable[[Random], None]:
            return lambda rng: self.reconfigure(rng, **changes)

        if self.subnet != "10.16.0.0/26":
            yield "the pod network is widened", change(subnet="10.16.0.0/26")
        name = "office" if self.network == "pods" else "pods"
        yield f"the pod network is called {name}", change(network=name)
        text = "gone from the configuration" if self.blue else "back in the configuration"
        yield f"network blue is {text}", change(blue=not self.blue)

    def _time(self, rng: Random) -> Iterator[Action]:
        seconds = rng.choice([0.05, 0.5, 1.5, 5.0, 31.0, 130.0])
        yield f"{seconds} s pass", lambda _: self.pass_time(seconds)

    def _wall(self, rng: Random) -> Iterator[Action]:
        seconds = rng.choice([-3600.0, -5.0, 5.0, 3600.0])
        yield f"the API server's clock is set by {seconds:+} s", lambda _: self.cluster.pass_time(seconds)

    # -- how

    def machines(self) -> list[Machine]:
        return list(self.cluster.machines.values())

    def pass_time(self, seconds: float) -> None:
        self.world.clock.now += seconds
        self.cluster.pass_time(seconds)
        self.driver.heard_of()
        self.driver.living.kube.records.tidy()

    def reconfigure(self, rng: Random, **changes: Any) -> None:
        """The operator changes the file. Where the running agent refuses it, he starts it anew, or takes it back."""
        before = {key: getattr(self, key) for key in changes}
        self._write(**changes)
        self.driver.living.reloader.look()
        refused = bool(self.driver.living.reloader._errors)
        if refused and rng.random() < 0.5:
            self.story[-1] += ", which is refused and taken back"
            self._write(**before)
        elif refused or rng.random() < 0.2:
            self.story[-1] += ", and the agent is started anew"
            self.restart()

    def _write(self, **values: Any) -> None:
        for key, value in values.items():
            setattr(self, key, value)
        self.world.configure(self.subnet, self.network, self.blue)

    def restart(self) -> None:
        self.nb.catch_up()
        self.driver.stop()
        self.driver.start()

    def rob(self, rob: bool) -> None:
        """Another agent takes the lock, or gives it back."""
        name = self.driver.living.northbound.lock_name
        self.nb.ask("steal" if rob else "unlock", name)
        self.robbed = rob
        self.driver.wait_for_lock(not rob)

    def after(self, rng: Random, lag: float) -> None:
        """What has happened is told, more or less, and the agent does what it has to do."""
        self.cluster.pass_time(rng.choice([0, 0, 0, 1]))
        self.world.clock.now += 0.01
        if rng.random() < 0.8:
            self.nb.catch_up()
            self.sb.follow(self.nb.own(), self.cluster)
        self.driver.tell(rng, lag)
        if not self.robbed:
            self.driver.wait_for_lock(True)
        self.driver.settle()
        if self.driver.stale:
            raise ViolationError("what was planned before another agent led is written after it")
        self.nb.catch_up()
        if rng.random() < 0.7:
            self.write_records()
        if not self.robbed:
            self.invariants.after_step()

    def write_records(self) -> None:
        self.driver.write_records()
        for name in NAMES:
            self.invariants.on_record(name)

    def rest(self) -> None:
        """All is told, all grace periods are over; then what must hold, and a second agent finds nothing to do."""
        if self.robbed:
            self.rob(False)
        self.come_to_rest()
        self.invariants.at_rest()
        writes = self.invariants.writes
        self.driver.stop()
        self.driver.start()
        self.after(Random(0), 0.0)
        if self.driver.asked or self.invariants.writes != writes:
            raise ViolationError(f"a second agent started now writes something: {self.driver.asked}")
        self.rested = len(self.story)

    def come_to_rest(self) -> None:
        quiet = 0
        for _ in range(ROUNDS):
            before = self.invariants.writes, dict(self.sb.bindings), self.pending()
            self.driver.tell(Random(0), 0.0)
            self.pass_time(GRACE)
            self.after(Random(0), 0.0)
            self.driver.write_records()
            self.sb.follow(self.nb.own(), self.cluster)
            quiet = quiet + 1 if before == (self.invariants.writes, self.sb.bindings, 0) else 0
            if quiet == 2:
                return
        raise ViolationError("the agent comes to no rest, though nothing happens any more")

    def pending(self) -> int:
        return sum(len(self.driver.pending(watcher)) for watcher in self.driver.watchers)

    def the_end(self) -> None:
        """All VMs are deleted; nothing of the agent's is left."""
        self.story.append("     the end: everything is deleted")
        if not self.blue:
            self._write(blue=True)
            self.driver.living.reloader.look()
        self.rest()
        rng = Random(0)
        for _ in range(200):
            for machine in self.machines():
                if machine.vm is not None and not machine.vm.deleting:
                    machine.vm.deleting = "background"
                    self.cluster.put_vm(machine)
                if machine.vmi is not None and not machine.vmi.deleting and machine.vm is None:
                    machine.vmi.deleting = True
                    self.cluster.put_vmi(machine)
                for _ in range(3):
                    if found := list(next_actions(self.cluster, machine)):
                        rng.choice(found)[1](rng)
            self.after(rng, LAG)
            if all(machine.empty for machine in self.machines()):
                break
        left = [machine for machine in self.machines() if not machine.empty]
        assert not left, f"the world is at a standstill: {left}"
        self.rest()
        if left_rows := [row["name"] for row in self.nb.own()]:
            raise ViolationError(f"all VMs are gone, and these rows are left: {left_rows}")
        theirs = [others.delete_port(row) for row in self.nb.rows.values()]
        self.nb.edit(*theirs)
        self.api_forgets()

    def api_forgets(self) -> None:
        self.driver.tell(Random(0), 0.0)
        self.world.api.forget(0)


CONTROL = ("control", "much", "one_machine")
OTHERS = 1 / 200
"""In how many of the steps another agent leads besides."""
KINDS = {
    "control": 14,
    "much": 10,
    "one_machine": 28,
    "wish": 16,
    "mishap": 4,
    "edit": 6,
    "empty": 0.3,
    "kill": 3,
    "gap": 2,
    "hang": 4,
    "lock": 1,
    "configure": 1.5,
    "time": 7,
    "wall": 0.7,
    "rest": 100 / REST,
}
"""What a step may be, and how often."""

"""An agent's Northbound edge for tests: what it has been told, and short words for what tests do with it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from hack.lab.process import wait_for
from ovnagent.core.addresses import Foreign
from ovnagent.core.ports import CLUSTER, VM, Port, PresentPort
from ovnagent.core.vm import VmKey
from ovnagent.ovn.changes import Change
from ovnagent.ovn.connection import Tls
from ovnagent.ovn.nb_replica import Listeners
from ovnagent.ovn.northbound import Group, Northbound
from ovnagent.ovn.snapshot import NorthboundSnapshot

SWITCHES = ("pods", "vlan7")
SECONDS = 10


@dataclass
class Heard:
    """What the agent has been told since it was last asked."""

    rows: set[VmKey] = field(default_factory=set)
    everything: int = 0
    inventory: int = 0

    def changed(self, keys: set[VmKey]) -> None:
        self.rows |= keys

    def all(self) -> None:
        self.everything += 1

    def others(self) -> None:
        self.inventory += 1

    def forget(self) -> None:
        self.rows, self.everything, self.inventory = set(), 0, 0


@dataclass
class Agent:
    northbound: Northbound
    heard: Heard

    @property
    def now(self) -> NorthboundSnapshot:
        return self.northbound.snapshot

    def commit(self, *changes: Change) -> str | None:
        return self.northbound.commit([Group("test", changes)])[0]

    def row(self, name: str) -> PresentPort:
        return wait_for(lambda: self.now.ports.get(name), SECONDS, f"port {name} in the copy")

    def taken(self, switch: str) -> dict[str, str]:
        """IP address -> phrase naming the foreign port that has it."""
        return dict(self.now.foreign.get(switch, Foreign()).ips)

    def taken_macs(self, switch: str) -> dict[str, str]:
        return dict(self.now.foreign.get(switch, Foreign()).macs)

    def ready(self) -> None:
        wait_for(lambda: self.now.complete, SECONDS, "the copy is complete")
        self.northbound.acquire_lock()
        wait_for(lambda: self.northbound.has_lock, SECONDS, "the lock is held")


Start = Callable[..., Agent]
"""`start(remote)`: an agent's Northbound edge, with `ready=True` ready to write."""


@contextmanager
def agents() -> Iterator[Start]:
    """Starts agents; ends them, each within a second, and sees that no thread is left."""
    threads = set(threading.enumerate())
    with ExitStack() as stack:

        def start(remote: str, cluster: str = "c1", ready: bool = True, tls: Tls | None = None) -> Agent:
            heard = Heard()
            northbound = Northbound(remote, cluster, SWITCHES, Listeners(heard.changed, heard.all, heard.others), tls)
            northbound.start()
            stack.callback(northbound.stop)
            agent = Agent(northbound, heard)
            if ready:
                agent.ready()
            return agent

        yield start
    left = set(threading.enumerate()) - threads
    assert not left


def group(*changes: Change) -> Group:
    return Group("", changes)


def port(name: str, switch: str = "pods", ip: str = "10.16.0.2", cluster: str = "c1", **options: str) -> Port:
    return Port(
        name=name,
        switch=switch,
        addresses=(f"02:00:00:00:00:01 {ip}",),
        port_security=(f"02:00:00:00:00:01 {ip}",),
        options=tuple(sorted((key.replace("_", "-"), value) for key, value in options.items())),
        external_ids=((CLUSTER, cluster), (VM, f"default/{name}")),
    )

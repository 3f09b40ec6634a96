"""Looks at a cluster as the agent does, with the agent's own code, and writes nothing: no lock, no row, no Event.

For the commands for people (`ports`, `check`, `pools`), on an operator's machine or in the agent's own pod.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from ovnagent.commands.text import slow
from ovnagent.config.file import Config
from ovnagent.core.books import Books
from ovnagent.core.deletion import NO_BRAKE, Brake
from ovnagent.core.placement import Binding, locate
from ovnagent.core.plan import Case, Result, World, plan
from ovnagent.core.virtual_ports import virtual_ports
from ovnagent.core.vm import VmKey
from ovnagent.difference import Present, brake_of, changes, infrastructure, virtual_changes, world_of
from ovnagent.kube.kubernetes import Kubernetes
from ovnagent.ovn import json_parser
from ovnagent.ovn.changes import Change, CreatePort
from ovnagent.ovn.nb_replica import Listeners
from ovnagent.ovn.northbound import Northbound
from ovnagent.ovn.snapshot import SouthboundSnapshot
from ovnagent.ovn.southbound import Southbound
from ovnagent.process import memory
from ovnagent.process.supervision import Supervisor

STALE_SECONDS = 30.0
"""A view of Kubernetes that is older than this is not shown any more."""
NAMES = 50
"""So many missing ports' names are looked up on other switches: many more make the server compare all rows with each."""
NAMES_SECONDS = 5.0
SILENT_SECONDS, TELL_SECONDS = 2.0, 5.0
"""After so long it says on standard error what it is at, and from then on so often."""


class CannotLookError(Exception):
    """Something does not answer; the message names it and says what to do."""


@dataclass(frozen=True, slots=True)
class View:
    """All VMs at one moment: what is, and what should be."""

    world: World
    books: Books
    cases: Mapping[VmKey, Case]
    results: Mapping[VmKey, Result]
    bindings: Mapping[str, Binding]
    """Port name -> where SB binds it."""
    infrastructure: Sequence[Change] = ()
    """What would have to be done besides the ports of VMs."""
    brake: Brake = NO_BRAKE
    """What an agent does not delete by itself."""

    def changes(self, key: VmKey) -> list[Change]:
        """What would have to be done for a VM."""
        return changes(self.results[key], self.cases[key].present)


class Observer:
    """`with Observer(config, seconds) as observer:` — everything is there, or CannotLookError within `seconds`."""

    def __init__(self, config: Config, seconds: float) -> None:
        self._config, self._seconds = config, seconds
        self._troubles = _Troubles()
        self._news = threading.Event()
        self._tell_at = time.monotonic() + SILENT_SECONDS
        self._looked = False
        networks = config.networks.all
        try:
            self._kube = Kubernetes(config.kubernetes, self._changed, self._changed, Supervisor(), tell=False)
        except Exception as error:
            raise CannotLookError(
                f"Kubernetes: {error}; set kubernetes.kubeconfig in the configuration, or KUBECONFIG"
            ) from None
        self._northbound = Northbound(
            config.northbound,
            config.cluster,
            (network.logical_switch for network in networks),
            Listeners(self._changed, self._changed, self._changed),
            config.tls,
            (network.router for network in networks if network.router),
        )
        self._southbound = Southbound(config.southbound, self._changed, self._changed, config.tls)

    def _changed(self, *_: object) -> None:
        self._news.set()

    def __enter__(self) -> Self:
        json_parser.install()
        self._troubles.listen()
        self._kube.start()
        self._northbound.start()
        self._southbound.start()
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._kube.stop(0.5)
        self._northbound.stop()
        self._southbound.stop()
        self._troubles.leave()

    def _wait(self) -> None:
        """Until all three are complete, with a word on standard error where that takes a while."""
        started = time.monotonic()
        while waiting := self._incomplete():
            waited = time.monotonic() - started
            troubles = "; ".join(sorted(self._troubles.last.values()))
            if waited > self._seconds:
                raise CannotLookError(
                    f"{', '.join(waiting)}: not complete after {self._seconds:g} s ({troubles or 'no answer'}); "
                    "check the endpoint, its certificates and your rights, or give it more time with --timeout"
                )
            because = f" ({troubles})" if troubles else ""
            self._tell(f"waiting for {', '.join(waiting)}{because}; {self._kube.read} objects read so far")
            time.sleep(0.02)
        self._troubles.last.clear()

    def _tell(self, what: str) -> None:
        """What it is at, where that takes a while."""
        if time.monotonic() >= self._tell_at:
            self._tell_at = time.monotonic() + TELL_SECONDS
            print(f"{what} ...", file=sys.stderr, flush=True)

    def _incomplete(self) -> list[str]:
        """Who has not said everything yet, or has not been heard of for long."""
        fresh = self._kube.synced and max(self._kube.stale.values(), default=0.0) < STALE_SECONDS
        sources = [
            ("Kubernetes", fresh),
            (f"Northbound ({self._config.northbound})", self._northbound.snapshot.complete),
            (f"Southbound ({self._config.southbound})", self._southbound.watch_all() and self._southbound.snapshot.complete),
        ]
        return [name for name, complete in sources if not complete]

    def look(self) -> View:
        """What is and what should be, now. Raises CannotLookError where a connection is lost and does not come back."""
        if self._looked:  # the first look's patience began with the process
            self._tell_at = time.monotonic() + SILENT_SECONDS
        self._looked = True
        while True:
            self._wait()
            generation = self._northbound.snapshot.generation
            with slow("computing what should be"), memory.loading():
                view = self._look()
            if not self._incomplete() and generation == self._northbound.snapshot.generation:
                return view

    def look_closely(self) -> View:
        """Also at ports on other switches that have the names of missing ones."""
        view = self.look()
        missing = [
            change.port.name for key in view.results for change in view.changes(key) if isinstance(change, CreatePort)
        ]
        if not missing:
            return view
        names = set(missing[:NAMES])
        self._northbound.watch_names(names)
        end = time.monotonic() + NAMES_SECONDS
        while not self._northbound.names_known(names) and time.monotonic() < end:
            time.sleep(0.02)
        return self.look()

    def wait_for_news(self, seconds: float) -> None:
        """Until something has changed since the last time, or so long."""
        self._news.wait(seconds)
        self._news.clear()

    def _look(self) -> View:
        networks = self._config.networks
        nb, sb = self._northbound.snapshot, self._southbound.snapshot
        brake = brake_of(self._kube, nb, networks, self._config.cluster)
        world = world_of(self._config, self._kube, nb, sb)  # what an agent would hold back is shown as well
        present = Present(nb)
        cases = [self._case(key, present, sb) for key in sorted({*self._kube.keys(), *nb.by_vm})]
        self._tell(f"all is read; comparing {len(cases)} VMs")
        planned = plan(cases, Books(), world)
        wanted = virtual_ports(self._config.cluster, planned.books, {*nb.ports, *nb.names})
        virtual = virtual_changes(wanted, nb.virtual, present.strays_of(lambda: (case.facts for case in cases)))
        return View(
            world,
            planned.books,
            {case.facts.key: case for case in cases},
            {each.key: each for each in planned.results},
            sb.bindings,
            [*infrastructure(networks.all, nb, planned.results), *(change for _, change in virtual)],
            brake,
        )

    def _case(self, key: VmKey, present: Present, sb: SouthboundSnapshot) -> Case:
        facts = self._kube.facts(key)
        # No time has passed: what the agent waits for is no fault.
        return Case(facts, locate(facts), 0.0, present.of(facts), sb.bindings, self._kube.store.unsure(facts))


class _Troubles(logging.Handler):
    """Keeps the last warning of each kind and database instead of printing it: it says why something is not complete."""

    def __init__(self) -> None:
        super().__init__()
        self.last: dict[str, str] = {}
        self._logger = logging.getLogger("ovnagent")
        self._before = (self._logger.handlers, self._logger.propagate, self._logger.level)

    def listen(self) -> None:
        self._logger.handlers, self._logger.propagate = [self], False
        self._logger.setLevel(logging.WARNING)

    def leave(self) -> None:
        """The logger is as it was before `listen`."""
        self._logger.handlers, self._logger.propagate, level = self._before
        self._logger.setLevel(level)

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR:
            logging.getLogger().handle(record)
            return
        source = getattr(record, "kind", "") or getattr(record, "database", "")
        if source and (reason := getattr(record, "reason", "")):
            self.last[source] = f"{source}: {reason}"

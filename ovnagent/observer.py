"""Looks at a cluster as the agent does, with the agent's own code, and writes nothing: no lock, no row, no Event.

For the commands for people (`ports`, `check`, `pools`), on an operator's machine or in the agent's own pod.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ovnagent.config import Config
from ovnagent.core.addresses import Books
from ovnagent.core.placement import Binding, locate
from ovnagent.core.plan import Case, Result, World, plan
from ovnagent.core.ports import PresentPort
from ovnagent.core.vm import VmKey
from ovnagent.difference import world_of
from ovnagent.kube.kubernetes import Kubernetes
from ovnagent.ovn import json_parser
from ovnagent.ovn.nb_replica import Listeners
from ovnagent.ovn.northbound import Northbound
from ovnagent.ovn.southbound import Southbound


class CannotLookError(Exception):
    """Something does not answer; the message names it and says what to do."""


@dataclass(frozen=True, slots=True)
class View:
    """All VMs at one moment: what is, and what should be."""

    world: World
    cases: Mapping[VmKey, Case]
    results: Mapping[VmKey, Result]
    bindings: Mapping[str, Binding]
    """Port name -> where SB binds it."""


class Observer:
    """`with Observer(config, seconds) as observer:` — everything is there, or CannotLookError within `seconds`."""

    def __init__(self, config: Config, seconds: float) -> None:
        self._config, self._seconds = config, seconds
        self._errors: dict[str, str] = {}
        networks = config.networks.all
        try:
            self._kube = Kubernetes(config.kubernetes, _nothing, lambda: None, self._errors.__setitem__)
        except Exception as error:
            raise CannotLookError(
                f"Kubernetes: {error}; set kubernetes.kubeconfig in the configuration, or KUBECONFIG"
            ) from None
        self._northbound = Northbound(
            config.northbound,
            config.cluster,
            (network.logical_switch for network in networks),
            Listeners(_nothing, lambda: None, lambda: None),
            config.tls,
            (network.router for network in networks if network.router),
        )
        self._southbound = Southbound(config.southbound, _nothing, lambda: None, config.tls)

    def __enter__(self) -> Observer:
        json_parser.install()
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

    def _wait(self) -> None:
        """Until all three are complete, with a word on standard error where that takes a while."""
        sources: list[tuple[str, Callable[[], bool], str]] = [
            ("Kubernetes", lambda: self._kube.synced, "the API server"),
            ("Northbound", lambda: self._northbound.synced, self._config.northbound),
            ("Southbound", lambda: self._southbound.watch_all() and self._southbound.connected, self._config.southbound),
        ]
        started, told = time.monotonic(), 2.0
        while waiting := [(name, where) for name, done, where in sources if not done()]:
            waited = time.monotonic() - started
            if waited > self._seconds:
                name, where = waiting[0]
                errors = (
                    "; ".join(f"{kind}: {reason}" for kind, reason in self._errors.items()) if name == "Kubernetes" else ""
                )
                raise CannotLookError(
                    f"{name} ({where}) is not complete after {self._seconds:g} s{': ' * bool(errors)}{errors}; "
                    "check the endpoint, its certificates and your rights, or give it more time with --timeout"
                )
            if waited > told:
                print(f"waiting for {', '.join(name for name, _ in waiting)} ...", file=sys.stderr, flush=True)
                told += 5.0
            time.sleep(0.02)

    def look(self) -> View:
        """What is and what should be, now."""
        config = self._config
        books = Books(network.logical_switch for network in config.networks.all)
        world = world_of(config, books, self._kube, self._northbound, self._southbound)
        bindings = dict(self._southbound.bindings)
        cases = [self._case(key, bindings) for key in sorted(self._kube.keys() | self._northbound.vm_keys())]
        results = plan(cases, world)
        return View(world, {case.facts.key: case for case in cases}, {each.key: each for each in results}, bindings)

    def _case(self, key: VmKey, bindings: Mapping[str, Binding]) -> Case:
        facts = self._kube.facts(key)
        # No time has passed: what the agent waits for is no fault.
        present: tuple[PresentPort, ...] = self._northbound.ports_of(key)
        return Case(facts, locate(facts), 0.0, present, bindings)


def _nothing(_: object) -> None:
    """News are not what this is about."""

"""What a standby watches for: rows that have waited to be written for a while, by a holder of the lock that does nothing.

core/takeover.py decides what is done about it. Where the holder writes, or nothing changes, a standby computes nothing.
"""

from __future__ import annotations

import time

from ovnagent.config.file import Config
from ovnagent.core.books import NO_BOOKS
from ovnagent.core.placement import locate
from ovnagent.core.plan import Case, plan
from ovnagent.core.takeover import IDLE_SECONDS
from ovnagent.difference import Present, brake_of, changes, world_of
from ovnagent.kube.kubernetes import Kubernetes
from ovnagent.ovn.northbound import Northbound
from ovnagent.ovn.southbound import Southbound
from ovnagent.ovn.takeover import Takeover

SHARE = 20
"""A comparison of all VMs is not made again before so many times as long have passed: 5 % of a processor at worst."""


class StandbyWatch:
    """For the reconciler's thread, while it stands by; `stir` from any thread."""

    def __init__(self, kube: Kubernetes, northbound: Northbound, southbound: Southbound) -> None:
        self._kube, self._northbound, self._southbound = kube, northbound, southbound
        self._takeover = Takeover(northbound)
        self._stirred = True
        """Facts have changed since all rows were found right."""
        self._differs_since: float | None = None
        self._next = 0.0

    def stir(self) -> None:
        """Facts have changed."""
        self._stirred = True

    def look(self, config: Config, sure: bool) -> None:
        """Once a second or so. `sure`: all views are complete and fresh."""
        now = time.monotonic()
        writing = now < (self._northbound.rows_changed or 0.0) + IDLE_SECONDS
        if not sure or writing or not self._northbound.contended:
            self._differs_since = None
        elif self._stirred and now >= self._next:
            self._compare(config)
        self._takeover.look(sure, self._differs_since)

    def _compare(self, config: Config) -> None:
        """As the commands do it: what is waited for (a grace period, SB's word) is no difference."""
        started = time.monotonic()
        self._stirred = False
        nb, sb = self._northbound.snapshot, self._southbound.snapshot
        world = world_of(config, self._kube, nb, sb, brake_of(self._kube, nb, config.networks, config.cluster))
        present = Present(nb)
        cases = []
        for key in {*self._kube.keys(), *nb.by_vm}:
            facts = self._kube.facts(key)
            unsure = self._kube.store.unsure(facts)
            cases.append(Case(facts, locate(facts), 0.0, present.of(facts), unsure=unsure))
        results = plan(cases, NO_BOOKS, world).results
        differs = any(changes(result, case.present) for result, case in zip(results, cases, strict=True))
        ended = time.monotonic()
        self._next = ended + SHARE * (ended - started)
        if differs:
            self._stirred = True  # until it is found right
            self._differs_since = self._differs_since or started
        else:
            self._differs_since = None

"""A configuration that changes while the agent runs: a network is added, a pool is widened."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path

from ovnagent.config.file import Config, ConfigError, load
from ovnagent.core import ports
from ovnagent.core.ports import PresentPort
from ovnagent.process.supervision import Loop, Supervisor

LOG = logging.getLogger(__name__)

LOOK_SECONDS = 2.0
"""How often the file is read. (A ConfigMap's file is a chain of links that the kubelet swaps: nothing to subscribe to.)"""


def obstacles(old: Config, new: Config, rows: Iterable[PresentPort]) -> list[str]:
    """Why a running agent cannot go over to another configuration, a sentence each; empty if it can."""
    found = [
        f"{field.name} has changed, which takes a restart of the agent"
        for field in fields(Config)
        if field.name != "networks" and getattr(old, field.name) != getattr(new, field.name)
    ]
    left = {network.name for network in new.networks.all}
    for network in old.networks.all:
        used = (
            sum(1 for row in rows if row.port.external_id(ports.NETWORK) == network.name) if network.name not in left else 0
        )
        if used:
            found.append(
                f"network {network.name} is gone from it, but {used} ports are on it; "
                "delete their VMs or attach them elsewhere first, or keep the network"
            )
    return found


class Reloader:
    """Reads the file again and again, in a thread of its own; a broken one leaves the old one in force."""

    def __init__(
        self,
        path: Path,
        config: Config,
        rows: Callable[[], Iterable[PresentPort]],
        apply: Callable[[Config], None],
        result: Callable[[bool], None],
        supervisor: Supervisor,
    ) -> None:
        self._path, self._config, self._rows, self._apply, self._result = path, config, rows, apply, result
        self._errors: list[str] = []
        self._loop = supervisor.loop("reload", self._step)
        result(True)

    def start(self) -> None:
        self._loop.start()

    def stop(self) -> None:
        self._loop.stop()

    def _step(self, loop: Loop) -> None:
        loop.pause(LOOK_SECONDS)
        if not loop.stopping.is_set():
            self.look()

    def look(self) -> None:
        """Once: read the file, and go over to what it says if it says something new that can be followed. What stands
        against it may go away later, so a file that was refused is tried again, and again only says what is new."""
        try:
            config = load(self._path)
            errors = obstacles(self._config, config, list(self._rows()))
        except ConfigError as error:
            errors = error.errors
        except Exception as error:  # whatever a text may do to those who read it: it is refused, and the thread goes on
            errors = [f"the file cannot be read: {error!r}"]
        for sentence in errors:
            if sentence not in self._errors:
                LOG.error("configuration refused, the old one stays in force", extra={"reason": sentence})
        self._errors = errors
        self._result(not errors)
        if not errors and config != self._config:
            self._apply(config)
            self._config = config
            LOG.info("configuration changed", extra={"networks": ", ".join(config.networks.names())})

"""The agent's rows as they were when the copy of the database was thrown away: what an emptied or restored one has lost."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from immutables import Map

from ovnagent.core.ports import Port, PresentPort

LOG = logging.getLogger(__name__)


class LastSeen:
    """`rows`: port name -> row, of those that are gone now or hold something else, and that nobody has written since."""

    def __init__(self) -> None:
        self.rows: Map[str, PresentPort] = Map()

    def keep(self, rows: Mapping[str, PresentPort]) -> None:
        """The copy is thrown away, with these. What is kept already is from before a copy that was thrown away earlier."""
        self.rows = Map(rows).update(self.rows)

    def compare(self, now: Mapping[str, PresentPort]) -> None:
        """There is a new copy."""
        self.rows = Map({n: row for n, row in self.rows.items() if n not in now or _differ(row.port, now[n].port)})
        if self.rows:
            LOG.warning(
                "the database has lost rows, or has older ones",
                extra={"ports": len(self.rows), "reason": "emptied or restored, or written by another agent meanwhile"},
            )

    def written(self, port: Port, before: PresentPort | None) -> None:
        """Somebody has written a row anew, or something of it; `before`: as it was in this copy."""
        if port.name in self.rows and (before is None or _differ(before.port, port)):
            self.rows = self.rows.delete(port.name)


def _differ(port: Port, other: Port) -> bool:
    """In what a port's VM holds by it."""
    return (port.addresses, port.switch) != (other.addresses, other.switch)

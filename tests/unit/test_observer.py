"""An observer in a process that goes on."""

from __future__ import annotations

import logging

from ovnagent.commands.observer import _Troubles


def test_the_logger_is_as_before_once_nobody_looks_any_more() -> None:
    """Whatever is logged afterwards would otherwise be kept back, or told twice."""
    logger = logging.getLogger("ovnagent")
    before = (list(logger.handlers), logger.propagate, logger.level)
    troubles = _Troubles()
    troubles.listen()
    logger.warning("no answer", extra={"database": "Southbound", "reason": "refused"})
    assert (troubles.last, logger.propagate) == ({"Southbound": "Southbound: refused"}, False)
    troubles.leave()
    logger.warning("no answer", extra={"database": "Northbound", "reason": "refused"})
    assert (list(troubles.last), list(logger.handlers), logger.propagate, logger.level) == (["Southbound"], *before)

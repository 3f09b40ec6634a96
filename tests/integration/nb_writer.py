"""An agent's Northbound edge as a process of its own, to be killed and frozen: it writes row after row, as fast as it can.

python -m tests.integration.nb_writer ENDPOINTS NAME

Says on standard output `ready`, `committed <number> <monotonic seconds>` and `refused <number>`. It tries also without the
lock: nothing but the database and the edge itself keeps it from writing. Where it holds the lock, it answers when asked."""

from __future__ import annotations

import sys
import time

from ovnagent.ovn.changes import CreatePort
from ovnagent.ovn.nb_replica import Listeners
from ovnagent.ovn.northbound import Group, Northbound, NotCommittedError
from tests.integration.nb_agent import SWITCHES, port


def nothing(*_: object) -> None:
    pass


def say(*words: object) -> None:
    print(*words, flush=True)


def main() -> None:
    endpoints, name = sys.argv[1:]
    northbound = Northbound(endpoints, "c1", SWITCHES, Listeners(nothing, nothing, nothing))
    northbound.start()
    number, ready = 0, False
    while True:
        northbound.acquire_lock()
        if northbound.snapshot.complete:
            if not ready:
                ready = True
                say("ready")
            try:
                northbound.answer()
                errors = northbound.commit([Group(name, (CreatePort(port(f"{name}-{number}")),))])
            except NotCommittedError:
                say("refused", number)
            else:
                assert errors == [None] or "duplicate" in str(errors) or "identical" in str(errors), errors
                say("committed", number, time.monotonic())
                number += 1
        time.sleep(0.002)


if __name__ == "__main__":
    main()

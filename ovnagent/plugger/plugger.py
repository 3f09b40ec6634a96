"""Interfaces of the node, its launchers and what is known of their VMs -> iface-ids. The only place where the three meet.

One thread. What happens elsewhere only wakes it; then everything on the node is decided anew (core/plugging.py), and what
differs is one transaction.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence

import tenacity

from ovnagent.core.plugging import Attached, Decision, Node, plan
from ovnagent.core.vm import Launcher, VmKey
from ovnagent.kube.events import Events, ObjectRef
from ovnagent.kube.store import Store
from ovnagent.kube.watch import Watcher
from ovnagent.ovn.vswitch import NotCommittedError, RefusedError, Vswitch
from ovnagent.plugger.machines import Machines, pause_after
from ovnagent.plugger.metrics import PlugMetrics

LOG = logging.getLogger(__name__)

IDLE_SECONDS = 30.0
WAIT_SECONDS = 0.05
"""Between two looks whether all is there: a list of no launchers is no news."""
ANSWERS_SECONDS = 1.0
"""Between two looks while answers are waited for: not each of them is told."""
DARK_SECONDS = 5.0
"""An interface that has no name for so long is reported: the agent's record may be on its way until then."""
REPORT_SECONDS = 300.0
RETRY = tenacity.wait_exponential_jitter(multiplier=0.05, max=5, jitter=0.05)
NOT_PLUGGED = "InterfaceNotPlugged"


class Launchers:
    """The node's launchers by UID, kept as the watch says."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self.store = Store(self._note)
        self._changed = changed
        self._lock = threading.Lock()
        self._dirty: set[VmKey] = set()
        self._of: dict[VmKey, tuple[Launcher, ...]] = {}
        self._all: dict[str, Launcher] = {}

    def _note(self, keys: Iterable[VmKey], _urgent: bool) -> None:
        with self._lock:
            self._dirty.update(keys)
        self._changed()

    def now(self) -> dict[str, Launcher]:
        """Pod UID -> launcher. The answer is a value: it is not changed any more."""
        with self._lock:
            dirty, self._dirty = self._dirty, set()
        if dirty:
            for key in dirty:
                self._of[key] = self.store.facts(key).launchers
                if not self._of[key]:
                    del self._of[key]
            self._all = {pod.uid: pod for pods in self._of.values() for pod in pods}
        return self._all


class Plugger:
    """`turn` is called by one thread, again and again; everything else by any."""

    def __init__(
        self,
        node: str,
        vswitch: Vswitch,
        launchers: Launchers,
        watcher: Watcher,
        machines: Machines,
        events: Events,
        metrics: PlugMetrics,
    ) -> None:
        self._node = node
        self._vswitch = vswitch
        self._launchers = launchers
        self._watcher = watcher
        self._machines = machines
        self._events = events
        self._metrics = metrics
        self._failures = 0
        self._rows: frozenset[str] = frozenset()
        """Interfaces that were there at the last look."""
        self._troubles: dict[str, tuple[str, float]] = {}
        """Interface in trouble -> its sentence, and when (monotonic) to say it next."""
        self.in_sync = False
        """The first look is done."""
        self.decisions: tuple[Decision, ...] = ()

    def turn(self) -> float:
        """One look, if there is all to look at. Seconds until the next, where nothing happens meanwhile."""
        # Nothing is decided before both sides are complete once: what is not known of is no sign of anything.
        return self._look() if self._vswitch.complete and self._watcher.synced else WAIT_SECONDS

    # -- one look

    def _look(self) -> float:
        """Decide, write, ask."""
        started = time.monotonic()
        launchers = self._launchers.now()
        interfaces = self._vswitch.interfaces
        decisions = plan(Node(interfaces, launchers, self._machines.known, self._machines.gone))
        if (changes := [each for each in decisions if each.changes]) and not self._write(changes, launchers):
            return self._retry()
        self._failures = 0
        self.decisions, self.in_sync = decisions, True
        rows = frozenset(each.row for each in interfaces)
        again = self._ask(decisions, launchers, rows - self._rows)
        self._rows = rows
        return min(IDLE_SECONDS, again, self._report(decisions, launchers, started))

    def _retry(self) -> float:
        self._failures += 1
        return pause_after(self._failures, RETRY)

    def _write(self, changes: Sequence[Decision], launchers: dict[str, Launcher]) -> bool:
        since = self._vswitch.since
        try:
            self._vswitch.commit((each.interface, each.iface_id, _pod(each.interface, launchers)) for each in changes)
        except (NotCommittedError, RefusedError) as error:
            self._metrics.failures.labels("not_committed").inc()
            LOG.warning("not written to Open_vSwitch", extra={"interfaces": len(changes), "reason": str(error)})
            return False
        now = time.monotonic()
        for each in changes:
            fields = {
                "interface": each.interface.name,
                "inside": each.interface.inside,
                "pod": _pod(each.interface, launchers),
            }
            if each.iface_id:
                seconds = now - since.get(each.interface.row, now)
                self._metrics.seconds.observe(seconds)
                self._metrics.changes.labels("plugged").inc()
                LOG.info("plugged", extra={**fields, "port": each.iface_id, "milliseconds": round(seconds * 1000, 1)})
            else:
                self._metrics.changes.labels("unplugged").inc()
                LOG.info("unplugged", extra={**fields, "port": each.interface.iface_id, "reason": each.reason})
        return True

    def _ask(self, decisions: Sequence[Decision], launchers: dict[str, Launcher], new: frozenset[str]) -> float:
        """Ask for what is not known. About a launcher it is asked as soon as it is seen, before the CNI is done with it."""
        machines, pause = self._machines, float("inf")
        for each in decisions:
            if each.ask:
                pod = launchers.get(each.interface.pod_uid)
                if pod is not None:
                    pause = min(pause, machines.ask(pod, hurry=each.interface.row in new))
                elif each.interface.pod:
                    pause = min(pause, machines.ask_whether_gone(each.interface.pod_uid, each.interface.pod))
        known = machines.known
        settled = {each.interface.pod_uid for each in decisions if each.iface_id and not each.ask}
        for uid, pod in launchers.items():
            if pod.alive and uid not in known and uid not in settled:
                pause = min(pause, machines.ask(pod))
        machines.forget_all_but(launchers.keys() | {each.interface.pod_uid for each in decisions})
        return min(pause, ANSWERS_SECONDS) if machines.asking else pause

    # -- what people are told

    def _report(self, decisions: Sequence[Decision], launchers: dict[str, Launcher], now: float) -> float:
        """Say what stays without a name, and which names are somebody else's, once that has lasted a while."""
        pause, troubles = float("inf"), {}
        for each in decisions:
            pod = launchers.get(each.interface.pod_uid)
            if pod is None or not pod.alive or not each.reason or each.interface.broken:
                continue
            row = each.interface.row
            before, due = self._troubles.get(row, ("", 0.0))
            if before != each.reason:
                due = now + DARK_SECONDS
            elif now >= due:
                self._say(each, pod)
                due = now + REPORT_SECONDS
            troubles[row] = each.reason, due
            pause = min(pause, due - now)
        self._troubles = troubles
        return pause

    def _say(self, decision: Decision, pod: Launcher) -> None:
        interface = decision.interface
        text = f"interface {interface.inside} of pod {pod.name} on node {self._node}: {decision.reason}"
        fields = {"interface": interface.name, "pod": f"{pod.namespace}/{pod.name}", "reason": text}
        LOG.warning("left alone" if decision.iface_id else "not plugged", extra=fields)
        machine = self._machines.known.get(pod.uid)
        if machine is None:
            return  # the API server has not answered yet: nobody is to be told of that by an Event
        ref = ObjectRef("Pod", pod.namespace, pod.name, pod.uid)
        if machine.vmi is not None and machine.vmi.uid == pod.vmi_uid:
            ref = ObjectRef("VirtualMachineInstance", machine.vmi.namespace, machine.vmi.name, machine.vmi.uid)
        self._events.warn(ref, NOT_PLUGGED, text)

    def refresh(self) -> None:
        """Set the gauges."""
        states = {"plugged": 0, "not_plugged": 0, "foreign": 0}
        for each in self.decisions:
            if each.iface_id and each.reason:
                states["foreign"] += 1
            elif each.iface_id:
                states["plugged"] += 1
            elif each.reason:
                states["not_plugged"] += 1
        for state, count in states.items():
            self._metrics.interfaces.labels(state).set(count)


def _pod(interface: Attached, launchers: dict[str, Launcher]) -> str:
    pod = launchers.get(interface.pod_uid)
    return f"{pod.namespace}/{pod.name}" if pod is not None else interface.pod

"""Asks the API server what a launcher's VMI and VM are, one by one: a node has no use for those of a thousand others."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import orjson
import tenacity

from ovnagent.core import reduce
from ovnagent.core.plugging import RIVALS, Machine, granted, rivals
from ovnagent.core.vm import FINAL_PHASES, Instance, Launcher, VirtualMachine, VmKey
from ovnagent.kube.client import ApiError, Client, reason

LOG = logging.getLogger(__name__)

WORKERS = 8
PAUSES = tenacity.wait_exponential_jitter(multiplier=0.1, max=60, jitter=0.1)
"""Before the same question is asked again."""
REPORT_SECONDS = 30.0
NEWS_SECONDS = 0.1
"""How often answers are told while more are waited for: 500 interfaces take longer to look at than an answer to come."""
KUBEVIRT = "/apis/kubevirt.io/v1"
CACHED = "?resourceVersion=0"
"""The API server answers from its watch cache, at half the cost and none for etcd: good enough for a first answer about a
launcher's own VM, since who is refused by it is asked about again. Whether others have its name is always asked for anew."""


@dataclass(slots=True)
class _Question:
    """What is asked about one pod."""

    asked: int = 0
    due: float = 0.0
    """Monotonic seconds; infinite while it is being asked."""


def pause_after(attempts: int, pauses: tenacity.wait.wait_base) -> float:
    """Seconds to wait after so many attempts: tenacity's arithmetic, where no thread waits."""
    state = tenacity.RetryCallState(tenacity.Retrying(), None, (), {})
    state.attempt_number = attempts
    return float(pauses(state))


class Machines:
    """`known` and `gone` are replaced as a whole, and may be read from any thread."""

    def __init__(self, client: Client, changed: Callable[[], None], failed: Callable[[str], None]) -> None:
        """`changed()` is called from a worker's thread when there is an answer, `failed(reason)` when there is none."""
        self.known: Mapping[str, Machine] = {}
        """Pod UID -> what is known of its VMI and VM."""
        self.gone: frozenset[str] = frozenset()
        """UIDs of pods that do not exist any more, or have ended."""
        self._client = client
        self._changed, self._failed = changed, failed
        self._lock = threading.Lock()
        self._questions: dict[str, _Question] = {}
        self._open = 0
        """Questions that are being asked."""
        self._told = 0.0
        """When (monotonic) an answer was told last."""
        self._workers = ThreadPoolExecutor(WORKERS, "ask")
        self._reported = -REPORT_SECONDS

    def stop(self) -> None:
        self._workers.shutdown(wait=False, cancel_futures=True)

    def ask(self, pod: Launcher, hurry: bool = False) -> float:
        """Find out about a launcher (again), unless that was done a moment ago. `hurry`: there is a new reason to. The
        seconds after which to ask again, where nothing is being done about it now."""
        return self._ask(pod.uid, hurry, lambda: self._about(pod, "" if pod.uid in self.known else CACHED))

    def ask_whether_gone(self, uid: str, pod: str) -> float:
        """Find out whether a pod (`namespace/name`) that is not among the node's launchers is gone; as `ask`."""
        return self._ask(uid, False, lambda: self._whether_gone(uid, pod))

    @property
    def asking(self) -> bool:
        """More answers are to come; some that came may not have been told."""
        return self._open > 0

    def forget_all_but(self, uids: set[str]) -> None:
        """Of which pods something is kept."""
        with self._lock:
            for uid in self._questions.keys() - uids:
                del self._questions[uid]
            if self.known.keys() - uids:
                self.known = {uid: machine for uid, machine in self.known.items() if uid in uids}
            self.gone &= uids

    def _ask(self, uid: str, hurry: bool, find_out: Callable[[], None]) -> float:
        now = time.monotonic()
        with self._lock:
            question = self._questions.setdefault(uid, _Question())
            if hurry and question.due != float("inf"):
                question.asked, question.due = 0, min(question.due, now)
            if now < question.due:
                return question.due - now
            question.due = float("inf")
            self._open += 1
        self._workers.submit(self._answer, uid, question, find_out)
        return float("inf")

    def _answer(self, uid: str, question: _Question, find_out: Callable[[], None]) -> None:
        try:
            find_out()
        except Exception as error:
            self._failed(reason(error))
            self._report(uid, error)
        finally:
            with self._lock:
                question.asked += 1
                now = time.monotonic()
                question.due = now + pause_after(question.asked, PAUSES)
                self._open -= 1
                if tell := not self._open or now - self._told >= NEWS_SECONDS:
                    self._told = now
            if tell:
                self._changed()

    def _report(self, uid: str, error: Exception) -> None:
        now = time.monotonic()
        if now - self._reported >= REPORT_SECONDS:
            self._reported = now
            LOG.warning("cannot find out about a pod", extra={"pod_uid": uid, "reason": str(error)})

    # -- in a worker's thread

    def _about(self, pod: Launcher, query: str) -> None:
        machine = self._machine(pod.key, query) if pod.vmi else Machine(None, None)
        others = {other for port in granted(machine) for other in rivals(pod.key, port)}
        found = tuple(self._machine(other) for other in sorted(others)) if len(others) <= RIVALS else None
        machine = Machine(machine.vmi, machine.vm, found)
        with self._lock:
            self.known = {**self.known, pod.uid: machine}

    def _machine(self, key: VmKey, query: str = "") -> Machine:
        vmi = self._get(KUBEVIRT, key.namespace, "virtualmachineinstances", key.name, reduce.instance, query)
        vm = self._get(KUBEVIRT, key.namespace, "virtualmachines", key.name, reduce.virtual_machine, query)
        return Machine(vmi if isinstance(vmi, Instance) else None, vm if isinstance(vm, VirtualMachine) else None)

    def _whether_gone(self, uid: str, pod: str) -> None:
        namespace, _, name = pod.partition("/")
        found = self._get("/api/v1", namespace, "pods", name, reduce.launcher)
        if isinstance(found, Launcher) and found.uid == uid and found.phase not in FINAL_PHASES:
            return
        with self._lock:
            self.gone |= {uid}

    def _get(
        self, api: str, namespace: str, plural: str, name: str, reduced: Callable[[Any], object], query: str = ""
    ) -> object:
        """The object; None where there is none. Names come from ownerReferences, where a tenant may write anything."""
        path = f"{api}/namespaces/{quote(namespace, safe='')}/{plural}/{quote(name, safe='')}{query}"
        try:
            return reduced(orjson.loads(self._client.request("GET", path)))
        except ApiError as error:
            if error.status == 404:
                return None
            raise

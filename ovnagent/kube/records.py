"""The record annotation on the VM (its text is core/records.py's)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from ovnagent.core.vm import RECORD_ANNOTATION, VmKey
from ovnagent.kube.client import ApiError, Client
from ovnagent.kube.events import ObjectRef
from ovnagent.kube.writer import Writer

PLURALS = {"VirtualMachine": "virtualmachines", "VirtualMachineInstance": "virtualmachineinstances"}
SHOWN_SECONDS = 15.0
"""Within so long the watch should show what was written."""
AGAIN_SECONDS = 300.0
"""When a text is tried again that was given up: an API server that has just started says 403 until it knows its rules."""


@dataclass(frozen=True, slots=True)
class _Sent:
    text: str
    until: float
    """Monotonic seconds; infinite until it is written."""


class Records:
    """Never blocks: a record follows behind its port, and a later text for the same VM takes the place of an earlier. A text
    is sent once: it is remembered until the watch shows it. A VM whose text is not shown, or was given up, is looked at
    again."""

    def __init__(self, client: Client, writer: Writer, look_again: Callable[[set[VmKey]], None]) -> None:
        self._client = client
        self._writer = writer
        self._look_again = look_again
        self._lock = threading.Lock()
        self._sent: dict[ObjectRef, _Sent] = {}

    def keep(self, ref: ObjectRef, present: str, text: str) -> None:
        """Have the annotation, which is `present` now, say `text`: on the object of this UID and no other."""
        with self._lock:
            sent = self._sent.get(ref)
            if present == text:
                self._sent.pop(ref, None)
                return
            if sent is not None and sent.text == text:
                return
            self._sent[ref] = _Sent(text, float("inf"))
        key = (ref.kind, ref.name)
        given_up = partial(self._until, ref, text, AGAIN_SECONDS)
        self._writer.put(ref.namespace, key, partial(self._write, ref, text), given_up)

    def tidy(self) -> None:
        """Look again at the VMs on which a text should be by now. To be called every second or so."""
        now = time.monotonic()
        with self._lock:
            late = [ref for ref, sent in self._sent.items() if sent.until < now]
            for ref in late:
                del self._sent[ref]
        if late:
            self._look_again({VmKey(ref.namespace, ref.name) for ref in late})

    def _write(self, ref: ObjectRef, text: str) -> None:
        path = f"/apis/kubevirt.io/v1/namespaces/{ref.namespace}/{PLURALS[ref.kind]}/{ref.name}?fieldManager=ovnagent"
        patch = {"metadata": {"uid": ref.uid, "annotations": {RECORD_ANNOTATION: text}}}
        try:
            self._client.request("PATCH", path, patch, content_type="application/merge-patch+json")
        except ApiError as error:
            # Gone, or deleted and created again under its name: the new object's own turn will come.
            if error.status not in (404, 422) and not (error.status == 409 and "uid" in str(error).lower()):
                raise
        self._until(ref, text, SHOWN_SECONDS)

    def _until(self, ref: ObjectRef, text: str, seconds: float) -> None:
        """Remember for so long that this was sent, if nothing else was meanwhile."""
        with self._lock:
            sent = self._sent.get(ref)
            if sent is not None and sent.text == text:
                self._sent[ref] = _Sent(text, time.monotonic() + seconds)

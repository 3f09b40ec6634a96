"""The record annotation on the VM (its text is core/records.py's)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from ovnagent.core.vm import RECORD_ANNOTATION, VmKey
from ovnagent.kube.client import ApiError, Client
from ovnagent.kube.events import ObjectRef
from ovnagent.kube.writer import Write, Writer

PLURALS = {"VirtualMachine": "virtualmachines", "VirtualMachineInstance": "virtualmachineinstances"}
SHOWN_SECONDS = 15.0
"""Within so long the watch should show what was written."""
AGAIN_SECONDS = 300.0
"""When a text is tried again that was given up: an API server that has just started says 403 until it knows its rules."""


@dataclass(slots=True)
class _Sent(Write):
    """A text on its way to an object's annotation."""

    records: Records
    ref: ObjectRef
    text: str
    until: float = float("inf")
    """By when the watch should show it, or it should be tried again: monotonic seconds; infinite until it is written."""

    def carry_out(self) -> None:
        self.records.write(self.ref, self.text)
        self.until = time.monotonic() + SHOWN_SECONDS

    def given_up(self) -> None:
        self.until = time.monotonic() + AGAIN_SECONDS


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
            sent = self._sent[ref] = _Sent(self, ref, text)
        self._writer.put(ref.namespace, ref, sent)

    def tidy(self) -> None:
        """Look again at the VMs on which a text should be by now. To be called every second or so."""
        now = time.monotonic()
        with self._lock:
            late = [ref for ref, sent in self._sent.items() if sent.until < now]
            for ref in late:
                del self._sent[ref]
        if late:
            self._look_again({VmKey(ref.namespace, ref.name) for ref in late})

    def write(self, ref: ObjectRef, text: str) -> None:
        """Now. Raises what Client.request raises."""
        path = f"/apis/kubevirt.io/v1/namespaces/{ref.namespace}/{PLURALS[ref.kind]}/{ref.name}?fieldManager=ovnagent"
        patch = {"metadata": {"uid": ref.uid, "annotations": {RECORD_ANNOTATION: text}}}
        try:
            self._client.request("PATCH", path, patch, content_type="application/merge-patch+json")
        except ApiError as error:
            # Gone, or deleted and created again under its name: the new object's own turn will come.
            if error.status not in (404, 422) and not (error.status == 409 and "uid" in str(error).lower()):
                raise

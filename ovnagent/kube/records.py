"""The record annotation on the VM (its text is core/records.py's)."""

from __future__ import annotations

from ovnagent.core.vm import RECORD_ANNOTATION
from ovnagent.kube.client import ApiError, Client
from ovnagent.kube.events import ObjectRef
from ovnagent.kube.writer import Writer

PLURALS = {"VirtualMachine": "virtualmachines", "VirtualMachineInstance": "virtualmachineinstances"}


class Records:
    """Never blocks: a record follows behind its port, and a later text for the same VM takes the place of an earlier."""

    def __init__(self, client: Client, writer: Writer) -> None:
        self._client = client
        self._writer = writer

    def put(self, ref: ObjectRef, text: str) -> None:
        """Set the annotation, on the object of this UID and no other."""
        self._writer.put(("record", ref.kind, ref.namespace, ref.name), lambda: self._write(ref, text))

    def _write(self, ref: ObjectRef, text: str) -> None:
        path = f"/apis/kubevirt.io/v1/namespaces/{ref.namespace}/{PLURALS[ref.kind]}/{ref.name}?fieldManager=ovnagent"
        patch = {"metadata": {"uid": ref.uid, "annotations": {RECORD_ANNOTATION: text}}}
        try:
            self._client.request("PATCH", path, patch, content_type="application/merge-patch+json")
        except ApiError as error:
            # Gone, or deleted and created again under its name: the new object's own turn will come.
            if error.status not in (404, 422) and not (error.status == 409 and "uid" in str(error).lower()):
                raise

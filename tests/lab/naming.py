"""In place of `ovnagent plug`, where no agent grants ports: what the CNI attaches gets the name of the VM's port."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from hack.lab.kubevirt import KubeVirt
from hack.lab.kubevirt.api import PODS, uid_of
from hack.lab.ovn import OvnLab


@contextmanager
def ports_named(kubevirt: KubeVirt, ovn: OvnLab) -> Iterator[None]:
    """Meanwhile each VM's interface on the pod network is plugged as `<vm>.<namespace>`."""
    ended = threading.Event()

    def work() -> None:
        named: set[tuple[str, str]] = set()
        while not ended.wait(0.02):
            for chassis in ovn.chassis:
                rows = json.loads(chassis.vsctl("--format=json", "--columns=name,external_ids", "list", "Port"))["data"]
                for name, ids in rows:
                    pod = dict(ids[1]).get("contPodUid", "")
                    owner = next((each for each in kubevirt.api.all(PODS) if uid_of(each) == pod), None)
                    if owner is not None and (pod, name) not in named:
                        vm = owner["metadata"]["ownerReferences"][0]["name"]
                        port = f"{vm}.{owner['metadata']['namespace']}"
                        chassis.vsctl("--if-exists", "set", "Interface", name, f"external_ids:iface-id={port}")
                        named.add((pod, name))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(10)

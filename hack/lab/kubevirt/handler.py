"""virt-handler's part: the guest of a VMI on its node, from Scheduled to its end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from hack.lab.fake_guest import FakeGuest
from hack.lab.guest import BaseGuest, End, Guest, Nic
from hack.lab.kubevirt import objects
from hack.lab.kubevirt.api import VMIS, Key, Obj, key_of, uid_of
from hack.lab.kubevirt.context import Context, Sandbox
from hack.lab.kubevirt.network import Network, guest_mac
from hack.lab.ovn import OvnLab

POWER_BUTTON_SECONDS = 1.0
"""Between two presses: a guest that has not booted yet does not see the first."""


class Handler:
    """Looks at one VMI that is on a node and does the next things that are to be done there."""

    def __init__(self, context: Context, network: Network, ovn: OvnLab, qemu: bool) -> None:
        self._context = context
        self._api = context.api
        self._network = network
        self._ovn = ovn
        self._qemu = qemu

    def reconcile(self, key: Key) -> None:
        vmi = self._api.get(VMIS, key)
        if vmi is None or objects.phase_of(vmi) not in ("Scheduled", "Running"):
            return
        node = vmi["status"]["nodeName"]
        pod = self._on(vmi, node)
        sandbox = self._context.sandbox(pod)
        if pod is None or sandbox is None or node in self._context.dead:
            return
        stopping = objects.deleting(vmi) or objects.deleting(pod)
        if sandbox.guest is None and not stopping:
            self._start(vmi, sandbox)
        if sandbox.guest is None:
            return
        if sandbox.guest.end is not None:
            if sandbox.guest.end is not End.MIGRATED:
                phase = "Succeeded" if sandbox.guest.end is End.POWERED_OFF else "Failed"
                self._api.update(VMIS, vmi, lambda new: objects.set_phase(new, phase))
        elif stopping:
            self._shut_down(vmi, sandbox.guest)
        elif objects.phase_of(vmi) == "Scheduled":
            self._report_running(vmi, pod, sandbox)

    def guest(self, sandbox: Sandbox, vmi: Obj, nics: Sequence[Nic]) -> BaseGuest:
        """A guest for a pod, not started yet."""
        name = objects.hostname_of(vmi)
        netns = self._network.netns(sandbox)
        guest: BaseGuest
        if self._qemu:
            guest = Guest(name, sandbox.node, netns, nics, guest_directory(self._ovn, sandbox))
        else:
            guest = FakeGuest(name, sandbox.node, netns, nics)
        guest.announces = not all(attachment.silent for attachment in sandbox.attachments)
        guest.on_end = self._look(key_of(vmi), sandbox.pod)
        return guest

    def _on(self, vmi: Obj, node: str) -> Obj | None:
        """The launcher on the VMI's node that holds a guest or may start one; also one that has just ended."""
        pods = [
            pod
            for pod in self._context.launchers(uid_of(vmi))
            if objects.is_launcher(pod) and objects.node_of(pod) == node and self._context.sandbox(pod) is not None
        ]
        alive = [pod for pod in pods if objects.phase_of(pod) not in objects.FINAL]
        return next(reversed(alive or pods), None)

    def _start(self, vmi: Obj, sandbox: Sandbox) -> None:
        if objects.condition(vmi, "LiveMigratable") is None:
            self._api.update(VMIS, vmi, _migratable)
        if not self._context.due("vmi", vmi, "domain", self._context.faults.delays.domain):
            return
        guest = self.guest(sandbox, vmi, [self._network.nic(each) for each in sandbox.attachments])
        guest.start()
        sandbox.guest = guest

    def _report_running(self, vmi: Obj, pod: Obj, sandbox: Sandbox) -> None:
        macs = {each.name: guest_mac(vmi, each) for each in sandbox.attachments}

        def change(new: Obj) -> None:
            objects.set_phase(new, "Running")
            new["status"]["machine"] = {"type": "pc-q35-rhel9.6.0"}
            for entry in new["status"].get("interfaces") or ():
                secondary = entry.get("infoSource") == "multus-status"
                entry |= {
                    "infoSource": "domain, multus-status" if secondary else "domain",
                    "linkState": "up",
                    "queueCount": 1,
                }
                if entry["name"] in macs:
                    entry["mac"] = macs[entry["name"]]
                set_address(entry, pod)

        self._api.update(VMIS, vmi, change)

    def _shut_down(self, vmi: Obj, guest: BaseGuest) -> None:
        """Press the power button, again and again; pull the plug when the grace period is over."""
        if self._context.due("vmi", vmi, "grace", vmi["spec"].get("terminationGracePeriodSeconds", 30)):
            guest.kill()
            return
        guest.powerdown()
        self._context.look("vmi", key_of(vmi), POWER_BUTTON_SECONDS)

    def _look(self, vmi: Key, pod: Key) -> Callable[[], None]:
        def look() -> None:
            self._context.look("vmi", vmi)
            self._context.look("pod", pod)
            self._api.nudge()

        return look


def guest_directory(ovn: OvnLab, sandbox: Sandbox) -> Path:
    """A guest's files lie below the OVN lab's directory, so that what is left of a crashed run ends with that lab. The
    name is short: a Unix socket's path has 107 characters at most."""
    return ovn.directory / "guests" / sandbox.uid[:8]


def set_address(entry: Obj, pod: Obj) -> None:
    """An interface on the pod network has the pod's address in the VMI's status."""
    address = pod["status"].get("podIP")
    if entry.get("podInterfaceName") == "eth0" and address:
        entry |= {"ipAddress": address, "ipAddresses": [address]}


def _migratable(vmi: Obj) -> None:
    for kind in ("LiveMigratable", "StorageLiveMigratable"):
        objects.set_condition(vmi, kind, True)
    vmi["status"]["migrationMethod"] = "LiveMigration"

"""virt-handler's part: the guest of a VMI on its node, from Scheduled to its end, and its migrations.

Each write goes with the token of the node's virt-handler: KubeVirt's webhook looks at that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from hack.lab.fake_guest import FakeGuest
from hack.lab.guest import BaseGuest, End, Guest, GuestError, MigrationReport, Nic
from hack.lab.kubevirt import objects
from hack.lab.kubevirt.api import VMIS, Key, Obj, key_of, uid_of
from hack.lab.kubevirt.context import Context, Sandbox
from hack.lab.kubevirt.migration import MigrationRun
from hack.lab.kubevirt.network import Network, guest_mac
from hack.lab.ovn import OvnLab
from hack.lab.qmp import QmpError

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
        self._runs: dict[str, MigrationRun] = {}
        """By the migration's UID."""

    def reconcile(self, key: Key) -> None:
        vmi = self._api.get(VMIS, key)
        for run in list(self._runs.values()):
            run.check()
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
                self._api.update(VMIS, vmi, lambda new: objects.set_phase(new, phase), node=node)
        elif stopping:
            self._shut_down(vmi, sandbox.guest)
        else:
            self._report(vmi, pod, sandbox)
            self._migrate(vmi)

    def report(self, migration: Obj) -> MigrationReport | None:
        """What a migration's move took."""
        run = self._runs.get(uid_of(migration))
        return run.report if run is not None else None

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
            self._api.update(VMIS, vmi, _migratable, node=sandbox.node)
        if not self._context.due("vmi", vmi, "domain", self._context.faults.delays.domain):
            return
        guest = self.guest(sandbox, vmi, [self._network.nic(each) for each in sandbox.attachments])
        guest.start()
        sandbox.guest = guest

    def _report(self, vmi: Obj, pod: Obj, sandbox: Sandbox) -> None:
        """The guest runs, and has these cards."""
        if uid_of(vmi) in self._context.switched:
            return

        def change(new: Obj) -> None:
            objects.set_phase(new, "Running")
            new["status"] |= {"machine": {"type": objects.MACHINE}, "selinuxContext": "none"}
            known = {entry["name"]: entry for entry in new["status"].get("interfaces") or ()}
            absent = {each["name"] for each, _ in objects.interfaces_of(new) if each.get("state") == "absent"}
            for each in sandbox.attachments:
                entry = known.setdefault(each.name, {"name": each.name})
                secondary = "multus-status" in entry.get("infoSource", "")
                if each.name in absent:  # the guest gives the card back; the pod keeps its interface
                    entry["infoSource"] = "multus-status"
                    continue
                entry |= {
                    "infoSource": "domain, multus-status" if secondary else "domain",
                    "linkState": "up",
                    "queueCount": 1,
                    "mac": guest_mac(vmi, each),
                    "podInterfaceName": each.inside,
                }
                set_address(entry, pod)
            # virt-controller has taken the source away where Multus reports the interface no more: nobody has it then.
            left = [each for each in known.values() if each["name"] not in absent or each.get("infoSource")]
            new["status"]["interfaces"] = left

        self._api.update(VMIS, vmi, change, node=sandbox.node)

    def _migrate(self, vmi: Obj) -> None:
        """Begin the migration that virt-controller has handed over."""
        state = vmi["status"].get("migrationState") or {}
        uid = state.get("migrationUid", "")
        if uid not in self._runs and state.get("targetNode") and "endTimestamp" not in state:
            self._runs[uid] = MigrationRun(self._context, self, vmi)
            self._runs[uid].start()

    def _shut_down(self, vmi: Obj, guest: BaseGuest) -> None:
        """Press the power button, again and again; pull the plug when the grace period is over."""
        if self._context.due("vmi", vmi, "grace", vmi["spec"].get("terminationGracePeriodSeconds", 30)):
            guest.kill()
            return
        with suppress(GuestError, QmpError):  # it has ended just now
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

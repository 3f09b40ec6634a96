"""Guests: real QEMU with a tap in a node's namespace, and what every kind of guest has in common.

`python -m hack.lab.guest build` builds the guest's image into the cache folder.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from hack.lab import guest_image, process
from hack.lab.qmp import Event, Qmp, QmpError

QEMU = "qemu-system-x86_64 -accel tcg,thread=multi -cpu qemu64 -machine q35 -smp 1 -nodefaults -no-user-config -display none"
BOOT_SECONDS = 60.0
"""How long a guest may take until it is ready; 2-3 s are usual, more where many share the cores."""
MIGRATION_SECONDS = 120.0


class GuestError(Exception):
    """A guest did not do what was asked of it."""


class MigrationAbortedError(GuestError):
    """The migration was cancelled or failed; the source still runs."""


class End(Enum):
    """Why a guest does not run any more."""

    POWERED_OFF = "powered off by itself"
    MIGRATED = "migrated away"
    KILLED = "killed or crashed"


@dataclass(frozen=True, slots=True)
class Nic:
    """One network card: the tap in the node's namespace, the MAC, and what the guest sets on it."""

    interface: str
    mac: str
    addresses: tuple[str, ...] = ()
    """With prefix length (`10.16.0.5/16`), or `dhcp`; nothing leaves the card without an IPv4 address."""
    gateways: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MigrationReport:
    """What a live migration took. Times of day are seconds since the epoch."""

    total_ms: float
    stopped: float
    """The source stopped the guest."""
    resumed: float
    """The target resumed it."""

    @property
    def paused_ms(self) -> float:
        return (self.resumed - self.stopped) * 1000


class BaseGuest(ABC):
    """A guest at one node (libvirt would say: a domain). A migrated guest is two of these: source and target."""

    def __init__(self, name: str, node: str, netns: str, nics: Sequence[Nic]) -> None:
        self.name = name
        self.node = node
        self.netns = netns
        self.nics = tuple(nics)
        self.announces = True
        """Whether a migration's target announces itself by RARP. Set it before the migration."""
        self.on_end: Callable[[], None] = lambda: None
        """Called once, from any thread, when the guest has ended."""
        self._end: End | None = None
        self._end_lock = threading.Lock()

    @property
    def end(self) -> End | None:
        """Why it ended; None while it runs."""
        return self._end

    @abstractmethod
    def start(self, incoming: bool = False) -> None:
        """Start it, or let it wait for a migration."""

    @abstractmethod
    def migrate_to(self, target: BaseGuest, stall: bool = False, cancel: threading.Event | None = None) -> MigrationReport:
        """Move the running guest to `target`, which was started with `incoming`. Returns when the target runs it; the
        source is paused then, and ends when it is released.

        stall: copy so slowly that the migration never ends by itself. Raises MigrationAbortedError when `cancel` is set."""

    @abstractmethod
    def announce(self) -> None:
        """Announce the guest's MACs by RARP once more."""

    @abstractmethod
    def release(self) -> None:
        """End the source of a finished migration."""

    @abstractmethod
    def powerdown(self) -> None:
        """Press the power button. The guest ends by itself soon after."""

    @abstractmethod
    def kill(self) -> None:
        """End it at once."""

    def _ended(self, reason: End) -> None:
        with self._end_lock:
            if self._end is not None:
                return
            self._end = reason
        self.on_end()


class Guest(BaseGuest):
    """A guest in QEMU (TCG). Files in `directory`: `serial.log`, `qemu.log`, sockets."""

    def __init__(self, name: str, node: str, netns: str, nics: Sequence[Nic], directory: Path, memory_mb: int = 128) -> None:
        super().__init__(name, node, netns, nics)
        self.directory = directory
        self.memory_mb = memory_mb
        self.serial = directory / "serial.log"
        self._pidfile = directory / "qemu.pid"
        self._qmp: Qmp | None = None
        self._events: list[Event] = []
        self._events_changed = threading.Condition()
        self._migrated = False
        self._powered_off = False

    def start(self, incoming: bool = False) -> None:
        image = guest_image.build()
        self.directory.mkdir(parents=True, exist_ok=True)
        argv = [
            *QEMU.split(),
            *("-m", str(self.memory_mb), "-name", self.name),
            *("-serial", f"file:{self.serial}"),
            *("-qmp", f"unix:{self.directory}/qmp.sock,server=on,wait=off"),
            *("-qmp", f"unix:{self.directory}/events.sock,server=on,wait=off"),
            *("-kernel", str(image.kernel), "-initrd", str(image.initrd), "-append", self._command_line()),
        ]
        for index, nic in enumerate(self.nics):
            # vnet_hdr=off: OVS' userspace datapath would see checksums that nobody has computed.
            argv += ["-netdev", f"tap,id=net{index},ifname={nic.interface},script=no,downscript=no,vnet_hdr=off"]
            argv += ["-device", f"virtio-net-pci,netdev=net{index},mac={nic.mac},romfile="]
        if incoming:
            argv += ["-incoming", "defer"]
        process.start(argv, self.directory / "qemu.log", self._pidfile, netns=self.netns)
        events = Qmp(self.directory / "events.sock")
        self._qmp = Qmp(self.directory / "qmp.sock")
        threading.Thread(target=self._watch, args=(events,), name=f"qemu {self.name}", daemon=True).start()
        if incoming:
            self._qmp.execute("migrate-set-capabilities", capabilities=[{"capability": "events", "state": True}])
            self._qmp.execute("migrate-incoming", uri=f"unix:{self._migration_socket}")

    def wait_ready(self, timeout_seconds: float = BOOT_SECONDS) -> None:
        """Wait until the guest has set up its network and serves."""

        def ready() -> bool:
            if self.end is not None:
                raise GuestError(f"guest {self.name} on {self.node} ended before it was ready: see {self.serial}")
            return self.serial.exists() and b"guest ready" in self.serial.read_bytes()

        process.wait_for(ready, timeout_seconds, f"guest {self.name} on {self.node} ready (see {self.serial})")

    def migrate_to(self, target: BaseGuest, stall: bool = False, cancel: threading.Event | None = None) -> MigrationReport:
        if not isinstance(target, Guest):
            raise TypeError("a QEMU guest migrates to a QEMU guest")
        qmp, target_qmp = self._connection(), target._connection()
        if not self.announces:
            target_qmp.execute("migrate-set-parameters", announce_rounds=0)
        if stall:
            qmp.execute("migrate-set-parameters", max_bandwidth=4096)
        qmp.execute("migrate-set-capabilities", capabilities=[{"capability": "events", "state": True}])
        qmp.execute("migrate", uri=f"unix:{target._migration_socket}")
        deadline = time.monotonic() + MIGRATION_SECONDS
        while True:
            answer = qmp.execute("query-migrate")
            status = answer.get("status")
            if status == "completed" and answer.get("total-time"):  # the first `completed` may still carry 0
                break
            if status in ("failed", "cancelled"):
                raise MigrationAbortedError(f"migration of {self.name}: {answer.get('error-desc') or status}")
            if (cancel is not None and cancel.is_set()) or time.monotonic() > deadline:
                qmp.execute("migrate_cancel")
            time.sleep(0.002)
        self._migrated = True
        resumed = target._wait_event("RESUME", 10.0)
        return MigrationReport(answer["total-time"], self._wait_event("STOP", 1.0).time, resumed.time)

    def announce(self) -> None:
        self._connection().execute("announce-self", initial=50, max=550, rounds=5, step=100)

    def release(self) -> None:
        self.kill()

    def powerdown(self) -> None:
        self._connection().execute("system_powerdown")

    def kill(self) -> None:
        try:
            process.send(self._pidfile, signal.SIGKILL)
        except ProcessLookupError:
            pass

    @property
    def _migration_socket(self) -> Path:
        return self.directory / "migration.sock"

    def _connection(self) -> Qmp:
        if self._qmp is None or self.end is not None:
            raise GuestError(f"guest {self.name} on {self.node} does not run")
        return self._qmp

    def _command_line(self) -> str:
        words = ["console=ttyS0 quiet panic=-1", f"hostname={self.name}"]
        for index, nic in enumerate(self.nics):
            words.append(f"net{index}={','.join(nic.addresses) or 'none'}")
            if nic.gateways:
                words.append(f"gw{index}={','.join(nic.gateways)}")
        return " ".join(words)

    def _watch(self, events: Qmp) -> None:
        """Follow the events until QEMU is gone."""
        try:
            while True:
                event = events.next_event()
                with self._events_changed:
                    self._events.append(event)
                    self._events_changed.notify_all()
                if event.name == "SHUTDOWN" and event.data.get("reason") == "guest-shutdown":
                    self._powered_off = True
        except QmpError:
            events.close()
        process.stop(self._pidfile)
        reason = End.POWERED_OFF if self._powered_off else End.MIGRATED if self._migrated else End.KILLED
        self._ended(reason)

    def _wait_event(self, name: str, timeout_seconds: float) -> Event:
        """The latest event of this name."""
        with self._events_changed:
            found = self._events_changed.wait_for(
                lambda: next((event for event in reversed(self._events) if event.name == name), None), timeout_seconds
            )
        if found is None:
            raise GuestError(f"guest {self.name} on {self.node}: no {name} within {timeout_seconds:g} s")
        return found


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m hack.lab.guest build`."""
    parser = argparse.ArgumentParser(prog="python -m hack.lab.guest", description="The lab's guest.")
    parser.add_argument("command", choices=["build"], help="build the guest's kernel and initramfs into the cache folder")
    parser.parse_args(arguments)
    try:
        image = guest_image.build()
    except guest_image.GuestImageError as error:
        print(error, file=sys.stderr)
        return 1
    print(image.kernel.parent)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A guest without QEMU: it holds its taps open and announces itself as QEMU does.

OVN sees the same: an interface plugged in, and on a migration the RARP of the target. For tests that look at rows and
objects; and, with `answers` set, for streams of packets: such a guest answers pings where it runs, and a migration moves it
in no time, so that whatever a stream loses the network has lost.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import struct
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from hack.lab.guest import BaseGuest, End, GuestError, MigrationAbortedError, MigrationReport, Nic

T = TypeVar("T")

_TUNSETIFF = 0x400454CA
_IFF_TAP_NO_PI = 0x0002 | 0x1000
_CLONE_NEWNET = 0x40000000

ANNOUNCE_SECONDS = (0.0, 0.05, 0.2, 0.45, 0.8)
"""When QEMU sends its RARPs after it has resumed a guest (measured, QEMU 7.2)."""


class FakeGuest(BaseGuest):
    """The interface of `Guest`, at no cost: starts at once, migrates in no time, has no addresses."""

    def __init__(self, name: str, node: str, netns: str, nics: Sequence[Nic]) -> None:
        super().__init__(name, node, netns, nics)
        self._taps: list[int] = []
        self._migrated = False
        self._runs = False
        self.switched = 0.0
        """Monotonic seconds of the moment at which a migration brought the guest here."""
        self.first_frame = 0.0
        """Monotonic seconds of the first request that reached it since it runs here."""

    answers = False
    """Whether guests started from now on answer pings (a thread each)."""
    babbles = False
    """Whether a migration's target sends frames before the guest runs there, as a pod's kernel does."""

    def start(self, incoming: bool = False) -> None:
        self._taps = [in_netns(self.netns, partial(_open_tap, nic.interface)) for nic in self.nics]
        self._runs = not incoming
        if self.answers:
            for nic, tap in zip(self.nics, self._taps, strict=True):
                threading.Thread(target=self._serve, args=(nic, tap), name=f"serve {self.name}", daemon=True).start()

    def wait_ready(self, timeout_seconds: float = 0.0) -> None:
        """It always is."""

    def migrate_to(self, target: BaseGuest, stall: bool = False, cancel: threading.Event | None = None) -> MigrationReport:
        if self.end is not None or target.end is not None:
            raise GuestError(f"guest {self.name} does not run on both {self.node} and {target.node}")
        if stall:
            if cancel is None:
                raise GuestError("a migration that stalls and that nobody can cancel would never end")
            cancel.wait()
        if cancel is not None and cancel.is_set():
            raise MigrationAbortedError(f"migration of {self.name} was cancelled")
        self._migrated = True
        if isinstance(target, FakeGuest):
            self._runs, target._runs, target.switched = False, True, time.monotonic()
        now = time.time()
        if self.announces:
            target.announce()
        return MigrationReport(total_ms=0, stopped=now, resumed=now)

    def announce(self) -> None:
        self._announce_once()
        threading.Thread(target=self._announce, name=f"announce {self.name}", daemon=True).start()

    def release(self) -> None:
        self._close(End.MIGRATED)

    def powerdown(self) -> None:
        self._close(End.POWERED_OFF)

    def kill(self) -> None:
        self._close(End.MIGRATED if self._migrated else End.KILLED)

    def _announce(self) -> None:
        started = time.monotonic()
        for moment in ANNOUNCE_SECONDS[1:]:
            time.sleep(max(0.0, started + moment - time.monotonic()))
            if not self._announce_once():
                return

    def _announce_once(self) -> bool:
        with self._end_lock:
            if self._end is not None:
                return False
            for nic, tap in zip(self.nics, self._taps, strict=True):
                os.write(tap, rarp(nic.mac))
            return True

    def _serve(self, nic: Nic, tap: int) -> None:
        """Answer echo requests while the guest runs here; while it does not, babble if told to."""
        while self.end is None:
            try:
                readable = select.select([tap], [], [], 0.005 if self.babbles and not self._runs else 0.2)[0]
            except (OSError, ValueError):
                return  # closed meanwhile
            with self._end_lock:
                if self._end is not None:
                    return
                try:
                    if self.babbles and not self._runs and not self._migrated:
                        os.write(tap, babble(nic.mac))
                    if not readable:
                        continue
                    frame = os.read(tap, 2048)
                    answer = echo_reply(frame) if self._runs else None
                    if answer is not None:
                        self.first_frame = self.first_frame or time.monotonic()
                        os.write(tap, answer)
                except (BlockingIOError, OSError):
                    continue

    def _close(self, reason: End) -> None:
        with self._end_lock:
            taps, self._taps = self._taps, []
            for tap in taps:
                os.close(tap)
        self._ended(reason)


def rarp(mac: str) -> bytes:
    """The frame by which QEMU announces a MAC: a RARP request of 60 bytes (net/announce.c)."""
    raw = bytes.fromhex(mac.replace(":", ""))
    header = b"\xff" * 6 + raw + b"\x80\x35"
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 3) + raw + bytes(4) + raw + bytes(4)
    return (header + body).ljust(60, b"\0")


def echo_reply(frame: bytes) -> bytes | None:
    """The answer to an ICMP echo request in an Ethernet frame; None for any other frame."""
    if len(frame) < 42 or frame[12:14] != b"\x08\x00" or frame[23] != 1:
        return None
    length = (frame[14] & 15) * 4
    ip, icmp = frame[14 : 14 + length], frame[14 + length :]
    if icmp[0] != 8:
        return None
    # Turning type 8 into 0 adds 8 to the high byte of the ones' complement sum (RFC 1624).
    total = int.from_bytes(icmp[2:4], "big") + 0x0800
    checksum = (total + (total >> 16)) & 0xFFFF
    reply = b"\x00" + icmp[1:2] + checksum.to_bytes(2, "big") + icmp[4:]
    return frame[6:12] + frame[:6] + frame[12:14] + ip[:12] + ip[16:20] + ip[12:16] + ip[20:] + reply


BABBLE = b"babble"


def babble(mac: str) -> bytes:
    """A broadcast frame of a MAC that runs elsewhere still: what nobody may see before the guest is here."""
    return b"\xff" * 6 + bytes.fromhex(mac.replace(":", "")) + b"\x88\xb5" + BABBLE.ljust(46, b"\0")


def in_netns(netns: str, function: Callable[[], T]) -> T:
    """Call a function inside a network namespace, in a thread of its own, so that nobody else changes namespace."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            with Path("/run/netns", netns).open() as handle:
                # os.setns() came with Python 3.12 only.
                libc = ctypes.CDLL(None, use_errno=True)
                if libc.setns(handle.fileno(), _CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), f"setns to {netns}")
            results.append(function())
        except BaseException as error:  # handed to the caller, whatever it is
            errors.append(error)

    thread = threading.Thread(target=run, name=f"in {netns}")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _open_tap(interface: str) -> int:
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    try:
        fcntl.ioctl(tap, _TUNSETIFF, struct.pack("16sH22x", interface.encode(), _IFF_TAP_NO_PI))
    except OSError:
        os.close(tap)
        raise
    return tap

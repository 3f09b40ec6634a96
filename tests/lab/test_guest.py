"""Guests: a TCP connection and a power button in real QEMU; the fake's announcement on the wire."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from hack.lab import process
from hack.lab.fake_guest import FakeGuest, in_netns, rarp
from hack.lab.guest import BaseGuest, End, Guest, MigrationAbortedError, Nic

MAC = "0a:58:0a:63:00:05"


@pytest.fixture
def netns() -> Iterator[str]:
    """A namespace with a bridge (10.99.0.1/24) and two taps in it: the places where a guest runs and where it goes."""
    name = f"guest{os.getpid()}"
    with suppress(RuntimeError):
        process.run("ip", "netns", "del", name)
    process.run("ip", "netns", "add", name)
    try:
        for command in (
            "link add br0 type bridge",
            "addr add 10.99.0.1/24 dev br0",
            "link set br0 up",
            "tuntap add dev tap1 mode tap",
            "tuntap add dev tap2 mode tap",
            "link set tap1 master br0 up",
            "link set tap2 master br0 up",
        ):
            process.run("ip", "-n", name, *command.split())
        yield name
    finally:
        process.run("ip", "netns", "del", name)


@pytest.fixture
def qemu(netns: str, tmp_path: Path) -> Iterator[Callable[[str], Guest]]:
    """Makes guests in QEMU, and ends them."""
    made: list[Guest] = []

    def make(tap: str) -> Guest:
        nic = Nic(tap, MAC, ("10.99.0.5/24",), ("10.99.0.1",))
        made.append(Guest("vm1", "node1", netns, [nic], tmp_path / tap))
        return made[-1]

    yield make
    for guest in made:
        guest.kill()
    process.wait_for(lambda: all(guest.end for guest in made), 5, "all guests ended")


def echoed(stream: socket.socket, text: bytes) -> bool:
    stream.sendall(text)
    answer = b""
    while len(answer) < len(text):
        answer += stream.recv(4096)
    return answer == text


def test_tcp_connection_survives_a_live_migration_and_the_power_button_works(
    netns: str, qemu: Callable[[str], Guest]
) -> None:
    source, target = qemu("tap1"), qemu("tap2")
    source.start()
    source.wait_ready()
    stream = in_netns(netns, lambda: socket.create_connection(("10.99.0.5", 7), timeout=10))
    assert echoed(stream, b"before")

    target.start(incoming=True)
    report = source.migrate_to(target)
    assert report.total_ms > 0
    assert 0 < report.paused_ms < 2000
    source.release()
    process.wait_for(lambda: source.end, 5, "source ended")
    assert source.end is End.MIGRATED
    assert echoed(stream, b"after")

    target.powerdown()
    process.wait_for(lambda: target.end, 15, "target powered off")
    assert target.end is End.POWERED_OFF


def test_a_cancelled_migration_leaves_the_guest_where_it_is(netns: str, qemu: Callable[[str], Guest]) -> None:
    source, target = qemu("tap1"), qemu("tap2")
    source.start()
    source.wait_ready()
    target.start(incoming=True)
    cancel = threading.Event()
    threading.Timer(0.3, cancel.set).start()
    with pytest.raises(MigrationAbortedError):
        source.migrate_to(target, stall=True, cancel=cancel)
    target.kill()
    process.wait_for(lambda: target.end, 5, "target ended")
    assert source.end is None
    stream = in_netns(netns, lambda: socket.create_connection(("10.99.0.5", 7), timeout=10))
    assert echoed(stream, b"still here")


@pytest.mark.parametrize("kind", ["qemu", "fake"])
@pytest.mark.parametrize("announces", [True, False], ids=["announces", "silent"])
def test_the_target_announces_itself_unless_told_not_to(
    netns: str, qemu: Callable[[str], Guest], kind: str, announces: bool
) -> None:
    source: BaseGuest
    target: BaseGuest
    if kind == "qemu":
        source, target = qemu("tap1"), qemu("tap2")
    else:
        source, target = (FakeGuest("vm1", "node1", netns, [Nic(tap, MAC)]) for tap in ("tap1", "tap2"))
    source.announces = announces
    source.start()
    target.start(incoming=True)
    packets = in_netns(netns, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x8035)))
    packets.bind(("br0", 0x8035))
    packets.settimeout(0.2)
    source.migrate_to(target)

    heard: list[bytes] = []
    deadline = time.monotonic() + 1.2
    while time.monotonic() < deadline:
        with suppress(TimeoutError):
            heard.append(packets.recv(2048))
    assert heard == [rarp(MAC)] * len(heard)
    # QEMU asks its five rounds plus what the guest's own driver makes of it; the fake sends the five.
    assert (len(heard) >= 5) is announces
    assert announces or not heard
    source.release()
    target.kill()
    process.wait_for(lambda: source.end and target.end, 5, "both ended")
    assert (source.end, target.end) == (End.MIGRATED, End.KILLED)

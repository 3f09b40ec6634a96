"""Hears frames in a network namespace, with the moment of each."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable

from hack.lab.fake_guest import in_netns

ETH_P_ALL = 0x0003
OUTGOING = 4
"""PACKET_OUTGOING (packet(7)): on its way to the interface's other end, for a guest's tap to the guest."""


class Ear:
    """`with Ear(netns, wanted) as ear:` — `wanted` is asked of each frame and of its way (True: out of the interface)."""

    def __init__(self, netns: str, wanted: Callable[[bytes, bool], bool]) -> None:
        self.heard: list[float] = []
        """time.time() of each frame that was wanted."""
        self._wanted = wanted
        self._socket = in_netns(netns, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._listen, name=f"ear in {netns}", daemon=True)

    def __enter__(self) -> Ear:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._socket.close()

    def _listen(self) -> None:
        while not self._stop.is_set():
            if select.select([self._socket], [], [], 0.1)[0]:
                frame, origin = self._socket.recvfrom(2048)
                if self._wanted(frame, origin[2] == OUTGOING):
                    self.heard.append(time.time())


def echo_request_to_guest(frame: bytes, outgoing: bool) -> bool:
    """An ICMP echo request (IPv4, untagged) on its way out of an interface."""
    return outgoing and frame[12:14] == b"\x08\x00" and frame[23] == 1 and frame[34] == 8

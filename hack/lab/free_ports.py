"""Loopback ports for servers that are started a moment later."""

from __future__ import annotations

import random
import socket
from pathlib import Path

_given: set[int] = set()


def free_ports(count: int) -> list[int]:
    """Loopback ports that nobody listens on now, and that this process is given once.

    They lie below those that the kernel takes for outgoing connections (ip(7), ip_local_port_range): one of these could have
    the port before the server that it is meant for is up."""
    first_of_kernel = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports: list[int] = []
    while len(ports) < count:
        port = random.SystemRandom().randrange(10_000, first_of_kernel)
        if port not in _given and _is_free(port):
            _given.add(port)
            ports.append(port)
    return ports


def _is_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True

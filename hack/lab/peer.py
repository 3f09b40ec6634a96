"""Somebody on the VMs' logical switch, on a third chassis: pings guests and keeps a TCP stream with them."""

from __future__ import annotations

import itertools
import os
import select
import socket
import struct
import subprocess
import threading
import time
from dataclasses import dataclass

from hack.lab.fake_guest import in_netns
from hack.lab.ovn import MTU, OvnLab
from hack.lab.process import run

_SO_RCVBUFFORCE = 33
"""socket(7); Python does not name it."""
ECHO_PORT = 7
SHELL_PORT = 8
CATCH_UP = 10
"""Requests that a stream sends at once at most."""

_identities = itertools.count(os.getpid())
"""Of streams, in their requests: a late answer to one stream is none to the next."""


@dataclass(frozen=True)
class Loss:
    """What a stream went through. Milliseconds."""

    sent: int
    lost: int
    duplicates: int
    longest_gap: float
    """The longest time between two answers in a row."""


class Peer:
    """`with Peer(ovn, "node3", "10.16.255.10") as peer:` — a namespace with an address, plugged in on a node.

    Its port is made with ovn-nbctl, as somebody else's: for the agent it is a foreign port."""

    def __init__(
        self, ovn: OvnLab, node: str, address: str, switch: str = "ovn-default", prefix: int = 16, gateway: str = ""
    ) -> None:
        self.ovn = ovn
        self.node = node
        self.address = address
        self.switch = switch
        self.prefix = prefix
        self.gateway = gateway
        self.port = f"peer-{address}"
        self.netns = f"{ovn.name}-peer{address.rpartition('.')[2]}"
        self.interface = f"p{address.rpartition('.')[2]}"

    def __enter__(self) -> Peer:
        mac = "0a:00:" + ":".join(f"{int(part):02x}" for part in self.address.split("."))
        self.ovn.nbctl(
            "--may-exist", "lsp-add", self.switch, self.port, "--", "lsp-set-addresses", self.port, f"{mac} {self.address}"
        )
        chassis = self.ovn.on(self.node)
        run("ip", "netns", "add", self.netns)
        run("ip", "-n", self.netns, "link", "set", "lo", "up")
        run("ip", "-n", self.netns, "link", "add", "eth0", "mtu", str(MTU), "address", mac, "type", "veth",
            "peer", "name", self.interface, "netns", chassis.netns)  # fmt: skip
        run("ip", "netns", "exec", self.netns, "ethtool", "-K", "eth0", "tx", "off")
        run("ip", "-n", self.netns, "addr", "add", f"{self.address}/{self.prefix}", "dev", "eth0")
        run("ip", "-n", self.netns, "link", "set", "eth0", "up")
        if self.gateway:
            run("ip", "-n", self.netns, "route", "add", "default", "via", self.gateway)
        run("ip", "-n", chassis.netns, "link", "set", self.interface, "mtu", str(MTU), "up")
        self.ovn.plug(self.node, self.interface, self.port)
        self.ovn.sync()
        return self

    def __exit__(self, *_: object) -> None:
        self.ovn.unplug(self.node, self.interface)
        self.ovn.nbctl("--if-exists", "lsp-del", self.port)
        # With the namespace the pair would go too, but only some time later.
        run("ip", "-n", self.ovn.on(self.node).netns, "link", "del", self.interface)
        run("ip", "netns", "del", self.netns)

    def ping(self, address: str, seconds: float = 10) -> bool:
        """Whether an answer comes in that time. (The first packet between two chassis may be lost.)"""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            done = subprocess.run(
                ["ip", "netns", "exec", self.netns, "ping", "-c", "1", "-W", "1", address], capture_output=True, check=False
            )
            if done.returncode == 0:
                return True
        return False

    def stream(self, address: str, interval: float = 0.01) -> PingStream:
        return PingStream(self, address, interval)

    def shell(self, address: str, command: str, seconds: float = 20) -> str:
        """What a command prints in a guest (its shell listens on port 8)."""
        with in_netns(self.netns, lambda: socket.create_connection((address, SHELL_PORT), seconds)) as connection:
            connection.settimeout(seconds)
            connection.sendall(f"exec 2>&1; {command}\nexit\n".encode())
            answer = b""
            while piece := connection.recv(4096):
                answer += piece
        return answer.decode()

    def connect(self, address: str) -> TcpStream:
        return TcpStream(self, address)


class PingStream:
    """ICMP echo requests at a steady pace, with the gap between answers measured. `with peer.stream(...) as stream:`"""

    def __init__(self, peer: Peer, address: str, interval: float) -> None:
        self._identity = next(_identities) & 0xFFFF
        self._interval = interval
        self._address = address
        self._socket = in_netns(peer.netns, _icmp_socket)
        self._stop = threading.Event()
        self._sent: dict[int, float] = {}
        self._answers: dict[int, float] = {}
        self._answered = 0.0
        """When the newest request that has its answer was sent."""
        self._duplicates = 0
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._send, self._receive)]

    def __enter__(self) -> PingStream:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(3)
        self._socket.close()

    def _send(self) -> None:
        number, due = 0, time.monotonic()
        while not self._stop.is_set():
            number = (number + 1) & 0xFFFF
            body = struct.pack("!HH", self._identity, number) + b"ovnagent"
            packet = struct.pack("!BBH", 8, 0, _checksum(b"\x08\x00\x00\x00" + body)) + body
            self._sent[number] = time.monotonic()
            try:
                self._socket.sendto(packet, (self._address, 0))
            except OSError:
                pass  # as lost as any other
            # After a pause of this process it does not catch up in a burst, of which queues on the way would drop the most.
            due = max(due + self._interval, time.monotonic() - CATCH_UP * self._interval)
            self._stop.wait(max(0.0, due - time.monotonic()))

    def _receive(self) -> None:
        while not self._stop.is_set() or len(self._answers) < len(self._sent):
            if not select.select([self._socket], [], [], 0.5)[0]:
                if self._stop.is_set():
                    return
                continue
            packet = self._socket.recv(2048)
            header = (packet[0] & 15) * 4
            kind, _, _, identity, number = struct.unpack_from("!BBHHH", packet, header)
            if (kind, identity) != (0, self._identity):
                continue
            if number in self._answers:
                self._duplicates += 1
            else:
                self._answers[number] = time.monotonic()
                self._answered = max(self._answered, self._sent[number])

    def mark(self) -> float:
        """Now, as a beginning for `loss`."""
        return time.monotonic()

    def loss(self, since: float = 0.0, until: float = float("inf")) -> Loss:
        """What was lost among the requests sent from one moment to another, or to now.

        On a busy machine an answer may be under way for long. So this waits until a request that was sent later is answered:
        what has no answer by then is lost. Where none comes in five seconds, all that has none is."""
        now = time.monotonic()
        until = min(until, now)
        while self._answered <= until and time.monotonic() < now + 5:
            time.sleep(0.005)
        numbers = [number for number, sent in self._sent.copy().items() if since <= sent <= until]
        answered = sorted(stamp for number, stamp in self._answers.copy().items() if stamp >= since)
        gaps = [later - earlier for earlier, later in itertools.pairwise(answered)]
        lost = sum(number not in self._answers for number in numbers)
        return Loss(len(numbers), lost, self._duplicates, max(gaps, default=0.0) * 1000)


class TcpStream:
    """One TCP connection to a guest's echo server: what is sent comes back, or the connection has broken."""

    def __init__(self, peer: Peer, address: str) -> None:
        self._stop = threading.Event()
        self._socket = in_netns(peer.netns, lambda: socket.create_connection((address, ECHO_PORT), 10))
        self._socket.settimeout(20)
        self.error = ""
        self.echoed = 0
        self.longest_gap = 0.0
        """Milliseconds between two echoes."""
        self._thread = threading.Thread(target=self._talk, daemon=True)

    def __enter__(self) -> TcpStream:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(25)
        self._socket.close()

    def _talk(self) -> None:
        last = time.monotonic()
        try:
            while not self._stop.is_set():
                line = f"{self.echoed:015d}\n".encode()
                self._socket.sendall(line)
                back = b""
                while len(back) < len(line):
                    piece = self._socket.recv(len(line) - len(back))
                    if not piece:
                        raise ConnectionError("the guest closed the connection")
                    back += piece
                if back != line:
                    raise ConnectionError(f"sent {line!r}, got {back!r}")
                now = time.monotonic()
                self.longest_gap = max(self.longest_gap, (now - last) * 1000)
                last = now
                self.echoed += 1
                self._stop.wait(0.01)
        except OSError as error:
            self.error = str(error)


def _icmp_socket() -> socket.socket:
    """With room for some ten thousand answers: while this process has no core, none is lost here."""
    made = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 8 << 20)
    return made


def _checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF

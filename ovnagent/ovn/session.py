"""A JSON-RPC session with an OVN database that is patient in the right places and says why it fails."""

from __future__ import annotations

import errno
import os
import ssl
import threading
from pathlib import Path
from typing import Any

import ovs.jsonrpc
import ovs.poller
import ovs.reconnect
import ovs.stream
import ovs.timeval
from ovsdbapp.backend.ovs_idl import idlutils

PROBE_MILLISECONDS = 5000
"""A connection that is silent for so long is probed, and given up after as long again."""
BACKOFF_MILLISECONDS = (1000, 2000)
"""Pause between two attempts to connect, the first and the longest. A TLS handshake may take as long."""
NO_ANSWER = "no endpoint answers"
REASONS = {
    ovs.jsonrpc.EOF: "the other side has closed the connection",
    errno.EPROTO: "what answers does not speak OVSDB's protocol",
    errno.EILSEQ: "what answers does not speak OVSDB's protocol",
}
_tls = threading.local()
"""`trouble`: why this thread's last attempt at TLS failed."""


class Pace(ovs.reconnect.Reconnect):  # type: ignore[misc]
    """When to connect, to probe and to give up. By itself the library leaves Unix sockets unprobed, where a server that
    hangs would never be noticed; it lets up to 8 s pass between two attempts, when a cluster has long had its leader; and
    after each pause it tries one endpoint, where a cluster in an election is found again sooner by trying every one."""

    def __init__(self, endpoints: int) -> None:
        super().__init__(ovs.timeval.msec())
        self.min_backoff, self.max_backoff = BACKOFF_MILLISECONDS
        self.set_probe_interval(PROBE_MILLISECONDS)
        self.set_backoff_free_tries(endpoints)
        self._endpoints = endpoints
        self._given = ""
        self._reasons: dict[str, str] = {}
        """Endpoint -> why it was left."""

    @property
    def reason(self) -> str:
        """Why there is no connection: a sentence if all endpoints say the same, else one for each."""
        reasons = dict(self._reasons)
        if len(set(reasons.values())) > 1:
            return "; ".join(f"{endpoint}: {reason}" for endpoint, reason in sorted(reasons.items()))
        return next(iter(reasons.values()), NO_ANSWER)

    def note(self, reason: str) -> None:
        """The reason for the connection's end, which is about to come."""
        self._given = reason

    def forget(self) -> None:
        """All is well."""
        self._given = ""
        self._reasons = {}

    def disconnected(self, now: int, error: int) -> None:
        was_connected = self.is_connected()
        super().disconnected(now, error)
        if self.backoff:
            self.set_backoff_free_tries(self._endpoints)
        trouble, _tls.trouble = getattr(_tls, "trouble", ""), ""
        reason = self._given or trouble
        if not reason and was_connected:
            reason = REASONS.get(error) or (os.strerror(error) if error > 0 else "it accepts connections and says nothing")
        self._given = ""
        self._reasons[self.name] = reason or NO_ANSWER


class Session(ovs.jsonrpc.Session):  # type: ignore[misc]
    """Tries all endpoints until one answers. Belongs to one thread, but for `reason`."""

    stream: Any

    def __init__(self, endpoints: str) -> None:
        remotes = idlutils.parse_connection(endpoints)
        self.pace = Pace(len(remotes))
        super().__init__(self.pace, None, remotes)
        self.pick_remote()
        self.pace.enable(ovs.timeval.msec())
        self.refused: tuple[Any, str] = (None, "")
        """(id, error) of the last request that was answered with an error."""
        self.unheeded: set[Any] = set()
        """Ids of requests whose answers matter to nobody."""

    @property
    def reason(self) -> str:
        """Why there is no connection."""
        return self.pace.reason

    def recv(self) -> Any:
        message = super().recv()
        while message is not None and message.id in self.unheeded and message.type == ovs.jsonrpc.Message.T_REPLY:
            self.unheeded.discard(message.id)
            message = super().recv()
        if message is not None and message.type == ovs.jsonrpc.Message.T_ERROR:
            self.refused = message.id, str(message.error)
        return message

    def drop(self, reason: str) -> None:
        """Give up the connection, or the attempt to make one: the next attempt comes after the usual pause.

        Whatever the library's own state is after an exception in it, it goes on from here."""
        self.pace.note(reason)
        if self.rpc is not None:
            self.rpc.error(errno.EPROTO)
            return
        if self.stream is not None:
            self.stream.close()
            self.stream = None
        self.pick_remote()
        self.pace.connect_failed(ovs.timeval.msec(), errno.EPROTO)


class TlsStream(ovs.stream.SSLStream):  # type: ignore[misc]
    """The library's own raises where a file cannot be read or is no certificate, and so would end its thread; it spins
    while a handshake waits for the other side; and it may leave bytes that TLS has decrypted already until more come.

    The files are read at each attempt to connect: one that is repaired or replaced counts from then on."""

    _wants = ovs.poller.POLLOUT

    @staticmethod
    def _open(suffix: str, dscp: int) -> tuple[int, Any]:
        try:
            if b"ENCRYPTED" in Path(ovs.stream.Stream._SSL_private_key_file).read_bytes():
                raise ValueError("the private key has a password")  # OpenSSL would ask for it on the terminal
            opened: tuple[int, Any] = ovs.stream.SSLStream._open(suffix, dscp)
        except (OSError, ValueError) as error:
            _tls.trouble = f"private key, certificate or CA cannot be used: {error}"
            return errno.EPROTO, None
        return opened

    def connect(self) -> int:
        status: int = ovs.stream.Stream.connect(self)
        if status:
            return status
        try:
            self.socket.do_handshake()
        except ssl.SSLWantReadError:
            self._wants = ovs.poller.POLLIN
            return errno.EAGAIN
        except ssl.SSLWantWriteError:
            self._wants = ovs.poller.POLLOUT
            return errno.EAGAIN
        except OSError as error:
            _tls.trouble = f"TLS: {error}"
            return errno.EPROTO
        return 0

    def connect_wait(self, poller: Any) -> None:
        if self.state == self._Stream__S_CONNECTED:
            poller.fd_wait(self.socket, self._wants)
        else:
            super().connect_wait(poller)

    def recv_wait(self, poller: Any) -> None:
        if self.socket.fileno() >= 0 and self.socket.pending():
            poller.immediate_wake()
        super().recv_wait(poller)


ovs.stream.Stream.register_method("ssl", TlsStream)

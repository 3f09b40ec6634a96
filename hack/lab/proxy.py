"""A Unix socket before another one, through which at times nothing passes: a client is cut off, and does not hear of it.

Nothing is lost: what was sent meanwhile, an end as well, passes afterwards, as it does with TCP."""

from __future__ import annotations

import selectors
import socket
import threading
import time
from pathlib import Path


class Proxy:
    """Passes bytes on in both directions, in a thread of its own, from `start` until `stop`."""

    def __init__(self, path: Path, target: Path) -> None:
        self.path, self.target = path, target
        self.silent = False
        """Nothing passes: connections are accepted and stay, and what is sent waits."""
        self._selector = selectors.DefaultSelector()
        self._peers: dict[socket.socket, socket.socket] = {}
        self._listener = socket.socket(socket.AF_UNIX)
        self._running = True
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def remote(self) -> str:
        return f"unix:{self.path}"

    def start(self) -> None:
        self._listener.bind(str(self.path))
        self._listener.listen(10)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._thread.start()

    def stop(self) -> None:
        self._running = False
        self._thread.join()
        for each in (self._listener, *self._peers):
            each.close()
        self._selector.close()

    def _run(self) -> None:
        while self._running:
            silent = self.silent
            for key, _ in self._selector.select(0.05):
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                if sock is self._listener:
                    self._accept()
                elif sock in self._peers and not silent:
                    self._pass_on(sock)
            if silent:
                time.sleep(0.01)  # what waits is ready to be read all the time

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        server = socket.socket(socket.AF_UNIX)
        try:
            server.connect(str(self.target))
        except OSError:
            client.close()
            server.close()
            return
        for each, other in ((client, server), (server, client)):
            self._peers[each] = other
            self._selector.register(each, selectors.EVENT_READ)

    def _pass_on(self, sock: socket.socket) -> None:
        try:
            data = sock.recv(65536)
            if data:
                self._peers[sock].sendall(data)
                return
        except OSError:
            pass
        for each in (sock, self._peers[sock]):
            self._selector.unregister(each)
            del self._peers[each]
            each.close()

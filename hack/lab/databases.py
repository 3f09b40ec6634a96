"""Real ovsdb-servers without the rest of OVN: one alone, or a Raft cluster, on Unix sockets or TLS."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from hack.lab.ovn import NB_SCHEMA, SB_SCHEMA
from hack.lab.process import run, send, start, stop, wait_for
from ovnagent.ovn.json_parser import FrameParser

SCHEMAS = {"OVN_Northbound": NB_SCHEMA, "OVN_Southbound": SB_SCHEMA}


class Server:
    """One ovsdb-server; `remotes` besides its Unix socket, as ovsdb-server(1) takes them (`pssl:6641`...)."""

    def __init__(self, directory: Path, database: str = "OVN_Northbound", remotes: tuple[str, ...] = ()) -> None:
        self.directory = directory
        self.database = database
        self.remotes = remotes
        self.file = directory / "db"
        self.pidfile = directory / "server.pid"
        directory.mkdir(parents=True, exist_ok=True)

    @property
    def remote(self) -> str:
        return f"unix:{self.directory}/db.sock"

    def create(self) -> None:
        """An empty database."""
        self.file.unlink(missing_ok=True)
        run("ovsdb-tool", "create", self.file, SCHEMAS[self.database])

    def start(self) -> None:
        control = self.directory / "server.ctl"
        control.unlink(missing_ok=True)
        argv = ["ovsdb-server", f"--remote=punix:{self.directory}/db.sock", f"--unixctl={control}", "-vconsole:warn"]
        start([*argv, *self.remotes, self.file], self.directory / "log", self.pidfile)
        wait_for(control.exists, 10, "ovsdb-server's control socket")

    def stop(self) -> None:
        stop(self.pidfile)

    def kill(self) -> None:
        """As a crash does it: not a word more is said or written."""
        send(self.pidfile, signal.SIGKILL)
        stop(self.pidfile)

    def freeze(self) -> None:
        send(self.pidfile, signal.SIGSTOP)

    def thaw(self) -> None:
        send(self.pidfile, signal.SIGCONT)

    def appctl(self, *arguments: str) -> str:
        return run("ovs-appctl", "-t", self.directory / "server.ctl", *arguments)

    def nbctl(self, *arguments: str) -> str:
        return run("ovn-nbctl", "--no-leader-only", f"--db={self.remote}", "--timeout=20", *arguments).strip()

    def sbctl(self, *arguments: str) -> str:
        return run("ovn-sbctl", f"--db={self.remote}", "--timeout=20", *arguments).strip()

    def transact(self, *operations: dict[str, Any]) -> list[Any]:
        """Raw operations, with another client than the agent's."""
        request = {"method": "transact", "params": [self.database, *operations], "id": 0}
        parser = FrameParser()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"{self.directory}/db.sock")
            client.sendall(json.dumps(request).encode())
            while not parser.is_done():
                parser.feed(client.recv(65536).decode())
        answer: list[Any] = parser.finish()["result"]
        assert not any(isinstance(each, dict) and "error" in each for each in answer), answer
        return answer


@contextmanager
def server(directory: Path, database: str = "OVN_Northbound", remotes: tuple[str, ...] = ()) -> Iterator[Server]:
    each = Server(directory, database, remotes)
    each.create()
    try:
        each.start()
        yield each
    finally:
        each.stop()


@contextmanager
def cluster(directory: Path, members: int = 3) -> Iterator[list[Server]]:
    """A Raft cluster of Northbound databases; the first member is its leader."""
    with ExitStack() as stack:
        servers = []
        for number in range(members):
            each = Server(directory / f"member{number}")
            address = f"unix:{each.directory}/raft.sock"
            if not servers:
                run("ovsdb-tool", "create-cluster", each.file, NB_SCHEMA, address)
            else:
                first = f"unix:{servers[0].directory}/raft.sock"
                run("ovsdb-tool", "join-cluster", each.file, each.database, address, first)
            each.start()
            stack.callback(each.stop)
            servers.append(each)
            wait_for(lambda server=each: joined(server), 20, f"member {number} in the cluster")
        yield servers


def joined(member: Server) -> bool:
    try:
        return "Status: cluster member" in member.appctl("cluster/status", member.database)
    except RuntimeError:  # it is there before it listens
        return False


def leads(member: Server) -> bool:
    return "Role: leader" in member.appctl("cluster/status", member.database)

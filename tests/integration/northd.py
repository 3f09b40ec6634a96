"""NB, SB and a real northd between them, without chassis: what becomes of values in logical flows."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from hack.lab import trixie
from hack.lab.databases import Server
from hack.lab.process import run, start, stop, wait_for
from ovnagent.ovn.changes import Change, Known, operations

TOKEN = re.compile(
    r'"(?:[^"\\]|\\.)*"'  # a string
    r"|[0-9a-f]{2}(?::[0-9a-f]{2}){5}(?:/[0-9a-f:]{17})?"  # a MAC
    r"|[0-9a-f]*:[0-9a-f:.]*:[0-9a-f:.]*(?:/[0-9a-f:]+)?"  # an IPv6 address
    r"|\d+(?:\.\d+){3}(?:/[0-9.]+)?"  # an IPv4 address
    r"|0x[0-9a-f]+|\d+"
    r"|[A-Za-z_$@#][A-Za-z0-9_.]*"
    r"|<->|<=|>=|==|!=|&&|\|\||[][(){}=<>!,;.*/-]"
)
KINDS = {'"': "TEXT", ":": "ADDRESS", ".": "ADDRESS"}
DHCP = re.compile(r"put_dhcp(?:v6)?_opts")


class Flow(NamedTuple):
    """A logical flow."""

    pipeline: str
    table: int
    priority: int
    match: str
    actions: str

    @property
    def shape(self) -> tuple[str, int, int, str, str]:
        """What is left of it without names, numbers, addresses and what DHCP tells."""
        return self.pipeline, self.table, self.priority, shape(self.match), shape(self.actions)


def tokens(text: str) -> list[str]:
    """The words of a match or of actions, as OVN's lexer takes them apart.

    Raises AssertionError where there is something else in between."""
    found = TOKEN.findall(text)
    assert "".join(found) == re.sub(r'("(?:[^"\\]|\\.)*")|\s', r"\1", text), text
    return found


def shape(text: str) -> str:
    words: list[str] = []
    for word in tokens(text):
        kind = "TEXT" if word[0] == '"' else "VALUE" if re.match("[0-9a-f]*[:.]|[0-9]", word) else word
        words.append(kind)
    told = re.sub(r"(put_dhcp(?:v6)?_opts) \( .*? \)", r"\1", " ".join(words))
    several = re.sub(r"VALUE(?: , VALUE)+", "VALUES", told)  # a list may be of any length
    return re.sub(r"TEXT(?: , TEXT)+", "TEXTS", re.sub(r"\{ VALUES? \}", "{ VALUES }", several))


def told(actions: str) -> dict[str, str]:
    """The options in `put_dhcp_opts(...)`, as OVN's parser reads them: name, `=`, a value or a set of values in braces."""
    words = tokens(actions)
    at = next(index for index, word in enumerate(words) if DHCP.fullmatch(word)) + 1
    assert words[at] == "("
    options: dict[str, str] = {}
    while words[at] in ("(", ","):
        name, equals, first = words[at + 1 : at + 4]
        assert re.fullmatch("[A-Za-z0-9_]+", name)
        assert equals == "="
        at += 3
        end = words.index("}", at) if first == "{" else at
        assert name not in options, f"{name} is told twice"
        options[name] = "".join(words[at : end + 1])
        at = end + 1
    assert words[at:] == [")", ";", "next", ";"], words[at:]
    return options


class Northd:
    """`root`: a folder with another OVN's files. Its programs run with its own loader and libraries, in this machine's
    file system."""

    def __init__(self, directory: Path, root: Path | None = None) -> None:
        self.root = root
        self.nb = Server(directory / "nb")
        self.sb = Server(directory / "sb", "OVN_Southbound")
        self.log = directory / "northd.log"
        self.pidfile = directory / "northd.pid"

    def start(self) -> None:
        schemas = (self.root or Path("/")) / "usr" / "share" / "ovn"
        for server, name in ((self.nb, "ovn-nb"), (self.sb, "ovn-sb")):
            run("ovsdb-tool", "create", server.file, schemas / f"{name}.ovsschema")
            server.start()
        self.nb.nbctl("init")
        remotes = (f"--ovnnb-db={self.nb.remote}", f"--ovnsb-db={self.sb.remote}")
        control = f"--unixctl={self.log.with_suffix('.ctl')}"
        start([*self.program("ovn-northd"), *remotes, control, "-vconsole:warn", "-vsyslog:off"], self.log, self.pidfile)
        wait_for(lambda: self.sb.transact(select("SB_Global", "nb_cfg"))[0]["rows"], 20, "northd at work")

    def stop(self) -> None:
        for pidfile in (self.pidfile, self.nb.pidfile, self.sb.pidfile):
            stop(pidfile)

    def program(self, name: str) -> list[str | Path]:
        if self.root is None:
            return [name]
        loader = self.root / "lib64" / "ld-linux-x86-64.so.2"
        libraries = ":".join(str(self.root / each) for each in ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"))
        return [loader, "--library-path", libraries, self.root / "usr" / "bin" / name]

    # -- what tests do with it

    def write(self, changes: Iterable[Change], known: Known | None = None) -> None:
        """As the agent writes it."""
        self.nb.transact(*operations(changes, known or Known({}), "c1"))
        self.nb.nbctl("--wait=sb", "sync")

    def clear(self) -> None:
        """Nothing is left in NB."""
        tables = ("Logical_Switch", "Logical_Router", "DHCP_Options", "DNS")
        self.nb.transact(*({"op": "delete", "table": table, "where": []} for table in tables))
        self.nb.nbctl("--wait=sb", "sync")

    def flows(self) -> list[Flow]:
        (answer,) = self.sb.transact(select("Logical_Flow", "pipeline", "table_id", "priority", "match", "actions"))
        rows = answer["rows"]
        return [Flow(row["pipeline"], row["table_id"], row["priority"], row["match"], row["actions"]) for row in rows]

    def complaints(self, switch: str, port: str) -> str:
        """What ovn-trace, which reads flows as ovn-controller does, has to say of them while it reads them all."""
        command = [*self.program("ovn-trace"), f"--db={self.sb.remote}", "--minimal", switch, f'inport == "{port}" && ip4']
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stderr

    def warnings(self) -> list[str]:
        return [line for line in self.log.read_text().splitlines() if "WARN" in line or "ERR" in line]


def select(table: str, *columns: str) -> dict[str, object]:
    return {"op": "select", "table": table, "where": [], "columns": list(columns)}


@contextmanager
def northd(directory: Path, version: str) -> Iterator[Northd]:
    """`version`: `23.03` for this machine's packages, `25.03` for Debian 13's."""
    made = Northd(directory, None if version == "23.03" else trixie.root())
    assert version in run(*made.program("ovn-northd"), "--version")
    try:
        made.start()
        yield made
    finally:
        made.stop()

"""What runs in the sandbox's container: the lab's OVN, reachable on TCP and TLS, until it is told to end.

    run                    OVN with three chassis; Northbound on TCP 6641 and TLS 16641, Southbound on 6642 and 16642
    lab NAME DIRECTORY     the same for the tests: namespaces and sockets are shared with the host
    healthy                exit status 0 when all chassis are registered

Environment: SANDBOX_BIND, the address to listen on (default 0.0.0.0).
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from hack.lab.ovn import OvnLab
from hack.lab.process import run, start

HOME = Path("/run/ovn-sandbox")
NAME = "sbox"
TCP = {"nb": 6641, "sb": 6642}
TLS = {"nb": 16641, "sb": 16642}
READY = "ready"
"""A file in the lab's directory: everything is up."""


def main(arguments: Sequence[str]) -> int:
    match arguments:
        case ["run"]:
            return serve(OvnLab(NAME, HOME / "ovn"), listen=True)
        case ["lab", name, directory]:
            return serve(OvnLab(name, Path(directory)), listen=False)
        case ["healthy"]:
            return 0 if healthy() else 1
        case _:
            print(__doc__, file=sys.stderr)
            return 2


def serve(ovn: OvnLab, listen: bool) -> int:
    """Up, until SIGTERM or SIGINT, and down."""
    done = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: done.set())
    with ovn:
        if listen:
            expose(ovn)
            print(welcome(), flush=True)
        (ovn.directory / READY).touch()
        done.wait()
        print("ending", flush=True)
    return 0


def healthy() -> bool:
    """All chassis are registered in the Southbound database."""
    ovn = OvnLab(NAME, HOME / "ovn")
    names = ovn.sbctl("--bare", "--columns=name", "list", "Chassis").split()
    return {chassis.name for chassis in ovn.chassis} <= set(names) and (ovn.directory / READY).exists()


def expose(ovn: OvnLab) -> None:
    """The databases are in a namespace of their own; TCP and TLS lead to their sockets."""
    tls = certificates(HOME / "tls")
    bind = os.environ.get("SANDBOX_BIND", "0.0.0.0")
    for database in ("nb", "sb"):
        socket = f"UNIX-CONNECT:{ovn.central.directory}/{database}.sock"
        files = f"cert={tls}/server.pem,key={tls}/server.key,cafile={tls}/ca.pem,verify=1"
        for name, listener in (
            ("tcp", f"TCP-LISTEN:{TCP[database]},bind={bind},reuseaddr,fork"),
            ("tls", f"OPENSSL-LISTEN:{TLS[database]},bind={bind},reuseaddr,fork,{files}"),
        ):
            log, pidfile = ovn.directory / f"{database}-{name}.log", ovn.directory / f"{database}-{name}.pid"
            start(["socat", listener, socket], log, pidfile)


def certificates(directory: Path) -> Path:
    """A CA, a server's and a client's key and certificate, made once; mount the folder to use your own."""
    if (directory / "ca.pem").exists():
        return directory
    directory.mkdir(parents=True, exist_ok=True)
    ca = ("-CA", directory / "ca.pem", "-CAkey", directory / "ca.key", "-CAcreateserial")
    new = ("openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    run(*new, "-x509", "-days", "3650", "-subj", "/CN=ovn-sandbox CA", "-keyout", directory / "ca.key", "-out", ca[1])
    for name in ("server", "client"):
        request = directory / f"{name}.csr"
        run(*new, "-subj", f"/CN=ovn-sandbox {name}", "-keyout", directory / f"{name}.key", "-out", request)
        run("openssl", "x509", "-req", "-days", "3650", "-in", request, *ca, "-out", directory / f"{name}.pem")
    return directory


def welcome() -> str:
    return """OVN is up: three chassis (chassis1..chassis3, on node1..node3), no switches yet.
  inside    ovn-nbctl show; ovn-sbctl show; ovs-vsctl --db=unix:/run/ovn-sandbox/ovn/node1/db.sock show
  outside   ovn-nbctl --db=tcp:127.0.0.1:6641 show           (Southbound: 6642)
            ovn-nbctl --db=ssl:127.0.0.1:16641 -p client.key -c client.pem -C ca.pem show
            (Southbound: 16642; the files are in /run/ovn-sandbox/tls)"""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

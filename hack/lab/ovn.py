"""A real OVN on one machine: NB, SB and northd in one network namespace, and each chassis in one of its own.

Userspace datapath, Geneve tunnels, no kernel module, no systemd, no container. All of it lives in one directory; several
labs run side by side. Up in about a second.
"""

from __future__ import annotations

import fcntl
import itertools
import shutil
import signal
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from hack.lab.process import run, running, send, stop, stop_all, wait_for

SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
NB_SCHEMA = Path("/usr/share/ovn/ovn-nb.ovsschema")
SB_SCHEMA = Path("/usr/share/ovn/ovn-sb.ovsschema")
UNDERLAY = "10.99.0"
MTU = 1400
"""Of the guests' interfaces: the underlay's 1500 less Geneve's header."""
PRIORITY = ("nice", "-n", "-10")
"""As ovn-ctl and ovs-ctl start all daemons but NB's and SB's servers: a node's other work does not hold up its network."""


@dataclass(frozen=True)
class Chassis:
    """A node of the lab: a network namespace with its own OVS and ovn-controller."""

    name: str
    """The chassis' name (system-id) in OVN; never the same as the node's."""
    node: str
    """The Kubernetes node's name, which is the chassis' hostname."""
    netns: str
    directory: Path
    address: str

    @property
    def ovsdb(self) -> str:
        return f"unix:{self.directory}/db.sock"

    def vsctl(self, *arguments: str) -> str:
        return run("ovs-vsctl", f"--db={self.ovsdb}", "--timeout=10", *arguments)

    @property
    def env(self) -> dict[str, str]:
        names = ("OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR", "OVN_RUNDIR", "OVN_LOGDIR", "OVN_DBDIR")
        return dict.fromkeys(names, str(self.directory))


class OvnLab:
    """`with OvnLab("t1", directory) as ovn:` — `root`: a folder with another OVN's files, to run the daemons from."""

    def __init__(self, name: str, directory: Path, chassis: int = 3, root: Path | None = None) -> None:
        if len(name) > 5:
            raise ValueError(f"{name!r}: five characters at most, interface names are made of it")
        self.name = name
        self.directory = directory
        self.root = root
        self.bridge_netns = f"{name}-net"
        self.central = Chassis("central", "central", f"{name}-central", directory / "central", f"{UNDERLAY}.10")
        self.chassis = [self._chassis(number) for number in range(1, chassis + 1)]
        self._links = itertools.count(1)
        self._claim: IO[str] | None = None

    def _chassis(self, number: int) -> Chassis:
        node = f"node{number}"
        return Chassis(f"chassis{number}", node, f"{self.name}-{node}", self.directory / node, f"{UNDERLAY}.{10 + number}")

    def __enter__(self) -> OvnLab:
        self.up()
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    # -- up and down

    def claim(self) -> None:
        """Wait until no other process on this machine has a lab of this name: namespaces are named after it."""
        if self._claim is None:
            self._claim = (Path(tempfile.gettempdir()) / f"ovnagent-lab-{self.name}.lock").open("w")
            fcntl.flock(self._claim, fcntl.LOCK_EX)

    def up(self) -> None:
        self.claim()
        self._clear()
        self.directory.mkdir(parents=True)
        try:
            self._mount()
            run("ip", "netns", "add", self.bridge_netns)
            run("ip", "-n", self.bridge_netns, "link", "add", "name", "br0", "type", "bridge")
            run("ip", "-n", self.bridge_netns, "link", "set", "br0", "up")
            self._up_central()
            with ThreadPoolExecutor() as pool:
                list(pool.map(self.up_chassis, self.chassis))
            wait_for(self._registered, 20, "all chassis registered in SB")
            self.sync()
        except BaseException:
            self.down()
            raise

    def down(self) -> None:
        """End all that belongs to this lab, also what a crashed run left."""
        self._clear()
        if self._claim is not None:
            self._claim.close()
            self._claim = None

    def _clear(self) -> None:
        if self.directory.exists():
            stop_all(self.directory)
        for line in run("ip", "netns", "list").splitlines():
            netns = line.split()[0]
            if netns.startswith(f"{self.name}-"):
                run("ip", "netns", "del", netns)
        self._unmount()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _mount(self) -> None:
        """Daemons from another root see the lab's directory, /proc, /dev and /sys where they expect them."""
        if self.root is None:
            return
        for path in (Path("/proc"), Path("/dev"), Path("/sys"), self.directory):
            target = self.root / path.relative_to("/")
            target.mkdir(parents=True, exist_ok=True)
            run("mount", "--bind", path, target)

    def _unmount(self) -> None:
        """Lazily and one by one: another lab may have mounted /proc, /dev and /sys there, too."""
        if self.root is None:
            return
        mounted = {line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()}
        for path in (self.directory, Path("/sys"), Path("/dev"), Path("/proc")):
            target = self.root / path.relative_to("/")
            if str(target) in mounted:
                run("umount", "--lazy", target)

    def _up_central(self) -> None:
        directory = self.central.directory
        self._host(self.central)
        for database, schema, port in (("nb", NB_SCHEMA, 6641), ("sb", SB_SCHEMA, 6642)):
            run(*self._program("ovsdb-tool"), "create", directory / f"{database}.db", schema)
            self.start_database(database, port)
        self._daemon(
            self.central,
            "ovn-northd",
            f"--ovnnb-db=unix:{directory}/nb.sock",
            f"--ovnsb-db=unix:{directory}/sb.sock",
            f"--unixctl={directory}/northd.ctl",
        )
        self.nbctl("init")
        self.nbctl("set", "NB_Global", ".", "options:northd_probe_interval=0")

    def start_database(self, database: str, port: int | None = None) -> None:
        """(Re)start the `nb` or `sb` server on what its file holds."""
        directory = self.central.directory
        port = port or {"nb": 6641, "sb": 6642}[database]
        self._daemon(
            self.central,
            "ovsdb-server",
            f"--remote=punix:{directory}/{database}.sock",
            f"--remote=ptcp:{port}:{self.central.address}",
            f"--unixctl={directory}/{database}.ctl",
            directory / f"{database}.db",
            name=database,
        )

    def stop_database(self, database: str) -> None:
        stop(self.central.directory / f"{database}.pid")

    def empty_database(self, database: str) -> None:
        """Start a stopped database on an empty file: all its content is lost."""
        path = self.central.directory / f"{database}.db"
        path.unlink()
        run(*self._program("ovsdb-tool"), "create", path, NB_SCHEMA if database == "nb" else SB_SCHEMA)
        self.start_database(database)

    def _host(self, chassis: Chassis) -> None:
        """A namespace with a leg on the underlay."""
        chassis.directory.mkdir(parents=True, exist_ok=True)
        link = f"u{next(self._links)}"
        run("ip", "netns", "add", chassis.netns)
        run("ip", "-n", chassis.netns, "link", "set", "lo", "up")
        run(
            "ip", "-n", chassis.netns, "link", "add", "ul0", "type", "veth", "peer", "name", link, "netns", self.bridge_netns
        )
        run("ip", "-n", self.bridge_netns, "link", "set", link, "master", "br0", "up")
        run("ip", "-n", chassis.netns, "link", "set", "ul0", "up")
        # The userspace datapath sees unfinished checksums: without this, ping works and TCP does not.
        run("ip", "netns", "exec", chassis.netns, "ethtool", "-K", "ul0", "tx", "off")
        if chassis is self.central:
            run("ip", "-n", chassis.netns, "addr", "add", f"{chassis.address}/24", "dev", "ul0")

    def up_chassis(self, chassis: Chassis) -> None:
        """Start a chassis; also one that the lab did not begin with (give it with `new_chassis`)."""
        directory = chassis.directory
        self._host(chassis)
        run(*self._program("ovsdb-tool"), "create", directory / "conf.db", SCHEMA)
        self.start_ovsdb(chassis)
        chassis.vsctl("--no-wait", "init")
        settings = {
            "system-id": chassis.name,
            "hostname": chassis.node,
            "ovn-remote": f"tcp:{self.central.address}:6642",
            "ovn-encap-type": "geneve",
            "ovn-encap-ip": chassis.address,
            "ovn-bridge-datapath-type": "netdev",
            "ovn-monitor-all": "true",
        }
        values = [f'external_ids:{key}="{value}"' for key, value in settings.items()]
        chassis.vsctl("--no-wait", "set", "Open_vSwitch", ".", *values)
        self.start_vswitchd(chassis)
        # The tunnel's address sits on the bridge's own port, with the underlay's leg as a port of the bridge.
        phys = "add-br br-phys -- set Bridge br-phys datapath_type=netdev fail_mode=standalone -- add-port br-phys ul0"
        integration = "add-br br-int -- set Bridge br-int datapath_type=netdev fail_mode=secure"
        chassis.vsctl(*phys.split(), "--", *integration.split(), "other-config:disable-in-band=true")
        run("ip", "-n", chassis.netns, "addr", "add", f"{chassis.address}/24", "dev", "br-phys")
        run("ip", "-n", chassis.netns, "link", "set", "br-phys", "up")
        self.start_controller(chassis)

    def start_ovsdb(self, chassis: Chassis) -> None:
        """(Re)start a node's Open_vSwitch database on what its file holds."""
        directory = chassis.directory
        self._daemon(
            chassis,
            "ovsdb-server",
            f"--remote=punix:{directory}/db.sock",
            "--remote=db:Open_vSwitch,Open_vSwitch,manager_options",
            f"--unixctl={directory}/ovsdb.ctl",
            directory / "conf.db",
        )

    def start_vswitchd(self, chassis: Chassis) -> None:
        ctl = f"--unixctl={chassis.directory}/vswitchd.ctl"
        self._daemon(chassis, "ovs-vswitchd", chassis.ovsdb, "--disable-system", ctl)

    def stop_ovs(self, chassis: Chassis) -> None:
        """End ovs-vswitchd and ovsdb-server."""
        stop(chassis.directory / "ovs-vswitchd.pid")
        stop(chassis.directory / "ovsdb-server.pid")

    def start_controller(self, chassis: Chassis) -> None:
        self._daemon(chassis, "ovn-controller", chassis.ovsdb)

    def stop_controller(self, chassis: Chassis, kill: bool = False) -> None:
        """Stop ovn-controller; killed, it leaves its chassis and bindings in SB as a dead node does."""
        pidfile = chassis.directory / "ovn-controller.pid"
        if kill:
            send(pidfile, signal.SIGKILL)
            wait_for(lambda: running(pidfile) is None, 5, "ovn-controller gone")
        stop(pidfile)

    def new_chassis(self) -> Chassis:
        """One more chassis, not started yet."""
        chassis = self._chassis(len(self.chassis) + 1)
        self.chassis.append(chassis)
        return chassis

    def _daemon(self, chassis: Chassis, program: str, *arguments: str | Path, name: str | None = None) -> None:
        """`--detach` returns when the daemon is ready, so nothing has to be waited for."""
        directory, name = chassis.directory, name or program
        central_database = chassis is self.central and program == "ovsdb-server"
        run(
            "ip",
            "netns",
            "exec",
            chassis.netns,
            *(() if central_database else PRIORITY),
            *self._program(program),
            *arguments,
            f"--pidfile={directory}/{name}.pid",
            f"--log-file={directory}/{name}.log",
            "-vconsole:off",
            "-vsyslog:off",
            "--no-chdir",
            "--detach",
            env=chassis.env,
        )

    def _program(self, name: str) -> tuple[str, ...]:
        return ("chroot", str(self.root), name) if self.root else (name,)

    def _registered(self) -> bool:
        names = self.sbctl("--bare", "--columns=name", "list", "Chassis").split()
        return {chassis.name for chassis in self.chassis} <= set(names)

    # -- use

    @property
    def nb_remote(self) -> str:
        return f"unix:{self.central.directory}/nb.sock"

    @property
    def sb_remote(self) -> str:
        return f"unix:{self.central.directory}/sb.sock"

    def nbctl(self, *arguments: str) -> str:
        return run("ovn-nbctl", f"--db={self.nb_remote}", "--timeout=20", *arguments)

    def sbctl(self, *arguments: str) -> str:
        return run("ovn-sbctl", f"--db={self.sb_remote}", "--timeout=20", *arguments)

    def sync(self) -> None:
        """Wait until every chassis has done all that NB says."""
        self.nbctl("--wait=hv", "sync")

    def on(self, node: str) -> Chassis:
        """The chassis of a node."""
        return next(chassis for chassis in self.chassis if chassis.node == node)

    def plug(self, node: str, interface: str, iface_id: str) -> None:
        """Put an interface of the node's namespace into br-int under an iface-id by hand: somebody's who is no VM."""
        self.on(node).vsctl(
            "--may-exist", "add-port", "br-int", interface, "--", "set", "Interface", interface,
            f'external_ids:iface-id="{iface_id}"',
        )  # fmt: skip

    def unplug(self, node: str, interface: str) -> None:
        self.on(node).vsctl("--if-exists", "del-port", "br-int", interface)

    def port(self, name: str) -> dict[str, str]:
        """A logical switch port's columns as ovn-nbctl prints them; empty if there is none."""
        text = self.nbctl("find", "Logical_Switch_Port", f'name="{name}"')
        return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in text.splitlines()) if key}

    def options(self, port: str) -> dict[str, str]:
        """A port's options; empty if it has none, or does not exist."""
        text = self.nbctl("--bare", "--columns=options", "find", "Logical_Switch_Port", f'name="{port}"')
        return dict(pair.split("=", 1) for pair in text.split())

    def placed(self, port: str) -> str:
        """requested-chassis and activation-strategy as one word each: `chassis1,chassis2 rarp`; empty for neither."""
        options = self.options(port)
        return " ".join(options[key] for key in ("requested-chassis", "activation-strategy") if key in options)

    def addresses(self, port: str) -> list[str]:
        """The IP addresses of a port; empty if it does not exist."""
        text = self.nbctl("--bare", "--columns=addresses", "find", "Logical_Switch_Port", f'name="{port}"')
        return text.split()[1:]

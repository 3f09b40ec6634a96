"""What `ovnagent plug` costs a node and takes: real API server, ovsdb-server, ovs-vswitchd, ovn-controller and ovs-cni.

    python -m hack.bench.plug [-n STARTS] [--interfaces 500]

Printed beside each other, from one run on one machine: what Open_vSwitch itself takes for such a write (the floor), and
what the way by `ovnagent plug` takes; the same for the time from the CNI's answer to a port that OVN has installed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from hack.lab.cni import Pod
from hack.lab.kube import ControlPlane
from hack.lab.ovn import SCHEMA, Chassis, OvnLab
from hack.lab.plug import Plugs
from hack.lab.process import run, wait_for
from ovnagent.core.plugging import Attached
from ovnagent.core.vm import Interface, pod_interface
from ovnagent.ovn.vswitch import Vswitch

USER = "system:serviceaccount:ovnagent-plug:ovnagent-plug"
BLUE = Interface("blue", "bridge", nad="default/blue")


class Watch:
    """An outside observer of a node's Open_vSwitch: when it has seen what."""

    def __init__(self, ovsdb: str) -> None:
        self.seen: dict[str, float] = {}
        """Interface -> when it was seen."""
        self.named: dict[str, float] = {}
        """Interface -> when its iface-id was seen."""
        self._news = threading.Condition()
        self.vswitch = Vswitch(ovsdb, self._note)
        self.vswitch.start()

    def _note(self) -> None:
        now = time.monotonic()
        with self._news:
            for each in self.vswitch.interfaces:
                if each.pod_uid:
                    self.seen.setdefault(each.name, now)
                    if each.iface_id:
                        self.named.setdefault(each.name, now)
            self._news.notify_all()

    def wait(self, count: int, seconds: float) -> None:
        """Until so many interfaces have names."""
        with self._news:
            if not self._news.wait_for(lambda: len(self.named) >= count, seconds):
                raise TimeoutError(f"{len(self.named)} of {count} interfaces have names")

    def attached(self) -> list[Attached]:
        return [each for each in self.vswitch.interfaces if each.pod_uid]


def machines(kube: ControlPlane, names: list[str], node: str) -> dict[str, str]:
    """Running VMs with two interfaces and the agent's record, as they are in the API; name -> the launcher's UID."""
    # Pods of a node that does not exist are soon deleted.
    kube.apply(yaml.safe_dump({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}}))
    nics = {"interfaces": [{"name": "default", "bridge": {}}, {"name": "blue", "bridge": {}}]}
    networks = [{"name": "default", "pod": {}}, {"name": "blue", "multus": {"networkName": "blue"}}]
    spec = {"domain": {"devices": nics}, "networks": networks}
    vms = [_object("VirtualMachine", name, {"runStrategy": "Halted", "template": {"spec": spec}}) for name in names]
    kube.apply(yaml.safe_dump_all(vms))
    uids = _uids(kube, "vm")
    vmis, records = [], []
    for name in names:
        owner = {
            "apiVersion": "kubevirt.io/v1",
            "kind": "VirtualMachine",
            "name": name,
            "uid": uids[name],
            "controller": True,
        }
        vmis.append(_object("VirtualMachineInstance", name, spec, ownerReferences=[owner]))
        lease = {"network": "n", "ips": ["10.16.0.9"], "mac": "0a:58:00:00:00:01"}
        ports = {f"{name}.default": lease | {"interface": "default"}}
        ports[f"{name}.default.blue.default"] = lease | {"interface": "blue"}
        text = json.dumps({"vm": f"default/{name}", "uid": uids[name], "ports": ports})
        records.append(_object("VirtualMachine", name, vms[0]["spec"], annotations={"ovnagent.io/record": text}))
    kube.apply(yaml.safe_dump_all([*vmis, *records]))
    vmi_uids = _uids(kube, "vmi")
    pods = []
    for name in names:
        labels = {"kubevirt.io": "virt-launcher", "kubevirt.io/created-by": vmi_uids[name]}
        owner = {
            "apiVersion": "kubevirt.io/v1",
            "kind": "VirtualMachineInstance",
            "name": name,
            "uid": vmi_uids[name],
            "controller": True,
        }
        body = {"nodeName": node, "containers": [{"name": "compute", "image": "none"}]}
        pods.append(_object("Pod", f"virt-launcher-{name}", body, "v1", labels=labels, ownerReferences=[owner]))
    kube.apply(yaml.safe_dump_all(pods))
    return {name.removeprefix("virt-launcher-"): uid for name, uid in _uids(kube, "pods").items()}


def _object(kind: str, name: str, spec: Any, api: str = "kubevirt.io/v1", **meta: Any) -> dict[str, Any]:
    return {"apiVersion": api, "kind": kind, "metadata": {"name": name, "namespace": "default", **meta}, "spec": spec}


def _uids(kube: ControlPlane, kind: str) -> dict[str, str]:
    items: Any = kube.get(kind, "-n", "default")["items"]
    return {each["metadata"]["name"]: each["metadata"]["uid"] for each in items}


def requests(kube: ControlPlane, watches: bool = True) -> Counter[str]:
    """What the API server was asked for by plug so far."""
    assert kube.audit_log is not None
    lines = (json.loads(line) for line in kube.audit_log.read_text().splitlines())
    found = (line for line in lines if line["user"]["username"] == USER and (watches or line["verb"] != "watch"))
    return Counter(f"{line['verb']} {line['objectRef']['resource']}" for line in found)


def starts(kube: ControlPlane, count: int) -> None:
    """VMs that start one after the other, on a whole node."""
    with OvnLab("plugb", Path(tempfile.gettempdir()) / "ovnagent-plugb", chassis=1) as ovn:
        chassis = ovn.chassis[0]
        plugs = Plugs(kube, ovn)
        names = [f"vm{number}" for number in range(count)]
        ports = [f"{name}.default{suffix}" for name in names for suffix in ("", ".blue.default")]
        ovn.nbctl("ls-add", "bench", "--", *" -- ".join(f"lsp-add bench {port}" for port in ports).split())
        plugs.start([chassis.node])
        uids = machines(kube, names, chassis.node)
        plug = plugs.on(chassis.node)
        wait_for(lambda: requests(kube)["get virtualmachines"] >= count, 60, "all VMs are known")
        before = requests(kube)
        watch = Watch(chassis.ovsdb)
        wait_for(lambda: watch.vswitch.complete, 10, "the observer is there")
        pods = {name: Pod(chassis, f"plugb-{name}", "default", f"virt-launcher-{name}", uids[name]) for name in names}
        installed, by_cni = [], []
        for index, (name, pod) in enumerate(pods.items()):
            pod.make()
            for inside, port in (("eth0", f"{name}.default"), (pod_interface(BLUE), f"{name}.default.blue.default")):
                by_hand = index % 2 == 1  # every other one as by a CNI that knows the port's name
                pod.add(inside, port=port if by_hand else "")
                (by_cni if by_hand else installed).append(_installed(chassis, time.monotonic()))
        delays = [
            (watch.named[name] - watch.seen[name]) * 1000 for name in watch.named if watch.named[name] > watch.seen[name]
        ]
        more = requests(kube) - before
        floor = [_floor(watch) for _ in range(2 * count)]
        own = [float(line.rpartition("milliseconds=")[2]) for line in plug.log.read_text().splitlines() if "plugged" in line]
        say("a write to Open_vSwitch by such a client, the floor", floor)
        say("Port row seen -> iface-id committed, by plug's own clock", own)
        say("Port row seen -> iface-id seen, by an observer", delays)
        say("CNI ADD's end -> ovn-installed, iface-id set by the CNI", by_cni)
        say("CNI ADD's end -> ovn-installed, iface-id set by plug", installed)
        print(f"requests of these {count} starts, besides those before the CNI's call: {dict(more)}")
        for pod in pods.values():
            pod.remove()
        plugs.stop()


def _installed(chassis: Chassis, began: float) -> float:
    """Milliseconds until OVN has installed all ports that are plugged."""

    def done() -> bool:
        rows = json.loads(chassis.vsctl("--format=json", "--columns=external_ids", "list", "Interface"))["data"]
        ids = [dict(each[1]) for (each,) in rows]
        return all(each.get("ovn-installed") == "true" for each in ids if "iface-id" in each) and any(
            "iface-id" in each for each in ids
        )

    wait_for(done, 20, "installed")
    return (time.monotonic() - began) * 1000


def _floor(watch: Watch) -> float:
    """One write of the observer's own, to an interface that it does not change."""
    row = watch.attached()[0]
    began = time.monotonic()
    watch.vswitch.commit([(row, row.iface_id, row.pod)])
    return (time.monotonic() - began) * 1000


class Bare:
    """An Open_vSwitch database without ovs-vswitchd: 500 interfaces need no devices then."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "ovn"
        self.node = Chassis("bare", "bare", "", self.directory, "")

    def up(self) -> None:
        self.directory.mkdir(parents=True)
        run("ovsdb-tool", "create", self.directory / "conf.db", SCHEMA)
        run("ovsdb-server", f"--remote=punix:{self.directory}/db.sock", f"--pidfile={self.directory}/ovsdb-server.pid",
            f"--unixctl={self.directory}/ctl", f"--log-file={self.directory}/log", "-vconsole:off", "-vsyslog:off",
            "--detach", self.directory / "conf.db")  # fmt: skip
        self.node.vsctl("--no-wait", "init", "--", "add-br", "br-int")

    def on(self, _: str) -> Chassis:
        return self.node

    def attach(self, uids: dict[str, str]) -> None:
        """The rows that ovs-cni would leave."""
        words: list[str] = []
        for name, uid in uids.items():
            for inside in ("eth0", pod_interface(BLUE)):
                port = f"{name}-{inside}"[:15]
                ids = f"contPodUid={uid} contIface={inside} contNetns=/run/netns/x owner=ovs-cni.network.kubevirt.io"
                words += ["--", "add-port", "br-int", port, "--", "set", "Port", port]
                words += [f"external_ids:{each}" for each in ids.split()]
        self.node.vsctl("--no-wait", "--timeout=60", *words[1:])

    def down(self) -> None:
        run("ovs-appctl", "-t", self.directory / "ctl", "exit")


def many(kube: ControlPlane, interfaces: int, directory: Path) -> None:
    """A start on a node that is full already."""
    bare = Bare(directory)
    bare.up()
    plugs = Plugs(kube, bare)  # type: ignore[arg-type]
    try:
        uids = machines(kube, [f"m{number}" for number in range(interfaces // 2)], "bare")
        bare.attach({name: uid for name, uid in uids.items() if name.startswith("m")})
        plugs.prepare()
        for what in ("none plugged yet", "all plugged before"):
            before = requests(kube)
            watch = Watch(bare.node.ovsdb)
            wait_for(lambda watch=watch: watch.vswitch.complete, 10, "the observer is there")
            began = time.monotonic()
            plugs.start(["bare"])
            ready = time.monotonic() - began
            watch.wait(interfaces, 60)
            done = max(0.0, max(watch.named.values()) - began)
            plug = plugs.on("bare")
            assert plug.pid is not None
            status = Path(f"/proc/{plug.pid}/status").read_text()
            resident = int(status.partition("VmRSS:")[2].split()[0]) // 1024
            counted = dict(requests(kube) - before)
            print(f"{interfaces} interfaces, {what}: ready after {ready:.2f} s, all right after {done:.2f} s, "
                  f"{resident} MB resident, {counted}")  # fmt: skip
            if what == "all plugged before":
                _idle(kube, plug.pid)
            plugs.stop()
            plugs = Plugs(kube, bare)  # type: ignore[arg-type]
            watch.vswitch.stop()
    finally:
        plugs.stop()
        bare.down()


def _idle(kube: ControlPlane, pid: int, seconds: float = 60) -> None:
    before, ticks = requests(kube), _ticks(pid)
    time.sleep(seconds)
    used = (_ticks(pid) - ticks) / 100
    print(
        f"    then idle for {seconds:.0f} s: {used * 1000 / seconds:.1f} ms of CPU a second, {dict(requests(kube) - before)}"
    )


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def say(what: str, milliseconds: list[float]) -> None:
    ordered = sorted(milliseconds)
    p50, p99 = statistics.median(ordered), ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    print(f"{what}: p50 {p50:.1f} ms, p99 {p99:.1f} ms, n={len(ordered)}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=25, metavar="STARTS", help="VMs with two interfaces each")
    parser.add_argument("--interfaces", type=int, default=500, help="on the full node; 0: no such node")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ovnagent-plug-") as folder:
        directory = Path(folder)
        with ControlPlane(directory / "kube", audit=True) as kube:
            if options.interfaces:
                many(kube, options.interfaces, directory)
            starts(kube, options.n)
    return 0


if __name__ == "__main__":
    sys.exit(main())

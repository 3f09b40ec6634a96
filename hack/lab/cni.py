"""The real ovs-cni (hack/ovs-cni), called as Multus calls it; and what virt-launcher makes of the pod's interface."""

from __future__ import annotations

import functools
import json
import secrets
from pathlib import Path

from hack.lab.ovn import Chassis
from hack.lab.process import run

HERE = Path(__file__).resolve().parent


@functools.cache
def built() -> str:
    """The plugin, built if need be."""
    return run(HERE.parent / "ovs-cni" / "build").strip()


class Pod:
    """A pod's network namespace on a node."""

    def __init__(self, chassis: Chassis, netns: str, namespace: str, name: str, uid: str) -> None:
        self.chassis = chassis
        self.netns = netns
        self._of = {"K8S_POD_NAMESPACE": namespace, "K8S_POD_NAME": name, "K8S_POD_UID": uid}
        self._uid = uid

    def make(self) -> None:
        run("ip", "netns", "add", self.netns)
        run("ip", "-n", self.netns, "link", "set", "lo", "up")

    def remove(self) -> None:
        run("ip", "netns", "del", self.netns)

    def add(self, interface: str, mac: str = "", port: str = "", bridge: str = "br-int") -> str:
        """CNI ADD; the MAC that it answers. `mac`: what a NetworkSelectionElement asks for; `port`: OvnPort."""
        answer = json.loads(self._call("ADD", interface, bridge, MAC=mac, OvnPort=port))
        found: str = next(each["mac"] for each in answer["interfaces"] if each["name"] == interface)
        return found

    def delete(self, interface: str, bridge: str = "br-int") -> None:
        """CNI DEL."""
        self._call("DEL", interface, bridge)

    def tap(self, interface: str) -> str:
        """What virt-launcher makes for a bridge binding (kubevirt pkg/network/setup): the pod's interface gives its MAC to
        the guest and gets another one, and a bridge leads from it to a tap, whose name is returned. In the interface's place
        comes a dummy (here an empty bridge: not every kernel has dummies), by whose name the CNI deletes it."""
        name = interface.removeprefix("pod")
        nic, bridge, tap = f"{name}-nic", f"k6t-{name}", "tap0" if name == "eth0" else f"tap{name}"
        commands = f"""
link set dev {interface} down
link set dev {interface} name {nic} addrgenmode none
link add name {interface} type bridge
link add name {bridge} type bridge
link set dev {bridge} addrgenmode none up
link set dev {nic} address {_other_mac()} master {bridge}
link set dev {nic} type bridge_slave learning off
link set dev {nic} up
tuntap add dev {tap} mode tap
link set dev {tap} addrgenmode none master {bridge} up
"""
        run("ip", "-n", self.netns, "-batch", "-", stdin=commands)
        return tap

    def _call(self, command: str, interface: str, bridge: str, **args: str) -> str:
        args = {"IgnoreUnknown": "1", **self._of, **{key: value for key, value in args.items() if value}}
        env = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": self._uid,
            "CNI_NETNS": f"/run/netns/{self.netns}",
            "CNI_IFNAME": interface,
            "CNI_PATH": str(HERE),
            "CNI_ARGS": ";".join(f"{key}={value}" for key, value in args.items()),
        }
        config = {"cniVersion": "0.4.0", "name": "lab", "type": "ovs", "bridge": bridge, "socket_file": self.chassis.ovsdb}
        return run("ip", "netns", "exec", self.chassis.netns, built(), stdin=json.dumps(config), env=env)


def _other_mac() -> str:
    return "02:" + ":".join(f"{byte:02x}" for byte in secrets.token_bytes(5))

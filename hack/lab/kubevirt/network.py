"""Pods' networks: the real ovs-cni attaches each interface as for Multus (hack/lab/cni.py), and `ovnagent plug` does the
rest. What the guest sets on its cards is read from the port's row, as DHCP would deliver it.

Nearly a real pod: a namespace, the CNI's veth, virt-launcher's bridge and tap. What differs: behind masquerade and passt
there is no NAT, so the guest's MAC is on the wire, and the CNI is asked for that one."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import random
from dataclasses import dataclass, replace
from typing import Any

from hack.lab.cni import Pod
from hack.lab.guest import Nic
from hack.lab.kubevirt import objects
from hack.lab.kubevirt.api import Obj, uid_of
from hack.lab.kubevirt.context import Attachment, Sandbox
from hack.lab.ovn import OvnLab

DEFAULT_NETWORK = "ovn-kubernetes"
"""The name of the pod network in network-status, as in the recordings."""


@dataclass(frozen=True, slots=True)
class Port:
    """What a logical switch port's row tells a CNI."""

    mac: str
    addresses: tuple[str, ...]
    dhcp: tuple[str, ...]
    """`dhcp` and `dhcp6`, where OVN answers DHCPv4 and DHCPv6 on it."""


class Network:
    """Plugs and unplugs."""

    def __init__(self, ovn: OvnLab) -> None:
        self._ovn = ovn

    def attachments(self, vmi: Obj, pod: Obj) -> list[Attachment]:
        """What a launcher is to be attached to. SR-IOV has nothing to do with br-int."""
        namespace = vmi["metadata"]["namespace"]
        pairs = [pair for pair in objects.interfaces_of(vmi) if pair[0].get("state") != "absent" and "sriov" not in pair[0]]
        nads = [objects.nad_of(network, namespace) for _, network in objects.interfaces_of(vmi)]
        # A migrated guest brings its MAC with it; the CNI gives the target's interface one of its own.
        moved = objects.MIGRATION_UID in objects.labels_of(pod)
        found = []
        for interface, network in pairs:
            nad = objects.nad_of(network, namespace)
            iface_id = iface_id_of(vmi, interface["name"], nad, twice=nads.count(nad) > 1)
            inside = objects.pod_interface(network)
            found.append(
                Attachment(
                    name=interface["name"],
                    inside=inside,
                    network=nad or objects.annotations_of(pod).get(objects.DEFAULT_NAD) or DEFAULT_NETWORK,
                    default=inside == "eth0",
                    tap="",
                    iface_id=iface_id,
                    mac=self._wished_mac(vmi, interface, iface_id),
                    guest_mac=_known_mac(vmi, interface["name"]) if moved and not _silent(interface) else "",
                    silent=_silent(interface),
                )
            )
        return found

    def netns(self, sandbox: Sandbox) -> str:
        """The pod's network namespace."""
        return f"{self._ovn.name}-pod-{sandbox.uid[:8]}"

    def plug(self, sandbox: Sandbox) -> None:
        """Have the CNI attach all interfaces, and make of them what virt-launcher makes."""
        pod = self._pod(sandbox)
        pod.make()
        attached = []
        for each in sandbox.attachments:
            answered = pod.add(each.inside, each.mac)
            sandbox.answered[each.inside] = answered
            attached.append(replace(each, tap=pod.tap(each.inside), mac=each.guest_mac or answered))
        sandbox.attachments = attached
        sandbox.plugged = True

    def unplug(self, sandbox: Sandbox) -> None:
        pod = self._pod(sandbox)
        for each in sandbox.attachments:
            pod.delete(each.inside)
        pod.remove()
        sandbox.plugged = False

    def _pod(self, sandbox: Sandbox) -> Pod:
        key = sandbox.pod
        return Pod(self._ovn.on(sandbox.node), self.netns(sandbox), key.namespace, key.name, sandbox.uid)

    def status(self, sandbox: Sandbox) -> str:
        """The value of the network-status annotation, formatted as Multus does, with the MACs that the CNI has answered."""
        default: Obj = {"name": DEFAULT_NETWORK, "interface": "eth0", "ips": [sandbox.address], "mac": random_mac()}
        entries = [default | {"default": True, "dns": {}}]
        for attachment in sandbox.attachments:
            mac = sandbox.answered[attachment.inside]
            if attachment.default:
                entries[0] |= {"name": attachment.network, "mac": mac}
            else:
                entry: Obj = {"name": attachment.network, "interface": attachment.inside, "mac": mac}
                entries.append(entry | {"dns": {}})
        return json.dumps(entries, indent=4)

    def port(self, name: str) -> Port | None:
        """The row of a port; None if there is none, or it has no MAC yet."""
        columns = "--columns=addresses,dynamic_addresses,dhcpv4_options,dhcpv6_options"
        rows = json.loads(self._ovn.nbctl("--format=json", columns, "find", "Logical_Switch_Port", f'name="{name}"'))["data"]
        if not rows:
            return None
        addresses, dynamic, dhcpv4, dhcpv6 = (_set(value) for value in rows[0])
        words = " ".join(str(each) for each in (dynamic if "dynamic" in addresses else addresses)).split()
        if not words or ":" not in words[0]:
            return None
        return Port(words[0], tuple(words[1:]), ("dhcp",) * bool(dhcpv4) + ("dhcp6",) * bool(dhcpv6))

    def nic(self, attachment: Attachment) -> Nic:
        """The guest's card: DHCP where OVN serves it, else the port's addresses set as they are."""
        port = self.port(attachment.iface_id)
        if port is None or not port.addresses:
            return Nic(attachment.tap, attachment.mac)
        if port.dhcp:
            return Nic(attachment.tap, attachment.mac, port.dhcp)
        routers = self._routers(attachment.iface_id)
        addresses, gateways = [], []
        for text in port.addresses:
            address = ipaddress.ip_address(text)
            router = next((each for each in routers if address in each.network), None)
            if router is not None:
                gateways.append(str(router.ip))
            length = router.network.prefixlen if router is not None else 16 if address.version == 4 else 64
            addresses.append(f"{address}/{length}")
        return Nic(attachment.tap, attachment.mac, tuple(addresses), tuple(gateways))

    def _routers(self, port: str) -> list[ipaddress.IPv4Interface | ipaddress.IPv6Interface]:
        """Addresses of the routers on the switch of a port: they tell the prefix length and the gateway."""
        switches = json.loads(self._ovn.nbctl("--format=json", "--columns=name,ports", "list", "Logical_Switch"))["data"]
        uuid = self._ovn.nbctl("get", "Logical_Switch_Port", port, "_uuid").strip()
        ports = next((_set(ports) for _, ports in switches if uuid in _set(ports)), [])
        found = []
        rows = json.loads(
            self._ovn.nbctl("--format=json", "--columns=_uuid,options", "find", "Logical_Switch_Port", "type=router")
        )["data"]
        for row_uuid, options in rows:
            if row_uuid[1] in ports and (name := dict(options[1]).get("router-port")):
                networks = self._ovn.nbctl("--bare", "--columns=networks", "find", "Logical_Router_Port", f'name="{name}"')
                found += [ipaddress.ip_interface(each) for each in networks.split()]
        return found

    def _wished_mac(self, vmi: Obj, interface: Obj, iface_id: str) -> str:
        """What the CNI is asked for: the MAC that the VM asks for, as KubeVirt tells Multus. Empty: the CNI chooses."""
        if interface.get("macAddress"):
            mac: str = interface["macAddress"]
            return mac
        if not _silent(interface):
            return ""
        port = self.port(iface_id)
        return port.mac if port is not None else _known_mac(vmi, interface["name"])


def _known_mac(vmi: Obj, interface: str) -> str:
    """The MAC of the guest on the node from which it is migrated."""
    known = {each["name"]: each.get("mac", "") for each in vmi["status"].get("interfaces") or ()}
    return known.get(interface, "")


def _silent(interface: Obj) -> bool:
    return "masquerade" in interface or "passtBinding" in interface


def iface_id_of(vmi: Obj, interface: str, nad: str, twice: bool) -> str:
    """The port's name (docs: names of ports)."""
    name = f"{vmi['metadata']['name']}.{vmi['metadata']['namespace']}"
    if not nad:
        return name
    namespace, _, nad_name = nad.partition("/")
    name = f"{name}.{nad_name}.{namespace}"
    return f"{name}.{interface}" if twice else name


def guest_mac(vmi: Obj, attachment: Attachment) -> str:
    """The MAC inside the guest: behind masquerade and passt another one than the pod's."""
    if not attachment.silent:
        return attachment.mac
    digest = hashlib.sha256(f"{uid_of(vmi)} {attachment.name}".encode()).hexdigest()
    return f"02:00:00:{digest[:2]}:{digest[2:4]}:{digest[4:6]}"


def random_mac() -> str:
    return "0a:58:" + ":".join(f"{random.randrange(256):02x}" for _ in range(4))


def _set(value: Any) -> list[Any]:
    """An OVSDB set as ovn-nbctl prints it in JSON: one member stands alone; UUIDs lose their tag."""
    if isinstance(value, list) and value and value[0] == "set":
        return [_set(each)[0] for each in value[1]]
    if isinstance(value, list) and value and value[0] == "uuid":
        return [value[1]]
    return [value]

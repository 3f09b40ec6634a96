"""Real QEMU guests that get their addresses from OVN: DHCPv4, DHCPv6, router advertisements, names, a gateway, and what
port security does to those who take another's address."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hack.lab.cluster import NETWORKS, Cluster
from hack.lab.kubevirt import KubeVirt
from hack.lab.peer import Peer
from hack.lab.process import wait_for
from tests.e2e.conftest import Lab

pytestmark = pytest.mark.timeout(400)

TENANTS: list[dict[str, object]] = [
    *NETWORKS,
    {
        "name": "blue",
        "nads": ["default/blue"],
        "subnets": [
            {"cidr": "192.168.10.0/24", "gateway": "192.168.10.1"},
            {"cidr": "fd00:10::/64", "gateway": "fd00:10::1"},
        ],
        "mtu": 1350,
        "dhcp": {"dnsServers": ["192.168.10.1"], "domain": "default.vm.example"},
        "dnsDomain": "vm.example",
        "router": "tenant",
    },
    {
        "name": "green",
        "nads": ["default/green"],
        "subnets": [{"cidr": "192.168.20.0/24", "gateway": "192.168.20.1"}],
        "dhcp": {},
        "router": "tenant",
    },
]
MANIFEST = """
apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata: {{name: {name}, namespace: default}}
spec:
  runStrategy: Always
  template:
    metadata: {{annotations: {{blue.default.kubernetes.io/allowed_address_pairs: 192.168.10.99}}}}
    spec:
      domain: {{devices: {{interfaces: [{{name: net, {binding}}}]}}, memory: {{guest: 64Mi}}}}
      networks: [{{name: net, multus: {{networkName: {nad}}}}}]
"""
NAD = """
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {{name: {name}, namespace: default}}
spec: {{config: '{{"cniVersion": "0.3.1", "type": "ovs", "bridge": "br-int"}}'}}
"""
ALPHA, BETA, GAMMA = "alpha.default.blue.default", "beta.default.blue.default", "gamma.default.green.default"


@pytest.fixture(scope="module")
def tenants() -> Iterator[Lab]:
    with three_guests("dhcp") as lab:
        yield lab


@contextmanager
def three_guests(name: str, root: Path | None = None) -> Iterator[Lab]:
    """alpha and beta on the blue network, gamma on the green one."""
    with Cluster(name, root=root) as cluster, KubeVirt(cluster.kube, cluster.ovn, guests="qemu") as kubevirt:
        lab = Lab(cluster, cluster.replicas(TENANTS).start(), kubevirt)
        for name in ("blue", "green"):
            cluster.kube.apply(NAD.format(name=name))
        cluster.kube.apply(MANIFEST.format(name="alpha", nad="blue", binding="bridge: {}"))
        cluster.kube.apply(MANIFEST.format(name="beta", nad="blue", binding="binding: {name: managedtap}"))
        cluster.kube.apply(MANIFEST.format(name="gamma", nad="green", binding="bridge: {}"))
        for name in ("alpha", "beta", "gamma"):
            kubevirt.wait_running("default", name, 120)
        yield lab


@pytest.fixture(scope="module")
def peer(tenants: Lab) -> Iterator[Peer]:
    with Peer(tenants.ovn, "node3", "192.168.10.250", "blue", 24) as made:
        for port in (ALPHA, BETA):
            assert made.ping(tenants.ovn.addresses(port)[0], 30), f"{port} has not got its address"
        yield made


@pytest.mark.parametrize("port", [ALPHA, BETA], ids=["bridge", "managedTap"])
def test_a_guest_has_the_address_and_mtu_of_its_port(tenants: Lab, peer: Peer, port: str) -> None:
    ipv4, ipv6 = tenants.ovn.addresses(port)
    wait_for(lambda: ipv6 in peer.shell(ipv4, "ip -6 addr show dev eth0"), 20, f"{port} has {ipv6} by DHCPv6")
    text = peer.shell(ipv4, "ip addr show dev eth0; hostname; cat /etc/resolv.conf; ip -6 route")
    assert f"inet {ipv4}/24" in text
    assert "mtu 1350" in text
    assert "nameserver 192.168.10.1" in text
    assert "search default.vm.example" in text
    assert "default via fe80::" in text, "the router advertisement has set no default route"


def test_guests_reach_each_other_by_name_and_over_the_router(tenants: Lab, peer: Peer) -> None:
    alpha = tenants.ovn.addresses(ALPHA)[0]
    assert "1 packets received" in peer.shell(alpha, "ping -c 1 -W 3 beta.default.vm.example")
    assert tenants.ovn.addresses(BETA)[1] in peer.shell(alpha, "nslookup -type=aaaa beta.default.vm.example")
    gamma = tenants.ovn.addresses(GAMMA)[0]
    wait_for(lambda: " 0% packet loss" in peer.shell(alpha, f"ping -c 1 -W 3 {gamma}"), 20, "a ping to the other switch")


def test_an_address_that_two_guests_share_follows_who_announces_it(tenants: Lab, peer: Peer) -> None:
    """As keepalived does it; the virtual port tells routers where it is."""
    moved = "ip addr add 192.168.10.99/32 dev eth0; arping -U -c 3 -I eth0 192.168.10.99"
    for port, other in ((ALPHA, BETA), (BETA, ALPHA)):
        peer.shell(tenants.ovn.addresses(other)[0], "ip addr del 192.168.10.99/32 dev eth0")
        peer.shell(tenants.ovn.addresses(port)[0], moved)
        bound = ("--bare", "--columns=virtual_parent", "find", "Port_Binding", 'logical_port="192.168.10.99.blue"')
        wait_for(lambda bound=bound, port=port: tenants.ovn.sbctl(*bound).strip() == port, 10, f"the address is with {port}")
        gamma = tenants.ovn.addresses(GAMMA)[0]
        alpha = tenants.ovn.addresses(ALPHA)[0]
        assert peer.ping("192.168.10.99", 10)
        reached = "ping -c 1 -W 3 192.168.10.99"
        # gamma is on the other switch: its packets take the router. Its shell is reached from alpha.
        told = f"printf '{reached}\\nexit\\n' | nc -w 8 {gamma} 8"
        wait_for(lambda told=told, alpha=alpha: " 0% packet loss" in peer.shell(alpha, told), 20, "reached over the router")


def test_a_guest_that_takes_anothers_address_is_not_heard(tenants: Lab, peer: Peer) -> None:
    alpha = tenants.ovn.addresses(ALPHA)[0]
    honest = peer.shell(alpha, f"ping -c 1 -W 2 {peer.address}")
    assert " 0% packet loss" in honest
    stolen = peer.shell(alpha, f"ip addr add 192.168.10.77/24 dev eth0; ping -c 2 -W 1 -I 192.168.10.77 {peer.address}")
    assert "100% packet loss" in stolen
    # The guest's network is down while it has another's MAC: it tells later.
    peer.shell(
        alpha,
        "(ip link set eth0 down; ip link set eth0 address 0a:00:00:00:00:77; ip link set eth0 up; sleep 1;"
        f" ping -c 2 -W 1 {peer.address} >/tmp/stolen; ip link set eth0 down;"
        " ip link set eth0 address $(cat /tmp/mac); ip link set eth0 up) >/dev/null 2>&1 &".replace(
            "$(cat /tmp/mac)", tenants.ovn.port(ALPHA)["addresses"].strip('[]"').split()[0]
        ),
    )
    assert wait_for(lambda: "packets transmitted" in _told(peer, alpha), 40, "alpha tells what became of its pings")
    assert "100% packet loss" in _told(peer, alpha)


def _told(peer: Peer, address: str) -> str:
    try:
        return peer.shell(address, "cat /tmp/stolen", 3)
    except OSError:
        return ""

"""VMs whose guests are real QEMU: they come up with the address of their port's row, by either way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.lab.guest import End, Guest
from hack.lab.kube import ControlPlane
from hack.lab.kubevirt import KubeVirt
from hack.lab.kubevirt.api import VMS
from hack.lab.ovn import OvnLab
from hack.lab.process import wait_for
from tests.lab.naming import ports_named

NAMESPACE = "default"
MAC = "0a:58:0a:10:00:07"


@pytest.fixture(scope="module")
def ovn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OvnLab]:
    """A switch with a router on it, which tells prefix length and gateway."""
    with OvnLab("kvqmu", tmp_path_factory.mktemp("o") / "ovn") as ovn:
        ovn.nbctl("ls-add", "pods")
        ovn.nbctl("lr-add", "router")
        ovn.nbctl("lrp-add", "router", "gateway", "0a:58:0a:10:00:01", "10.16.0.1/20", "fd00::1/64")
        ovn.nbctl("lsp-add", "pods", "to-router")
        ovn.nbctl("lsp-set-type", "to-router", "router")
        ovn.nbctl("lsp-set-addresses", "to-router", "router")
        ovn.nbctl("lsp-set-options", "to-router", "router-port=gateway")
        yield ovn


@pytest.fixture(scope="module")
def kubevirt(ovn: OvnLab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeVirt]:
    with (
        ControlPlane(tmp_path_factory.mktemp("k") / "kube") as kube,
        KubeVirt(kube, ovn, guests="qemu") as kubevirt,
        ports_named(kubevirt, ovn),
    ):
        yield kubevirt


def boot(kubevirt: KubeVirt, vm: str, mac: str) -> Guest:
    spec = {
        "domain": {
            "devices": {"interfaces": [{"name": "default", "bridge": {}, "macAddress": mac}]},
            "memory": {"guest": "64Mi"},
        },
        "networks": [{"name": "default", "pod": {}}],
    }
    kubevirt.api.create(
        VMS,
        {
            "apiVersion": "kubevirt.io/v1",
            "kind": "VirtualMachine",
            "metadata": {"name": vm, "namespace": NAMESPACE},
            "spec": {"runStrategy": "Always", "template": {"spec": spec}},
        },
    )
    kubevirt.wait_running(NAMESPACE, vm)
    guest = kubevirt.guest(NAMESPACE, vm)
    assert isinstance(guest, Guest)
    return guest


def console(guest: Guest) -> str:
    return Path(guest.serial).read_text(errors="replace")


def test_a_guest_sets_the_addresses_of_its_port_and_is_migrated(kubevirt: KubeVirt, ovn: OvnLab) -> None:
    ovn.nbctl("lsp-add", "pods", "vm1.default", "--", "lsp-set-addresses", "vm1.default", f"{MAC} 10.16.0.7 fd00::7")
    source = boot(kubevirt, "vm1", MAC)
    assert f"link/ether {MAC}" in console(source)
    assert "inet 10.16.0.7/20" in console(source)
    assert "inet6 fd00::7/64" in console(source)
    assert source.nics[0].gateways == ("10.16.0.1", "fd00::1")

    migration = kubevirt.migrate(NAMESPACE, "vm1")
    assert kubevirt.wait_migration(NAMESPACE, migration, seconds=60) == "Succeeded"
    assert kubevirt.report(NAMESPACE, migration).total_ms > 0
    wait_for(lambda: source.end, 5, "source ended")
    assert source.end is End.MIGRATED
    assert kubevirt.guest(NAMESPACE, "vm1").node == kubevirt.vmi(NAMESPACE, "vm1")["status"]["nodeName"] != source.node

    kubevirt.stop_vm(NAMESPACE, "vm1")
    kubevirt.wait_phase(NAMESPACE, "vm1", "")


def test_a_guest_fetches_its_address_where_ovn_serves_dhcp(kubevirt: KubeVirt, ovn: OvnLab) -> None:
    options = ovn.nbctl("create", "DHCP_Options", "cidr=10.16.0.0/20").strip()
    ovn.nbctl(
        "dhcp-options-set-options", options, "server_id=10.16.0.1", "server_mac=0a:58:0a:10:00:01", "lease_time=3600",
        "router=10.16.0.1", "mtu=1400",
    )  # fmt: skip
    ovn.nbctl("lsp-add", "pods", "vm2.default", "--", "lsp-set-addresses", "vm2.default", "0a:58:0a:10:00:08 10.16.0.8")
    ovn.nbctl("lsp-set-dhcpv4-options", "vm2.default", options)
    guest = boot(kubevirt, "vm2", "0a:58:0a:10:00:08")
    assert "dhcp bound interface=eth0 ip=10.16.0.8/20 router=10.16.0.1 mtu=1400" in console(guest)

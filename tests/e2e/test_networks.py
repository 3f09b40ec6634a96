"""docs/networks.md as written there: each manifest is applied, and what the page says of it comes out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hack.lab.cluster import Cluster
from hack.lab.kubevirt import KubeVirt
from hack.lab.process import wait_for
from tests.e2e.conftest import Lab

PAGE = Path(__file__).parents[2] / "docs" / "networks.md"
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
CONFIGURATION, *MANIFESTS = BLOCKS


def documents(block: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(block))


VMS = [each["metadata"]["name"] for block in MANIFESTS for each in documents(block) if each["kind"] == "VirtualMachine"]


@pytest.fixture(scope="module")
def page() -> Iterator[Lab]:
    """Everything on the page is applied, and all its VMs run."""
    with Cluster("nets") as cluster, KubeVirt(cluster.kube, cluster.ovn, guests="fake") as kubevirt:
        lab = Lab(cluster, cluster.replicas(yaml.safe_load(CONFIGURATION)["networks"]).start(), kubevirt)
        lab.kube.kubectl("create", "namespace", "demo")
        for block in MANIFESTS:
            lab.kube.apply(block)
        for name in VMS:
            kubevirt.wait_running("demo", name)
        yield lab


def test_the_page_has_manifests() -> None:
    assert len(VMS) >= 10


def rows(lab: Lab, table: str, *columns: str) -> list[list[str]]:
    text = lab.ovn.nbctl("--bare", "--format=csv", "--no-headings", f"--columns={','.join(columns)}", "list", table)
    return [line.split(",") for line in text.splitlines()]


def test_chosen_addresses(page: Lab) -> None:
    assert page.ovn.addresses("chosen.demo") == ["10.16.0.15", "fd00:10:16::15"]
    assert "00:00:00:53:6b:b6" in page.ovn.port("chosen.demo")["addresses"]
    ipv4, ipv6 = page.ovn.addresses("chosen.demo.tenant-net.demo")
    assert ipv4 == "192.168.0.15"
    assert ipv6.startswith("fd00:192:168:")


def test_pool_and_ecosystem_key(page: Lab) -> None:
    assert page.ovn.addresses("pooled.demo")[0] in {f"10.16.1.{number}" for number in range(10, 20)}
    assert page.ovn.addresses("pooled.demo.tenant-net.demo")[0] == "192.168.0.33"


def test_two_interfaces_on_one_nad(page: Lab) -> None:
    assert page.ovn.addresses("twice.demo.tenant-net.demo.left")[0] == "192.168.0.41"
    assert page.ovn.addresses("twice.demo.tenant-net.demo.right")[0] == "192.168.0.42"
    assert not page.ovn.port("twice.demo.tenant-net.demo")


def test_in_place_of_the_pod_network_and_on_another_switch(page: Lab) -> None:
    assert page.ovn.addresses("primary.demo.storage-net.demo") == ["172.30.0.15"]
    assert page.ovn.addresses("elsewhere.demo")[0].startswith("172.30.")
    on_storage = page.ovn.nbctl("lsp-list", "storage")
    assert "(elsewhere.demo)" in on_storage
    assert "(primary.demo.storage-net.demo)" in on_storage


def test_dhcp_options_are_shared_but_for_who_has_his_own(page: Lab) -> None:
    def told(port: str) -> str:
        uuid = page.ovn.port(port)["dhcpv4_options"]
        return page.ovn.nbctl("get", "DHCP_Options", uuid, "options")

    assert told("chosen.demo.tenant-net.demo") == told("pooled.demo.tenant-net.demo")
    assert 'lease_time="7200"' in told("tapped.demo.tenant-net.demo")
    assert 'ntp_server="{192.168.0.5, 192.168.0.6}"' in told("tapped.demo.tenant-net.demo")
    assert 'mtu="1400"' in told("tapped.demo.tenant-net.demo")
    assert len(rows(page, "DHCP_Options", "cidr")) == 3  # IPv4, IPv4 of one VM, IPv6
    assert page.ovn.port("chosen.demo")["dhcpv4_options"] == "[]"


def test_names(page: Lab) -> None:
    records = page.ovn.nbctl("--bare", "--columns=records", "list", "DNS")
    assert "tapped.demo.vm.example=" in records
    attached = page.ovn.nbctl("get", "Logical_Switch", "tenant", "dns_records").count(",") + 1
    assert attached == len(rows(page, "DNS", "_uuid")) == 8  # the VMs on the tenant's network; twice counts twice


def test_masquerade_has_the_pods_mac(page: Lab) -> None:
    assert page.ovn.addresses("masked.demo")[0] == "10.16.0.77"
    (pod,) = page.kubevirt.launchers("demo", "masked")
    mac = re.search(r'"mac": "([^"]+)"', pod["metadata"]["annotations"]["k8s.v1.cni.cncf.io/network-status"])
    assert mac is not None
    assert mac[1] in page.ovn.port("masked.demo")["addresses"]


def test_an_address_that_moves(page: Lab) -> None:
    wait_for(lambda: page.ovn.port("192.168.0.200.tenant"), 5, "the virtual port")
    options = page.ovn.options("192.168.0.200.tenant")
    assert options["virtual-parents"] == "keep1.demo.tenant-net.demo,keep2.demo.tenant-net.demo"
    for name in ("keep1", "keep2"):
        assert "192.168.0.200" in page.ovn.port(f"{name}.demo.tenant-net.demo")["port_security"]


def test_no_port_security_a_rate_and_a_link_that_is_down(page: Lab) -> None:
    port = page.ovn.port("gateway.demo")
    assert port["port_security"] == "[]"
    assert page.ovn.options("gateway.demo")["qos_max_rate"] == "100000000"
    assert page.ovn.port("gateway.demo.tenant-net.demo")["enabled"] == "false"


def test_a_gateway_on_each_switch(page: Lab) -> None:
    ports = page.ovn.nbctl("lrp-list", "edge")
    assert "edge-tenant" in ports
    assert "edge-storage" in ports
    advertised = page.ovn.nbctl("get", "Logical_Router_Port", "edge-tenant", "ipv6_ra_configs")
    assert "dhcpv6_stateful" in advertised


def test_a_live_migration_takes_all_interfaces_along(page: Lab) -> None:
    """Those that announce themselves, and the one behind masquerade, which cannot."""
    for name, ports in (
        ("chosen", ("chosen.demo", "chosen.demo.tenant-net.demo")),
        ("masked", ("masked.demo",)),
        ("tapped", ("tapped.demo.tenant-net.demo",)),
    ):
        migration = page.kubevirt.migrate("demo", name)
        assert page.kubevirt.wait_migration("demo", migration) == "Succeeded"
        vmi = page.kubevirt.vmi("demo", name)
        assert vmi is not None
        for port in ports:
            page.placed(port, page.ovn.on(vmi["status"]["nodeName"]).name, 5)


def test_a_hot_plugged_interface_has_its_port_before_the_target_plugs(page: Lab) -> None:
    """virt-controller copies it into the VMI, and 15 s later migrates the VM to get it in."""
    path = "/spec/template/spec"
    plug = [
        {"op": "add", "path": f"{path}/domain/devices/interfaces/-", "value": {"name": "extra", "bridge": {}}},
        {"op": "add", "path": f"{path}/networks/-", "value": {"name": "extra", "multus": {"networkName": "tenant-net"}}},
    ]
    page.kube.kubectl("patch", "vm", "primary", "-n", "demo", "--type=json", "-p", json.dumps(plug))
    port = "primary.demo.tenant-net.demo"
    wait_for(lambda: page.ovn.port(port), 5, "the port of the new interface")
    migration = page.kubevirt.newest_migration("demo", "primary")
    assert page.kubevirt.wait_migration("demo", migration) == "Succeeded"
    vmi = page.kubevirt.vmi("demo", "primary")
    assert vmi is not None
    target = page.ovn.on(vmi["status"]["nodeName"])
    page.placed(port, target.name, 5)
    page.ovn.sync()
    assert port in target.vsctl("--bare", "--columns=external_ids", "list", "Interface")
    wait_for(lambda: page.ovn.nbctl("get", "Logical_Switch_Port", port, "up").strip() == "true", 10, "the port is up")


def test_what_others_change_is_put_right(page: Lab) -> None:
    port = "chosen.demo.tenant-net.demo"
    page.ovn.nbctl("dhcp-options-del", page.ovn.port(port)["dhcpv4_options"])
    wait_for(lambda: page.ovn.port(port)["dhcpv4_options"] != "[]", 5, "DHCP options are there again")
    (record,) = page.ovn.nbctl("--bare", "--columns=_uuid", "find", "DNS", f'external_ids:ovnagent-port="{port}"').split()
    page.ovn.nbctl("clear", "DNS", record, "records")
    wait_for(lambda: "chosen.demo.vm.example" in page.ovn.nbctl("--columns=records", "list", "DNS"), 5, "the name is back")
    page.ovn.nbctl("lrp-del", "edge-storage")
    wait_for(lambda: "edge-storage" in page.ovn.nbctl("lrp-list", "edge"), 5, "the gateway is back")


def test_nothing_is_left_when_all_vms_are_gone(page: Lab) -> None:
    page.kube.kubectl("delete", "vm", "-n", "demo", "--all", "--wait=false")
    wait_for(lambda: not rows(page, "DHCP_Options", "cidr") and not rows(page, "DNS", "_uuid"), 30, "rows cleaned up")

    def only_gateways() -> bool:
        return {row[0] for row in rows(page, "Logical_Switch_Port", "name")} == {"tenant-edge", "storage-edge"}

    wait_for(only_gateways, 10, "all ports gone but the gateways")

"""What a VM's interfaces get, one rule a test: the core at a desk."""

from __future__ import annotations

import ipaddress
import json
from dataclasses import replace

from ovnagent.core import reduce
from ovnagent.core.networks import Dhcp
from ovnagent.core.placement import Binding
from ovnagent.core.ports import EXTRA_OPTIONS, VMI_UID
from tests.desk import Desk, migration_object, network, pod_object, vm_object, vmi_object

TENANT = network(
    "192.168.0.0/24", "fd00:1::/64", name="tenant", switch="tenant", pod_network=False, nads=("default/tenant",)
)
NETWORKS = [{"name": "a", "multus": {"networkName": "tenant"}}, {"name": "b", "multus": {"networkName": "default/tenant"}}]


def desk_with(name: str = "tenant", **changes: object) -> Desk:
    return Desk(network(), replace(TENANT, name=name, **changes))  # type: ignore[arg-type]


def feed_vm(
    desk: Desk,
    name: str,
    annotations: dict[str, str] | None = None,
    interfaces: list[str] | None = None,
    binding: str = "bridge",
) -> None:
    """A stopped VM whose interfaces (`a`, `b`) are on the tenant's NAD; none: one on the pod network."""
    nics = [{"name": each, binding: {}} for each in interfaces or ["default"]]
    networks = [each for each in NETWORKS if each["name"] in interfaces] if interfaces else None
    desk.feed("MODIFIED", "virtualmachines", vm_object(name, annotations=annotations, interfaces=nics, networks=networks))


def status(*entries: tuple[str, str, str]) -> dict[str, str]:
    """network-status: (interface, network, MAC)."""
    found = [{"interface": i, "name": n, "mac": m} | ({"default": True} if i == "eth0" else {}) for i, n, m in entries]
    return {"k8s.v1.cni.cncf.io/network-status": json.dumps(found)}


def test_dhcp_is_told_what_the_network_says_and_the_vm_overrides() -> None:
    dhcp = Dhcp(
        dns_servers=(ipaddress.ip_address("192.168.0.53"), ipaddress.ip_address("fd00:1::53")),
        domain="vm.example",
        routes=((ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_address("192.168.0.254")),),
    )
    desk = desk_with(dhcp=dhcp, mtu=1350)
    feed_vm(desk, "web", {"tenant.default.ovn.kubernetes.io/dhcp-v4-options": "lease_time=60,mtu="}, ["a"])
    desk.look()
    port = desk.port("web.default.tenant.default")
    assert port.dhcpv4 is not None
    told = dict(port.dhcpv4.options)
    assert told["lease_time"] == "60"
    assert "mtu" not in told
    assert told["dns_server"] == "{192.168.0.53}"
    assert told["domain_name"] == '"vm.example"'
    assert told["classless_static_route"] == "{10.0.0.0/8,192.168.0.254, 0.0.0.0/0,192.168.0.1}"
    assert port.option("hostname") == '"web"'
    assert port.dhcpv6 is not None
    assert dict(port.dhcpv6.options)["dns_server"] == "{fd00:1::53}"


def test_dhcp_without_a_server_address_is_a_sentence_and_the_port_is_there() -> None:
    subnet = replace(TENANT.subnets[0], gateway=None)
    desk = desk_with(subnets=(subnet,))
    feed_vm(desk, "web", {"tenant.default.ovn.kubernetes.io/dhcp-v4-options": "lease_time=60"}, ["a"])
    desk.look()
    assert desk.port("web.default.tenant.default").dhcpv4 is None
    assert desk.says("web") == [
        "InvalidRequest: DHCPv4 on network tenant needs a server_id, for its subnet 192.168.0.0/24 has no gateway"
    ]


def test_behind_masquerade_the_interface_s_own_mac_is_on_no_wire() -> None:
    for binding, on_the_wire in (("bridge", True), ("masquerade", False), ("passt", False)):
        desk = Desk()
        nics = [{"name": "default", binding: {}, "macAddress": "02:00:00:00:00:01"}]
        desk.feed("ADDED", "virtualmachines", vm_object("web", interfaces=nics))
        desk.look()
        assert (desk.port("web.default").mac == "02:00:00:00:00:01") is on_the_wire


def test_a_network_of_one_family_tells_by_dhcp_what_is_of_that_family() -> None:
    for cidr, told in (("192.168.7.0/24", (True, False)), ("fd00:7::/64", (False, True))):
        desk = Desk(replace(network(cidr), dhcp=Dhcp()))
        feed_vm(desk, "web")
        desk.look()
        port = desk.port("web.default")
        assert (port.dhcpv4 is not None, port.dhcpv6 is not None) == told
        assert desk.says("web") == []


def test_a_name_for_each_port() -> None:
    desk = desk_with(dns_domain="vm.example")
    feed_vm(desk, "web", {"tenant.default.kubernetes.io/ip_address": "192.168.0.7,fd00:1::7"}, ["a"])
    desk.look()
    assert desk.port("web.default.tenant.default").dns == "web.default.vm.example 192.168.0.7 fd00:1::7"


def test_behind_masquerade_the_mac_is_that_of_the_pod_in_which_the_guest_runs() -> None:
    """Each launcher has a MAC of its own: both may send while the guest moves, and the address goes with the guest."""
    desk = Desk()
    nic = [{"name": "default", "masquerade": {}}]
    state = {"migrationUid": "m1", "sourceNode": "node1", "targetNode": "node2"}
    desk.feed("ADDED", "virtualmachines", vm_object("web", interfaces=nic))
    desk.feed("ADDED", "virtualmachineinstances", vmi_object("web", node="node1", interfaces=nic))
    desk.feed("ADDED", "pods", pod_object("p1", "web", "node1", annotations=status(("eth0", "k8s", "0a:58:00:00:00:01"))))
    desk.look()
    (ip,) = desk.port("web.default").ips
    assert desk.port("web.default").addresses == (f"0a:58:00:00:00:01 {ip}",)
    desk.feed("ADDED", "virtualmachineinstancemigrations", migration_object("m1", "web", "Running"))
    target = pod_object("p2", "web", "node2", migration="m1", annotations=status(("eth0", "k8s", "0A:58:00:00:00:02")))
    desk.feed("ADDED", "pods", target)
    desk.look()
    assert desk.port("web.default").addresses == (f"0a:58:00:00:00:01 {ip}",)
    assert desk.port("web.default").port_security == (f"0a:58:00:00:00:01 {ip}", f"0a:58:00:00:00:02 {ip}")
    desk.bindings["web.default"] = Binding("chassis1", ("chassis2",))
    ready = {**state, "targetNodeDomainReadyTimestamp": "2026-01-01T00:00:00Z"}
    desk.feed("MODIFIED", "virtualmachineinstances", vmi_object("web", node="node1", interfaces=nic, migration=ready))
    desk.look()
    assert desk.port("web.default").addresses == (f"0a:58:00:00:00:02 {ip}",)
    assert desk.placed("web.default") == "chassis2,chassis1 rarp"


def test_a_second_interface_on_a_nad_leaves_the_port_of_the_first_alone_until_the_next_start() -> None:
    desk = desk_with()
    first, both = [{"name": "a", "bridge": {}}], [{"name": "a", "bridge": {}}, {"name": "b", "bridge": {}}]
    inside = "pod" + "ca978112ca1"  # the first 11 characters of sha256("a")
    pod = pod_object("p1", "web", "node1", annotations=status((inside, "default/tenant", "0a:58:00:00:00:01")))
    desk.feed("ADDED", "virtualmachines", vm_object("web", interfaces=first, networks=NETWORKS[:1]))
    desk.feed("ADDED", "virtualmachineinstances", vmi_object("web", node="node1", interfaces=first, networks=NETWORKS[:1]))
    desk.feed("ADDED", "pods", pod)
    desk.look()
    before = desk.port("web.default.tenant.default").ips
    desk.feed("MODIFIED", "virtualmachines", vm_object("web", interfaces=both, networks=NETWORKS))
    desk.feed("MODIFIED", "virtualmachineinstances", vmi_object("web", node="node1", interfaces=both, networks=NETWORKS))
    desk.look()
    assert desk.port("web.default.tenant.default").ips == before
    assert "web.default.tenant.default.b" in desk.rows
    # Stopped: both have the names of two interfaces on one NAD, and each has its addresses.
    second = desk.port("web.default.tenant.default.b").ips
    desk.feed("DELETED", "virtualmachineinstances", vmi_object("web", node="node1", interfaces=both, networks=NETWORKS))
    desk.feed("DELETED", "pods", pod)
    desk.look()
    assert sorted(desk.rows) == ["web.default.tenant.default.a", "web.default.tenant.default.b"]
    assert desk.port("web.default.tenant.default.a").ips == before
    assert desk.port("web.default.tenant.default.b").ips == second


def running(desk: Desk, interfaces: list[dict[str, str]], networks: list[dict[str, object]]) -> None:
    """The VM `web` and its VMI have these interfaces."""
    desk.feed("MODIFIED", "virtualmachines", vm_object("web", interfaces=interfaces, networks=networks))
    vmi = vmi_object("web", node="node1", interfaces=interfaces, networks=networks)
    desk.feed("MODIFIED", "virtualmachineinstances", vmi)
    desk.look()


def test_an_unplugged_interface_keeps_its_port_while_a_launcher_has_it() -> None:
    desk = desk_with()
    inside = "pod" + "3e23e816003"  # sha256("b")
    pod = pod_object("p1", "web", "node1", annotations=status((inside, "default/tenant", "0a:58:00:00:00:01")))
    desk.feed("ADDED", "pods", pod)
    running(desk, [{"name": "b", "bridge": {}}], NETWORKS[1:])
    running(desk, [{"name": "b", "bridge": {}, "state": "absent"}], NETWORKS[1:])
    assert desk.placed("web.default.tenant.default") == "chassis1"
    desk.feed("MODIFIED", "pods", pod_object("p1", "web", "node1"))  # taken out of the launcher
    desk.look()
    assert desk.rows == {}


def test_a_changed_nad_has_its_port_at_once_and_the_old_one_goes_with_the_last_launcher_that_uses_it() -> None:
    blue = network("172.30.0.0/24", name="blue", switch="blue", pod_network=False, nads=("default/blue",))
    desk = Desk(network(), TENANT, blue)
    inside = "pod" + "ca978112ca1"  # sha256("a")
    desk.feed(
        "ADDED",
        "pods",
        pod_object("p1", "web", "node1", annotations=status((inside, "default/tenant", "0a:58:00:00:00:01"))),
    )
    running(desk, [{"name": "a", "bridge": {}}], NETWORKS[:1])
    old = desk.port("web.default.tenant.default")
    running(desk, [{"name": "a", "bridge": {}}], [{"name": "a", "multus": {"networkName": "blue"}}])
    assert desk.port("web.default.tenant.default") == old
    assert desk.port("web.default.blue.default").switch == "blue"
    # KubeVirt migrates the VM by itself; the target has the new network, the source is done.
    desk.feed("ADDED", "virtualmachineinstancemigrations", migration_object("m1", "web", "Running"))
    moved = pod_object(
        "p2", "web", "node2", migration="m1", annotations=status((inside, "default/blue", "0a:58:00:00:00:02"))
    )
    desk.feed("ADDED", "pods", moved)
    desk.look()
    assert desk.placed("web.default.blue.default") == "chassis1,chassis2 rarp"
    desk.feed("MODIFIED", "pods", pod_object("p1", "web", "node1", phase="Succeeded"))
    desk.look()
    assert sorted(desk.rows) == ["web.default.blue.default"]


def test_a_nad_that_names_what_is_not_configured_is_a_sentence_on_the_vm_and_the_other_interface_does_not_notice() -> None:
    desk = Desk(network(), TENANT)
    nad = {
        "metadata": {"namespace": "default", "name": "odd", "annotations": {"ovn.kubernetes.io/logical_switch": "nowhere"}}
    }
    desk.store.put(reduce.network_attachment_definition(nad))
    networks = [*NETWORKS[:1], {"name": "o", "multus": {"networkName": "odd"}}]
    nics = [{"name": "a", "bridge": {}}, {"name": "o", "bridge": {}}]
    desk.feed("ADDED", "virtualmachines", vm_object("web", interfaces=nics, networks=networks))
    desk.look()
    assert sorted(desk.rows) == ["web.default.tenant.default"]
    said = "UnknownNetwork: NetworkAttachmentDefinition default/odd names nowhere, which is not configured; choose one of: "
    assert desk.says("web") == [f"{said}pods, tenant"]


def test_a_link_that_is_down_disables_the_port() -> None:
    desk = Desk()
    desk.feed("ADDED", "virtualmachines", vm_object("web", interfaces=[{"name": "default", "bridge": {}, "state": "down"}]))
    desk.look()
    assert not desk.port("web.default").enabled


def test_an_address_that_two_share_is_nobody_s_own_and_has_a_virtual_port() -> None:
    desk = Desk()
    pairs = {"ovn.kubernetes.io/allowed_address_pairs": "10.16.0.50"}
    for name in ("one", "two"):
        feed_vm(desk, name, pairs)
    desk.look()
    feed_vm(desk, "late", {"ovn.kubernetes.io/ip_address": "10.16.0.50"})
    desk.look()
    desk.forget()  # an agent that starts anew sees it so, too
    desk.look()
    one = desk.port("one.default")
    assert one.port_security == (f"{one.mac} {one.ips[0]} 10.16.0.50",)
    assert one.addresses == (f"{one.mac} {one.ips[0]}",)
    virtual = desk.port("10.16.0.50.ovn-default")
    assert (virtual.type, virtual.option("virtual-parents")) == ("virtual", "one.default,two.default")
    assert desk.says("late")[0].startswith(
        "AddressConflict: ovn.kubernetes.io/ip_address asks for 10.16.0.50, which is an allowed"
    )
    # The last of them goes, and with it the virtual port; and who waited gets it.
    for name in ("one", "two"):
        desk.feed("DELETED", "virtualmachines", vm_object(name))
    desk.look()
    assert sorted(desk.rows) == ["late.default"]
    assert desk.port("late.default").ips == ("10.16.0.50",)


def test_an_allowed_address_that_is_somebody_s_own_is_refused_alone() -> None:
    desk = Desk()
    feed_vm(desk, "owner", {"ovn.kubernetes.io/ip_address": "10.16.0.50"})
    feed_vm(desk, "web", {"ovn.kubernetes.io/allowed_address_pairs": "10.16.0.50, 00:00:5E:00:01:0A 10.16.0.51"})
    desk.look()
    port = desk.port("web.default")
    assert port.port_security == ("00:00:5e:00:01:0a 10.16.0.51", f"{port.mac} {port.ips[0]}")
    (said,) = desk.says("web")
    assert said.startswith(
        "AddressConflict: ovn.kubernetes.io/allowed_address_pairs asks for 10.16.0.50, which VM default/owner"
    )


def test_rates() -> None:
    desk = Desk()
    feed_vm(desk, "web", {"ovn.kubernetes.io/egress_rate": "3", "ovn.kubernetes.io/ingress_rate": "5"})
    desk.look()
    assert desk.port("web.default").option("qos_max_rate") == "3000000"
    assert "qos-add <switch> to-lport" in desk.says("web")[0]
    feed_vm(desk, "web")
    desk.look()
    assert desk.port("web.default").options == ()


# ---- the row itself --------------------------------------------------------------------------------------------------


def test_a_row_says_which_of_its_options_are_the_agent_s_and_nothing_that_is_empty() -> None:
    desk = Desk(replace(network(), dhcp=Dhcp()))
    feed_vm(desk, "web", {"ovn.kubernetes.io/egress_rate": "3"})
    feed_vm(desk, "plain")
    desk.look()
    port = desk.port("web.default")
    assert port.options == (("hostname", '"web"'), ("qos_burst", "3000000"), ("qos_max_rate", "3000000"))
    assert port.external_id(EXTRA_OPTIONS) == "hostname,qos_burst,qos_max_rate"
    desk = Desk()
    feed_vm(desk, "plain")
    desk.look()
    port = desk.port("plain.default")
    assert (port.options, port.dns) == ((), "")
    assert [key for key, value in port.external_ids if not value] == []
    assert {EXTRA_OPTIONS, VMI_UID} & dict(port.external_ids).keys() == set()


def test_the_vmi_s_uid_is_written_with_the_row_or_with_the_node_and_never_alone() -> None:
    desk = Desk()
    feed_vm(desk, "web")
    desk.look()
    for uid, before in (("first", ""), ("second", "first")):
        desk.feed("ADDED", "virtualmachineinstances", vmi_object("web", uid, phase="Scheduling"))
        desk.look()
        assert desk.port("web.default").external_id(VMI_UID) == before
        desk.feed("MODIFIED", "virtualmachineinstances", vmi_object("web", uid, node="node1"))
        desk.feed("ADDED", "pods", pod_object("p", "web", "node1", vmi_uid=uid))
        desk.look()
        assert desk.port("web.default").external_id(VMI_UID) == uid
        desk.feed("DELETED", "virtualmachineinstances", vmi_object("web", uid))
        desk.feed("DELETED", "pods", pod_object("p", "web"))
        desk.look()
        assert (desk.placed("web.default"), desk.port("web.default").external_id(VMI_UID)) == ("-", uid)


def test_a_row_that_is_written_while_its_vmi_waits_for_a_node_has_the_vmi_s_uid() -> None:
    desk = Desk()
    feed_vm(desk, "web")
    desk.feed("ADDED", "virtualmachineinstances", vmi_object("web", "first", phase="Scheduling"))
    desk.look()
    assert (desk.placed("web.default"), desk.port("web.default").external_id(VMI_UID)) == ("-", "first")


def test_the_launcher_s_own_mac_is_let_through_where_the_guest_sends_with_it_and_nobody_asked_for_another() -> None:
    asked, own, pod_s = "02:00:00:00:00:01", "02:00:00:00:00:02", "0a:58:00:00:00:01"
    for binding, asking, macs in (
        ("masquerade", {}, [pod_s]),
        ("masquerade", {"ovn.kubernetes.io/mac_address": asked}, [asked]),
        ("bridge", {}, [own]),
        ("bridge", {"ovn.kubernetes.io/mac_address": asked}, [asked]),
    ):
        desk, nics = Desk(), [{"name": "default", binding: {}}]
        feed_vm(desk, "web", asking, binding=binding)
        vmi = vmi_object("web", node="node1", annotations=asking, interfaces=nics, macs={"default": own})
        desk.feed("ADDED", "virtualmachineinstances", vmi)
        desk.feed("ADDED", "pods", pod_object("p", "web", "node1", annotations=status(("eth0", "k8s", pod_s))))
        desk.look()
        assert [entry.partition(" ")[0] for entry in desk.port("web.default").port_security] == macs

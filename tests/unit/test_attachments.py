"""Which interfaces get a port, and what they claim."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ovnagent.core.attachments import Rules, attachments
from ovnagent.core.claims import claims
from ovnagent.core.networks import Namespaces, Networks
from ovnagent.core.owner import owner
from ovnagent.core.placement import locate
from ovnagent.core.ports import INTERFACE, NETWORK, VM_UID, Port, PresentPort
from ovnagent.core.vm import VmKey
from tests.desk import Desk, network, pod_object, record_text, vm_object, vmi_object

TENANT = network("10.17.0.0/16", name="tenant", switch="tenant", pod_network=False, nads=("default/net",))


def nic(name: str, **more: object) -> dict[str, object]:
    return {"name": name, "bridge": {}, **more}


def nad(name: str, of: str) -> dict[str, object]:
    return {"name": name, "multus": {"networkName": of}}


def test_an_interface_that_is_absent_hides_no_other() -> None:
    desk = Desk(network(), TENANT)
    networks = [nad("a", "net"), {"name": "default", "pod": {}}]
    made = vm_object("web", interfaces=[nic("a", state="absent"), nic("default")], networks=networks)
    desk.feed("ADDED", "virtualmachines", made)
    desk.look()
    assert list(desk.rows) == ["web.default"]


def test_what_is_on_no_configured_network_gets_no_port_and_nobody_is_blamed() -> None:
    desk = Desk(network(), TENANT)
    networks = [nad("a", "unheard-of"), {"name": "default", "pod": {}}]
    desk.feed("ADDED", "virtualmachines", vm_object("web", interfaces=[nic("a")], networks=networks))
    sriov = vm_object("sriov", interfaces=[{"name": "default", "sriov": {}}])
    desk.feed("ADDED", "virtualmachines", sriov)
    desk.look()
    assert desk.rows == {}
    assert desk.says("web") == desk.says("sriov") == []
    # without a pod network nobody has one
    desk = Desk(TENANT)
    desk.feed("ADDED", "virtualmachines", vm_object("web"))
    desk.look()
    assert (desk.rows, desk.says("web")) == ({}, [])


def test_an_annotation_goes_before_the_configuration_and_that_before_the_nad_s_own_word() -> None:
    other = network("10.18.0.0/16", name="other", switch="other", pod_network=False)
    desk = Desk(network(), TENANT, other)
    desk.nads |= {"default/net": "other", "default/third": "other"}
    for name, of, asked, switch in (
        ("configured", "net", {}, "tenant"),
        ("own", "third", {}, "other"),
        ("asked", "net", {"net.default.kubernetes.io/logical_switch": "other"}, "other"),
    ):
        made = vm_object(name, annotations=asked, interfaces=[nic("a")], networks=[nad("a", of)])
        desk.feed("ADDED", "virtualmachines", made)
        desk.look()
        assert desk.port(f"{name}.default.{of}.default").switch == switch


def test_of_two_rows_the_one_of_the_port_s_name_counts() -> None:
    """An interface was renamed, or a port: both rows are there for a while."""
    desk = Desk()
    desk.feed("ADDED", "virtualmachines", vm_object("web"))
    facts = desk.store.facts(VmKey("default", "web"))
    machine = owner(facts)
    assert machine is not None

    def row(
        name: str, ip: str, interface: str = "default", uid: str = "uid-web", switch: str = "ovn-default"
    ) -> PresentPort:
        ids = ((INTERFACE, interface), (NETWORK, "pods"), (VM_UID, uid))
        return PresentPort(name, Port(name, switch, (f"0a:00:00:00:00:01 {ip}",), external_ids=ids))

    named, other = row("web.default", "10.16.0.5"), row("web.default.old", "10.16.0.6")
    found, _ = attachments(machine, facts, (), Rules(desk.networks, {}, {}))

    def claimed(*rows: PresentPort) -> tuple[str, list[str]]:
        (claim,) = claims(machine, facts, locate(facts), rows, found, desk.networks.switches, {})
        return str(claim.row.ips[0]) if claim.row else "", [str(wish.ips[0]) for wish in claim.wishes]

    for rows in ((named, other), (other, named)):
        assert claimed(*rows) == ("10.16.0.5", [])
    assert claimed(other) == ("10.16.0.6", [])
    assert claimed(row("web.default.x", "10.16.0.7", "second")) == ("", [])
    assert claimed(row("web.default", "10.16.0.7", "second")) == ("10.16.0.7", [])
    assert claimed(row("web.default", "10.16.0.7", switch="elsewhere")) == ("", [])
    assert claimed(row("web.default", "10.16.0.8", uid="older"), other) == ("10.16.0.6", ["10.16.0.8"])
    for uid in ("uid-web", "older"):
        mangled = replace(row("web.default", "", uid=uid).port, addresses=())
        assert claimed(replace(named, port=mangled)) == ("", [])
        assert claimed(replace(named, port=mangled), other) == ("10.16.0.6", [])
    # another VM's record is a wish, whatever UID somebody wrote into it, and comes after what was of this name
    for uid in ("uid-web", "uid-other"):
        machine = replace(machine, records=(record_text("other", uid, "10.16.0.9"),))
        assert claimed(other) == ("10.16.0.6", ["10.16.0.9"])
        assert claimed(row("web.default", "10.16.0.8", uid="older")) == ("", ["10.16.0.8", "10.16.0.9"])


def status(mac: str, *more: tuple[str, str]) -> dict[str, str]:
    entries: list[dict[str, object]] = [{"name": "cbr0", "interface": "eth0", "default": True, "mac": mac}]
    entries += [{"name": "x", "interface": name, "mac": other} for name, other in more]
    return {"k8s.v1.cni.cncf.io/network-status": json.dumps(entries)}


@pytest.mark.parametrize("binding", ["bridge", "masquerade"])
def test_the_mac_on_the_wire(binding: str) -> None:
    """By the VMI's status; where that says nothing of the interface, and with masquerade, by the launcher with the guest."""
    desk = Desk()
    nics = [{"name": "default", binding: {}}]
    desk.feed("ADDED", "virtualmachines", vm_object("web", interfaces=nics))
    desk.feed("ADDED", "virtualmachineinstances", vmi_object("web", interfaces=nics))
    for name, node, told, more in (
        ("p1", "node1", status("0A:00:00:00:00:11", ("net1", "0a:00:00:00:00:12")), {}),
        ("p2", "", status("0a:00:00:00:00:22"), {}),
        ("p3", "node1", status("0a:00:00:00:00:33"), {"vmi_uid": "another"}),
        ("p4", "node1", status("0a:00:00:00:00:44"), {"phase": "Failed"}),
        ("p5", "node1", status(""), {}),
    ):
        desk.feed("ADDED", "pods", pod_object(name, "web", node=node, annotations=told, **more))
    for vmi in (
        vmi_object("web", interfaces=nics),  # before the VMI has a node
        vmi_object("web", node="node1", interfaces=nics),
        vmi_object("web", node="node1", interfaces=nics, macs={"second": "0a:00:00:00:00:55"}),
    ):
        desk.feed("MODIFIED", "virtualmachineinstances", vmi)
        desk.look()
        (ip,) = desk.port("web.default").ips
        assert desk.port("web.default").port_security == (f"0a:00:00:00:00:11 {ip}",)
        assert desk.port("web.default").mac == "0a:00:00:00:00:11"
    vmi = vmi_object("web", node="node1", interfaces=nics, macs={"default": "0a:00:00:00:00:66"})
    desk.feed("MODIFIED", "virtualmachineinstances", vmi)
    desk.look()
    assert desk.port("web.default").mac == ("0a:00:00:00:00:66" if binding == "bridge" else "0a:00:00:00:00:11")


def test_each_interface_has_the_mac_that_is_reported_of_it() -> None:
    desk = Desk(network(), TENANT)
    nics, networks = [nic("default"), nic("a")], [{"name": "default", "pod": {}}, nad("a", "net")]
    desk.feed("ADDED", "virtualmachines", vm_object("web", interfaces=nics, networks=networks))
    macs = {"default": "0a:00:00:00:00:01", "a": "0a:00:00:00:00:02"}
    vmi = vmi_object("web", node="node1", interfaces=nics, networks=networks, macs=macs)
    desk.feed("ADDED", "virtualmachineinstances", vmi)
    desk.look()
    assert desk.port("web.default").mac == "0a:00:00:00:00:01"
    assert desk.port("web.default.net.default").mac == "0a:00:00:00:00:02"


def test_a_record_is_of_a_port_or_of_an_interface_either_of_which_may_have_another_name_now() -> None:
    for port, interface, counts in (
        ("web.default", "default", True),
        ("web.default", "old", True),
        ("old", "default", True),
        ("old", "old", False),
    ):
        for uid in ("uid-web", "another"):
            record = json.loads(record_text("web", uid, "10.16.0.50"))
            record["ports"] = {port: record["ports"]["web.default"] | {"interface": interface}}
            desk = Desk()
            desk.feed("ADDED", "virtualmachines", vm_object("web", record=json.dumps(record)))
            desk.look()
            assert (desk.port("web.default").ips == ("10.16.0.50",)) is counts


def test_a_record_of_a_network_that_is_not_configured_is_of_the_one_that_has_all_its_addresses() -> None:
    for ips, counts in (("10.16.0.50", True), ("10.16.0.50,fd00::50", True), ("10.16.0.50,fd99::50", False)):
        desk = Desk(network("10.16.0.0/16", "fd00::/64"))
        record = record_text("web", "uid-web", ips, network="called-so-before")
        desk.feed("ADDED", "virtualmachines", vm_object("web", record=record))
        desk.look()
        assert ("10.16.0.50" in desk.port("web.default").ips) is counts


NOBODY = Namespaces(everyone=False)


def test_who_asks_for_nothing_is_told_nothing_of_the_rule_about_port_security() -> None:
    for asked in ({}, {"ovn.kubernetes.io/port_security": "true"}):
        desk = Desk(replace(network(), port_security_off=NOBODY))
        desk.feed("ADDED", "virtualmachines", vm_object("web", annotations=asked))
        desk.look()
        assert desk.says("web") == []
        assert desk.port("web.default").port_security


def test_that_one_port_has_no_security_is_no_leave_for_the_port_beside_it() -> None:
    """The rule has changed while the guest runs: its one port stays as it is, its other stays secured."""
    off = {"net.default.kubernetes.io/port_security": "false"}
    nics, networks = [nic("default"), nic("a")], [{"name": "default", "pod": {}}, nad("a", "net")]
    desk = Desk(network(), TENANT)

    def look(asked: dict[str, str]) -> None:
        more = {"annotations": asked, "interfaces": nics, "networks": networks}
        desk.feed("MODIFIED", "virtualmachines", vm_object("web", **more))  # type: ignore[arg-type]
        desk.feed("MODIFIED", "virtualmachineinstances", vmi_object("web", node="node1", **more))  # type: ignore[arg-type]
        desk.look()

    look(off)
    desk.networks = Networks(tuple(replace(each, port_security_off=NOBODY) for each in desk.networks.all))
    look(off | {"ovn.kubernetes.io/port_security": "false"})
    assert desk.port("web.default").port_security
    assert not desk.port("web.default.net.default").port_security

"""Whose port it is, and whether it is still used."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from ovnagent.core import ports
from ovnagent.core.identity import (
    continues,
    guest_may_run,
    holder_of,
    lease_of,
    living_launchers,
    name_of,
    plugged,
    retained,
)
from ovnagent.core.owner import Owner, guest_unaccounted, owner
from ovnagent.core.placement import Placement
from ovnagent.core.ports import (
    INTERFACE,
    NETWORK,
    VM_UID,
    VMI_UID,
    Port,
    PresentPort,
    own_external_ids,
    own_options,
    with_options,
)
from ovnagent.core.records import Lease
from ovnagent.core.vm import Facts, Instance, Interface, Launcher, VirtualMachine, VmKey, pod_interface
from ovnagent.core.wanted import placed
from tests.desk import network

KEY = VmKey("default", "web")
NIC, TENANT, SECOND = (
    Interface("default", "bridge"),
    Interface("a", "bridge", nad="default/net"),
    Interface("b", "bridge", nad="default/net"),
)
NET = network(switch="s")


def vm(uid: str = "u1", *nics: Interface) -> VirtualMachine:
    return VirtualMachine("default", "web", uid, "2026", False, (("x", "vm"),), nics or (NIC,), "vm-host", "vm-record")


def vmi(
    vm_uid: str = "u1", phase: str = "Running", node: str = "n1", *nics: Interface, hostname: str = "vmi-host"
) -> Instance:
    annotations = (("x", "vmi"),)
    return Instance(
        "default",
        "web",
        "v1",
        "2027",
        False,
        vm_uid,
        phase,
        node,
        annotations,
        nics or (NIC,),
        hostname,
        "vmi-record",
        None,
        (),
    )


def pod(
    name: str = "p1", node: str = "n1", phase: str = "Running", vmi_uid: str = "v1", *attached: tuple[str, str, str]
) -> Launcher:
    return Launcher("default", name, name, "", False, "web", vmi_uid, node, phase, "", False, attached)


def row(
    name: str = "web.default", uid: str = "u1", vmi_uid: str = "v1", interface: str = "default", switch: str = "s"
) -> PresentPort:
    ids = {INTERFACE: interface, NETWORK: "pods", VM_UID: uid, VMI_UID: vmi_uid}
    return PresentPort(name, Port(name, switch, ("0a:00:00:00:00:01 10.16.0.5",), external_ids=tuple(sorted(ids.items()))))


def whose(*objects: VirtualMachine | Instance | Launcher) -> Owner | None:
    return owner(facts(*objects))


def facts(*objects: VirtualMachine | Instance | Launcher) -> Facts:
    return Facts(
        KEY,
        vm=next((each for each in objects if isinstance(each, VirtualMachine)), None),
        vmi=next((each for each in objects if isinstance(each, Instance)), None),
        launchers=tuple(each for each in objects if isinstance(each, Launcher)),
    )


# ---- the owner ------------------------------------------------------------------------------------------------------


def test_a_stopped_vm_is_as_its_template_says() -> None:
    assert whose(vm()) == Owner(
        KEY, "u1", "VirtualMachine", True, "2026", False, "", (("x", "vm"),), (NIC,), "vm-host", ("vm-record",)
    )


def test_a_running_vm_is_as_its_vmi_says() -> None:
    assert whose(vm("u1", TENANT), vmi()) == Owner(
        KEY,
        "u1",
        "VirtualMachine",
        True,
        "2026",
        True,
        "v1",
        (("x", "vmi"),),
        (NIC,),
        "vmi-host",
        ("vm-record", "vmi-record"),
    )
    made = whose(vm(), vmi(hostname=""))
    assert made is not None
    assert made.hostname == "vm-host"


def test_one_whose_guest_has_ended_is_as_its_template_says_unless_a_launcher_of_it_lives() -> None:
    ended = vmi("u1", "Succeeded")
    for objects, running in (
        ((vm(), ended), False),
        ((vm(), ended, pod()), True),
        ((vm(), ended, pod(phase="Failed")), False),
        ((vm(), ended, pod(vmi_uid="other")), False),
        ((vm(), vmi("u1", "Failed")), False),
        ((vm(), vmi("u1", "Pending", "")), True),
    ):
        made = whose(*objects)
        assert made is not None
        assert made.running is running
        assert made.annotations == (("x", "vmi" if running else "vm"),)
        assert made.vmi_uid == "v1"


@pytest.mark.parametrize("with_vm", [False, True])
def test_a_vmi_without_its_vm(with_vm: bool) -> None:
    """Its VM is deleted, and perhaps created again under its name."""
    objects = (vm("u2"),) if with_vm else ()
    made = whose(*objects, vmi())
    expected = Owner(
        KEY, "u1", "VirtualMachine", False, "2027", True, "v1", (("x", "vmi"),), (NIC,), "vmi-host", ("vmi-record",)
    )
    assert made == expected
    assert made.uids == {"u1", "v1"}


def test_a_standalone_vmi_is_its_own_owner() -> None:
    made = whose(vmi(""))
    assert made is not None
    assert (made.uid, made.kind, made.present, made.uids) == ("v1", "VirtualMachineInstance", True, {"v1"})
    # an orphan that a VM of its name adopts
    adopted = whose(vm("u2"), vmi(""))
    assert adopted is not None
    assert (adopted.uid, adopted.kind, adopted.present, adopted.uids) == ("u2", "VirtualMachine", True, {"u2", "v1"})


def test_nothing_is_nobody_s() -> None:
    assert whose(pod()) is None
    assert facts().empty
    assert not facts(pod()).empty
    assert facts(pod(phase="Failed")).empty
    assert not facts(vm()).empty
    assert not facts(vmi()).empty


# ---- is it used -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (facts(vmi()), True),
        (facts(vmi(), pod()), False),
        (facts(vmi(), pod(phase="Succeeded")), False),
        (facts(vmi(), pod(node="n2")), True),
        (facts(vmi(), pod(vmi_uid="other")), True),
        (facts(vmi("u1", "Running", "")), False),
        (facts(vmi("u1", "Failed")), False),
        (facts(vm()), False),
    ],
)
def test_a_guest_of_which_no_launcher_is_known(given: Facts, expected: bool) -> None:
    assert guest_unaccounted(given) is expected
    machine = owner(given)
    living = any(each.alive and each.vmi_uid == "v1" for each in given.launchers)
    assert guest_may_run(given, machine) is (expected or living)


def test_which_launchers_count() -> None:
    other, ended = pod("p2", vmi_uid="other"), pod("p3", phase="Failed")
    given = facts(vmi(), pod(), other, ended, replace(pod("p4"), ephemeral=True))
    assert [each.name for each in living_launchers(given, owner(given))] == ["p1"]
    assert [each.name for each in living_launchers(given, None)] == ["p1", "p2"]
    stopped = facts(vm(), pod(), other, ended)
    assert [each.name for each in living_launchers(stopped, owner(stopped))] == ["p1", "p2"]


def test_what_was_held_under_another_uid() -> None:
    machine = whose(vm(), vmi())
    rows = [row(uid="old", vmi_uid="v1"), row("x", uid="older", vmi_uid="v0")]
    assert continues(machine, rows, "u1")
    assert continues(machine, rows, "v1")
    assert continues(machine, rows, "old")  # the same guest, under a VM that is gone
    assert not continues(machine, rows, "older")
    assert not continues(machine, [], "old")
    assert not continues(machine, [row(uid="other", vmi_uid="v1")], "old")
    assert continues(None, [], "whatever")
    assert not continues(whose(vm()), [row(uid="old", vmi_uid="")], "old")
    assert not continues(whose(vm()), [], "")


def test_what_an_orphan_holds_whose_rows_were_not_written_since_it_started() -> None:
    """Its VM is gone; what the rows name is that VM, and no guest or an earlier one."""
    alone = whose(vmi(vm_uid=""))
    for vmi_uid in ("", "v0", "v1"):
        assert continues(alone, [row(uid="u1", vmi_uid=vmi_uid)], "u1")
    assert not continues(alone, [row(uid="v0", vmi_uid="v0")], "v0"), "another guest that had no VM either"
    assert not continues(alone, [], "u1")
    assert not continues(whose(vmi(vm_uid="u1")), [row(uid="u0", vmi_uid="")], "u0"), "of another VM"


# ---- names, and interfaces that a launcher has ----------------------------------------------------------------------

INSIDE = pod_interface(TENANT)
HAS_A = (INSIDE, "default/net", "")


def test_a_port_in_use_keeps_its_name() -> None:
    given = facts(vm(), vmi("u1", "Running", "n1", TENANT, SECOND), pod("p1", "n1", "Running", "v1", HAS_A))
    machine = owner(given)
    assert machine is not None
    old = row("web.default.net.default", interface="a")
    assert name_of(machine, TENANT, NET, given, [old]) == "web.default.net.default"
    assert name_of(machine, TENANT, NET, given, []) == "web.default.net.default.a"
    for other in (replace(old, port=replace(old.port, switch="t")), row("web.default.net.default", interface="b")):
        assert name_of(machine, TENANT, NET, given, [other]) == "web.default.net.default.a"
    assert name_of(machine, SECOND, NET, given, [old]) == "web.default.net.default.b"
    unplugged = facts(vm(), vmi("u1", "Running", "n1", TENANT, SECOND), pod())
    assert name_of(machine, TENANT, NET, unplugged, [old]) == "web.default.net.default.a"


@pytest.mark.parametrize(
    ("name", "interface", "attached", "expected"),
    [
        ("web.default", "default", ("eth0", "cbr0", ""), True),
        ("web.default", "default", ("net1", "cbr0", ""), False),
        ("web.default.default", "default", ("eth0", "", ""), True),
        ("web.default.net.default", "a", HAS_A, True),
        ("web.default.net.default.a", "a", HAS_A, True),
        ("web.default.net.default.b", "a", HAS_A, False),
        ("web.default.net.default", "b", HAS_A, False),
        ("web.default.other.default", "a", HAS_A, False),
        ("web.default", "a", HAS_A, False),
    ],
)
def test_a_launcher_has_an_interface_by_its_network_status(
    name: str, interface: str, attached: tuple[str, str, str], expected: bool
) -> None:
    for attachments in ((attached,), (("lo", "x", ""), attached)):
        given = facts(vm(), vmi(), pod("p1", "n1", "Running", "v1", *attachments))
        machine = owner(given)
        assert machine is not None
        assert plugged(given, machine, row(name, interface=interface).port) is expected
    ended = facts(vm(), vmi(), pod("p1", "n1", "Failed", "v1", attached))
    assert not plugged(ended, machine, row(name, interface=interface).port)


PORT, LEFT = row(), row("web.default.net.default", interface="a")
ATTACHED = [("web.default", "default")]


@pytest.mark.parametrize(
    ("given", "attached", "expected"),
    [
        # nothing is left over
        (facts(vm(), vmi(), pod()), [("web.default", "default"), ("web.default.net.default", "a")], ()),
        # stopped: what is not asked for goes
        (facts(vm()), ATTACHED, ()),
        (facts(vm(), vmi("u1", "Succeeded"), pod(phase="Succeeded")), ATTACHED, ()),
        # unplugged, and out of the launcher; or in it
        (facts(vm(), vmi(), pod()), ATTACHED, ()),
        (facts(vm(), vmi(), pod("p1", "n1", "Running", "v1", HAS_A)), ATTACHED, (LEFT,)),
        # the launcher starts, and what it will have is not told yet
        (facts(vm(), vmi(), pod(phase="Pending")), ATTACHED, (LEFT,)),
        (facts(vm(), vmi(), pod(), pod("p2", "n2", "Pending")), ATTACHED, (LEFT,)),
        (facts(vm(), vmi(), pod("p1", "", "Pending")), ATTACHED, ()),
        (facts(vm(), vmi(), pod("p1", "n1", "Pending", "v1", ("eth0", "", ""))), ATTACHED, ()),
        # asked for, and its network is refused now
        (facts(vm(), vmi("u1", "Running", "n1", NIC, TENANT), pod()), ATTACHED, (LEFT,)),
        (facts(vm(), vmi("u1", "Running", "n1", NIC, replace(TENANT, state="absent")), pod()), ATTACHED, ()),
        (facts(vm(), vmi("u1", "Running", "n1", NIC, TENANT), pod()), [*ATTACHED, ("elsewhere", "a")], ()),
        # a list of pods that was not complete; no owner, and a launcher lives
        (facts(vm(), vmi()), ATTACHED, (LEFT,)),
        (facts(vm(), vmi()), [], (PORT, LEFT)),
        (facts(pod()), [], (PORT, LEFT)),
        (facts(pod(phase="Failed")), [], ()),
    ],
)
def test_rows_that_stay_unasked(given: Facts, attached: list[tuple[str, str]], expected: tuple[PresentPort, ...]) -> None:
    assert retained(given, owner(given), (PORT, LEFT), attached) == expected


# ---- rows -----------------------------------------------------------------------------------------------------------


def test_a_row_is_a_lease() -> None:
    assert lease_of(PORT.port) == Lease("web.default", "default", "pods", (ip_address("10.16.0.5"),), "0a:00:00:00:00:01")
    two = replace(PORT.port, addresses=("0A:00:00:00:00:01 fd00::5 10.16.0.5",))
    found = lease_of(two)
    assert found is not None
    assert (found.mac, list(map(str, found.ips))) == ("0a:00:00:00:00:01", ["10.16.0.5", "fd00::5"])
    first = lease_of(replace(PORT.port, addresses=("0a:00:00:00:00:01 10.16.0.6 10.16.0.5",)))
    assert first is not None
    assert list(map(str, first.ips)) == ["10.16.0.6"]
    assert lease_of(replace(PORT.port, addresses=("0a:00:00:00:00:01",))) is None
    assert holder_of(PORT, KEY) == (KEY, "u1", "web.default")


def test_the_part_of_a_row_that_is_the_agent_s() -> None:
    ids = {"ovnagent-options": "hostname,qos_burst", "ovnagent-vm": "default/web", "theirs": "x"}
    assert own_external_ids(ids) == (("ovnagent-options", "hostname,qos_burst"), ("ovnagent-vm", "default/web"))
    options = {"requested-chassis": "A", "hostname": "x", "qos_max_rate": "1", "activation-strategy": "rarp"}
    assert own_options(options, ids) == (("activation-strategy", "rarp"), ("hostname", "x"), ("requested-chassis", "A"))
    assert own_options(options, {}) == (("activation-strategy", "rarp"), ("requested-chassis", "A"))
    port = with_options(Port("p", "s", options=(("hostname", "x"),)), requested_chassis="A,,B", activation_strategy="")
    assert port.options == (("hostname", "x"), ("requested-chassis", "A,,B"))
    assert port.requested_chassis == ("A", "B")
    assert with_options(port, requested_chassis="").options == (("hostname", "x"),)
    assert (port.mac, port.ips, port.vm) == ("", (), VmKey("", ""))


def test_what_is_written_is_sorted_as_what_is_read_is() -> None:
    """Else each look would find a difference."""
    moving = placed(PORT.port, Placement(("A", "B"), "rarp", "m1"))
    assert dict(moving.external_ids)["ovnagent-migration"] == "m1"
    assert moving.external_ids == own_external_ids(dict(moving.external_ids))
    assert moving.options == (("activation-strategy", "rarp"), ("requested-chassis", "A,B"))
    assert placed(moving, Placement()).external_ids == PORT.port.external_ids


def test_a_lease_has_its_ipv4_address_first() -> None:
    for ips in ("10.16.0.5 fd00::5", "fd00::5 10.16.0.5"):
        found = lease_of(replace(row().port, addresses=(f"0a:00:00:00:00:01 {ips}",)))
        assert found is not None
        assert found.ips == (ip_address("10.16.0.5"), ip_address("fd00::5"))


def test_external_ids_that_are_the_agent_s_are_sorted() -> None:
    assert own_external_ids({VM_UID: "u", "theirs": "x", INTERFACE: "i"}) == ((INTERFACE, "i"), (VM_UID, "u"))


def test_the_keys_that_databases_hold_by_now_do_not_change() -> None:
    assert {
        "ovnagent-cluster",
        "ovnagent-vm",
        "ovnagent-vm-uid",
        "ovnagent-vmi-uid",
        "ovnagent-interface",
        "ovnagent-network",
        "ovnagent-migration",
        "ovnagent-options",
    } == ports.OWN_EXTERNAL_IDS
    assert (ports.PORT, ports.ALIVE) == ("ovnagent-port", "ovnagent-alive-")


def test_a_port_of_which_nothing_more_is_said() -> None:
    port = Port("web.default", "s")
    assert (port.type, port.enabled, port.dns, port.mac) == ("", True, "", "")
    assert PresentPort("1", port).dns_row == ""
    assert PresentPort("1", port, "2") == PresentPort("1", port)

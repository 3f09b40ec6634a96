"""No value breaks out of its string, its option or its action: hostile objects go through the agent's own code into a real
northd, and the logical flows that it makes of them are read again."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ovnagent.core.dhcp import DhcpOptions
from ovnagent.core.dhcp_options import DHCPV4, DHCPV6, SET_BY_OVN, Form
from ovnagent.core.networks import Dhcp
from ovnagent.core.ports import CLUSTER, Port
from ovnagent.core.routers import RouterPort
from ovnagent.ovn.atoms import UnwritableError
from ovnagent.ovn.changes import CreatePort, CreateSwitch, Known, PutRouterPort, operations
from tests import hostile
from tests.desk import Desk, network, pod_object, vm_object, vmi_object
from tests.integration.northd import Flow, Northd, northd, select, tokens, told
from tests.unit.test_atoms import PLACES, PORT, VIRTUAL

PODS = replace(
    network("10.16.0.0/16", "fd00:10:16::/64"),
    dhcp=Dhcp(dns_servers=(ipaddress.ip_address("10.16.0.2"), ipaddress.ip_address("fd00:10:16::2")), domain="vm.example"),
    dns_domain="vm.example",
)
TENANT = network("192.168.0.0/24", name="tenant", switch="tenant", pod_network=False, nads=("default/net",))
GATEWAYS = {"10.16.0.1", "fd00:10:16::1", "192.168.0.1"}
ROUTES = "{30.0.0.0/24,10.16.0.10, 0.0.0.0/0,10.16.0.1, 10.0.0.9/32,10.16.0.1}"
EVERY_OPTION = (
    "64",
    "1400",
    "1",
    "10.16.0.7",
    "{10.16.0.7, 10.16.0.8}",
    "{fd00::7, fd00::8}",
    "02:00:00:00:00:07",
    ROUTES,
    '"http://a.example/x?y={z},w;//"',
    '"a.example,b.a.example"',
    "true",
)
"""Values of every type: an option takes the last that fits it."""


@pytest.fixture(scope="module", params=["23.03", "25.03"])
def ovn(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Northd]:
    with northd(tmp_path_factory.mktemp("northd"), request.param) as made:
        yield made


@pytest.fixture(scope="module")
def shapes(ovn: Northd) -> set[tuple[str, int, int, str, str]]:
    """What flows look like where nobody means harm."""
    found = set()
    for rows in (friendly(), virtuals()):
        write(ovn, rows)
        found |= {flow.shape for flow in ovn.flows()}
        assert ovn.complaints("ovn-default", "probe.default") == ""
    return found


# ---- the agent's side -----------------------------------------------------------------------------------------------


def desk() -> Desk:
    made = Desk(PODS, TENANT)
    made.feed("ADDED", "virtualmachines", vm_object("probe", annotations={"ovn.kubernetes.io/ip_address": "10.16.255.1"}))
    return made


def every(known: dict[str, Form]) -> str:
    """A text with a value for each option there is."""
    found = {}
    for name, form in known.items():
        for value in EVERY_OPTION:
            try:
                form(value)
            except ValueError:
                continue
            found[name] = value
    assert found.keys() == known.keys()
    return ",".join(f"{name}={value}" for name, value in found.items())


def friendly() -> list[Port]:
    made = desk()
    feed(
        made, "all", {"ovn.kubernetes.io/dhcp-v4-options": every(DHCPV4), "ovn.kubernetes.io/dhcp-v6-options": every(DHCPV6)}
    )
    feed(made, "some", {"ovn.kubernetes.io/dhcp-v6-options": "dhcpv6_stateless=", "ovn.kubernetes.io/egress_rate": "0.5"})
    feed(made, "open", {"ovn.kubernetes.io/port_security": "false"})
    feed(made, "down", {}, state="down")
    pairs = "00:00:5e:00:01:0a 10.16.0.50,10.16.0.51,fd00:10:16::50,00:00:5e:00:01:0b fd00:10:16::51"
    feed(made, "pairs", {"ovn.kubernetes.io/allowed_address_pairs": pairs})
    feed(
        made,
        "two",
        {"net.default.kubernetes.io/allowed_address_pairs": "00:00:5e:00:01:0a 192.168.0.50"},
        binding="masquerade",
    )
    feed(made, "moved", {"ovn.kubernetes.io/logical_switch": "tenant", "ovn.kubernetes.io/dhcp-v4-options": "mtu=1400"})
    made.look()
    return ports(made)


def virtuals() -> list[Port]:
    """A VM's port, and two virtual ones of which it is the parent."""
    parents = ("virtual-parents", PORT.name)
    ips = ("10.16.0.50", "fd00::50")
    return [PORT, *(replace(VIRTUAL, name=f"{ip}.pods", options=(("virtual-ip", ip), parents)) for ip in ips)]


def ports(made: Desk) -> list[Port]:
    return [row.port for _, row in sorted(made.rows.items())]


def feed(
    made: Desk,
    name: str,
    annotations: dict[str, Any],
    binding: str = "bridge",
    mac: Any = "",
    state: Any = "up",
    hostname: Any = None,
    record: str = "",
    reported: Any = "",
    status: Any = None,
) -> None:
    """A running VM with an interface on the pod network and one on the NAD; all texts as somebody wrote them."""
    interfaces = [{"name": "default", binding: {}, "macAddress": mac, "state": state}, {"name": "tenant", "bridge": {}}]
    networks = [{"name": "default", "pod": {}}, {"name": "tenant", "multus": {"networkName": "net"}}]
    vm = vm_object(name, annotations=annotations, interfaces=interfaces, networks=networks, record=record)
    vmi = vmi_object(
        name, node="node1", annotations=annotations, interfaces=interfaces, networks=networks, macs={"default": reported}
    )
    pod = pod_object(f"pod-{name}", name, node="node1")
    for spec in (vm["spec"]["template"]["spec"], vmi["spec"]):
        spec["hostname"] = hostname
    if status is not None:
        pod["metadata"]["annotations"]["k8s.v1.cni.cncf.io/network-status"] = status
    made.feed("ADDED", "virtualmachines", vm)
    made.feed("ADDED", "virtualmachineinstances", vmi)
    made.feed("ADDED", "pods", pod)


def write(ovn: Northd, rows: Iterable[Port]) -> None:
    """All of them, in place of what is there. Nothing that the core plans is refused at the last door."""
    rows = list(rows)
    switches = {row.switch for row in rows} | {"ovn-default", "tenant", "pods"}
    probe = Port("probe.default", "ovn-default", ("02:00:00:00:00:99 10.16.255.1",), external_ids=((CLUSTER, "c1"),))
    if not any(row.name == probe.name for row in rows):
        rows.append(probe)
    ovn.clear()
    ovn.write([*map(CreateSwitch, sorted(switches)), *map(CreatePort, rows)])


# ---- northd's side --------------------------------------------------------------------------------------------------


def check(ovn: Northd, rows: list[Port], shapes: set[tuple[str, int, int, str, str]]) -> None:
    """The flows are such as friendly ports have, they tell what the rows say, and ovn-controller's parser takes them all."""
    flows = ovn.flows()
    strange = [flow for flow in flows if flow.shape not in shapes]
    assert not strange, strange[0]
    assert ovn.complaints("ovn-default", "probe.default") == ""
    check_dhcp(flows, rows)
    check_texts(flows, rows)
    ips = {ip for row in rows for ip in row.ips}
    for flow in flows:
        answered = re.findall(r"(?:arp\.tpa|nd\.target) == \{?([0-9a-f.:]+)", flow.match)
        assert set(answered) <= ips | {row.option("virtual-ip") for row in rows} | link_locals(rows), flow
        assert not set(answered) & GATEWAYS
    (answer,) = ovn.sb.transact(select("DNS", "records"))
    records = {name: value for row in answer["rows"] for name, value in row["records"][1]}
    assert records == {name: value for row in rows if row.dns for name, _, value in [row.dns.partition(" ")]}
    (answer,) = ovn.sb.transact(select("Port_Binding", "logical_port", "mac"))
    macs = {row["logical_port"]: row["mac"] for row in answer["rows"]}
    assert {row.name: macs[row.name] for row in rows if row.addresses} == {
        row.name: row.addresses[0] for row in rows if row.addresses
    }


def link_locals(rows: Iterable[Port]) -> set[str]:
    """The addresses that follow from MACs, for which OVN answers and lets guests speak."""
    entries = [entry for row in rows for entry in (*row.addresses, *row.port_security)]
    return {link_local(entry.split()[0]) for entry in entries}


def link_local(mac: str) -> str:
    octets = bytes.fromhex(mac.replace(":", ""))
    return str(ipaddress.IPv6Address(bytes([0xFE, 0x80, *[0] * 6, octets[0] ^ 2, *octets[1:3], 0xFF, 0xFE, *octets[3:]])))


def check_dhcp(flows: list[Flow], rows: list[Port]) -> None:
    """Each port that is served is told what its rows say, neither more nor less, by as many flows as any other."""
    said: dict[tuple[str, str], list[dict[str, str]]] = {}
    for flow in flows:
        if action := re.search("put_dhcp(?:v6)?_opts", flow.actions):
            port = json.loads(tokens(flow.match)[2])
            said.setdefault((port, action[0]), []).append(told(flow.actions))
    expected = {}
    copies = len(said["probe.default", "put_dhcp_opts"])  # OVN 23.03 has one flow for a request and one for its renewal
    assert copies in (1, 2)
    for row in rows:
        if row.dhcpv4 is not None and row.enabled:
            expected[row.name, "put_dhcp_opts"] = [intended4(row, row.dhcpv4)] * copies
        if row.dhcpv6 is not None and row.enabled:
            expected[row.name, "put_dhcpv6_opts"] = [intended6(row, row.dhcpv6)]
    assert said == expected


def intended4(row: Port, content: DhcpOptions) -> dict[str, str]:
    options = {key: compact(value) for key, value in content.options if key != "server_mac"}
    offer = next(ip for ip in row.ips if ":" not in ip)
    options |= {"offerip": offer, "netmask": str(ipaddress.ip_network(content.cidr).netmask)}
    return options | ({"hostname": row.option("hostname")} if row.option("hostname") else {})


def intended6(row: Port, content: DhcpOptions) -> dict[str, str]:
    options = {key: compact(value) for key, value in content.options if key != "dhcpv6_stateless"}
    stateless = dict(content.options).get("dhcpv6_stateless") == "true"
    return options | ({} if stateless else {"ia_addr": next(ip for ip in row.ips if ":" in ip)})


def compact(value: str) -> str:
    return value if value[0] == '"' else value.replace(" ", "")


def check_texts(flows: list[Flow], rows: list[Port]) -> None:
    """Every text in quotes is the name of a port, or a text that DHCP is to tell."""
    known = {json.dumps(row.name, ensure_ascii=False) for row in rows}
    known |= {value for row in rows for key, value in row.options if key == "hostname"}
    for content in (content for row in rows for content in (row.dhcpv4, row.dhcpv6) if content is not None):
        known |= {value for _, value in content.options if value[0] == '"'}
    found = {word for flow in flows for text in (flow.match, flow.actions) for word in tokens(text) if word[0] == '"'}
    assert found - CONSTANTS <= known


CONSTANTS = {'"none"', '"_MC_flood"', '"_MC_flood_l2"', '"_MC_unknown"', '"_MC_mrouter_flood"'}


# ---- tests ----------------------------------------------------------------------------------------------------------


def test_the_checks_see_the_attack_that_they_are_for(ovn: Northd, shapes: set[tuple[str, int, int, str, str]]) -> None:
    """Written past the agent, as text: each of these is a different program."""
    attacks = {
        "lease_time": ['3600); outport="victim"; output; //', "3600, server_id = 9.9.9.9", "3600); drop; //"],
        "domain_name": ['"x"); outport="victim"; output; //"', '"x\\"', "x"],
        "dns_server": ["{1.1.1.1}, router = 9.9.9.9"],
        "x = 1); output; //": ["1"],
    }
    row = next(row for row in friendly() if row.name == "probe.default")
    write(ovn, [row])
    check(ovn, [row], shapes)
    for key, values in attacks.items():
        for value in values:
            write(ovn, [row])
            mutation = ["options", "insert", ["map", [[key, value]]]]
            gone = ["options", "delete", ["set", [key]]]
            ovn.nb.transact({"op": "mutate", "table": "DHCP_Options", "where": [["cidr", "==", "10.16.0.0/16"]],
                             "mutations": [gone, mutation]})  # fmt: skip
            ovn.nb.nbctl("--wait=sb", "sync")
            with pytest.raises(AssertionError):
                check(ovn, [row], shapes)


def test_what_friendly_vms_ask_for_is_told(ovn: Northd, shapes: set[tuple[str, int, int, str, str]]) -> None:
    rows = friendly()
    assert len(rows) == 7 * 2 + 1
    write(ovn, rows)
    check(ovn, rows, shapes)
    told_to_all = next(row for row in rows if row.name == "all.default").dhcpv4
    assert told_to_all is not None
    assert DHCPV4.keys() <= dict(told_to_all.options).keys()


RARELY = settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
"""Each example is a whole database: a failing one is shown as it is, for making it smaller takes minutes."""
TYPES = {
    "bool": (["0", "1"], ["2", "-1", "x"]),
    "uint8": (["255"], ["256", "-1"]),
    "uint16": (["65535"], ["65536", "-1"]),
    "uint32": (["4294967295"], ["4294967296", "-1"]),
    "ipv4": (["10.16.0.1"], ["fd00::1", "10.16.0.1/16", '"10.16.0.1"']),
    "ipv6": (["fd00::1", "{fd00::1, fd00::2}"], ["10.16.0.1", "fd00::1%x"]),
    "static_routes": ([ROUTES], ["10.0.0.0/8", "{10.0.0.1/8,10.0.0.1}"]),
    "str": (['"a.example"'], ['"a"b"', '"a\\"']),
    "domains": (['"a.example,b.example"'], ['"a b"', '"a"b"']),
    "host_id": (['"a.example"', "10.16.0.1"], ['"a"b"', '"\x01"']),
    "mac": (["02:00:00:00:00:01"], ["02:00:00:00:00:01 ;", "10.16.0.1"]),
}


@pytest.mark.parametrize(
    ("table", "known", "ours"),
    [("DHCP_Options", DHCPV4, {"server_mac"}), ("DHCPv6_Options", DHCPV6, {"dhcpv6_stateless"})],
)
def test_the_options_and_their_types_are_those_of_northd(
    ovn: Northd, table: str, known: dict[str, Form], ours: set[str]
) -> None:
    """`ours`: what northd reads itself, and never tells."""
    (answer,) = ovn.sb.transact(select(table, "name", "type"))
    types = {row["name"]: row["type"] for row in answer["rows"]}
    newer = {"bootfile_name", "bootfile_name_alt", "fqdn"} if table == "DHCPv6_Options" else set()
    assert known.keys() - types.keys() == ours
    assert types.keys() - known.keys() - newer <= SET_BY_OVN
    for name in known.keys() - ours:
        right, wrong = TYPES[types[name]]
        for value in right:
            assert known[name](value)
        for value in wrong:
            with pytest.raises(ValueError, match=r"\w"):
                known[name](value)


FRIENDLY = {
    "ip_address": ["10.16.0.77", "10.16.0.78,fd00:10:16::78", "10.16.0.1", "fd00:10:16::79"],
    "mac_address": ["0a:58:00:00:07:01", "0A-58-00-00-07-02"],
    "ip_pool": ["10.16.1.1..10.16.1.9", "10.16.1.1,10.16.1.3", "fd00:10:16::1000..fd00:10:16::2000"],
    "logical_switch": ["pods", "tenant"],
    "port_security": ["true", "false"],
    "dhcp-v4-options": [
        "lease_time=3600",
        "dns_server={10.16.0.2, 10.16.0.3},domain_name=a.example",
        f'domain_search_list="a.example,b.example",classless_static_route={ROUTES}',
        'wpad="http://x/y",tftp_server="boot",bootfile_name=x,server_id=10.16.0.9,server_mac=02:00:00:00:00:09',
        "server_mac=,lease_time=,mtu=",
    ],
    "dhcp-v6-options": ["dns_server={fd00::1, fd00::2}", 'domain_search="a.example",dhcpv6_stateless=true', "server_id="],
    "allowed_address_pairs": ["10.16.0.200", "00:00:5e:00:01:0a 10.16.0.201,fd00:10:16::201"],
    "egress_rate": ["100", "0.5"],
}


@st.composite
def spliced(draw: st.DrawFn, friendly: list[str]) -> str:
    """Somebody's text: right, or with something in the middle of it, or nothing but harm."""
    text = draw(st.sampled_from(friendly))
    kind = draw(st.integers(0, 4))
    if kind < 2:
        return text
    harm = draw(hostile.texts.filter(lambda each: len(each) < 500))
    at = draw(st.integers(0, len(text)))
    return harm if kind == 4 else text[:at] + harm + text[at:]


@st.composite
def machines(draw: st.DrawFn) -> dict[str, Any]:
    """Arguments of `feed`."""
    keys = draw(st.sets(st.sampled_from(sorted(FRIENDLY)), max_size=4))
    annotations = {f"ovn.kubernetes.io/{key}": draw(spliced(FRIENDLY[key])) for key in sorted(keys)}
    mac = spliced(["0a:58:00:00:07:03", "0a:58:00:00:07:04"])
    lease = {
        "interface": "default",
        "network": draw(spliced(["pods"])),
        "ips": [draw(spliced(["10.16.0.99"]))],
        "mac": draw(mac),
    }
    record = {
        "vm": draw(spliced(["default/x"])),
        "uid": draw(spliced(["uid-x"])),
        "ports": {draw(spliced(["x.default"])): lease},
    }
    status = [{"interface": "eth0", "name": draw(spliced(["k8s"])), "mac": draw(mac), "default": True}]
    return {
        "annotations": annotations,
        "binding": draw(st.sampled_from(["bridge", "masquerade", "passt"])),
        "mac": draw(st.one_of(st.just(""), mac)),
        "state": draw(spliced(["up", "down"])),
        "hostname": draw(st.one_of(st.none(), spliced(["web", "a-b"]))),
        "record": draw(st.one_of(st.just(""), st.just(json.dumps(record)))),
        "reported": draw(st.one_of(st.just(""), mac)),
        "status": draw(st.one_of(st.none(), st.just(json.dumps(status)), spliced(["[]"]))),
    }


@RARELY
@given(batch=st.lists(machines(), min_size=15, max_size=40))
def test_hostile_vms_get_what_they_may_have_and_nothing_breaks_out(
    ovn: Northd, shapes: set[tuple[str, int, int, str, str]], batch: list[dict[str, Any]]
) -> None:
    made = desk()
    for number, arguments in enumerate(batch):
        feed(made, f"vm{number}", **arguments)
    made.look()
    rows = ports(made)
    assert "probe.default" in made.rows
    write(ovn, rows)
    check(ovn, rows, shapes)


@RARELY
@given(choices=st.lists(st.tuples(st.sampled_from(PLACES), hostile.texts), min_size=30, max_size=90))
def test_what_the_last_door_lets_through_breaks_out_of_nothing(
    ovn: Northd, shapes: set[tuple[str, int, int, str, str]], choices: list[tuple[tuple[str, Any], str]]
) -> None:
    """Without the core's help: any text at any place of a port, as far as it may be written at all."""
    rows = {}
    for number, ((what, make), text) in enumerate(choices):
        port = make(text)
        if not what.endswith("name"):
            port = replace(port, name=f"n{number}.{port.name}")
        try:
            operations([CreateSwitch("pods"), CreatePort(port)], Known({}), "c1")
        except UnwritableError:
            continue
        rows[port.name] = port
    write(ovn, rows.values())
    strange = [flow for flow in ovn.flows() if flow.shape not in shapes]
    assert not strange, strange[0]
    assert ovn.complaints("ovn-default", "probe.default") == ""


NAMES = ["a'b", "a$b", "a); drop; //", "a,b", "a b", "Büro", "ns@x", "{a}", "a || 1", "%s%n", "\uff10"]


@pytest.mark.parametrize("name", NAMES)
def test_an_operator_may_call_his_switches_and_routers_what_he_likes(ovn: Northd, name: str) -> None:
    assert shapes_with(ovn, name) == shapes_with(ovn, "plain")


def shapes_with(ovn: Northd, name: str) -> set[tuple[str, int, int, str, str]]:
    """The flows of a switch and a router of this name, with a VM's port and a virtual one."""
    gateways = ("10.16.0.1/16", "fd00:10:16::1/64")
    router = RouterPort(f"r{name}-{name}", f"r{name}", name, "02:00:00:00:00:02", gateways)
    probe = Port("probe.default", name, ("02:00:00:00:00:99 10.16.255.1",), external_ids=((CLUSTER, "c1"),))
    virtual = replace(VIRTUAL, name=f"fd00::50.{name}", switch=name)
    ovn.clear()
    ovn.write([CreateSwitch(name), CreatePort(probe), CreatePort(virtual), PutRouterPort(router, "", False, False)])
    assert ovn.complaints(name, "probe.default") == ""
    return {flow.shape for flow in ovn.flows()}

"""What a VM's owner asks for, under every name it may be asked by."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from ovnagent.core import limits
from ovnagent.core.networks import AddressRange
from ovnagent.core.reduce import virtual_machine
from ovnagent.core.requests import Pair, Request, read
from ovnagent.core.values import parse_mac
from ovnagent.core.vm import Interface
from tests.desk import vm_object

POD = Interface("default", "bridge")
TENANT = Interface("tenant", "bridge", nad="demo/net")


def asked(interface: Interface, annotations: dict[str, object]) -> Request:
    return read(interface, virtual_machine(vm_object("vm", annotations=annotations)).annotations)


def ips(request: Request) -> list[str]:
    assert not request.errors, request.errors
    return [str(ip) for ip in request.ips]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("10.16.0.15", ["10.16.0.15"]),
        ("fd00::15", ["fd00::15"]),
        ("FD00:0:0::15, 10.16.0.15", ["10.16.0.15", "fd00::15"]),
        ("  ", []),
    ],
)
def test_addresses_in_several_forms(value: str, expected: list[str]) -> None:
    assert ips(asked(POD, {"ovn.kubernetes.io/ip_address": value})) == expected


@pytest.mark.parametrize("domain", ["net.demo.ovn.kubernetes.io", "net.demo.kubernetes.io"])
@pytest.mark.parametrize("suffix", ["", ".tenant"])
def test_a_multus_interface_has_keys_of_its_own(domain: str, suffix: str) -> None:
    assert ips(asked(TENANT, {f"{domain}/ip_address{suffix}": "10.1.0.5"})) == ["10.1.0.5"]
    assert ips(asked(POD, {f"{domain}/ip_address{suffix}": "10.1.0.5"})) == []


def test_the_interface_s_own_key_goes_before_the_one_for_the_nad() -> None:
    request = asked(
        TENANT, {"net.demo.kubernetes.io/ip_address": "10.1.0.5", "net.demo.kubernetes.io/ip_address.tenant": "10.1.0.6"}
    )
    assert ips(request) == ["10.1.0.6"]


def test_the_ecosystem_s_key_counts_where_no_other_is_given() -> None:
    addresses = '{"default": ["10.16.0.7/16", "fd00::7/64"]}'
    assert ips(asked(POD, {"network.kubevirt.io/addresses": addresses})) == ["10.16.0.7", "fd00::7"]
    assert ips(asked(TENANT, {"network.kubevirt.io/addresses": addresses})) == []


@pytest.mark.parametrize(
    ("annotations", "words"),
    [
        ({"ovn.kubernetes.io/ip_address": "10.16.0.1,10.16.0.2"}, ["more than one IPv4 address"]),
        ({"ovn.kubernetes.io/ip_address": "10.16.0.300"}, ["'10.16.0.300' is no IP address", "write it like"]),
        ({"ovn.kubernetes.io/ip_address": "10.16.0.0/24"}, ["is no IP address"]),
        ({"ovn.kubernetes.io/ip_address": 5}, ["ovn.kubernetes.io/ip_address", "put it in quotes"]),
        ({"ovn.kubernetes.io/ip_pool": "10.16.0.9..10.16.0.1"}, ["is no range"]),
        ({"ovn.kubernetes.io/ip_pool": "10.16.0.9..fd00::1"}, ["is no range"]),
        ({"ovn.kubernetes.io/ip_pool": "10.16.0.1", "ovn.kubernetes.io/ip_address": "10.16.0.9"},
         ["ip_address", "ip_pool", "does not contain"]),
        ({"ovn.kubernetes.io/mac_address": "zz"}, ["'zz' is no MAC address"]),
        ({"ovn.kubernetes.io/mac_address": "01:00:00:00:00:01"}, ["multicast"]),
        ({"ovn.kubernetes.io/port_security": "maybe"}, ['neither "true" nor "false"']),
        ({"network.kubevirt.io/addresses": "[1]"}, ["is not of the form"]),
        ({"network.kubevirt.io/addresses": '{"default": ["10.16.0.8"]}', "ovn.kubernetes.io/ip_address": "10.16.0.9"},
         ["ovn.kubernetes.io/ip_address", "network.kubevirt.io/addresses", "differ"]),
    ],
)  # fmt: skip
def test_what_cannot_be_understood_is_said(annotations: dict[str, object], words: list[str]) -> None:
    (error,) = asked(POD, annotations).errors
    for word in words:
        assert word in error


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("ip_address", ",".join(f"10.16.0.{n}" for n in range(200)), "holds 200 addresses; give one per family"),
        ("ip_address", "10.16.0.1,10.16.0.2,fd00::1", "holds 3 addresses; give one per family"),
        ("ip_address", "fd00::1,fd00::2", "holds more than one IPv6 address; give one per family"),
        ("ip_address", "fd00::15%x", "is no address of a port: no zone"),
        ("ip_address", "\u0661\u0660.16.0.5", "is no IP address"),
        ("ip_pool", ",".join(["10.16.0.0..10.16.255.255"] * 300), "it holds 300 ranges; at most 64"),
        ("allowed_address_pairs", ",".join(f"10.16.1.{n}" for n in range(200)), "it holds 200 addresses; at most 32"),
        ("allowed_address_pairs", "10.16.0.0/20", "is no IP address"),
        ("allowed_address_pairs", "01:00:5e:00:01:0a 10.16.0.50", "multicast"),
        ("mac_address", "0a:00:00:00:00:01 10.16.0.1", "is no MAC address"),
        ("logical_switch", "a\nb", "is no name"),
        ("egress_rate", "nan", "is no rate"),
        ("egress_rate", "inf", "is no rate"),
        ("egress_rate", "1e3", "is no rate"),
        ("egress_rate", "-1", "is no rate"),
        ("egress_rate", "0.0001", "is no rate"),
        ("egress_rate", "1000000", "is no rate"),
        ("egress_rate", "\u0661", "is no rate"),
        ("dhcp-v4-options", 'lease_time=3600); outport="victim"; output; //', "is no number from 60"),
        ("port_security", "false\x00", 'neither "true" nor "false"'),
        ("ip_address", "x" * 9000, "the text has 9000 characters; at most 8192"),
    ],
)
def test_what_is_too_much_or_hostile_is_said(key: str, value: str, words: str) -> None:
    (error,) = read(POD, ((f"ovn.kubernetes.io/{key}", value),)).errors
    assert error.startswith(f"ovn.kubernetes.io/{key}: ")
    assert words in error
    assert error.isprintable()
    assert len(error) < 400


def test_the_dhcp_server_s_mac_is_the_network_s_to_choose() -> None:
    key = "ovn.kubernetes.io/dhcp-v"
    request = asked(
        POD, {f"{key}4-options": "server_mac=0a:58:00:00:00:01,mtu=1400", f"{key}6-options": "server_id=0a:58:00:00:00:01"}
    )
    assert not request.errors
    assert (request.dhcpv4_options, request.dhcpv6_options) == ((("mtu", "1400"),), ())
    assert ["is left out" in warning for warning in request.warnings] == [True, True]


def test_many_long_annotations_are_not_guessed_at() -> None:
    long = {f"net{n}.demo.kubernetes.io/ip_pool": "10.1.0.1," * 800 for n in range(30)}
    machine = virtual_machine(vm_object("vm", annotations=long))
    kept = [value for _, value in machine.annotations]
    assert sum(len(value) for value in kept if value is not None) <= 65_536
    assert kept.count(None) == 30 - 65_536 // 7200


@pytest.mark.parametrize(
    ("value", "bits"),
    [
        ("100", 100_000_000),
        ("0.5", 500_000),
        (" 0.064\n", 64_000),
        ("0", 0),
        ("1.234", 1_234_000),
        ("999999.999", 999_999_999_000),
    ],
)
def test_rates(value: str, bits: int) -> None:
    request = asked(POD, {"ovn.kubernetes.io/egress_rate": value})
    assert (request.egress_rate, request.errors) == (bits, ())


@pytest.mark.parametrize("key", ["egress_rate", "ingress_rate"])
def test_no_limit_may_be_said_in_two_ways_at_once(key: str) -> None:
    request = asked(TENANT, {f"net.demo.ovn.kubernetes.io/{key}": " ", f"net.demo.kubernetes.io/{key}": "0"})
    assert (request.egress_rate, request.errors) == (0, ())


def test_of_two_names_that_differ_the_first_is_told_and_nothing_is_asked_by_either() -> None:
    request = asked(
        TENANT, {"net.demo.ovn.kubernetes.io/ip_address": "10.1.0.5", "net.demo.kubernetes.io/ip_address": "10.1.0.6"}
    )
    assert (request.ips_key, request.ips, len(request.errors)) == ("net.demo.ovn.kubernetes.io/ip_address", (), 1)


def test_where_the_ecosystem_s_key_differs_ours_is_what_is_asked() -> None:
    request = asked(
        POD,
        {"ovn.kubernetes.io/ip_address": "10.16.0.9", "network.kubevirt.io/addresses": '{"default": ["10.16.0.8"]}'},
    )
    assert (request.ips, len(request.errors)) == ((ip_address("10.16.0.9"),), 1)


@pytest.mark.parametrize(
    "value",
    [
        '{"default": "10.16.0.7"}',
        '{"default": {"10.16.0.7": 1}}',
        '{"default": [7]}',
        '{"default": ["10.16.0.7/x"]}',
        '{"default": ["10.16.0.7,10.16.0.8"]}',
        "5",
        "[" * 5000,
    ],
)
def test_the_ecosystem_s_key_in_another_form(value: str) -> None:
    (error,) = asked(POD, {"network.kubevirt.io/addresses": value}).errors
    assert "is not of the form" in error


def test_two_names_of_one_key_that_differ_are_both_named() -> None:
    (error,) = asked(
        TENANT, {"net.demo.kubernetes.io/ip_address": "10.1.0.5", "net.demo.ovn.kubernetes.io/ip_address": "10.1.0.6"}
    ).errors
    assert "net.demo.kubernetes.io/ip_address" in error
    assert "net.demo.ovn.kubernetes.io/ip_address" in error


@pytest.mark.parametrize("text", ["00:00:00:53:6B:B6", "00-00-00-53-6b-b6", "000000536BB6", "0000.0053.6bb6"])
def test_a_mac_in_several_forms(text: str) -> None:
    assert parse_mac(text) == "00:00:00:53:6b:b6"


def test_an_annotation_goes_before_mac_address_and_the_difference_is_said() -> None:
    request = asked(
        Interface("default", "bridge", mac="02:00:00:00:00:01"), {"ovn.kubernetes.io/mac_address": "02:00:00:00:00:02"}
    )
    assert request.mac == "02:00:00:00:00:02"
    assert "set macAddress to 02:00:00:00:00:02" in request.warnings[0]


def test_every_field_of_a_request() -> None:
    key = "ovn.kubernetes.io/"
    given = {
        "ip_address": "10.16.0.15,fd00::15",
        "ip_pool": "10.16.0.10..10.16.0.20; fd00::15",
        "mac_address": "0A:00:00:00:00:01",
        "logical_switch": "tenant",
        "port_security": " FALSE ",
        "dhcp-v4-options": "mtu=1400",
        "dhcp-v6-options": "dns_server=fd00::5",
        "allowed_address_pairs": "10.16.0.50, 00:00:5e:00:01:0a 10.16.0.51,10.16.0.50",
        "egress_rate": "100",
        "ingress_rate": "100",
    }
    request = asked(POD, {f"{key}{name}": value for name, value in given.items()})
    (warning,) = request.warnings
    assert warning.startswith(f"{key}ingress_rate has no effect: ")
    assert request == Request(
        ips=(ip_address("10.16.0.15"), ip_address("fd00::15")),
        ips_key=f"{key}ip_address",
        pool=(
            AddressRange(ip_address("10.16.0.10"), ip_address("10.16.0.20")),
            AddressRange(ip_address("fd00::15"), ip_address("fd00::15")),
        ),
        pool_key=f"{key}ip_pool",
        mac="0a:00:00:00:00:01",
        mac_key=f"{key}mac_address",
        network="tenant",
        network_key=f"{key}logical_switch",
        port_security=False,
        dhcpv4_options=(("mtu", "1400"),),
        dhcpv6_options=(("dns_server", "fd00::5"),),
        pairs=(Pair(ip_address("10.16.0.50"), ""), Pair(ip_address("10.16.0.51"), "00:00:5e:00:01:0a")),
        pairs_key=f"{key}allowed_address_pairs",
        egress_rate=100_000_000,
        warnings=(warning,),
    )
    assert asked(POD, {f"{key}port_security": "true"}).port_security is True
    assert asked(POD, {}) == Request()


def test_as_many_ranges_and_pairs_as_the_limits_say() -> None:
    key = "ovn.kubernetes.io/"
    many = {
        f"{key}ip_pool": ",".join(f"10.16.0.{n}" for n in range(limits.POOL_RANGES)),
        f"{key}allowed_address_pairs": ",".join(f"10.16.1.{n}" for n in range(limits.ADDRESS_PAIRS)),
    }
    request = asked(POD, many)
    assert (len(request.pool), len(request.pairs), request.errors) == (limits.POOL_RANGES, limits.ADDRESS_PAIRS, ())


@pytest.mark.parametrize(
    ("mac", "annotation", "expected", "key", "said"),
    [
        ("02:00:00:00:00:01", None, "02:00:00:00:00:01", "macAddress of interface default", ""),
        ("02:00:00:00:00:01", "", "02:00:00:00:00:01", "macAddress of interface default", ""),
        ("02-00-00-00-00-01", "02:00:00:00:00:01", "02:00:00:00:00:01", "ovn.kubernetes.io/mac_address", ""),
        ("zz", None, "", "", "macAddress of interface default: 'zz' is no MAC address"),
        ("zz", "02:00:00:00:00:01", "02:00:00:00:00:01", "ovn.kubernetes.io/mac_address", ""),
        ("", "02:00:00:00:00:01", "02:00:00:00:00:01", "ovn.kubernetes.io/mac_address", ""),
    ],
)
def test_whose_mac_it_is(mac: str, annotation: str | None, expected: str, key: str, said: str) -> None:
    annotations = {} if annotation is None else {"ovn.kubernetes.io/mac_address": annotation}
    request = asked(Interface("default", "bridge", mac=mac), dict(annotations))
    assert (request.mac, request.mac_key, request.warnings) == (expected, key, ())
    assert "".join(request.errors).startswith(said)
    assert bool(request.errors) is bool(said)


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ({"ovn": "10.1.0.5", "plain": "10.1.0.5"}, "10.1.0.5"),
        ({"plain": "10.1.0.5", "ovn.tenant": "10.1.0.6"}, "10.1.0.6"),
        ({"ovn": "", "plain.tenant": "10.1.0.5"}, "10.1.0.5"),
        ({"plain.other": "10.1.0.5"}, ""),
    ],
)
def test_names_of_one_key(annotations: dict[str, str], expected: str) -> None:
    domains = {"ovn": "net.demo.ovn.kubernetes.io", "plain": "net.demo.kubernetes.io"}
    given = {}
    for name, value in annotations.items():
        domain, _, interface = name.partition(".")
        given[f"{domains[domain]}/ip_address" + (f".{interface}" if interface else "")] = value
    assert ips(asked(TENANT, dict(given))) == ([expected] if expected else [])


@pytest.mark.parametrize(
    ("value", "annotation", "expected", "key"),
    [
        ('{"default": []}', None, [], ""),
        ('{"other": ["10.16.0.7"]}', "10.16.0.8", ["10.16.0.8"], "ovn.kubernetes.io/ip_address"),
        ('{"default": ["fd00::7", "10.16.0.7"]}', "10.16.0.7,fd00::7", ["10.16.0.7", "fd00::7"],
         "ovn.kubernetes.io/ip_address"),
        ('{"default": ["10.16.0.7"]}', None, ["10.16.0.7"], "network.kubevirt.io/addresses"),
    ],
)  # fmt: skip
def test_the_ecosystem_s_key_beside_ours(value: str, annotation: str | None, expected: list[str], key: str) -> None:
    annotations = {"network.kubevirt.io/addresses": value}
    if annotation:
        annotations["ovn.kubernetes.io/ip_address"] = annotation
    request = asked(POD, dict(annotations))
    assert (ips(request), request.ips_key) == (expected, key)

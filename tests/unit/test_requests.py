"""What a VM's owner asks for, under every name it may be asked by."""

from __future__ import annotations

import pytest

from ovnagent.core.reduce import virtual_machine
from ovnagent.core.requests import Request, read
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

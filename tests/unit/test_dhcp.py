"""What OVN's DHCP tells, and what subnets have, networks are called and gateways are."""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from typing import Any

import pytest

from ovnagent.core.dhcp import DhcpOptions, derived_mac, dhcpv4, dhcpv6, server_mac
from ovnagent.core.networks import AddressRange, Dhcp, Network, Networks, Subnet
from tests.desk import network

NET = network("10.16.0.0/16", "fd00::/64")
V4, V6 = NET.subnets
MAC = server_mac(NET)


def ip(text: str) -> Any:
    return ipaddress.ip_address(text)


def told(answer: object) -> dict[str, str]:
    assert isinstance(answer, DhcpOptions)
    return dict(answer.options)


def with_dhcp(**given: Any) -> Network:
    return replace(NET, dhcp=Dhcp(**given))


def test_nobody_is_answered_who_is_not_to_be() -> None:
    assert dhcpv4(NET, V4, ()) is None
    assert dhcpv6(NET, V6, ()) is None


def test_who_asks_is_answered_also_where_the_network_says_nothing() -> None:
    answer = dhcpv4(NET, V4, (("dns_server", "{8.8.8.8}"),))
    assert answer == DhcpOptions(
        "10.16.0.0/16",
        (
            ("dns_server", "{8.8.8.8}"),
            ("lease_time", "3600"),
            ("router", "10.16.0.1"),
            ("server_id", "10.16.0.1"),
            ("server_mac", MAC),
        ),
    )
    assert dhcpv6(NET, V6, (("dns_server", "fd00::53"),)) == DhcpOptions(
        "fd00::/64", (("dns_server", "fd00::53"), ("server_id", MAC))
    )


def test_all_that_a_network_can_say() -> None:
    full = replace(
        with_dhcp(
            lease_seconds=600,
            dns_servers=(ip("10.16.0.53"), ip("fd00::53"), ip("10.16.0.54")),
            domain="vm.example",
            search=("a.example", "b.example"),
            ntp_servers=(ip("10.16.0.123"), ip("fd00::123")),
            routes=(
                (ipaddress.ip_network("10.0.0.0/8"), ip("10.16.0.9")),
                (ipaddress.ip_network("fd01::/64"), ip("fd00::9")),
            ),
            server_id=ip("10.16.0.2"),
            server_mac="0a:00:00:00:00:67",
        ),
        mtu=1400,
    )
    assert told(dhcpv4(full, V4, ())) == {
        "server_id": "10.16.0.2",
        "server_mac": "0a:00:00:00:00:67",
        "router": "10.16.0.1",
        "lease_time": "600",
        "mtu": "1400",
        "dns_server": "{10.16.0.53, 10.16.0.54}",
        "domain_name": '"vm.example"',
        "domain_search_list": '"a.example,b.example"',
        "ntp_server": "{10.16.0.123}",
        "classless_static_route": "{10.0.0.0/8,10.16.0.9, 0.0.0.0/0,10.16.0.1}",
    }
    assert told(dhcpv6(full, V6, ())) == {
        "server_id": "0a:00:00:00:00:67",
        "dns_server": "{fd00::53}",
        "domain_search": '"a.example,b.example"',
    }
    assert told(dhcpv6(with_dhcp(domain="vm.example"), V6, ()))["domain_search"] == '"vm.example"'
    assert told(dhcpv6(with_dhcp(), V6, ())) == {"server_id": MAC}


def test_a_route_where_there_is_no_gateway() -> None:
    net = with_dhcp(server_id=ip("10.16.0.2"), routes=((ipaddress.ip_network("10.0.0.0/8"), ip("10.16.0.9")),))
    answer = told(dhcpv4(net, replace(V4, gateway=None), ()))
    assert answer["classless_static_route"] == "{10.0.0.0/8,10.16.0.9}"
    assert answer["server_id"] == "10.16.0.2"
    assert "router" not in answer


def test_a_vm_takes_away_what_it_does_not_want_but_for_what_is_needed() -> None:
    net = replace(with_dhcp(dns_servers=(ip("10.16.0.53"),), lease_seconds=600), mtu=1400)
    answer = told(dhcpv4(net, V4, (("dns_server", ""), ("mtu", ""), ("lease_time", ""), ("server_mac", ""))))
    assert answer == {"server_id": "10.16.0.1", "server_mac": MAC, "router": "10.16.0.1", "lease_time": "600"}
    assert dhcpv4(net, V4, (("server_id", ""),)) == (
        "DHCPv4 on network pods needs a server_id, for its subnet 10.16.0.0/16 has no gateway"
    )


def test_the_server_s_mac_is_one_on_each_switch_and_a_private_unicast_one() -> None:
    assert server_mac(replace(NET, name="other")) == MAC
    assert server_mac(replace(NET, logical_switch="other")) != MAC
    assert server_mac(with_dhcp()) == MAC
    assert server_mac(with_dhcp(server_mac="0a:00:00:00:00:67")) == "0a:00:00:00:00:67"
    assert derived_mac("dhcp/ovn-default") == MAC == "72:7e:71:2b:86:2d"
    for seed in map(str, range(50)):
        assert int(derived_mac(seed)[:2], 16) & 3 == 2


# ---- subnets --------------------------------------------------------------------------------------------------------


def span(first: str, last: str) -> AddressRange:
    return AddressRange(ip(first), ip(last))


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("10.0.0.1", "is the gateway of 10.0.0.0/28; choose another address"),
        ("10.0.0.2", "is the DHCP server of 10.0.0.0/28; choose another address"),
        ("10.0.0.15", "is the broadcast address of 10.0.0.0/28; choose another address"),
        ("10.0.0.0", "is the network address of 10.0.0.0/28; choose another address"),
        ("10.0.0.16", "lies outside 10.0.0.0/28; choose an address of that subnet"),
        ("fd00::1", "lies outside 10.0.0.0/28; choose an address of that subnet"),
        ("10.0.0.4", "is reserved (10.0.0.4..10.0.0.6) in 10.0.0.0/28; choose another address"),
        ("10.0.0.6", "is reserved (10.0.0.4..10.0.0.6) in 10.0.0.0/28; choose another address"),
        ("10.0.0.9", "is reserved (10.0.0.9) in 10.0.0.0/28; choose another address"),
        ("10.0.0.3", ""),
        ("10.0.0.7", ""),
        ("10.0.0.14", ""),
    ],
)
def test_what_no_port_may_have(address: str, words: str) -> None:
    subnet = Subnet(
        ipaddress.ip_network("10.0.0.0/28"),
        ip("10.0.0.1"),
        (span("10.0.0.4", "10.0.0.6"), span("10.0.0.9", "10.0.0.9")),
        ip("10.0.0.2"),
    )
    assert subnet.refuse(ip(address)) == words
    if not words or words.startswith("is reserved"):
        assert subnet.refuse(ip(address), reserved=False) == ""
    else:
        assert subnet.refuse(ip(address), reserved=False) == subnet.refuse(ip(address), True) == words


def test_ipv6_has_no_broadcast_address() -> None:
    subnet = Subnet(ipaddress.ip_network("fd00::/126"))
    assert subnet.refuse(ip("fd00::3")) == ""
    assert subnet.refuse(ip("fd00::")) == "is the network address of fd00::/126; choose another address"
    assert (subnet.first, subnet.last, subnet.size) == (int(ip("fd00::1")), int(ip("fd00::3")), 3)
    assert ip("10.0.0.1") not in subnet
    assert "fd00::1" not in subnet


@pytest.mark.parametrize(
    ("reserved", "size"),
    [
        ((), 13),
        ((span("10.0.0.4", "10.0.0.6"),), 10),
        ((span("10.0.0.4", "10.0.0.6"), span("10.0.0.5", "10.0.0.8")), 8),
        ((span("10.0.0.4", "10.0.0.8"), span("10.0.0.5", "10.0.0.6")), 8),
        ((span("10.0.0.1", "10.0.0.1"),), 13),
        ((span("10.0.0.0", "10.0.0.15"),), 0),
        ((span("10.0.0.14", "10.0.0.15"),), 12),
        ((span("10.0.0.5", "10.0.0.5"), span("10.0.0.6", "10.0.0.6")), 11),
        ((span("10.0.0.8", "10.0.0.9"), span("10.0.0.4", "10.0.0.6")), 8),
        ((span("10.0.0.0", "10.0.0.2"), span("10.0.0.2", "10.0.0.3")), 11),
    ],
)
def test_how_many_addresses_ports_may_have(reserved: tuple[AddressRange, ...], size: int) -> None:
    assert Subnet(ipaddress.ip_network("10.0.0.0/28"), ip("10.0.0.1"), reserved).size == size


def test_a_range() -> None:
    some = span("10.0.0.4", "10.0.0.6")
    assert [str(each) for each in ipaddress.ip_network("10.0.0.0/28") if each in some] == [
        "10.0.0.4",
        "10.0.0.5",
        "10.0.0.6",
    ]
    assert ip("::a00:5") not in some
    assert "10.0.0.5" not in some
    assert str(some) == "10.0.0.4..10.0.0.6"
    assert str(span("10.0.0.4", "10.0.0.4")) == "10.0.0.4"


def test_networks_are_found() -> None:
    other = network("10.17.0.0/16", name="ovn-default", switch="other", pod_network=False, nads=("a/b", "c/d"))
    last = network("10.18.0.0/16", name="last", switch="ovn-default")
    networks = Networks((NET, other, last))
    assert networks.pod is NET
    assert Networks((other,)).pod is None
    assert networks.by_nad == {"a/b": other, "c/d": other}
    assert networks.named("pods") is NET
    assert networks.named("ovn-default") is other  # its own name goes before a switch's
    assert networks.named("other") is other
    assert networks.named("none") is None
    assert list(networks.names()) == ["pods", "ovn-default", "last"]
    assert networks.switches == {"pods": "ovn-default", "ovn-default": "other", "last": "ovn-default"}
    assert NET.has_all(["10.16.0.5", "fd00::5"])
    assert not NET.has_all(["10.16.0.5", "fd01::5"])
    assert not NET.has_all([])

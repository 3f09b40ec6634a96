"""DHCP options: each value in its type, and nothing that could be anything else in a logical flow's action."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings

from ovnagent.core import dhcp_options, limits
from ovnagent.core.dhcp_options import DHCPV4, DHCPV6, Form, addresses, parse_options, string
from tests import hostile

ATTACK = 'lease_time=3600); outport="victim"; output; //'
WRITTEN = re.compile(
    r"\d{1,10}|true|false"
    r'|"[ !#-\[\]-~]{1,255}"'
    r"|[0-9a-f:.]+"
    r"|\{[0-9a-f:.]+(, [0-9a-f:.]+)*\}"
    r"|\{[0-9./]+,[0-9.]+(, [0-9./]+,[0-9.]+)*\}"
)
"""All that any option may be: a number, a text in quotes, an address, a list of addresses, a list of routes."""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lease_time=7200", {"lease_time": "7200"}),
        ("lease_time=0060 , mtu=1400,", {"lease_time": "60", "mtu": "1400"}),
        ("mtu=", {"mtu": ""}),
        ("ntp_server={192.168.0.5,192.168.0.6}", {"ntp_server": "{192.168.0.5, 192.168.0.6}"}),
        ("dns_server=8.8.8.8,router=10.0.0.1", {"dns_server": "8.8.8.8", "router": "10.0.0.1"}),
        ('domain_name="vm.example"', {"domain_name": '"vm.example"'}),
        ("domain_name=vm.example", {"domain_name": '"vm.example"'}),
        ('wpad="http://wpad/wpad.dat?a={b},c;d//"', {"wpad": '"http://wpad/wpad.dat?a={b},c;d//"'}),
        ('domain_search_list="a.Example,b.example"', {"domain_search_list": '"a.example,b.example"'}),
        ("tftp_server=10.0.0.9", {"tftp_server": "10.0.0.9"}),
        ('tftp_server="boot.example"', {"tftp_server": '"boot.example"'}),
        ("tftp_server_address={10.0.0.9, 10.0.0.10}", {"tftp_server_address": "{10.0.0.9, 10.0.0.10}"}),
        ("classless_static_route={30.0.0.0/24,10.0.0.10, 0.0.0.0/0,10.0.0.1}",
         {"classless_static_route": "{30.0.0.0/24,10.0.0.10, 0.0.0.0/0,10.0.0.1}"}),
        ("server_id=10.0.0.1,server_mac=0A-58-00-00-00-01", {"server_id": "10.0.0.1", "server_mac": "0a:58:00:00:00:01"}),
        ("ip_forward_enable=1,tcp_ttl=64", {"ip_forward_enable": "1", "tcp_ttl": "64"}),
        ("", {}),
    ],
)  # fmt: skip
def test_what_people_write(text: str, expected: dict[str, str]) -> None:
    assert dict(parse_options(text, DHCPV4)) == expected


def test_what_people_write_for_dhcpv6() -> None:
    text = 'dns_server={FD00::5, fd00::6},domain_search="vm.example",server_id=0a:58:00:00:00:01,dhcpv6_stateless="true"'
    assert dict(parse_options(text, DHCPV6)) == {
        "dns_server": "{fd00::5, fd00::6}",
        "domain_search": '"vm.example"',
        "server_id": "0a:58:00:00:00:01",
        "dhcpv6_stateless": "true",
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (ATTACK, ["lease_time", "is no number from 60 to 4294967295"]),
        ("lease_time=59", ["is no number from 60"]),
        ("lease_time=4294967296", ["is no number from 60"]),
        ("lease_time=\u0663\u0666\u0660\u0660", ["is no number"]),
        ("mtu=67", ["is no number from 68 to 65535"]),
        ("leasetime=60", ["OVN knows no option 'leasetime'; did you mean lease_time"]),
        ("colour=red", ["OVN knows no option 'colour'; it knows T1, T2,"]),
        ("offerip=10.0.0.9", ["offerip is set by OVN itself"]),
        ("netmask=255.0.0.0", ["netmask is set by OVN itself"]),
        ("router=fd00::1", ["is no IPv4 address"]),
        ("router={}", ["is no IP address"]),
        ("dns_server={1.1.1.1}); output; //", ["is no IP address"]),
        ("dns_server={" + ",".join(["1.1.1.1"] * 17) + "}", ["it holds 17 addresses; at most 16"]),
        ('domain_name="a\\"b"', ["not closed"]),
        ('domain_name="a"b"c"', ["is no text that DHCP can tell"]),
        ("domain_name=a\\", ["is no text that DHCP can tell"]),
        ('domain_name="a\x01"', ["is no text that DHCP can tell"]),
        ('domain_name="\u0430.example"', ["is no text that DHCP can tell"]),
        ('domain_name=""', ["is no text that DHCP can tell"]),
        ("domain_name=" + "a" * 256, ["it may hold 1 to 255 printable"]),
        ('domain_search_list="a b"', ["is no DNS name"]),
        ("domain_search_list=" + '"' + ",".join(["a" * 60] * 5) + '"', ["take more than the 255 octets"]),
        ("classless_static_route={10.0.0.1/8,10.0.0.1}", ["is no destination"]),
        ("classless_static_route={\u0661\u0660.0.0.0/8,10.0.0.1}", ["is no destination"]),
        ("classless_static_route={10.0.0.0/\uff18,10.0.0.1}", ["is no destination"]),
        ("classless_static_route={10.0.0.0/8}", ["is no list of routes"]),
        ("classless_static_route=10.0.0.0/8,router=10.0.0.1", ["is no list of routes"]),
        ("server_mac=01:00:00:00:00:01", ["multicast"]),
        ("server_mac=0a:58:00:00:00:01; drop", ["is no MAC address"]),
        ("lease_time=60,lease_time=70", ["stands twice"]),
        ("dns_server={8.8.8.8", ["not closed"]),
        ("router", ["is no option"]),
        ("=x", ["is no option"]),
        ("ro uter=10.0.0.1", ["is no option"]),
    ],
)
def test_what_is_refused_and_why(text: str, words: list[str]) -> None:
    with pytest.raises(ValueError, match=r"\w") as caught:
        parse_options(text, DHCPV4)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000
    for word in words:
        assert word in str(caught.value)


MAX = 4_294_967_295
SECONDS = dict.fromkeys(("lease_time", "T1", "T2"), (60, MAX))
OCTETS = dict.fromkeys(("netbios_node_type", "default_ttl", "tcp_ttl"), (0, 255))
FLAGS = dict.fromkeys(("ip_forward_enable", "router_discovery", "ethernet_encap"), (0, 1))
ANY = dict.fromkeys(("arp_cache_timeout", "tcp_keepalive_interval"), (0, MAX))


@pytest.mark.parametrize(("option", "bounds"), {**SECONDS, **OCTETS, **FLAGS, **ANY, "mtu": (68, 65535)}.items())
def test_the_bounds_of_a_number(option: str, bounds: tuple[int, int]) -> None:
    low, high = bounds
    assert [DHCPV4[option](str(number)) for number in bounds] == [str(low), str(high)]
    for number in (low - 1, high + 1):
        with pytest.raises(ValueError, match=f"is no number from {low} to {high}"):
            DHCPV4[option](str(number))


def test_as_many_addresses_routes_and_names_as_the_limits_say() -> None:
    many = ["1.1.1.1"] * limits.DHCP_ADDRESSES
    assert DHCPV4["dns_server"]("{" + ",".join(many) + "}") == "{" + ", ".join(many) + "}"
    route = "{" + ",".join(["10.0.0.0/8,10.0.0.1"] * limits.DHCP_ROUTES) + "}"
    assert DHCPV4["classless_static_route"](route).count("10.0.0.0/8") == limits.DHCP_ROUTES
    with pytest.raises(ValueError, match="it holds 17 routes; at most 16"):
        DHCPV4["classless_static_route"]("{" + ",".join(["10.0.0.0/8,10.0.0.1"] * (limits.DHCP_ROUTES + 1)) + "}")
    # each name takes its letters and two octets more
    exact = ",".join(["a" * 49] * 5)
    assert DHCPV4["domain_search_list"](exact) == f'"{exact}"'
    with pytest.raises(ValueError, match="take more than the 255 octets"):
        DHCPV4["domain_search_list"](f"{exact}a")
    assert DHCPV4["domain_name"]("a" * limits.DHCP_TEXT) == '"' + "a" * limits.DHCP_TEXT + '"'
    for text in ("true", '"false"'):
        assert DHCPV6["dhcpv6_stateless"](text) == text.strip('"')
    with pytest.raises(ValueError, match="is neither true nor false"):
        DHCPV6["dhcpv6_stateless"]("yes")


@pytest.mark.parametrize("known", [DHCPV4, DHCPV6])
@pytest.mark.parametrize("value", [*hostile.TEXTS, ATTACK])
def test_nothing_hostile_is_written_as_any_option(known: dict[str, Form], value: str) -> None:
    for form in known.values():
        check(form, value)


@settings(deadline=None)
@given(hostile.texts)
@example('"a" ; output; "b"')
def test_whatever_is_written_is_one_value(value: str) -> None:
    for form in (*DHCPV4.values(), *DHCPV6.values()):
        check(form, value)


def check(form: Form, value: str) -> None:
    """Refused, or written as one value; and what is written reads back as itself."""
    try:
        written = form(value)
    except ValueError as refusal:
        hostile.check_fact(str(refusal))
        return
    assert WRITTEN.fullmatch(written), written
    assert len(written) <= limits.DHCP_ADDRESSES * 48
    assert form(written) == written


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mtu=1400,lease_time=60,dns_server=8.8.8.8", ["dns_server", "lease_time", "mtu"]),
        ('wpad="http://wpad/{,x",mtu=1400', ["mtu", "wpad"]),
        ('wpad="http://wpad/}"', ["wpad"]),
    ],
)
def test_options_are_sorted_and_quotes_hold_braces_together(text: str, expected: list[str]) -> None:
    assert [name for name, _ in parse_options(text, DHCPV4)] == expected


@pytest.mark.parametrize("text", ["a", "~", "http://boot/~user"])
def test_a_text_may_be_short_and_hold_a_tilde(text: str) -> None:
    assert string(text) == string(f'"{text}"') == f'"{text}"'


@pytest.mark.parametrize("text", ["{10.0.0.15", "{10.0.0.1,10.0.0.25", "510.0.0.1}", "510.0.0.1,10.0.0.2}"])
def test_a_list_that_is_not_closed_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="is no IP address"):
        addresses(text, 4)


def test_a_number_is_written_anew() -> None:
    assert dhcp_options.number(60, 3600)(" 0060 ") == "60"

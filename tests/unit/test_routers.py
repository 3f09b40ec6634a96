"""The gateways that networks ask for."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

from ovnagent.core.dhcp import derived_mac
from ovnagent.core.networks import Dhcp
from ovnagent.core.routers import RouterPort, router_ports
from tests.desk import network

V4 = replace(network(switch="s"), router="edge")
DUAL = replace(network("10.16.0.0/16", "fd00::/64", switch="s"), router="edge")


def test_a_network_without_a_router_has_no_gateway_of_ours() -> None:
    assert router_ports([network()]) == []


def test_a_gateway() -> None:
    (port,) = router_ports([DUAL])
    assert port == RouterPort("edge-s", "edge", "s", derived_mac("router/edge-s"), ("10.16.0.1/16", "fd00::1/64"), ())
    assert port.switch_port == "s-edge"


def test_no_gateway_no_address() -> None:
    bare = replace(V4, subnets=(replace(V4.subnets[0], gateway=None),))
    assert router_ports([bare])[0].networks == ()


def test_networks_that_share_router_and_switch_share_the_port() -> None:
    second = replace(network("10.18.0.0/16", name="b", switch="s"), router="edge")
    elsewhere = replace(network("10.19.0.0/16", name="c", switch="t"), router="edge", subnets=DUAL.subnets[1:], dhcp=Dhcp())
    ports = router_ports([second, V4, elsewhere])
    assert [(port.name, port.networks) for port in ports] == [
        ("edge-s", ("10.16.0.1/16", "10.18.0.1/16")),
        ("edge-t", ("fd00::1/64",)),
    ]
    assert ports[0].mac != ports[1].mac


def test_guests_are_told_to_ask_dhcpv6_only_where_it_answers() -> None:
    dhcp = Dhcp(dns_servers=tuple(map(ipaddress.ip_address, ("10.16.0.53", "fd00::53", "fd00::54"))))
    assert router_ports([replace(V4, dhcp=dhcp)])[0].advertisements == ()
    told = (("address_mode", "dhcpv6_stateful"), ("send_periodic", "true"))
    assert router_ports([replace(DUAL, dhcp=Dhcp())])[0].advertisements == told
    full = replace(DUAL, dhcp=dhcp, mtu=1400)
    more = (("address_mode", "dhcpv6_stateful"), ("mtu", "1400"), ("rdnss", "fd00::53"), ("send_periodic", "true"))
    assert router_ports([full])[0].advertisements == more
    # of networks on one port the first that says anything
    assert router_ports([V4, full])[0].advertisements == more
    assert router_ports([full, replace(DUAL, dhcp=Dhcp())])[0].advertisements == more


def test_a_network_without_a_router_hides_none_behind_it() -> None:
    assert [port.name for port in router_ports([network(), V4])] == ["edge-s"]

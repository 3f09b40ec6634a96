"""The border, text by text: what is a value and what is none."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from ovnagent.core import dhcp_options, limits, values

FULLWIDTH, ARABIC = "\uff11\uff10.16.0.5", "\u0661\u0660.16.0.5"
LONG = ".".join(["a" * 63] * 3)
NBSP, LINE = "\xa0", "\u2028"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.16.0.15", "10.16.0.15"),
        (" 10.16.0.15\n", "10.16.0.15"),
        ("FD00:0:0::15", "fd00::15"),
        ("fd00::10.16.0.5", "fd00::a10:5"),
    ],
)
def test_an_address_in_several_forms(text: str, expected: str) -> None:
    assert str(values.parse_ip(text)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "10.16.0",
        "10.16.0.300",
        "010.16.0.5",
        "10.16.0.5/16",
        "10.16.0.5 10.16.0.6",
        "10.16.0.5\x00",
        "10.16.0.5\x0b",
        f"10.16.0.5{NBSP}",
        f"10.16.0.5{LINE}",
        FULLWIDTH,
        ARABIC,
        "fd00::15%x",
        "fe80::1%eth0",
        "::ffff:10.16.0.5",
        "9" * 10_000,
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="address") as caught:
        values.parse_ip(text)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("text", ["00:00:00:53:6B:B6", "00-00-00-53-6b-b6", "000000536BB6", "0000.0053.6bb6"])
def test_a_mac_in_several_forms(text: str) -> None:
    assert values.parse_mac(text) == "00:00:00:53:6b:b6"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "zz",
        "0a:00:00:00:00:01 10.16.0.1",
        "0a:00:00:00:00:01\x00",
        f"0a:00:00:00:00:01{NBSP}",
        "0a:00:00:00:00",
        "0a:00-00:00:00:01",
        "01:00:00:00:00:01",
        "ff:ff:ff:ff:ff:ff",
        "00:00:00:00:00:00",
        "0\uff41:00:00:00:00:01",
        "a" * 10_000,
    ],
)
def test_what_is_no_mac(text: str) -> None:
    with pytest.raises(ValueError, match=r"MAC|no address of an interface"):
        values.parse_mac(text)


@pytest.mark.parametrize(
    ("parse", "good", "bad"),
    [
        (values.parse_name, ["web", "web.example.com", "0", "a" * 253],
         ["", "Web", "a..b", "-a", "a-", "a_b", "a/b", "a b", "a\n", "\u0430", "a" * 254]),
        (values.parse_label, ["web", "0", "a" * 63], ["", "a.b", "a" * 64, "a\n", '"', "a\x00b"]),
        (values.parse_domain, ["vm.example", "x", "a" * 63], ["", "a..b", "a" * 64, "vm example", 'vm"', "vm,example"]),
        (values.parse_namespaced, ["demo/net", "demo/a.b"], ["demo", "a.b/c", "a/b/c", "/b", "a/"]),
        (values.parse_uid, ["c8d0-1", "UID"], ["", "a b", "a.b", "a" * 65, "\uff11"]),
        (values.parse_uid, ["a" * 64], []),
        (values.parse_domain, [f"{LONG}.{'a' * 61}"], [f"{LONG}.{'a' * 62}", "\u0130", "\u212a"]),
        (values.parse_phase, ["Running", "WaitingForSync", "a" * 63], ["", "Run ning", "R\u0443nning", "a" * 64]),
        (values.parse_time, ["2026-01-01T00:00:00Z"], ["", "2026", "2026-01-01T00:00:00Z\n", "\u0662026-01-01T00:00:00Z"]),
        (values.parse_interface, ["default", "Net_1-a", "a" * 253], ["a" * 254, "", "a.b", "a/b", "a b", "a,b", "a\n"]),
        (values.parse_device, ["eth0", "pode9da86d351c", "a" * 15], ["", "a" * 16, "a/b", "a b"]),
        (values.parse_token, ["managedtap", "demo/net", "cbr0", "a" * 506], ["a" * 507, "", "a b", "a\n", "a,b"]),
        (values.parse_chassis, ["node1", "b5d2-...", "a=b", "a" * 253], ["", "a,b", "a b", "\u0430", "a\x00", "a" * 254]),
        (values.parse_title, ["ovn-default", "vlan 7", "Büro", "x'y", "a" * 253],
         ["a" * 254, "", 'x"y', "x\\y", "a\nb", "a\x00", f"a{LINE}b", f"a{NBSP}b", "\ud800"]),
    ],
)  # fmt: skip
def test_names(parse: Callable[[str], str], good: list[str], bad: list[str]) -> None:
    assert [parse(text) for text in good] == good
    for text in bad:
        with pytest.raises(ValueError, match=r"is no ") as caught:
            parse(text)
        assert str(caught.value).isprintable()


def test_the_bounds_belong_to_what_they_bound() -> None:
    assert [values.parse_number(text, 0, 255) for text in ("0", " 255\n", "007")] == [0, 255, 7]
    assert values.parse_json("7" * 10, 10) == 7_777_777_777
    values.check_length("x" * 10, 10)
    values.check_count(10, 10, "ranges")
    for check in (lambda: values.check_length("x" * 11, 10), lambda: values.check_count(11, 10, "ranges")):
        with pytest.raises(ValueError, match="at most 10"):
            check()
    assert values.shown("x" * 60) == repr("x" * 60)
    assert values.shown("x" * 61) == repr("x" * 60 + "...")
    assert values.parse_mac("  0A:00:00:00:00:01\n") == "0a:00:00:00:00:01"
    assert values.parse_domain(" VM.Example ") == "vm.example"
    assert str(values.parse_range("10.16.0.5 .. 10.16.0.9")) == "10.16.0.5..10.16.0.9"
    assert str(values.parse_range("fd00::5")) == "fd00::5"
    assert str(values.parse_range("10.16.0.5..10.16.0.5")) == "10.16.0.5"


@pytest.mark.parametrize("text", ["", "-1", "+1", "1.0", "1e3", "1_000", "\u0661", "nan", "256", "9" * 5000, "0x10"])
def test_what_is_no_number(text: str) -> None:
    with pytest.raises(ValueError, match="is no number from 0 to 255"):
        values.parse_number(text, 0, 255)


@pytest.mark.parametrize("text", ["[" * 5000, '"\\ud800"', "{", "NaN", "1e999", '"\x01"', "x" * 100_000, '"\ud800"'])
def test_what_is_no_json(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no JSON|at most"):
        values.parse_json(text, 8192)


def test_the_table_of_limits_is_that_of_the_code() -> None:
    reference = (Path(__file__).resolve().parents[2] / "docs" / "configuration.md").read_text()
    table = reference.partition("## Limits")[2].partition("\n## ")[0]
    documented = [int(number.replace(",", "")) for number in re.findall(r"^\|[^|]+\| ([\d,]+) \|", table, re.M)]
    assert sorted(documented) == sorted(value for name, value in vars(limits).items() if name.isupper())


def test_every_dhcp_option_is_documented() -> None:
    reference = (Path(__file__).resolve().parents[2] / "docs" / "networks.md").read_text()
    section = reference.partition("## DHCP options")[2].partition("\n## ")[0]
    documented = set(re.findall(r"`([A-Za-z0-9_]+)`", section)) - {"7200", "1400", "1", "true", "false"}
    assert documented == {*dhcp_options.DHCPV4, *dhcp_options.DHCPV6, *dhcp_options.SET_BY_OVN}


def test_one_label_that_is_too_long_is_enough() -> None:
    assert values.parse_domain(f"VM.{'a' * 63}") == f"vm.{'a' * 63}"
    with pytest.raises(ValueError, match="is no DNS name"):
        values.parse_domain(f"vm.{'a' * 64}")


def test_nothing_but_blanks_may_stand_around_a_value() -> None:
    for text in ("~10.16.0.5", "10.16.0.5~"):
        with pytest.raises(ValueError, match="is no IP address"):
            values.parse_ip(text)
    assert values.parse_title(" ~net~ \n") == "~net~"


def test_a_document_that_is_too_long_is_not_read() -> None:
    assert values.parse_json("[1, 2]", 6) == [1, 2]
    with pytest.raises(ValueError, match="the text has 7 characters; at most 6"):
        values.parse_json("[1, 20]", 6)

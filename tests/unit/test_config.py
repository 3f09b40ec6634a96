"""The configuration: what is right is understood, what is wrong is named, all of it at once."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ovnagent.commands import cli
from ovnagent.config.file import ConfigError, FileModel, parse

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLE = REPOSITORY / "deploy" / "config.example.yaml"
GOOD = """
cluster: c1
ovn: {northbound: ["unix:/nb.sock"], southbound: ["tcp:10.0.0.1:6642", "tcp:[fd00::1]:6642"]}
networks:
  - {name: pods, podNetwork: true, subnets: [{cidr: 10.16.0.0/16, gateway: 10.16.0.1, reserved: [10.16.0.2..10.16.0.9]}]}
"""


def change(path: str, value: object) -> str:
    """The good configuration with one value changed (`networks.0.name`); None removes the key."""
    raw = yaml.safe_load(GOOD)
    *steps, last = path.split(".")
    place = raw
    for step in steps:
        place = place[int(step)] if isinstance(place, list) else place[step]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return yaml.safe_dump(raw)


def errors(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    return caught.value.errors


def test_a_good_one_is_understood() -> None:
    config = parse(GOOD)
    assert config.cluster == "c1"
    assert config.southbound == "tcp:10.0.0.1:6642,tcp:[fd00::1]:6642"
    assert config.networks.pod is not None
    assert config.networks.pod.logical_switch == "pods"
    assert config.networks.pod.subnets[0].size == 65536 - 2 - 1 - 8


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("cluster", None, "cluster: is missing"),
        ("cluster", "a b", "cluster: 'a b' may hold"),
        ("networks.0.podnetwork", True, "networks[0].podnetwork: unknown key; did you mean podNetwork?"),
        ("networks.0.subnets.0.cidr", "10.16.0.1/16", "networks[0].subnets[0].cidr: 10.16.0.1/16 has host bits set"),
        ("networks.0.subnets.0.cidr", "10.16.0.0/31", "networks[0].subnets[0].cidr: 10.16.0.0/31 is too small"),
        ("networks.0.subnets.0.gateway", "10.17.0.1", "networks[0].subnets[0].gateway: 10.17.0.1 lies outside"),
        ("networks.0.subnets.0.gateway", "x", "networks[0].subnets[0].gateway: 'x' does not appear to be"),
        ("networks.0.subnets.0.reserved", ["10.16.0.9..10.16.0.2"], "ends before it begins"),
        ("networks.0.subnets.0.reserved", ["10.18.0.2"], "networks[0].subnets[0].reserved[0]: 10.18.0.2 lies outside"),
        ("networks.0.subnets.0.reserved", [5], "networks[0].subnets[0].reserved[0]: "),
        ("networks.0.subnets.0.cidr", "fd00::%x/64", "networks[0].subnets[0].cidr: 'fd00::%x' is no address of a port"),
        ("networks.0.subnets.0.gateway", "::ffff:10.16.0.1", "is no address of a port"),
        ("networks.0.subnets.0.reserved", ["10.16.0.2..\u0661\u0660.16.0.9"], "networks[0].subnets[0].reserved[0]: "),
        ("networks.0.name", 'a"b', "networks[0].name: 'a\"b' is no name; it may hold no quotes and backslashes"),
        ("networks.0.logicalSwitch", "a\nb", "networks[0].logicalSwitch: 'a\\nb' is no name"),
        ("networks.0.router", "r ", "networks[0].router: 'r ' has blanks at its ends"),
        ("networks.0.nads", ["a b/c"], "networks[0].nads[0]: 'a b/c' is not of the form"),
        ("networks.0.dhcp", {"dnsServers": ["10.0.0.1"] * 17}, "dhcp.dnsServers: it holds 17 addresses; at most 16"),
        ("networks.0.dhcp", {"routes": [{"to": "10.0.0.0/8", "via": "10.16.0.1"}] * 16}, "it holds 16 routes besides"),
        ("networks.0.dhcp", {"domain": "a" * 64}, "networks[0].dhcp.domain: "),
        ("networks.0.dhcp", {"search": ["a" * 60] * 5}, "dhcp.search: the domains take more than the 255 octets"),
        ("networks.0.nads", ["tenant"], "networks[0].nads[0]: 'tenant' is not of the form <namespace>/<name>"),
        ("networks.0.subnets", [{"cidr": "10.1.0.0/24"}, {"cidr": "10.2.0.0/24"}], "more than one IPv4 subnet"),
        ("networks.0.subnets", [], "networks[0].subnets: "),
        ("networks", [], "networks: "),
        ("ovn.northbound", ["10.0.0.1"], "ovn.northbound[0]: '10.0.0.1' is no endpoint"),
        ("ovn.northbound", ["ssl:10.0.0.1:6641"], "needs ovn.tls with privateKey, certificate and ca"),
        ("ovn.tls", {"privateKey": "/no", "certificate": "/no", "ca": "/no"}, "ovn.tls.privateKey: /no is no file"),
        ("serve", {"port": 70000}, "serve.port: "),
        ("kubernetes", {"kubeConfig": "x"}, "kubernetes.kubeConfig: unknown key; did you mean kubeconfig?"),
    ],
)
def test_what_is_wrong_is_named(path: str, value: object, sentence: str) -> None:
    found = errors(change(path, value))
    assert any(sentence in error for error in found), found


def test_all_errors_come_at_once() -> None:
    raw = yaml.safe_load(GOOD)
    raw["networks"].append(raw["networks"][0] | {"nads": ["bad"]})
    raw["ovn"]["northbound"] = ["nonsense"]
    assert len(errors(yaml.safe_dump(raw))) >= 4  # endpoint, NAD, name twice, pod network twice, subnets overlap


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: [", "no valid YAML"),
        ("", "empty or no mapping"),
        ("- a", "empty or no mapping"),
        ("cluster: a\ncluster: b", "the key 'cluster' stands twice"),
        ("? [a]\n: b", "a list or mapping is no key"),
        ("? {a: b}\n: b", "a list or mapping is no key"),
        ("cluster: 2026-99-99", "no valid YAML"),
        ("cluster: !!timestamp x", "no valid YAML"),
        ("[" * 5000, "no valid YAML"),
    ],
)
def test_what_is_no_configuration_at_all(text: str, sentence: str) -> None:
    assert sentence in errors(text)[0]


def test_the_command_prints_each_error_and_the_meaning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(GOOD)
    bad.write_text(change("cluster", None))
    assert cli.main(["check-config", str(good)]) == 0
    assert "10.16.0.0/16, gateway 10.16.0.1, 65525 addresses for VMs" in capsys.readouterr().out
    assert cli.main(["check-config", str(bad)]) == 1
    assert "cluster: is missing" in capsys.readouterr().err
    assert cli.main(["check-config", str(tmp_path / "none.yaml")]) == 1


def test_the_example_is_right_and_every_key_is_documented() -> None:
    parse(EXAMPLE.read_text())
    reference = (REPOSITORY / "docs" / "configuration.md").read_text()
    for key in keys(FileModel):
        assert f"`{key}`" in reference, f"docs/configuration.md does not mention {key}"


def keys(model: type, prefix: str = "") -> list[str]:
    """All keys of the file, with their paths."""
    found = []
    for field in model.model_fields.values():  # type: ignore[attr-defined]
        found.append(f"{prefix}{field.alias}")
        for inner in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if hasattr(inner, "model_fields"):
                mark = "[]." if "list" in str(field.annotation) else "."
                found += keys(inner, f"{prefix}{field.alias}{mark}")
    return found

"""The policies of deploy/components/admission and core/requests.py: one table through both, on a real API server."""

from __future__ import annotations

import base64
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from hack.lab.cluster import REPOSITORY
from hack.lab.kube import ControlPlane
from hack.lab.process import wait_for
from ovnagent.commands.policy import config_map
from ovnagent.core.networks import Networks
from ovnagent.core.problems import ADDRESS_REFUSED, INVALID_REQUEST
from ovnagent.core.reduce import virtual_machine
from ovnagent.core.requests import read
from tests.desk import Desk, network, vm_object

COMPONENT = REPOSITORY / "deploy" / "components" / "admission"
INTERFACES = [{"name": "default", "bridge": {}}, {"name": "tenant", "bridge": {}}]
NETWORKS = [{"name": "default", "pod": {}}, {"name": "tenant", "multus": {"networkName": "demo/net"}}]
POD = "ovn.kubernetes.io/"
NAD = "net.demo.kubernetes.io/"
NETWORK_OBJECTS = (
    network("10.16.0.0/16", "fd00:10:16::/64"),
    network("10.1.0.0/24", name="tenant", switch="tenant-switch", pod_network=False, nads=("demo/net",)),
    network("10.2.0.0/24", name="two words", switch="other", pod_network=False),
)


class Api:
    """The API server with both policies, spoken to directly: kubectl takes half a second a call."""

    def __init__(self, kube: ControlPlane) -> None:
        self.kube = kube
        config = yaml.safe_load(kube.kubeconfig.read_text())
        cluster = config["clusters"][0]["cluster"]
        self._server, self._token = cluster["server"], config["users"][0]["user"]["token"]
        self._tls = ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())

    def send(self, method: str, path: str, body: object, kind: str = "application/json") -> tuple[int, dict[str, Any]]:
        """(status, answer)"""
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": kind}
        request = urllib.request.Request(self._server + path, json.dumps(body).encode(), headers, method=method)
        try:
            with urllib.request.urlopen(request, context=self._tls, timeout=90) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def create(self, vm: dict[str, Any], dry: bool = True) -> str:
        """Create a VM; what a policy says against it, or nothing."""
        namespace = vm["metadata"]["namespace"]
        path = f"/apis/kubevirt.io/v1/namespaces/{namespace}/virtualmachines{'?dryRun=All' if dry else ''}"
        return verdict(*self.send("POST", path, vm))

    def patch(self, name: str, patch: object) -> str:
        """A merge patch of a VM in `default`; what a policy says against it, or nothing."""
        path = f"/apis/kubevirt.io/v1/namespaces/default/virtualmachines/{name}"
        return verdict(*self.send("PATCH", path, patch, "application/merge-patch+json"))


def verdict(status: int, answer: dict[str, Any]) -> str:
    """Nothing, or the policy's sentence without what Kubernetes says before it."""
    if status in (200, 201):
        return ""
    assert answer["reason"] == "Invalid", answer
    _, denied, sentence = str(answer["message"]).partition("denied request: ")
    assert denied, answer
    return sentence


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with ControlPlane(tmp_path_factory.mktemp("admission") / "kube") as kube:
        kube.kubectl("create", "namespace", "ovnagent")
        found = Api(kube)
        objects = [each for file in sorted(COMPONENT.glob("policy-*.yaml")) for each in yaml.safe_load_all(file.read_text())]
        kube.apply(yaml.safe_dump_all(objects))
        kube.apply(config_map(Networks(NETWORK_OBJECTS)))
        # A policy counts some time after it was written, and so does a ConfigMap.
        wait_for(lambda: found.create(vm({f"{POD}mac_address": "x"})), 60, "the policy for requests")
        wait_for(lambda: found.create(vm({f"{POD}ip_address": "9.9.9.9"})), 60, "the policy for addresses")
        for policy in ("ovnagent-requests", "ovnagent-addresses"):
            status = kube.get("validatingadmissionpolicy", policy)["status"]
            assert not status.get("typeChecking", {}).get("expressionWarnings"), status  # type: ignore[attr-defined]
        yield found


def vm(annotations: dict[str, Any], name: str = "vm") -> dict[str, Any]:
    """A VM with an interface on the pod network and one on demo/net."""
    made = vm_object(name, annotations=annotations, interfaces=INTERFACES, networks=NETWORKS)
    del made["metadata"]["uid"], made["metadata"]["creationTimestamp"]
    made["spec"]["template"]["spec"]["domain"]["resources"] = {}
    return {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", **made, "spec": made["spec"] | {"running": False}}


def agent(annotations: dict[str, Any]) -> list[str]:
    """What core/requests.py says against it, interface by interface."""
    machine = virtual_machine(vm_object("vm", annotations=annotations, interfaces=INTERFACES, networks=NETWORKS))
    return [error for interface in machine.interfaces for error in read(interface, machine.annotations).errors]


GOOD: list[tuple[str, object]] = [
    ("ip_address", "10.16.0.15"),
    ("ip_address", "fd00:10:16::15"),
    ("ip_address", " FD00:10:16:0::15 ,\n10.16.0.15\n"),
    ("ip_address", "\t"),
    ("ip_address", ""),
    ("mac_address", "00:00:00:53:6B:B6"),
    ("mac_address", "00-00-00-53-6b-b6\n"),
    ("mac_address", "0000.0053.6bb6"),
    ("mac_address", "000000536bb6"),
    ("ip_pool", "10.16.0.50..10.16.0.60"),
    ("ip_pool", "10.16.0.9..10.16.0.10;fd00:10:16::9 .. fd00:10:16::10, 10.16.0.7"),
    ("ip_pool", "fd00:10:16::ffff..fd00:10:16::1:0"),
    ("ip_pool", "::..::1"),
    ("ip_pool", ",".join(f"10.16.0.{n}" for n in range(64))),
    ("logical_switch", "pods"),
    ("logical_switch", "two words\n"),
    ("logical_switch", "größe"),
    ("logical_switch", "it's"),
    ("port_security", "true"),
    ("port_security", " FALSE\n"),
    ("egress_rate", "100"),
    ("egress_rate", "0.5"),
    ("egress_rate", "0999999.999"),
    ("ingress_rate", "5"),
    ("allowed_address_pairs", "10.16.0.50, 00:00:5e:00:01:0a 10.16.0.51,00005e00010b  fd00:10:16::5"),
    ("dhcp-v4-options", "lease_time=3600"),
]
"""What may stand on the pod network's interface and, but for the addresses, on that on a NAD."""

BAD: list[tuple[str, object]] = [
    ("ip_address", "10.16.0.300"),
    ("ip_address", "10.16.0.015"),
    ("ip_address", "10.16.0.0/24"),
    ("ip_address", "10.16.0.1,10.16.0.2"),
    ("ip_address", "fd00::1 , fd00::2"),
    ("ip_address", "10.16.0.1,fd00::1,fd00::2"),
    ("ip_address", ",".join(f"10.16.0.{n}" for n in range(200))),
    ("ip_address", "10.16.0.1,"),
    ("ip_address", "fd00::15%eth0"),
    ("ip_address", "fd00::15%"),
    ("ip_address", "10.16.0.15%eth0"),
    ("ip_address", "::ffff:10.16.0.1"),
    ("ip_address", "0:0:0:0:0:FFFF:a10:1"),
    ("ip_address", "it's"),
    ("ip_address", '"it\'s"'),
    ("ip_address", 'C:\\"x"'),
    ("ip_address", "10.\n16"),
    ("ip_address", "größer als jede Adresse, die es gibt und je geben wird, so lang ist sie"),
    ("ip_address", "\u0661\u0660.16.0.5"),
    ("ip_address", "x" * 8192),
    ("ip_address", "x" * 8193),
    ("ip_address", 5),
    ("ip_address", ["10.16.0.1"]),
    ("ip_address", {"a": "b"}),
    ("ip_address", True),
    ("ip_pool", "10.16.0.9..10.16.0.1"),
    ("ip_pool", "10.16.0.10..10.16.0.9"),
    ("ip_pool", "fd00::10..fd00::9"),
    ("ip_pool", "fd00::1:0..fd00::ffff"),
    ("ip_pool", "1::..::1"),
    ("ip_pool", "10.16.0.9..fd00::1"),
    ("ip_pool", "10.16.0.1..10.16.0.2..10.16.0.3"),
    ("ip_pool", "10.16.0.1...10.16.0.2"),
    ("ip_pool", "10.16.0.1..;10.16.0.2"),
    ("ip_pool", "pool-a"),
    ("ip_pool", "10.16.0.1,,"),
    ("ip_pool", ",".join(["10.16.0.0..10.16.255.255"] * 65)),
    ("ip_pool", "," * 8000),
    ("mac_address", "zz"),
    ("mac_address", " ZZ\n"),
    ("mac_address", "01:00:00:00:00:01"),
    ("mac_address", "0100.0000.0001"),
    ("mac_address", "00:00:00:00:00:00"),
    ("mac_address", "00-00-00-00-00-00"),
    ("mac_address", "00:00:00:53:6b"),
    ("mac_address", "00:00:00-53:6b:b6"),
    ("mac_address", "0a:00:00:00:00:01 10.16.0.1"),
    ("mac_address", 20),
    ("logical_switch", 'a"b'),
    ("logical_switch", "a\\b"),
    ("logical_switch", "a\nb"),
    ("logical_switch", "a" * 254),
    ("port_security", "maybe"),
    ("port_security", "0"),
    ("port_security", False),
    ("egress_rate", "nan"),
    ("egress_rate", "1e3"),
    ("egress_rate", "-1"),
    ("egress_rate", ".5"),
    ("egress_rate", "1,5"),
    ("egress_rate", "0.0001"),
    ("egress_rate", "1000000"),
    ("egress_rate", 0.5),
    ("allowed_address_pairs", "10.16.0.0/20"),
    ("allowed_address_pairs", "01:00:5e:00:01:0a 10.16.0.50"),
    ("allowed_address_pairs", "10.16.0.50 00:00:5e:00:01:0a"),
    ("allowed_address_pairs", "00:00:5e:00:01:0a 10.16.0.50,xx 10.16.0.51"),
    ("allowed_address_pairs", ",".join(f"10.16.1.{n}" for n in range(33))),
    ("dhcp-v4-options", 5),
]
"""What both refuse, in the same words."""

OTHER_WORDS: list[tuple[str, str]] = [
    ("ip_address", "10.16.0.5\u00a0"),
    ("ip_address", "\u2028"),
    ("mac_address", "\u00a000:00:00:53:6b:b6"),
    ("port_security", "true\u3000"),
    ("egress_rate", "5\x0b"),
    ("logical_switch", "a\x7fb"),
    ("ip_pool", "10.16.0.1..10.16.0.5\u2003"),
]
"""What both refuse, in other words: CEL cannot write a character that cannot be printed as Python does."""

LEFT_TO_THE_AGENT: list[dict[str, object]] = [
    {f"{POD}dhcp-v4-options": "lease_time=never"},
    {"network.kubevirt.io/addresses": "[1]"},
    {f"{POD}ip_address": "10.16.0.9", f"{POD}ip_pool": "10.16.0.1"},
    {f"{NAD}ip_address": "10.1.0.5", "net.demo.ovn.kubernetes.io/ip_address": "10.1.0.6"},
]
"""What the agent alone refuses."""

STRICTER: list[dict[str, object]] = [
    {f"{NAD}mac_address": "x", f"{NAD}mac_address.tenant": "00:00:00:53:6b:b6"},
]
"""What the policy alone refuses: the agent does not look at a key where a more specific one is given."""


@pytest.mark.parametrize("prefix", [POD, NAD])
@pytest.mark.parametrize(("key", "value"), GOOD)
def test_what_the_agent_grants_is_admitted(api: Api, prefix: str, key: str, value: object) -> None:
    if prefix == NAD and key == "ip_address":
        value = str(value).replace("10.16.", "10.1.").partition(",")[0] if "::" not in str(value) else ""
    assert agent({prefix + key: value}) == []
    assert api.create(vm({prefix + key: value})) == ""


@pytest.mark.parametrize("name", ["{}", "net.demo.ovn.kubernetes.io/{}.tenant"])
@pytest.mark.parametrize(("key", "value"), BAD, ids=lambda value: repr(value)[:40])
def test_what_the_agent_refuses_is_refused_in_its_words(api: Api, name: str, key: str, value: object) -> None:
    annotations = {(POD + key if name == "{}" else name.format(key)): value}
    (sentence,) = agent(annotations)
    assert api.create(vm(annotations)) == sentence


@pytest.mark.parametrize(("key", "value"), OTHER_WORDS, ids=ascii)
def test_what_cannot_be_printed_is_refused_in_other_words(api: Api, key: str, value: str) -> None:
    (sentence,) = agent({POD + key: value})
    said = api.create(vm({POD + key: value}))
    assert said == f"{POD}{key}: the value holds a character that cannot be printed, or a blank that is none" != sentence


@pytest.mark.parametrize("annotations", LEFT_TO_THE_AGENT, ids=lambda each: next(iter(each)))
def test_what_the_agent_alone_refuses(api: Api, annotations: dict[str, object]) -> None:
    assert agent(annotations)
    assert api.create(vm(annotations)) == ""


@pytest.mark.parametrize("annotations", STRICTER, ids=lambda each: next(iter(each)))
def test_what_the_policy_alone_refuses(api: Api, annotations: dict[str, object]) -> None:
    assert not agent(annotations)
    assert api.create(vm(annotations))


@pytest.mark.parametrize(
    "key",
    [
        "other.demo.kubernetes.io/ip_address",
        f"{NAD}ip_address.other",
        "example.com/ip_address",
        f"{POD}ip_address/x",
        f"{POD}vpc",
    ],
)
def test_what_no_interface_looks_up_is_nobody_s_concern(api: Api, key: str) -> None:
    assert agent({key: "x"}) == []
    assert api.create(vm({key: "x"})) == ""


# ---- addresses and networks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "annotations",
    [
        {f"{POD}ip_address": "10.17.0.1"},
        {f"{POD}ip_address": "fd00:10:17::1"},
        {f"{POD}ip_address": "10.16.0.5, FD00:10:17:0::1"},
        {f"{POD}ip_address": "10.16.0.1"},
        {f"{POD}ip_address": "10.16.0.0"},
        {f"{POD}ip_address": "10.16.255.255"},
        {f"{POD}ip_address": "fd00:10:16::"},
        {f"{POD}ip_address": "10.16.0.5", f"{POD}logical_switch": "two words"},
        {f"{POD}ip_address": "10.16.0.5", f"{POD}logical_switch": "other"},
        {f"{NAD}ip_address": "10.16.0.5"},
        {f"{NAD}ip_address": "fd00:10:16::5"},
        {f"{NAD}ip_address.tenant": "10.2.0.5"},
        {f"{NAD}ip_address": "10.1.0.5", f"{NAD}logical_switch": "pods"},
    ],
    ids=str,
)
def test_an_address_that_its_network_does_not_have(api: Api, annotations: dict[str, object]) -> None:
    desk = Desk(*NETWORK_OBJECTS)
    desk.feed("ADDED", "virtualmachines", vm_object("vm", annotations=annotations, interfaces=INTERFACES, networks=NETWORKS))
    desk.look()
    told = [problem.message for problems in desk.problems.values() for problem in problems]
    assert [problem.reason for problems in desk.problems.values() for problem in problems] == [ADDRESS_REFUSED], told
    assert told[0].endswith(said := api.create(vm(annotations)))
    assert said.startswith(next(iter(annotations)))


@pytest.mark.parametrize(
    "annotations",
    [
        {f"{POD}ip_address": "10.2.0.5", f"{POD}logical_switch": "other"},
        {f"{POD}ip_address": "10.16.0.5", f"{POD}logical_switch": " "},
        {f"{NAD}ip_address.tenant": "10.2.0.5", f"{NAD}logical_switch": "two words"},
        {f"{POD}ip_address": "10.9.9.9", f"{POD}logical_switch": "unknown"},
    ],
    ids=str,
)
def test_an_address_of_its_network_is_admitted(api: Api, annotations: dict[str, object]) -> None:
    assert api.create(vm(annotations)) == ""


def test_without_the_config_map_addresses_are_the_agent_s(api: Api) -> None:
    api.kube.kubectl("-n", "ovnagent", "delete", "configmap", "ovnagent-networks")
    try:
        wait_for(lambda: api.create(vm({f"{POD}ip_address": "9.9.9.9"})) == "", 30, "the policy is silent")
        assert api.create(vm({f"{POD}ip_address": "9.9.9.999"}))
    finally:
        api.kube.apply(config_map(Networks(NETWORK_OBJECTS)))
        wait_for(lambda: api.create(vm({f"{POD}ip_address": "9.9.9.9"})) != "", 30, "the policy speaks again")


# ---- changes --------------------------------------------------------------------------------------------------------


def test_a_vm_with_an_old_mistake_lives_on(api: Api) -> None:
    old = {f"{POD}ip_address": "10.16.0.300", f"{NAD}ip_address": "9.9.9.9", f"{POD}port_security": False}
    bindings = ("validatingadmissionpolicybinding", "ovnagent-requests", "ovnagent-addresses")
    api.kube.kubectl("delete", *bindings)
    wait_for(lambda: api.create(vm(old)) == "", 30, "no policy is in force")
    made = vm(old, "old")
    made["metadata"]["finalizers"] = ["example.com/hold"]
    assert api.create(made, dry=False) == ""
    for file in sorted(COMPONENT.glob("policy-*.yaml")):
        api.kube.apply(file.read_text())
    wait_for(lambda: api.create(vm({f"{POD}ip_address": "10.16.0.300"})) != "", 30, "the policy for requests")
    wait_for(lambda: api.create(vm({f"{POD}ip_address": "9.9.9.9"})) != "", 30, "the policy for addresses")

    def annotate(key: str, value: object) -> str:
        return api.patch("old", {"spec": {"template": {"metadata": {"annotations": {key: value}}}}})

    assert api.patch("old", {"spec": {"running": True}}) == ""
    assert api.patch("old", {"metadata": {"labels": {"a": "b"}}}) == ""
    assert annotate("example.com/note", "x") == ""
    assert annotate(f"{POD}mac_address", "00:00:00:53:6b:b6") == ""
    assert "is no IP address" in annotate(f"{POD}ip_address", "10.16.0.301")
    assert "9.9.9.8, which lies outside" in annotate(f"{NAD}ip_address", "9.9.9.8")
    assert "is no MAC" in annotate(f"{POD}mac_address", "x")
    assert annotate(f"{POD}ip_address", None) == ""
    api.kube.kubectl("delete", "vm", "old", "--wait=false")
    assert api.patch("old", {"metadata": {"finalizers": None}}) == ""
    wait_for(lambda: not api.kube.kubectl("get", "vm", "--ignore-not-found", "old"), 10, "it is gone")


# ---- size -----------------------------------------------------------------------------------------------------------

MANY_INTERFACES = [{"name": f"n{n}", "bridge": {}} for n in range(64)]
MANY_NETWORKS = [{"name": f"n{n}", "multus": {"networkName": f"demo/net{n}"}} for n in range(64)]


def big(annotations: dict[str, str]) -> dict[str, Any]:
    made = vm(annotations)
    made["spec"]["template"]["spec"]["domain"]["devices"]["interfaces"] = MANY_INTERFACES
    made["spec"]["template"]["spec"]["networks"] = MANY_NETWORKS
    return made


def each_net(key: str, value: str, count: int = 64) -> dict[str, str]:
    return {f"net{n}.demo.kubernetes.io/{key}": value for n in range(count)}


EVERY_KEY = {
    "ip_address": "10.9.0.1,fd00::1",
    "mac_address": "00:00:5e:00:01:0a",
    "ip_pool": "10.9.0.1..10.9.0.9,fd00::1",
    "port_security": "true",
    "egress_rate": "10",
    "ingress_rate": "1",
    "logical_switch": "pods-or-others",
    "dhcp-v4-options": "mtu=1400",
}


@pytest.mark.parametrize(
    "annotations",
    [
        each_net("ip_pool", ",".join(["fd00::1..fd00::2"] * 32)),
        each_net("ip_pool", ",".join(["10.16.255.250..10.16.255.255"] * 32)),
        each_net("allowed_address_pairs", ",".join(["00:00:5e:00:01:0a 10.16.255.250"] * 32)),
        {key: value for kind, text in EVERY_KEY.items() for key, value in each_net(kind, text).items()},
        {f"example.com/{n}": "x" * 500 for n in range(2048)},
    ],
    ids=["v6 ranges", "v4 ranges", "pairs", "every key of 64 interfaces", "many others"],
)  # fmt: skip
def test_the_largest_that_the_agent_grants_is_admitted(api: Api, annotations: dict[str, str]) -> None:
    made = big(annotations)
    machine = virtual_machine(made | {"metadata": vm_object("vm")["metadata"]})
    assert not [error for each in machine.interfaces for error in read(each, machine.annotations).errors]
    assert api.create(made) == ""


@pytest.mark.parametrize(
    ("annotations", "words"),
    [
        (each_net("ip_pool", ",".join(["::"] * 64)), "at most 2048 may change at once"),
        (each_net("ip_pool", "," * 1000), "it holds 1001 ranges; at most 64"),
        (each_net("ip_pool", "x" * 1024), "is no IP address"),
        (each_net("mac_address", "x" * 1024), "is no MAC address"),
        (each_net("ip_pool", "x" * 8192), "characters; at most 65536"),
        (each_net("ip_pool", "x" * 16_000), "it may hold 8192 characters"),
        ({f"net{n}.demo.kubernetes.io/ip_pool": "x" for n in range(600)}, "600 of them ask for something; at most 512"),
        ({f"{n}": "" for n in range(20_000)}, "the template has 20000 annotations; at most 2048"),
        ({f"{n:0600}kubernetes.io/": "" for n in range(2000)}, ""),
        ({"x" * 1_000_000 + "kubernetes.io/ip_address": ""}, ""),
    ],
    ids=["addresses", "ranges", "long texts", "long MACs", "all", "each", "keys", "small keys", "long keys", "a long key"],
)
def test_the_largest_object_gets_a_sentence_and_no_error(api: Api, annotations: dict[str, str], words: str) -> None:
    """CEL has a budget: what exceeds it is refused with words that help nobody."""
    said = api.create(big(annotations))
    assert words in said if words else said == ""


def test_every_reason_of_the_table_is_the_agent_s() -> None:
    desk = Desk(*NETWORK_OBJECTS)
    desk.feed("ADDED", "virtualmachines", vm_object("vm", annotations={f"{POD}ip_address": "x"}))
    desk.look()
    assert [each.reason for found in desk.problems.values() for each in found] == [INVALID_REQUEST]

"""Objects as somebody writes them who means harm, or does not know better: groups of five that look like a VM that runs.

All of it follows from a `random.Random`: the same seed makes the same objects."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tests import hostile
from tests.desk import migration_object, pod_object, record_text, vm_object, vmi_object

NAMESPACES = ("tenant-0", "tenant-1", "pods", "ovn-default")
"""The attackers' own. Two are called as a network and a switch are, for names that collide."""
TEXTS = hostile.TEXTS
ODD = hostile.ODD[:-1]
"""Without what the standard library cannot write; RAW is deeper."""
RAW = (
    "[" * 5000 + "]" * 5000,
    '{"a":' * 3000 + "1" + "}" * 3000,
    "9" * 400,
    "1e400",
    "-0.0",
    '{"name":"a","name":"b"}',
    '"\\u0000"',
    '"' + "x" * 300_000 + '"',
    "[" + ",".join(["{}"] * 5000) + "]",
)
"""Values that are written as this very text. Half a surrogate is not among them: an API server reads it as U+FFFD,
and so cannot send it (tests/e2e/test_hostile.py)."""
PREFIX = "ovn.kubernetes.io/"


class Obj(NamedTuple):
    """An object on the wire."""

    kind: str
    meta: dict[str, Any]
    body: str


@dataclass
class Victim:
    """An innocent VM, as far as others may know of it."""

    name: str
    namespace: str
    uid: str
    vmi_uid: str
    migration: str
    ips: Sequence[str] = ()
    mac: str = "0a:58:00:00:00:01"


@dataclass
class Draft:
    """What an attack may set; the rest of the group is as a friendly VM's."""

    name: str
    namespace: str
    annotations: dict[str, Any] = field(default_factory=dict)
    mac: Any = None
    record: str = ""
    reported: dict[str, Any] = field(default_factory=dict)
    owner: str | None = None
    vmi_uid: str = ""
    pod_vmi_uid: str = ""
    migration_of: str = ""
    migration_label: str = ""
    status: Any = None
    nad: str = "innocent/net"
    nad_network: Any = "tenant"
    node: str = "node3"
    chassis: Any = "chassis1"
    created: str = "2026-01-01T00:00:00Z"
    hostname: Any = None


Attack = Callable[[random.Random, Draft, Victim], None]


def attack_record(rng: random.Random, draft: Draft, victim: Victim) -> None:
    """A record with the VM's own UID and other people's addresses, from before everybody's time."""
    ip = rng.choice([*victim.ips, "10.16.0.1", "10.16.0.2", "10.16.255.255", "10.16.0.50", "fd00:10:16::1"])
    mac = rng.choice([victim.mac, "", "0a:00:00:00:00:07 10.16.0.1", "ff:ff:ff:ff:ff:ff", "0a:00:00:00:00:08"])
    uid = rng.choice([f"uid-{draft.name}", victim.uid])
    made = json.loads(record_text(draft.name, uid, ip, mac))
    made["vm"] = rng.choice([f"{draft.namespace}/{draft.name}", f"{victim.namespace}/{victim.name}"])
    port = rng.choice([f"{draft.name}.{draft.namespace}", f"{victim.name}.innocent"])
    (lease,) = made["ports"].values()
    made["ports"] = {port: lease}
    draft.record = rng.choice([json.dumps(made), "[" * 5000, json.dumps(made) + " " * 70_000, '{"ports":' * 900])
    draft.created = "2020-01-01T00:00:00Z"


def attack_request(rng: random.Random, draft: Draft, victim: Victim) -> None:
    """Addresses of others, of nobody, of everybody."""
    wanted = [*victim.ips, "10.16.0.1", "10.16.0.2", "fe80::1", "224.0.0.1", "10.16.0.5%eth0", "0.0.0.0", "::"]
    draft.annotations[PREFIX + "ip_address"] = rng.choice([*wanted, ",".join(wanted), "10.16.0.9,10.16.0.9"])
    draft.annotations["network.kubevirt.io/addresses"] = rng.choice(
        ["[" * 5000, json.dumps({"default": [rng.choice(wanted)]}), '{"default":' * 1000, '{"default":["\\u0000"]}']
    )


def attack_mac(rng: random.Random, draft: Draft, victim: Victim) -> None:
    """MACs with more in them, and those of others."""
    macs = [victim.mac, victim.mac.upper(), f"{victim.mac} 10.16.0.1", "0a:00:00:00:00:01\n", "01:00:5e:00:00:01", "", "02"]
    draft.mac = rng.choice(macs)
    draft.reported = {"default": rng.choice(macs)}
    draft.annotations[PREFIX + "mac_address"] = rng.choice(macs)


def attack_options(rng: random.Random, draft: Draft, victim: Victim) -> None:
    """DHCP options that would be more than options."""
    harm = rng.choice(
        [
            f'lease_time=3600); outport="{victim.name}.innocent"; output; //',
            'domain_name="x"); output; //"',
            "dns_server={1.1.1.1}); drop; //",
            "router=10.16.0.1,server_id=10.16.0.1,server_mac=0a:00:00:00:00:01",
            "classless_static_route={0.0.0.0/0,10.16.0.66}",
            "dns_server={" + ",".join(["10.16.0.66"] * 3000) + "}",
            "lease_time=99999999999999999999",
        ]
    )
    draft.annotations[PREFIX + rng.choice(["dhcp-v4-options", "dhcp-v6-options"])] = harm
    draft.hostname = rng.choice(["x", 'x"', victim.name, "a" * 64, "a.b", ["x"]])


def attack_pairs(rng: random.Random, draft: Draft, victim: Victim) -> None:
    """Thousands of further addresses, or other people's."""
    many = ",".join(f"10.16.{number >> 8}.{number & 255}" for number in range(4000))
    some = ",".join(f"10.16.9.{number}" for number in range(30))
    others = ",".join([*victim.ips, "10.16.0.1", "10.16.0.50"])
    draft.annotations[PREFIX + "allowed_address_pairs"] = rng.choice(
        [many, "10.16.0.0/20", "0.0.0.0/0", some, others, f"{victim.mac} 10.16.9.9", "10.16.9.99"]
    )


def attack_pool(rng: random.Random, draft: Draft, victim: Victim) -> None:
    """Pools as wide as the world."""
    wide = ["fd00:10:16::..fd00:10:16:0:ffff:ffff:ffff:ffff", "10.16.0.0..10.16.255.255", "0.0.0.0..255.255.255.255"]
    many = ",".join(f"10.16.{number}.0..10.16.{number}.255" for number in range(200))
    draft.annotations[PREFIX + "ip_pool"] = rng.choice([*wide, ",".join(wide), many])


def attack_name(rng: random.Random, draft: Draft, victim: Victim) -> None:
    """Called as others are, or as virtual ports and future ports are."""
    draft.name = rng.choice([victim.name, "10.16.9.99", "aaa", "fd00", victim.name.partition(".")[0], "a." * 100 + "a"])
    draft.nad = rng.choice(["innocent/net", "innocent/other", f"{draft.namespace}/net"])


def attack_status(rng: random.Random, draft: Draft, victim: Victim) -> None:
    """What Multus never said."""
    lie = [{"name": "k8s", "interface": "eth0", "default": True, "mac": victim.mac, "ips": list(victim.ips)}]
    odd = ["[" * 5000, '{"a":' * 3000, "x" * 200_000, '[{"mac":"0a:00:00:00:00:01 10.16.0.1"}]']
    draft.status = rng.choice([*odd, json.dumps(lie), json.dumps(lie * 200)])


def attack_owner(rng: random.Random, draft: Draft, victim: Victim) -> None:
    """Owners, VMIs and migrations of other people, claimed from one's own namespace."""
    draft.owner = rng.choice([victim.uid, "", None])
    draft.vmi_uid = rng.choice([victim.vmi_uid, victim.uid, ""])
    draft.pod_vmi_uid = rng.choice([victim.vmi_uid, ""])
    draft.name = rng.choice([draft.name, victim.name])
    draft.migration_of = rng.choice([victim.name, draft.name])
    draft.migration_label = rng.choice([victim.migration, ""])
    draft.node = rng.choice(["node2", "node3", "node9", "evil"])


def attack_network(rng: random.Random, draft: Draft, victim: Victim) -> None:
    """Other networks, by annotation or by NAD, and no port security."""
    names = ["tenant", "pods", "ovn-default", "elsewhere", "none", 'a"b', "x" * 9000]
    draft.annotations[PREFIX + "logical_switch"] = rng.choice(names)
    draft.annotations[PREFIX + "port_security"] = "false"
    draft.nad_network = rng.choice(["pods", "elsewhere", "\x00", ["tenant"], "tenant\n"])
    draft.chassis = rng.choice(["chassis1,chassis2", "chassis2", 'x"', "", "a b", {}])


def attack_flood(rng: random.Random, draft: Draft, victim: Victim) -> None:
    """As much of everything as goes into an object."""
    for number in range(700):
        draft.annotations[f"n{number}.x.kubernetes.io/ip_address.i{number}"] = rng.choice(["10.16.0.9", "x" * 100])
    draft.annotations[PREFIX + "egress_rate"] = rng.choice(["1e308", "nan", "-1", "9" * 400])


ATTACKS: Sequence[Attack] = (
    attack_record,
    attack_request,
    attack_mac,
    attack_options,
    attack_pairs,
    attack_pool,
    attack_name,
    attack_status,
    attack_owner,
    attack_network,
    attack_flood,
)


def friendly(name: str, namespace: str) -> list[Obj]:
    """A group in which nothing is wrong."""
    return objects(Draft(name, namespace, nad=f"{namespace}/{name}"), name)


def group(rng: random.Random, name: str, victims: Sequence[Victim]) -> list[Obj]:
    """VM, VMI, launcher, migration, and one of NAD, Node and Namespace; `name` is in the names of those that have none
    of somebody else's."""
    draft = Draft(name, NAMESPACES[sum(name.encode()) % len(NAMESPACES)])
    for attack in rng.sample(ATTACKS, rng.choice([1, 1, 2, 3])):
        attack(rng, draft, rng.choice(victims))
    return objects(draft, name, rng)


def objects(draft: Draft, name: str, rng: random.Random | None = None) -> list[Obj]:
    space = draft.namespace
    interfaces = [{"name": "default", "bridge": {}}, {"name": "tenant", "bridge": {}}]
    if draft.mac is not None:
        interfaces[0]["macAddress"] = draft.mac
    networks = [{"name": "default", "pod": {}}, {"name": "tenant", "multus": {"networkName": draft.nad}}]
    vm = vm_object(draft.name, f"uid-{name}", draft.annotations, interfaces, networks, draft.record, draft.created, space)
    owner = f"uid-{name}" if draft.owner is None else draft.owner
    vmi_uid = draft.vmi_uid or f"vmi-{name}"
    vmi = vmi_object(
        draft.name, vmi_uid, owner, draft.node, "Running", draft.annotations, interfaces, networks,
        macs=draft.reported, namespace=space,
    )  # fmt: skip
    vmi["metadata"]["creationTimestamp"] = draft.created
    if draft.record:
        vmi["metadata"]["annotations"]["ovnagent.io/record"] = draft.record
    for spec in (vm["spec"]["template"]["spec"], vmi["spec"]):
        spec["hostname"] = draft.hostname
    pod = pod_object(
        f"pod-{name}", draft.name, draft.node, migration=draft.migration_label, vmi_uid=draft.pod_vmi_uid or vmi_uid,
        namespace=space,
    )  # fmt: skip
    if draft.status is not None:
        pod["metadata"]["annotations"]["k8s.v1.cni.cncf.io/network-status"] = draft.status
    migration = migration_object(f"mig-{name}", draft.migration_of or draft.name, "Running", namespace=space)
    named = {PREFIX + "logical_switch": draft.nad_network}
    nad = {"metadata": {"namespace": space, "name": f"nad-{name}", "annotations": named}}
    node = {"metadata": {"name": f"evil-{name}", "annotations": {"ovnagent.io/chassis": draft.chassis}}}
    namespace = {"metadata": {"name": f"space-{name}", "labels": {"a": "b", "kubernetes.io/metadata.name": "innocent"}}}
    last = ("nad", "node", "namespace")[sum(name.encode()) % 3] if rng else "nad"
    made = {
        "virtualmachines": vm,
        "virtualmachineinstances": vmi,
        "pods": pod,
        "virtualmachineinstancemigrations": migration,
        {"nad": "network-attachment-definitions", "node": "nodes", "namespace": "namespaces"}[last]: {
            "nad": nad,
            "node": node,
            "namespace": namespace,
        }[last],
    }
    if rng is not None:
        for kind in rng.sample(sorted(made), rng.choice([0, 1, 2, 5])):
            for _ in range(rng.choice([1, 1, 3])):
                made[kind] = mutated(rng, made[kind])
    return [wire(kind, obj) for kind, obj in made.items()]


FIXED = ("name", "namespace", "uid")


def mutated(rng: random.Random, obj: dict[str, Any]) -> dict[str, Any]:
    """With something else at one place. What the API server itself writes or checks stays, but for the UID now and then."""
    places = [
        path
        for path in hostile.places(obj)
        if path and path != ("metadata",) and not (path[0] == "metadata" and path[1] in FIXED)
    ]
    if rng.random() < 0.03 and "uid" in obj["metadata"]:
        places = [("metadata", "uid")]
    path = rng.choice(places)
    value: Any = rng.choice([*TEXTS, *ODD])
    if path == ("metadata", "uid"):
        value = rng.choice(TEXTS)  # an API server vouches for its type
    if path[0] != "metadata" and rng.random() < 0.3:
        value = f"@RAW{rng.randrange(len(RAW))}@"
    made: dict[str, Any] = hostile.replaced(obj, path, value)
    return made


def wire(kind: str, obj: dict[str, Any]) -> Obj:
    """The object as text; what stands for a raw value becomes it."""
    members = [f"{json.dumps(key)}:{json.dumps(value)}" for key, value in obj.items() if key != "metadata"]
    body = ",".join(members)
    for number, raw in enumerate(RAW):
        body = body.replace(f'"@RAW{number}@"', raw)
    return Obj(kind, obj["metadata"], body)

"""The logical switch port: its name, and the part of its row that the agent owns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from ovnagent.core.dhcp import DhcpOptions
from ovnagent.core.vm import Interface, VmKey

CLUSTER = "ovnagent-cluster"
"""external_ids key of the cluster id: a row is the agent's if and only if it carries this key with its own id."""
VM = "ovnagent-vm"
VM_UID = "ovnagent-vm-uid"
VMI_UID = "ovnagent-vmi-uid"
INTERFACE = "ovnagent-interface"
NETWORK = "ovnagent-network"
MIGRATION = "ovnagent-migration"
"""UID of the migration for which requested-chassis names two chassis (whose end then ends the list)."""
EXTRA_OPTIONS = "ovnagent-options"
"""Comma list of the `options` keys that the agent wrote besides PLACEMENT_OPTIONS: those it may also change and remove."""

OWN_EXTERNAL_IDS = frozenset({CLUSTER, VM, VM_UID, VMI_UID, INTERFACE, NETWORK, MIGRATION, EXTRA_OPTIONS})
PORT = "ovnagent-port"
"""On a row of DNS: the name of the port that it is for."""
ALIVE = "ovnagent-alive-"
"""Followed by the cluster id, a key of NB_Global's external_ids: a standby asks the lock's holder whether it is alive."""
PLACEMENT_OPTIONS = frozenset({"requested-chassis", "activation-strategy"})


@dataclass(frozen=True, slots=True)
class Port:
    """What the agent wants of a Logical_Switch_Port row, or what NB holds of it, in the same terms.

    `options` and `external_ids` hold the agent's own keys only, sorted by key; other writers' keys are never part of
    it. `dhcpv4` and `dhcpv6` are the content of the rows of DHCP_Options that the port refers to; None stands for none, and
    in a present row also for one that is not the agent's.
    """

    name: str
    switch: str
    addresses: tuple[str, ...] = ()
    port_security: tuple[str, ...] = ()
    type: str = ""
    enabled: bool = True
    options: tuple[tuple[str, str], ...] = ()
    external_ids: tuple[tuple[str, str], ...] = ()
    dhcpv4: DhcpOptions | None = None
    dhcpv6: DhcpOptions | None = None
    dns: str = ""
    """What OVN answers to DNS queries on the switch: the name, then its addresses. In the row of DNS that is this port's."""

    def option(self, key: str) -> str:
        return dict(self.options).get(key, "")

    def external_id(self, key: str) -> str:
        return dict(self.external_ids).get(key, "")

    @property
    def requested_chassis(self) -> tuple[str, ...]:
        """The chassis of `options:requested-chassis`, main chassis first."""
        return tuple(name for name in self.option("requested-chassis").split(",") if name)

    @property
    def vm(self) -> VmKey:
        namespace, _, name = self.external_id(VM).partition("/")
        return VmKey(namespace, name)

    @property
    def ips(self) -> tuple[str, ...]:
        """IP addresses of all entries of `addresses`."""
        return tuple(ip for entry in self.addresses for ip in entry.split()[1:])

    @property
    def mac(self) -> str:
        """The first word of `addresses`; empty where there is none."""
        return next((word for entry in self.addresses for word in entry.split()), "")


@dataclass(frozen=True, slots=True)
class PresentPort:
    """A row of the agent's as NB holds it now."""

    uuid: str
    port: Port
    dns_row: str = field(default="", compare=False)
    """UUID of the port's row in DNS; empty where there is none."""


def port_name(key: VmKey, interface: Interface, siblings: Iterable[Interface]) -> str:
    """`<vm>.<namespace>`, `<vm>.<namespace>.<nad>.<nad-namespace>`, or that with `.<interface>` where the VM uses the NAD
    twice. Never parse it back: dots are legal in VM names."""
    name = f"{key.name}.{key.namespace}"
    if not interface.nad:
        return name
    namespace, _, nad = interface.nad.partition("/")
    name = f"{name}.{nad}.{namespace}"
    if sum(1 for other in siblings if other.nad == interface.nad) > 1:
        return f"{name}.{interface.name}"
    return name


def own_options(options: Mapping[str, str], external_ids: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Of a row's `options`, the keys that are the agent's to change."""
    own = PLACEMENT_OPTIONS | set(external_ids.get(EXTRA_OPTIONS, "").split(","))
    return tuple(sorted((key, value) for key, value in options.items() if key in own))


def own_external_ids(external_ids: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Of a row's `external_ids`, the keys that are the agent's to change."""
    return tuple(sorted((key, value) for key, value in external_ids.items() if key in OWN_EXTERNAL_IDS))


def with_options(port: Port, **changes: str) -> Port:
    """The port with these placement options (underscores for dashes); an empty value removes the key."""
    options = dict(port.options)
    for key, value in changes.items():
        options.pop(key.replace("_", "-"), None)
        if value:
            options[key.replace("_", "-")] = value
    return replace(port, options=tuple(sorted(options.items())))

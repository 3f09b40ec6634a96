"""What is wrong with a VM's wish, as a value: the reason and sentence of the Warning event on the VM."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Problem:
    """`waits_for` names what would have to become free for another try to succeed: addresses, MACs, pools."""

    reason: str
    """The Event's reason, CamelCase."""
    message: str
    waits_for: tuple[str, ...] = ()
    interface: str = field(default="", compare=False)
    """The VM's interface that it is about; empty where it is about all of them. One sentence is told once."""


INVALID_REQUEST = "InvalidRequest"
ADDRESS_CONFLICT = "AddressConflict"
ADDRESS_REFUSED = "AddressRefused"
MAC_CONFLICT = "MACConflict"
MAC_MISMATCH = "MACMismatch"
POOL_EXHAUSTED = "PoolExhausted"
UNKNOWN_NETWORK = "UnknownNetwork"
CHASSIS_UNKNOWN = "ChassisUnknown"
PORT_REFUSED = "PortRefused"
NETWORK_REFUSED = "NetworkRefused"
"""The network's own rules do not admit the VM's namespace."""
UNREADABLE = "Unreadable"
"""Something that the VM's owner, or somebody in his name, wrote cannot be read; it counts as absent."""
INTERNAL_ERROR = "InternalError"
"""The agent's own fault: this VM's rows stay as they are, and it is looked at again."""

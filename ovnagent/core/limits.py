"""How much of anything the agent takes from outside. docs/configuration.md has the table, and a test compares the two.

Chosen well above what people use (KubeVirt VMs with 30 interfaces exist) and well below what would cost others anything.
What is beyond a limit is refused or left out with a sentence to the object's owner, never cut silently. Sizes of texts are
in characters."""

from __future__ import annotations

ANNOTATION = 8192
"""The text of one annotation with a request."""
ANNOTATIONS = 512
"""Annotations with requests, of one VM or VMI."""
ANNOTATIONS_TEXT = 65_536
"""The texts of all of them."""
INTERFACES = 64
"""Interfaces of a VM."""
RECORD = 65_536
"""The text of the agent's own record."""
LEASES = 128
"""Ports in a record."""
NETWORK_STATUS = 131_072
"""The text of a pod's network-status annotation. Kubernetes ends at 256 KiB for all annotations of an object."""
ATTACHED = 128
"""Interfaces in a pod's network-status."""
DEPTH = 100
"""Levels of nesting in a JSON document that the JSON parser refuses as too deep; what lies deeper is read as null. (The
parser's own limit is 1024, and the API server takes objects of thousands.)"""

POOL_RANGES = 64
"""Ranges and addresses in one `ip_pool`."""
ADDRESS_PAIRS = 32
"""Entries in one `allowed_address_pairs`."""
SHARERS = 64
"""Ports that share one address: all of them stand in one row (`virtual-parents`), which each that comes or goes changes."""

NAME = 253
"""A Kubernetes name (RFC 1123 subdomain), the name of an interface, a network, a logical switch."""
PORT = 1024
"""The name of a logical switch port: VM, namespace, NAD, its namespace, interface."""
LABEL = 63
"""A namespace, a host name (RFC 1123 label)."""
UID = 64

DHCP_TEXT = 255
"""A text told by DHCP; the length is one octet on the wire (RFC 2132)."""
DHCP_ADDRESSES = 16
"""Addresses in one DHCP option."""
DHCP_ROUTES = 16
"""Routes in one DHCP option."""
RATE = 1_000_000
"""Mbit/s that can be asked for."""

COMPLAINTS = 8
"""Sentences about one object; the last of more says how many there are."""
SHOWN = 60
"""Characters of somebody's text that a sentence repeats."""

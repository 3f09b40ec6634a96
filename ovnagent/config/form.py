"""The configuration file's form: its keys, their types and defaults, and what each is for."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel

DOMAIN = r"^([a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*)?$"
"""A DNS name in lower case, or nothing."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, populate_by_name=False, strict=True, frozen=True)


class SubnetModel(_Model):
    """One subnet of a network."""

    cidr: Annotated[str, Field(description="The subnet, like 10.16.0.0/16 or fd00:10:16::/64.")]
    gateway: Annotated[str | None, Field(description="An address of the subnet that no VM gets.")] = None
    reserved: Annotated[
        list[str], Field(description="Addresses that no VM gets: single ones, or ranges like 10.16.0.1..10.16.0.9.")
    ] = []


class RouteModel(_Model):
    """A route that DHCPv4 tells."""

    to: Annotated[str, Field(description="Destination, like 10.0.0.0/8.")]
    via: Annotated[str, Field(description="Next hop, an address that the guest reaches directly.")]


class DhcpModel(_Model):
    """What OVN's native DHCP tells the guests, besides their addresses, the gateway and the MTU."""

    lease_seconds: Annotated[int, Field(ge=60, le=4_294_967_295, description="Length of a lease.")] = 3600
    dns_servers: Annotated[list[str], Field(description="DNS servers, IPv4 and IPv6.")] = []
    domain: Annotated[str, Field(pattern=DOMAIN, description="The guests' domain.")] = ""
    search: Annotated[list[Annotated[str, Field(pattern=DOMAIN)]], Field(description="Domains to search names in.")] = []
    ntp_servers: Annotated[list[str], Field(description="NTP servers, IPv4.")] = []
    routes: Annotated[list[RouteModel], Field(description="Further IPv4 routes.")] = []
    server_id: Annotated[str | None, Field(description="The DHCPv4 server's address. Default: the gateway.")] = None
    server_mac: Annotated[str | None, Field(description="The server's MAC. Default: derived from the switch's name.")] = None


class NamespacesModel(_Model):
    """Whom a rule admits. A list stands for its names."""

    names: Annotated[list[str], Field(description="Namespaces by name.")] = []
    match_labels: Annotated[dict[str, str], Field(description="Namespaces that carry all of these labels.")] = {}


def _admitted(value: object) -> object:
    """A list of names, or true (everyone) and false (nobody), as the mapping that it stands for."""
    if isinstance(value, list):
        return {"names": value}
    if isinstance(value, bool):
        return None if value else {"names": []}
    return value


class NetworkModel(_Model):
    """A network: one logical switch, and who attaches to it."""

    name: Annotated[str, Field(min_length=1, description="The name that annotations and messages use.")]
    logical_switch: Annotated[
        str | None, Field(min_length=1, description="The OVN logical switch; created if it is missing. Default: the name.")
    ] = None
    subnets: Annotated[list[SubnetModel], Field(min_length=1, description="One IPv4 subnet, one IPv6 subnet, or both.")]
    pod_network: Annotated[bool, Field(description="Interfaces on the pod network attach here.")] = False
    nads: Annotated[
        list[str], Field(description="NetworkAttachmentDefinitions (namespace/name) whose interfaces attach here.")
    ] = []
    port_security: Annotated[
        bool, Field(description="Ports may send from their own MAC and addresses only (a VM can opt out).")
    ] = True
    mtu: Annotated[
        int | None,
        Field(ge=576, le=65535, description="MTU in bytes that DHCPv4 and router advertisements tell. Default: none."),
    ] = None
    dhcp: Annotated[
        DhcpModel | None,
        Field(description="OVN answers DHCP on the network's ports; {} for the defaults. Default: it does not."),
    ] = None
    dns_domain: Annotated[
        str,
        Field(pattern=DOMAIN, description="OVN answers DNS queries for <vm>.<namespace>.<domain>. Default: it does not."),
    ] = ""
    router: Annotated[
        str | None,
        Field(min_length=1, description="OVN logical router that has the gateways' addresses; created if it is missing."),
    ] = None
    namespaces: Annotated[
        NamespacesModel | None,
        BeforeValidator(_admitted),
        Field(description="Namespaces whose VMs may attach: a list of names, or names and matchLabels. Default: all."),
    ] = None
    allow_port_security_off: Annotated[
        NamespacesModel | None,
        BeforeValidator(_admitted),
        Field(description="Namespaces whose VMs may switch port security off: as above, true (all) or false (none)."),
    ] = None
    shared_addresses: Annotated[
        Literal["namespace", "network"],
        Field(description="Whose VMs may share an allowed address pair: those of one namespace, or all on the network."),
    ] = "namespace"
    reserved_macs: Annotated[
        list[str], Field(description="MACs that no VM gets, such as that of a gateway behind a localnet port.")
    ] = []


class TlsModel(_Model):
    """Files for ssl: endpoints."""

    private_key: Annotated[str, Field(description="PEM file with the private key.")]
    certificate: Annotated[str, Field(description="PEM file with the certificate.")]
    ca: Annotated[str, Field(description="PEM file with the CA that signed the servers' certificates.")]


class OvnModel(_Model):
    """Where OVN is."""

    northbound: Annotated[
        list[str], Field(min_length=1, description="Endpoints of the Northbound database: unix:, tcp: or ssl:.")
    ]
    southbound: Annotated[list[str], Field(min_length=1, description="Endpoints of the Southbound database.")]
    tls: Annotated[TlsModel | None, Field(description="Needed with ssl: endpoints.")] = None


class KubernetesModel(_Model):
    """Where Kubernetes is."""

    kubeconfig: Annotated[
        str | None, Field(description="A kubeconfig file. Default: the pod's service account, else ~/.kube/config.")
    ] = None
    context: Annotated[str | None, Field(description="A context of the kubeconfig. Default: its current one.")] = None


class ServeModel(_Model):
    """Where the agent answers."""

    address: Annotated[str, Field(description="Address to listen on. Default: all.")] = ""
    port: Annotated[int, Field(ge=0, le=65535, description="Port of /metrics, /healthz and /readyz; 0: none.")] = 9310


class FileModel(_Model):
    """The whole file."""

    cluster: Annotated[
        str,
        Field(
            min_length=1,
            max_length=63,
            pattern=r"^[a-zA-Z0-9]([a-zA-Z0-9._-]*[a-zA-Z0-9])?$",
            description="The cluster's id, written on every row the agent owns. Never change it while rows exist.",
        ),
    ]
    ovn: OvnModel
    kubernetes: KubernetesModel = KubernetesModel()
    networks: Annotated[list[NetworkModel], Field(min_length=1)]
    serve: ServeModel = ServeModel()

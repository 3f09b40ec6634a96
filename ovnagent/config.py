"""The configuration file: YAML, checked completely, every error at once, each a sentence that names the field."""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from ovnagent.core.networks import AddressRange, IPAddress, IPNetwork, Network, Networks, Subnet
from ovnagent.kube.client import KubeConfig
from ovnagent.ovn.connection import Tls

T = TypeVar("T")
ENDPOINT = re.compile(r"(unix:.+|(tcp|ssl):(\[[0-9a-fA-F:.]+\]|[^:\[\]]+):\d{1,5})")


class ConfigError(Exception):
    """What is wrong with a configuration: one sentence for each error, each with the path of its field."""

    def __init__(self, errors: list[str]) -> None:
        super().__init__("\n".join(errors))
        self.errors = errors


@dataclass(frozen=True, slots=True)
class Config:
    """A configuration that has been checked."""

    cluster: str
    northbound: str
    """Endpoints, joined by commas."""
    southbound: str
    tls: Tls | None
    kubernetes: KubeConfig
    networks: Networks
    address: str
    """Where /metrics, /healthz and /readyz are served; empty: on all addresses."""
    port: int


# ---- the file's form ------------------------------------------------------------------------------------------------


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, populate_by_name=False, strict=True, frozen=True)


class SubnetModel(_Model):
    """One subnet of a network."""

    cidr: Annotated[str, Field(description="The subnet, like 10.16.0.0/16 or fd00:10:16::/64.")]
    gateway: Annotated[str | None, Field(description="An address of the subnet that no VM gets.")] = None
    reserved: Annotated[
        list[str], Field(description="Addresses that no VM gets: single ones, or ranges like 10.16.0.1..10.16.0.9.")
    ] = []


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


# ---- reading --------------------------------------------------------------------------------------------------------


def load(path: Path) -> Config:
    """Read and check a configuration file.

    Raises ConfigError with every error there is."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: {error}"]) from None
    return parse(text)


def parse(text: str) -> Config:
    """The configuration in a YAML text.

    Raises ConfigError with every error there is."""
    try:
        raw = yaml.load(text, Loader=_UniqueKeys)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        raise ConfigError([f"no valid YAML: {' '.join(str(error).split())}"]) from None
    if not isinstance(raw, dict):
        raise ConfigError(["the file is empty or no mapping; docs/configuration.md has an example"])
    try:
        model = FileModel.model_validate(raw)
    except ValidationError as error:
        raise ConfigError([_sentence(dict(each)) for each in error.errors()]) from None
    return _Checker().check(model)


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a key that stands twice in a mapping; YAML would let the last one win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _sentence(error: dict[str, Any]) -> str:
    path = _path(error["loc"])
    match error["type"]:
        case "extra_forbidden":
            known = _known_keys(error["loc"][:-1])
            close = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known here: {', '.join(known)}"
            return f"{path}: unknown key; {hint}"
        case "missing":
            return f"{path}: is missing"
        case "string_pattern_mismatch":
            return f"{path}: {error['input']!r} may hold letters, digits and ._- only, the latter not at its ends"
        case _:
            return f"{path}: {error['msg'][0].lower()}{error['msg'][1:]} (it is {error['input']!r})"


def _path(location: tuple[str | int, ...]) -> str:
    text = ""
    for step in location:
        text += f"[{step}]" if isinstance(step, int) else (f".{step}" if text else str(step))
    return text


def _known_keys(location: tuple[str | int, ...]) -> list[str]:
    """The keys that the model at this place has."""
    model: Any = FileModel
    for step in location:
        if isinstance(step, int):
            continue
        field = next(field for field in model.model_fields.values() if field.alias == step)
        candidates = [field.annotation, *getattr(field.annotation, "__args__", ())]
        model = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return [field.alias or name for name, field in model.model_fields.items()]


# ---- meaning --------------------------------------------------------------------------------------------------------


class _Checker:
    """Turns the model into values and collects what is wrong with it."""

    def __init__(self) -> None:
        self.errors: list[str] = []

    def check(self, model: FileModel) -> Config:
        tls = self._tls(model.ovn)
        networks = [self._network(f"networks[{index}]", each) for index, each in enumerate(model.networks)]
        self._unique(model)
        self._overlaps(networks)
        for side in ("northbound", "southbound"):
            for index, endpoint in enumerate(getattr(model.ovn, side)):
                self._endpoint(f"ovn.{side}[{index}]", endpoint, tls)
        if self.errors:
            raise ConfigError(self.errors)
        return Config(
            cluster=model.cluster,
            northbound=",".join(model.ovn.northbound),
            southbound=",".join(model.ovn.southbound),
            tls=tls,
            kubernetes=KubeConfig(
                Path(model.kubernetes.kubeconfig).expanduser() if model.kubernetes.kubeconfig else None,
                model.kubernetes.context,
            ),
            networks=Networks(tuple(networks)),
            address=model.serve.address,
            port=model.serve.port,
        )

    def _tls(self, model: OvnModel) -> Tls | None:
        if model.tls is None:
            return None
        for key in ("private_key", "certificate", "ca"):
            path = Path(getattr(model.tls, key))
            if not path.is_file():
                self.errors.append(f"ovn.tls.{to_camel(key)}: {path} is no file; give the path of a PEM file")
        return Tls(Path(model.tls.private_key), Path(model.tls.certificate), Path(model.tls.ca))

    def _endpoint(self, path: str, endpoint: str, tls: Tls | None) -> None:
        if not ENDPOINT.fullmatch(endpoint) or "," in endpoint:
            self.errors.append(
                f"{path}: {endpoint!r} is no endpoint; write unix:/path, tcp:host:6641 or ssl:host:6641, one an entry"
            )
        elif endpoint.startswith("ssl:") and tls is None:
            self.errors.append(f"{path}: {endpoint} needs ovn.tls with privateKey, certificate and ca")

    def _network(self, path: str, model: NetworkModel) -> Network:
        subnets = [
            subnet
            for index, each in enumerate(model.subnets)
            if (subnet := self._subnet(f"{path}.subnets[{index}]", each)) is not None
        ]
        for version in (4, 6):
            if sum(1 for subnet in subnets if subnet.version == version) > 1:
                self.errors.append(f"{path}.subnets: more than one IPv{version} subnet; a network has one per family")
        for index, nad in enumerate(model.nads):
            if not re.fullmatch(r"[^/\s]+/[^/\s]+", nad):
                self.errors.append(f"{path}.nads[{index}]: {nad!r} is not of the form <namespace>/<name>")
        return Network(
            name=model.name,
            logical_switch=model.logical_switch or model.name,
            subnets=tuple(sorted(subnets, key=lambda subnet: subnet.version)),
            pod_network=model.pod_network,
            nads=tuple(model.nads),
            port_security=model.port_security,
        )

    def _subnet(self, path: str, model: SubnetModel) -> Subnet | None:
        cidr: IPNetwork | None = self._parsed(f"{path}.cidr", model.cidr, ipaddress.ip_network, "10.16.0.0/16")
        if cidr is None:
            return None
        if cidr.num_addresses < 4:
            self.errors.append(f"{path}.cidr: {cidr} is too small; it must have room for a gateway and a VM")
            return None
        gateway: IPAddress | None = None
        if model.gateway is not None:
            gateway = self._parsed(f"{path}.gateway", model.gateway, ipaddress.ip_address, str(cidr[1]))
            if gateway is not None and gateway not in cidr:
                self.errors.append(f"{path}.gateway: {gateway} lies outside {cidr}; give an address of the subnet")
        reserved = [
            span
            for index, text in enumerate(model.reserved)
            if (span := self._range(f"{path}.reserved[{index}]", text, cidr)) is not None
        ]
        return Subnet(cidr, gateway, tuple(reserved))

    def _range(self, path: str, text: str, cidr: IPNetwork) -> AddressRange | None:
        first_text, dots, last_text = text.partition("..")
        first: IPAddress | None = self._parsed(path, first_text.strip(), ipaddress.ip_address, f"{cidr[1]}..{cidr[2]}")
        if first is None:
            return None
        last = self._parsed(path, last_text.strip(), ipaddress.ip_address, f"{cidr[1]}..{cidr[2]}") if dots else first
        if last is None:
            return None
        if first not in cidr or last not in cidr:
            self.errors.append(f"{path}: {text} lies outside {cidr}; reserve addresses of the subnet only")
            return None
        if int(first) > int(last):
            self.errors.append(f"{path}: {text} ends before it begins; write the lower address first")
            return None
        return AddressRange(first, last)

    def _parsed(self, path: str, text: str, parse_text: Callable[[str], T], example: str) -> T | None:
        try:
            return parse_text(text)
        except ValueError as error:
            self.errors.append(f"{path}: {error}; write it like {example}")
            return None

    def _unique(self, model: FileModel) -> None:
        for what, values in (
            ("name", [(f"networks[{i}].name", network.name) for i, network in enumerate(model.networks)]),
            ("nad", [(f"networks[{i}].nads", nad) for i, network in enumerate(model.networks) for nad in network.nads]),
        ):
            seen: dict[str, str] = {}
            for path, value in values:
                if value in seen:
                    self.errors.append(f"{path}: {value} stands at {seen[value]} already; a {what} belongs to one network")
                seen.setdefault(value, path)
        pod = [f"networks[{index}]" for index, network in enumerate(model.networks) if network.pod_network]
        if len(pod) > 1:
            self.errors.append(f"{', '.join(pod)}: podNetwork is true more than once; there is one pod network")

    def _overlaps(self, networks: list[Network]) -> None:
        for index, one in enumerate(networks):
            for other_index, other in enumerate(networks[:index]):
                if one.logical_switch != other.logical_switch:
                    continue
                for a, b in _pairs(one, other):
                    if a.cidr.overlaps(b.cidr):
                        self.errors.append(
                            f"networks[{index}].subnets: {a.cidr} overlaps {b.cidr} of networks[{other_index}] "
                            f"on logical switch {one.logical_switch}"
                        )


def _pairs(one: Network, other: Network) -> Iterator[tuple[Subnet, Subnet]]:
    return ((a, b) for a in one.subnets for b in other.subnets if a.version == b.version)

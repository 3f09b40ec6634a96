"""The configuration file: YAML, checked completely, every error at once, each a sentence that names the field."""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.alias_generators import to_camel

from ovnagent.config.form import DhcpModel, FileModel, NamespacesModel, NetworkModel, OvnModel, RouteModel, SubnetModel
from ovnagent.core import dhcp_options, limits, values
from ovnagent.core.networks import AddressRange, Dhcp, IPAddress, IPNetwork, Namespaces, Network, Networks, Subnet
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


# ---- reading --------------------------------------------------------------------------------------------------------


def load(path: Path) -> Config:
    """Read and check a configuration file.

    Raises ConfigError with every error there is."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(["there is no such file; name the configuration with --config or OVNAGENT_CONFIG"]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"cannot be read: {getattr(error, 'strerror', None) or error}"]) from None
    return parse(text)


def parse(text: str) -> Config:
    """The configuration in a YAML text.

    Raises ConfigError with every error there is."""
    try:
        raw = yaml.load(text, Loader=_UniqueKeys)  # noqa: S506 - a SafeLoader
    except Exception as error:  # PyYAML's constructors raise whatever int(), date() and the like do; deep YAML recurses
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
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(None, None, "a list or mapping is no key", key_node.start_mark)
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
            try:
                values.parse_namespaced(nad)
            except ValueError:
                self.errors.append(f"{path}.nads[{index}]: {nad!r} is not of the form <namespace>/<name>")
        for key, title in (("name", model.name), ("logicalSwitch", model.logical_switch), ("router", model.router)):
            self._title(f"{path}.{key}", title)
        dhcp = self._dhcp(f"{path}.dhcp", model.dhcp, subnets) if model.dhcp is not None else None
        if dhcp is not None and dhcp.server_id is not None:
            subnets = [replace(each, dhcp_server=dhcp.server_id) if dhcp.server_id in each else each for each in subnets]
        return Network(
            name=model.name,
            logical_switch=model.logical_switch or model.name,
            subnets=tuple(sorted(subnets, key=lambda subnet: subnet.version)),
            pod_network=model.pod_network,
            nads=tuple(model.nads),
            port_security=model.port_security,
            mtu=model.mtu,
            dhcp=dhcp,
            dns_domain=model.dns_domain,
            router=self._router(path, model, subnets),
            namespaces=self._namespaces(f"{path}.namespaces", model.namespaces),
            port_security_off=self._namespaces(f"{path}.allowPortSecurityOff", model.allow_port_security_off),
            shared_addresses=model.shared_addresses,
            reserved_macs=tuple(
                mac
                for index, text in enumerate(model.reserved_macs)
                if (mac := self._parsed(f"{path}.reservedMacs[{index}]", text, values.parse_mac, "0a:58:00:00:00:01"))
            ),
        )

    def _namespaces(self, path: str, model: NamespacesModel | None) -> Namespaces:
        if model is None:
            return Namespaces()
        for index, name in enumerate(model.names):
            self._parsed(f"{path}.names[{index}]", name, values.parse_label, "tenant-a")
        return Namespaces(False, frozenset(model.names), tuple(sorted(model.match_labels.items())))

    def _dhcp(self, path: str, model: DhcpModel, subnets: list[Subnet]) -> Dhcp:
        server_id = self._parsed(f"{path}.serverId", model.server_id, ipaddress.IPv4Address, "10.16.0.1")
        if server_id is None and model.server_id is None and any(s.version == 4 and s.gateway is None for s in subnets):
            self.errors.append(f"{path}.serverId: is missing, and the IPv4 subnet has no gateway to take its place")
        return Dhcp(
            lease_seconds=model.lease_seconds,
            dns_servers=self._addresses(f"{path}.dnsServers", model.dns_servers, _ip),
            domain=self._parsed(f"{path}.domain", model.domain or None, values.parse_domain, "vm.example") or "",
            search=self._search(f"{path}.search", model.search),
            ntp_servers=self._addresses(f"{path}.ntpServers", model.ntp_servers, ipaddress.IPv4Address),
            routes=self._routes(f"{path}.routes", model.routes),
            server_id=server_id,
            server_mac=self._parsed(f"{path}.serverMac", model.server_mac, values.parse_mac, "0a:58:00:00:00:01") or "",
        )

    def _addresses(self, path: str, texts: list[str], parse_text: Callable[[str], IPAddress]) -> tuple[IPAddress, ...]:
        found = [self._parsed(f"{path}[{index}]", text, parse_text, "10.16.0.2") for index, text in enumerate(texts)]
        self._few(path, len(found), limits.DHCP_ADDRESSES, "addresses")
        return tuple(address for address in found if address is not None)

    def _search(self, path: str, names: list[str]) -> tuple[str, ...]:
        if names:
            self._parsed(path, ",".join(names), dhcp_options.domains, "[vm.example]")
        return tuple(names)

    def _routes(self, path: str, models: list[RouteModel]) -> tuple[tuple[IPNetwork, IPAddress], ...]:
        found = [self._route(f"{path}[{index}]", each) for index, each in enumerate(models)]
        self._few(path, len(found), limits.DHCP_ROUTES - 1, "routes besides the default one")
        return tuple(route for route in found if route is not None)

    def _few(self, path: str, count: int, limit: int, what: str) -> None:
        try:
            values.check_count(count, limit, what)
        except ValueError as error:
            self.errors.append(f"{path}: {error}")

    def _title(self, path: str, title: str | None) -> None:
        try:
            if title is not None and values.parse_title(title) != title:
                self.errors.append(f"{path}: {title!r} has blanks at its ends")
        except ValueError as error:
            self.errors.append(f"{path}: {error}")

    def _route(self, path: str, model: RouteModel) -> tuple[IPNetwork, IPAddress] | None:
        to = self._parsed(f"{path}.to", model.to, ipaddress.IPv4Network, "10.0.0.0/8")
        via = self._parsed(f"{path}.via", model.via, ipaddress.IPv4Address, "10.16.0.1")
        return (to, via) if to is not None and via is not None else None

    def _router(self, path: str, model: NetworkModel, subnets: list[Subnet]) -> str:
        if model.router and any(subnet.gateway is None for subnet in subnets):
            self.errors.append(
                f"{path}.router: {model.router} needs a gateway address in every subnet; set subnets[].gateway"
            )
        return model.router or ""

    def _subnet(self, path: str, model: SubnetModel) -> Subnet | None:
        cidr: IPNetwork | None = self._parsed(f"{path}.cidr", model.cidr, _cidr, "10.16.0.0/16")
        if cidr is None:
            return None
        if cidr.num_addresses < 4:
            self.errors.append(f"{path}.cidr: {cidr} is too small; it must have room for a gateway and a VM")
            return None
        gateway: IPAddress | None = self._parsed(f"{path}.gateway", model.gateway, _ip, str(cidr[1]))
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
        first: IPAddress | None = self._parsed(path, first_text.strip(), _ip, f"{cidr[1]}..{cidr[2]}")
        if first is None:
            return None
        last = self._parsed(path, last_text.strip(), _ip, f"{cidr[1]}..{cidr[2]}") if dots else first
        if last is None:
            return None
        if first not in cidr or last not in cidr:
            self.errors.append(f"{path}: {text} lies outside {cidr}; reserve addresses of the subnet only")
            return None
        if int(first) > int(last):
            self.errors.append(f"{path}: {text} ends before it begins; write the lower address first")
            return None
        return AddressRange(first, last)

    def _parsed(self, path: str, text: str | None, parse_text: Callable[[str], T], example: str) -> T | None:
        if text is None:
            return None
        try:
            return parse_text(text)
        except ValueError as error:
            self.errors.append(f"{path}: {error}; write it like {example}")
            return None

    def _unique(self, model: FileModel) -> None:
        for what, named in (
            ("name", [(f"networks[{i}].name", network.name) for i, network in enumerate(model.networks)]),
            ("nad", [(f"networks[{i}].nads", nad) for i, network in enumerate(model.networks) for nad in network.nads]),
        ):
            seen: dict[str, str] = {}
            for path, value in named:
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


def _ip(text: str) -> IPAddress:
    ipaddress.ip_address(text)  # says better what is wrong with it
    return values.parse_ip(text)


def _cidr(text: str) -> IPNetwork:
    cidr = ipaddress.ip_network(text)
    values.parse_ip(text.partition("/")[0])
    return cidr


def _pairs(one: Network, other: Network) -> Iterator[tuple[Subnet, Subnet]]:
    return ((a, b) for a in one.subnets for b in other.subnets if a.version == b.version)

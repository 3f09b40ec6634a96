"""The configuration as the admission policy in deploy/components/admission reads it: a ConfigMap of lines.

The policy finds a network by what a VM says, and judges the addresses that are asked for as Subnet.refuse does."""

from __future__ import annotations

from collections.abc import Iterator

import yaml

from ovnagent.core.networks import Network, Networks, Subnet

NAME = "ovnagent-networks"
"""Of the ConfigMap, which the policy's binding names, in the agent's namespace."""
NAMESPACE = "ovnagent"


def config_map(networks: Networks) -> str:
    """The ConfigMap as YAML. Fields have a tab between them: names of networks may hold blanks, but no tab.

    `users`: `<NAD as namespace/name, empty for the pod network> <network>`; `subnets`: `<what an annotation may call the
    network> <its name> <4 or 6> <CIDR> <gateway> <DHCP server> <first address> <last address>`."""
    users = [(nad, network.name) for network in networks.all for nad in network.nads]
    users += [("", networks.pod.name)] if networks.pod else []
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": NAME, "namespace": NAMESPACE},
            "data": {"users": _lines(users), "subnets": _lines(_subnets(networks))},
        },
        sort_keys=False,
        allow_unicode=True,
    )


def _subnets(networks: Networks) -> Iterator[tuple[str, ...]]:
    titles = dict.fromkeys(title for each in networks.all for title in (each.name, each.logical_switch))
    for title in titles:
        network = networks.named(title)
        if network is not None:
            yield from (_line(title, network, subnet) for subnet in network.subnets)


def _line(title: str, network: Network, subnet: Subnet) -> tuple[str, ...]:
    ends = (subnet.cidr.network_address, subnet.cidr.broadcast_address)
    return (
        title,
        network.name,
        str(subnet.version),
        str(subnet.cidr),
        *(str(ip or "") for ip in (subnet.gateway, subnet.dhcp_server)),
        *map(str, ends),
    )


def _lines(rows: list[tuple[str, str]] | Iterator[tuple[str, ...]]) -> str:
    return "\n".join("\t".join(row) for row in rows)

"""The copy's rows that serve ports without being ports: DHCP_Options, DNS, routers and their ports."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from ovnagent.core.dhcp import DhcpOptions
from ovnagent.core.ports import CLUSTER, PORT
from ovnagent.core.routers import RouterPort


class Services:
    """Bookkeeping by row; changed in the connection's thread only, the public mappings may be read from any."""

    def __init__(self, cluster: str) -> None:
        self.dhcp: dict[DhcpOptions, str] = {}
        """Content -> UUID, of the agent's own rows."""
        self.routers: dict[str, str] = {}
        """Name -> UUID, of the routers that the configuration names."""
        self.router_ports: dict[str, tuple[str, RouterPort | None]] = {}
        """Name -> (UUID, what it is without router and switch; None: it is not the agent's)."""
        self._cluster = cluster
        self._dhcp_rows: dict[str, DhcpOptions] = {}  # by UUID, as all below
        self._dns_rows: dict[str, tuple[str, str]] = {}  # (port, text)
        self._dns_of: defaultdict[str, set[str]] = defaultdict(set)  # port -> UUIDs

    # -- what a port has

    def dhcp_options(self, row_ids: Sequence[object]) -> DhcpOptions | None:
        """What a port's reference leads to; None where that is not the agent's row."""
        return self._dhcp_rows.get(str(row_ids[0])) if row_ids else None

    def dns(self, port: str) -> tuple[str, str]:
        """(UUID, text) of a port's row in DNS, or ("", "")."""
        row_id = min(self._dns_of.get(port, ()), default="")
        return row_id, self._dns_rows[row_id][1] if row_id else ""

    # -- rows that come and go

    def put_dhcp(self, row_id: str, cidr: str, options: Mapping[str, str]) -> None:
        self.remove_dhcp(row_id)
        content = DhcpOptions(cidr, tuple(sorted(options.items())))
        self._dhcp_rows[row_id] = content
        self.dhcp[content] = row_id

    def remove_dhcp(self, row_id: str) -> None:
        content = self._dhcp_rows.pop(row_id, None)
        if content is not None and self.dhcp.get(content) == row_id:
            del self.dhcp[content]
            self.dhcp.update((other, each) for each, other in self._dhcp_rows.items() if other == content)

    def put_dns(self, row_id: str, records: Mapping[str, str], external_ids: Mapping[str, str]) -> set[str]:
        """The ports that this concerns."""
        port = external_ids.get(PORT, "")
        concerned = self.remove_dns(row_id) | {port}
        text = ",".join(f"{name} {addresses}" for name, addresses in sorted(records.items()))
        self._dns_rows[row_id] = port, text
        self._dns_of[port].add(row_id)
        return concerned

    def remove_dns(self, row_id: str) -> set[str]:
        port, _ = self._dns_rows.pop(row_id, ("", ""))
        self._dns_of[port].discard(row_id)
        if not self._dns_of[port]:
            del self._dns_of[port]
        return {port}

    def put_router(self, row_id: str, name: str) -> None:
        self.remove_router(row_id)
        self.routers[name] = row_id

    def remove_router(self, row_id: str) -> None:
        self.routers = {name: each for name, each in self.routers.items() if each != row_id}

    def put_router_port(
        self,
        row_id: str,
        name: str,
        mac: str,
        networks: Sequence[str],
        advertisements: Mapping[str, str],
        external_ids: Mapping[str, str],
    ) -> None:
        own = external_ids.get(CLUSTER) == self._cluster
        port = RouterPort(name, "", "", mac, tuple(sorted(networks)), tuple(sorted(advertisements.items())))
        self.router_ports[name] = row_id, port if own else None

    # -- leftovers

    def unused_dhcp(self, used: set[str]) -> tuple[str, ...]:
        return tuple(sorted(self._dhcp_rows.keys() - used))

    def unused_dns(self, own: Mapping[str, object]) -> tuple[str, ...]:
        """Rows of ports that are not there, and second ones of a port."""
        return tuple(
            sorted(row_id for row_id, (port, _) in self._dns_rows.items() if port not in own or self.dns(port)[0] != row_id)
        )

"""The copy's rows that serve ports without being ports: DHCP_Options, DNS, routers and their ports."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from immutables import Map

from ovnagent.core.dhcp import DhcpOptions
from ovnagent.core.ports import CLUSTER, PORT
from ovnagent.core.routers import RouterPort
from ovnagent.ovn.inventory import Uses


class Services:
    """Bookkeeping by row. The maps are replaced, never changed."""

    def __init__(self, cluster: str) -> None:
        self.routers: Map[str, str] = Map()
        """Name -> UUID, of the routers that the configuration names."""
        self.router_ports: Map[str, tuple[str, RouterPort | None]] = Map()
        """Name -> (UUID, what it is without router and switch; None: it is not the agent's)."""
        self._cluster = cluster
        self._dhcp: Uses[DhcpOptions] = Uses()  # content -> UUID
        self._dhcp_rows: dict[str, DhcpOptions] = {}  # by UUID, as all below
        self._dhcp_users: defaultdict[str, set[str]] = defaultdict(set)  # ports that refer to a row
        self._dhcp_used: dict[str, frozenset[str]] = {}  # port -> rows that it refers to
        self._dns_rows: dict[str, tuple[str, str]] = {}  # (name of the port, text)
        self._dns_of: defaultdict[str, set[str]] = defaultdict(set)  # name of the port -> UUIDs
        self._unused_dhcp: set[str] = set()
        self._unused_dns: set[str] = set()

    @property
    def dhcp(self) -> Map[DhcpOptions, str]:
        """Content -> UUID, of the agent's own rows."""
        return self._dhcp.now

    def unused(self) -> Map[str, tuple[str, ...]]:
        """Table -> UUIDs of the agent's rows that no port of it uses: also rows of ports that are not there, and second
        ones of a port."""
        found = {"DHCP_Options": self._unused_dhcp, "DNS": self._unused_dns}
        return Map({table: tuple(sorted(row_ids)) for table, row_ids in found.items() if row_ids})

    # -- what a port has

    def dhcp_options(self, row_ids: Sequence[object]) -> DhcpOptions | None:
        """What a port's reference leads to; None where that is not the agent's row."""
        return self._dhcp_rows.get(str(row_ids[0])) if row_ids else None

    def dns(self, port: str) -> tuple[str, str]:
        """(UUID, text) of a port's row in DNS, or ("", "")."""
        row_id = min(self._dns_of.get(port, ()), default="")
        return row_id, self._dns_rows[row_id][1] if row_id else ""

    def use_dhcp(self, port_id: str, row_ids: Iterable[object]) -> None:
        """Note to which rows of DHCP_Options a port of the agent's refers."""
        now = frozenset(map(str, row_ids))
        before = self._dhcp_used.get(port_id, frozenset())
        if now == before:
            return
        if now:
            self._dhcp_used[port_id] = now
        else:
            del self._dhcp_used[port_id]
        for row_id in before - now:
            self._dhcp_users[row_id].discard(port_id)
            if not self._dhcp_users[row_id]:
                del self._dhcp_users[row_id]
        for row_id in now - before:
            self._dhcp_users[row_id].add(port_id)
        for row_id in now ^ before:
            self._judge_dhcp(row_id)

    def judge_dns(self, port: str, there: bool) -> None:
        """Which rows of DNS with this port's name are of use, now that the agent has such a port, or has none."""
        used = self.dns(port)[0] if there else ""
        rows = self._dns_of.get(port, set())
        self._unused_dns |= rows
        self._unused_dns.discard(used)

    def _judge_dhcp(self, row_id: str) -> None:
        if row_id in self._dhcp_rows and row_id not in self._dhcp_users:
            self._unused_dhcp.add(row_id)
        else:
            self._unused_dhcp.discard(row_id)

    # -- rows that come and go

    def put_dhcp(self, row_id: str, cidr: str, options: Mapping[str, str]) -> set[str]:
        """The ports (UUIDs) that this concerns."""
        self.remove_dhcp(row_id)
        content = DhcpOptions(cidr, tuple(sorted(options.items())))
        self._dhcp_rows[row_id] = content
        self._dhcp.add(content, row_id)
        self._judge_dhcp(row_id)
        return set(self._dhcp_users.get(row_id, ()))

    def remove_dhcp(self, row_id: str) -> set[str]:
        content = self._dhcp_rows.pop(row_id, None)
        if content is not None:
            self._dhcp.drop(content, row_id)
        self._judge_dhcp(row_id)
        return set(self._dhcp_users.get(row_id, ()))

    def put_dns(self, row_id: str, records: Mapping[str, str], external_ids: Mapping[str, str]) -> set[str]:
        """The ports (names) that this concerns."""
        port = external_ids.get(PORT, "")
        concerned = self.remove_dns(row_id) | {port}
        text = ",".join(f"{name} {addresses}" for name, addresses in sorted(records.items()))
        self._dns_rows[row_id] = port, text
        self._dns_of[port].add(row_id)
        return concerned

    def remove_dns(self, row_id: str) -> set[str]:
        if row_id not in self._dns_rows:
            return set()
        port, _ = self._dns_rows.pop(row_id)
        self._unused_dns.discard(row_id)
        self._dns_of[port].discard(row_id)
        if not self._dns_of[port]:
            del self._dns_of[port]
        return {port}

    def put_router(self, row_id: str, name: str) -> None:
        self.remove_router(row_id)
        self.routers = self.routers.set(name, row_id)

    def remove_router(self, row_id: str) -> None:
        self.routers = Map({name: each for name, each in self.routers.items() if each != row_id})

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
        self.router_ports = self.router_ports.set(name, (row_id, port if own else None))

    def remove_router_port(self, name: str) -> bool:
        """Whether it was the agent's."""
        _, port = self.router_ports.get(name, ("", None))
        self.router_ports = self.router_ports.delete(name) if name in self.router_ports else self.router_ports
        return port is not None

"""What all episodes share: the databases, the object server, the clock, the agent's driver and its configuration."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

from hack.lab.databases import server
from tests.integration.hostile_objects import wire
from tests.object_server import ObjectServer
from tests.random_machine import others
from tests.random_machine.cluster import NAMESPACE
from tests.random_machine.driver import Clock, Driver, held_clock
from tests.random_machine.fabric import AGENTS, Northbound, Southbound


class World:
    """Everything, once."""

    def __init__(self, directory: Path, clock: Clock, stack: ExitStack) -> None:
        nb = stack.enter_context(server(directory / "nb"))
        sb = stack.enter_context(server(directory / "sb", "OVN_Southbound"))
        nb.transact({"op": "insert", "table": "NB_Global", "row": {}})
        for name in others.SWITCHES[1:]:
            nb.transact({"op": "insert", "table": "Logical_Switch", "row": {"name": name}})
        self.api = ObjectServer(directory)
        stack.callback(self.api.close)
        self.clock = clock
        self.config = {
            "cluster": AGENTS,
            "ovn": {"northbound": [nb.remote], "southbound": [sb.remote]},
            "kubernetes": {"kubeconfig": str(self.api.kubeconfig)},
            "serve": {"port": 0},
        }
        self.path = directory / "config.yaml"
        self.nb = Northbound(nb, lambda *_: None)
        stack.callback(self.nb.close)
        self.sb = Southbound(sb)
        stack.callback(self.sb.close)
        self.driver = Driver(self.path, self.api, clock)
        stack.callback(lambda: self.driver.stop() if self.driver.agent is not None else None)
        for kind, name, says in (
            ("network-attachment-definitions", "blue", {}),
            ("network-attachment-definitions", "green", {"ovn.kubernetes.io/logical_switch": "green"}),
        ):
            meta = {"namespace": NAMESPACE, "name": name, "uid": f"nad-{name}", "annotations": says}
            self.api.put(*wire(kind, {"metadata": meta}))

    def configure(self, subnet: str, name: str, blue: bool) -> None:
        """Write the configuration: the pod network's IPv4 subnet and name; whether network blue is there."""
        networks: list[dict[str, Any]] = [
            {
                "name": name,
                "logicalSwitch": "ovn-default",
                "podNetwork": True,
                "subnets": [
                    {"cidr": subnet, "gateway": "10.16.0.1"},
                    {"cidr": "fd00:10:16::/64", "gateway": "fd00:10:16::1"},
                ],
                "dhcp": {"dnsServers": ["10.16.0.2"]},
                "dnsDomain": "vm.example",
            },
            {"name": "green", "logicalSwitch": "green", "subnets": [{"cidr": "192.168.8.0/28", "gateway": "192.168.8.1"}]},
        ]
        if blue:
            networks.append(
                {
                    "name": "blue",
                    "logicalSwitch": "blue",
                    "nads": ["default/blue"],
                    "subnets": [{"cidr": "192.168.7.0/28", "gateway": "192.168.7.1"}],
                }
            )
        self.path.write_text(yaml.safe_dump({**self.config, "networks": networks}))


@contextmanager
def world() -> Iterator[World]:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ovnagent-machine-")))
        clock = stack.enter_context(held_clock())
        yield World(directory, clock, stack)

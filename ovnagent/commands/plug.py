"""`ovnagent plug`: its arguments, and the start of its process. It runs on every node, so nothing is imported here that it
does without."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from ovnagent.process import logs

OVSDB = "unix:/var/run/openvswitch/db.sock"
CREDENTIALS = "/var/run/secrets/kubernetes.io/serviceaccount"


def add_plug(commands: Any) -> None:
    """Make the command known to argparse."""
    node = os.environ.get("NODE_NAME", "")
    parser: argparse.ArgumentParser = commands.add_parser(
        "plug",
        help="give this node's interfaces their ports' names, until SIGTERM",
        description="Runs on every node beside ovs-cni: follows the node's Open_vSwitch database and the launchers of the "
        "node, and gives each interface that ovs-cni attached for a VM the name of the port that the agent has granted it "
        "(external_ids:iface-id). Needs no configuration. The API server is reached as from any pod: by "
        "KUBERNETES_SERVICE_HOST, KUBERNETES_SERVICE_PORT and the service account's token.",
    )
    parser.add_argument("--node", default=node, metavar="NAME", help="the Kubernetes node's name; default: $NODE_NAME")
    parser.add_argument("--ovsdb", default=OVSDB, metavar="ENDPOINT", help=f"the node's Open_vSwitch; default: {OVSDB}")
    parser.add_argument(
        "--credentials",
        type=Path,
        default=Path(CREDENTIALS),
        metavar="DIR",
        help=f"the folder with the service account's token and ca.crt; default: {CREDENTIALS}",
    )
    parser.add_argument("--address", default="", metavar="IP", help="where /metrics, /healthz and /readyz are; default: all")
    parser.add_argument("--port", type=int, default=9310, metavar="PORT", help="their port; default: 9310")
    add_logs(parser)
    parser.set_defaults(plain=plug)


def add_logs(parser: argparse.ArgumentParser) -> None:
    """How to log, for commands that run until they are ended."""
    parser.add_argument(
        "--log-format", choices=("text", "json"), default="text", help="text: key=value (default); json: an object a line"
    )
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info", help="default: info")


def plug(options: argparse.Namespace) -> int:
    """Run the process; its exit status."""
    from ovnagent.plugger import access, process

    logs.setup(options.log_format, options.log_level)
    if not options.node:
        print("no node: set NODE_NAME, or say --node", file=sys.stderr)
        return 2
    try:
        return process.run(options.node, options.ovsdb, options.credentials, options.address, options.port)
    except (access.CannotReachError, OSError) as error:
        print(error, file=sys.stderr)
        return 3

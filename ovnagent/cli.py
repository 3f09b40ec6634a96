"""The commands."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ovnagent import __version__, logs
from ovnagent.config import Config, ConfigError, load

DESCRIPTION = """\
Gives every KubeVirt virtual machine logical switch ports of its own in OVN: named after the VM, with addresses that stay
the same for as long as the VM exists, and bound to the right chassis at every moment, also while the VM migrates."""

EPILOG = """\
exit status: 0 done, 1 an error in the configuration or while running, 2 wrong usage.
The configuration is described in docs/configuration.md."""


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        config = load(options.config)
    except ConfigError as error:
        for line in error.errors:
            print(f"{options.config}: {line}", file=sys.stderr)
        return 1
    if options.command == "check-config":
        print(summary(config))
        return 0
    from ovnagent import agent

    logs.setup(options.log_format, options.log_level)
    return agent.run(config, options.config)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "ovnagent", description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"ovnagent {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser(
        "run",
        help="run the agent until SIGTERM",
        description="Watch KubeVirt and keep OVN's Northbound database as it should be. Several agents may run for one "
        "cluster: the one that holds the lock in the Northbound database writes, the others stand by.",
    )
    run.add_argument("--config", type=Path, required=True, metavar="FILE", help="the configuration (YAML)")
    run.add_argument(
        "--log-format", choices=("text", "json"), default="text", help="text: key=value (default); json: an object a line"
    )
    run.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info", help="default: info")

    check = commands.add_parser(
        "check-config",
        help="check a configuration and say what it means",
        description="Check a configuration completely: every error is printed, one a line, with the path of its field.",
    )
    check.add_argument("config", type=Path, metavar="FILE", help="the configuration (YAML)")
    return parser


def summary(config: Config) -> str:
    """What a configuration means, on one screen."""
    lines = [
        f"cluster      {config.cluster}",
        f"northbound   {config.northbound}",
        f"southbound   {config.southbound}",
        f"kubernetes   {config.kubernetes.kubeconfig or 'service account of the pod, else ~/.kube/config'}",
        f"serves       {f'{config.address or chr(42)}:{config.port}' if config.port else 'nothing'}",
    ]
    for network in config.networks.all:
        users = ["the pod network"] * network.pod_network + list(network.nads)
        lines.append(f"network      {network.name}: logical switch {network.logical_switch}")
        lines += [
            f"             {subnet.cidr}, gateway {subnet.gateway or 'none'}, {subnet.size} addresses for VMs"
            for subnet in network.subnets
        ]
        lines.append(f"             used by {', '.join(users) or 'nobody but NADs and VMs that name it'}")
        services = ["DHCP"] * (network.dhcp is not None)
        services += [f"DNS for {network.dns_domain}"] * bool(network.dns_domain)
        services += [f"gateway on router {network.router}"] * bool(network.router)
        if services:
            lines.append(f"             with {', '.join(services)}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

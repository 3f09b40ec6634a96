"""The commands."""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from ovnagent import __version__
from ovnagent.commands import people, plug
from ovnagent.commands.observer import CannotLookError, Observer
from ovnagent.config.file import Config, ConfigError, load
from ovnagent.process import logs, memory

DESCRIPTION = """\
Gives every KubeVirt virtual machine logical switch ports of its own in OVN: named after the VM, with addresses that stay
the same for as long as the VM exists, and bound to the right chassis at every moment, also while the VM migrates."""

EPILOG = """\
exit status: 0 done; 1 an error while running, or in the configuration of `run` and `check-config` (check: something is
not as it should be; ports VM: it has none); 2 wrong usage, a configuration that cannot be used among it; 3 Kubernetes or
OVN could not be looked at.
The configuration is described in docs/configuration.md, the commands in docs/commands.md."""

DEFAULT_CONFIG = "/etc/ovnagent/config.yaml"
SETTLE_SECONDS = 3.0
"""So long `check` looks at what it has found: an agent that works has put right by then what it is about to."""
WATCH_SECONDS = 0.1
"""Between two looks of `ports --watch` at least: so many steps of a migration can be told from each other. With 10,000 VMs a
look takes 2-4 s, and then the pause is as long: the agent may share the processor."""
IDLE_SECONDS = 5.0
"""How often it looks where nothing changes: a connection may be lost."""


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    options = parser().parse_args(arguments)
    try:
        if plain := getattr(options, "plain", None):  # a command that needs no configuration
            return int(plain(options))
        return _configured(options)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone, as `head` does
        return 0


def _configured(options: argparse.Namespace) -> int:
    try:
        config = load(options.config)
    except ConfigError as error:
        for line in error.errors:
            print(f"{options.config}: {line}", file=sys.stderr)
        return 1 if options.function in (_run, _check_config) else 2
    command: Callable[[argparse.Namespace, Config], int] = options.function
    return command(options, config)


def parser() -> argparse.ArgumentParser:
    """Of all commands."""
    plugin = Path(sys.argv[0]).name == "kubectl-ovnagent"
    parser = argparse.ArgumentParser(
        "kubectl ovnagent" if plugin else "ovnagent",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"ovnagent {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser(
        "run",
        help="run the agent until SIGTERM",
        description="Watch KubeVirt and keep OVN's Northbound database as it should be. Several agents may run for one "
        "cluster: the one that holds the lock in the Northbound database writes, the others stand by.",
    )
    _add_config(run)
    plug.add_logs(run)
    run.set_defaults(function=_run)

    check_config = commands.add_parser(
        "check-config",
        help="check a configuration and say what it means",
        description="Check a configuration completely: every error is printed, one a line, with the path of its field.",
    )
    check_config.add_argument("config", type=Path, metavar="FILE", help="the configuration (YAML)")
    check_config.set_defaults(function=_check_config)

    plug.add_plug(commands)

    ports = commands.add_parser(
        "ports",
        help="show the ports of VMs",
        description="Show VMs' ports: addresses, the chassis that each should be bound on (source,target in a live "
        "migration) and those on which it is, and what is in trouble. Reads only.",
    )
    ports.add_argument("vm", nargs="?", default="", metavar="VM", help="the ports of this VM only")
    ports.add_argument("-n", "--namespace", default="", metavar="NS", help="the ports of this namespace only")
    ports.add_argument("-A", "--all-namespaces", action="store_true", help="of all namespaces (the default)")
    ports.add_argument("-w", "--watch", action="store_true", help="go on, and print each line that changes")
    _add_output(ports, ("table", "wide", "json", "yaml"))
    _add_config(ports)
    ports.set_defaults(function=_ports)

    check = commands.add_parser(
        "check",
        help="say what is not as it should be",
        description="Compare what is with what should be: rows that are missing, changed or left over, addresses used "
        "twice, chassis that are gone, ports that are not bound, VMs in trouble. One line each, with what to do about it. "
        "What an agent at work puts right within three seconds is no finding. Reads only. "
        "Exit status: 0 nothing found; 1 findings; 2 wrong usage; 3 Kubernetes or OVN could not be looked at.",
    )
    _add_output(check, ("table", "json", "yaml"))
    _add_config(check)
    check.set_defaults(function=_check)

    pools = commands.add_parser(
        "pools",
        help="show the address pools",
        description="Show how many addresses of each network are used and free; -o wide: and who holds which. Reads only.",
    )
    _add_output(pools, ("table", "wide", "json", "yaml"))
    _add_config(pools)
    pools.set_defaults(function=_pools)

    policy = commands.add_parser(
        "render-policy",
        help="print the networks for the admission policy",
        description="Print the ConfigMap with which deploy/components/admission refuses at `kubectl apply` addresses that "
        "their network does not have. Apply it again when the configuration's networks have changed.",
    )
    _add_config(policy)
    policy.set_defaults(function=_render_policy)
    people.add_why(commands, _add_config, _observe)
    people.add_migrations(commands)
    people.add_adopt(commands, _add_config)
    people.add_completion(commands, parser)
    return parser


def _add_config(parser: argparse.ArgumentParser) -> None:
    default = os.environ.get("OVNAGENT_CONFIG", DEFAULT_CONFIG)
    parser.add_argument(
        "--config",
        type=Path,
        default=Path(default),
        metavar="FILE",
        help=f"the configuration (YAML); default: $OVNAGENT_CONFIG, else {DEFAULT_CONFIG}",
    )


def _add_output(parser: argparse.ArgumentParser, formats: tuple[str, ...]) -> None:
    parser.add_argument("-o", "--output", choices=formats, default="table", help="default: table")
    parser.add_argument(
        "--timeout", type=float, default=30.0, metavar="SECONDS", help="how long Kubernetes and OVN may take; default: 30"
    )
    people.add_cluster(parser)


def _run(options: argparse.Namespace, config: Config) -> int:
    from ovnagent import agent

    logs.setup(options.log_format, options.log_level)
    return agent.run(config, options.config)


def _check_config(_: argparse.Namespace, config: Config) -> int:
    print(summary(config))
    return 0


def _ports(options: argparse.Namespace, config: Config) -> int:
    from ovnagent.commands import report

    columns = report.PORT_COLUMNS if options.output == "table" else report.PORT_COLUMNS_WIDE

    def look(observer: Observer) -> list[report.PortLine]:
        return report.port_lines(observer.look(), "" if options.all_namespaces else options.namespace, options.vm)

    def show(observer: Observer) -> int:
        lines = look(observer)
        print(report.render(lines, options.output, columns), flush=True)
        pause = WATCH_SECONDS
        while options.watch:
            observer.wait_for_news(IDLE_SECONDS)
            time.sleep(pause)
            started = time.monotonic()
            before, lines = lines, look(observer)
            pause = max(WATCH_SECONDS, time.monotonic() - started)
            if news := report.news(before, lines, columns):
                text = report.render(news, options.output, columns, before)
                print(text.partition("\n")[2] if options.output in ("table", "wide") else text, flush=True)
        if options.vm and not lines:
            print(f"VM {options.vm} has no port, and no trouble with one: is there such a VM?", file=sys.stderr)
            return 1
        return 0

    return _observe(options, config, show)


def _check(options: argparse.Namespace, config: Config) -> int:
    from ovnagent.commands import findings, report

    def show(observer: Observer) -> int:
        found = findings.lasting(observer.look_closely, SETTLE_SECONDS)
        if options.output == "table":
            for finding in found:
                print(f"{finding.kind}  {finding.what}: {finding.message}")
            print(f"{len(found)} found" if found else "everything is as it should be", file=sys.stderr)
        else:
            print(report.render(found, options.output))
        return 1 if found else 0

    return _observe(options, config, show)


def _pools(options: argparse.Namespace, config: Config) -> int:
    from ovnagent.commands import report

    def show(observer: Observer) -> int:
        lines = report.pool_lines(observer.look())
        print(report.render(lines, options.output, report.POOL_COLUMNS))
        if options.output == "wide":
            print(f"\n{report.holders(lines)}")
        return 0

    return _observe(options, config, show)


def _render_policy(_: argparse.Namespace, config: Config) -> int:
    from ovnagent.commands import policy

    print(policy.config_map(config.networks), end="")
    return 0


def _observe(options: argparse.Namespace, config: Config, show: Callable[[Observer], int]) -> int:
    logs.setup("text", "error")
    memory.be_frugal()
    try:
        with Observer(people.with_cluster(config, options), options.timeout) as observer:
            return show(observer)
    except CannotLookError as error:
        print(error, file=sys.stderr)
    except (KeyboardInterrupt, BrokenPipeError):
        raise
    except Exception:  # not 1, which says that something was found
        traceback.print_exc()
    return 3


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

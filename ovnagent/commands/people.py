"""The commands `why`, `migrations`, `adopt` and `completion`: their arguments, and what they do."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ovnagent.commands import agents, completion, migrations
from ovnagent.commands.observer import CannotLookError, Observer
from ovnagent.commands.text import coloured, plain
from ovnagent.commands.trace import destination
from ovnagent.config.file import Config
from ovnagent.core.vm import VmKey
from ovnagent.kube.client import KubeConfig
from ovnagent.process import logs

SETTLE_SECONDS = 3.0
"""So long `why` looks at a link that an agent at work may be about to put right."""
Observe = Callable[[argparse.Namespace, Config, Callable[[Observer], int]], int]


def add_why(commands: Any, add_config: Callable[[argparse.ArgumentParser], None], observe: Observe) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "why",
        help="say where the way from a VM's request to its packets is broken",
        description="Follow a VM from what it asks for to its packets: request, granted, row, guest, chassis, northd, "
        "plugged, up, dhcp, and with --to the path, by OVN's own word. Each link with what was seen; the first that is "
        "broken with what to do. In a migration: which line of the migration table applies, and what it waits for. Reads "
        "only. "
        "Exit status: 0 the chain is whole; 1 a link is broken or not there yet; 2 wrong usage; 3 something could not be "
        "looked at.",
    )
    parser.add_argument("vm", metavar="VM", type=_vm, help="VM, or NAMESPACE/VM")
    add_namespace(parser, "the VM's namespace; default: the kubeconfig context's, else default")
    parser.add_argument("-i", "--interface", default="", metavar="NAME", help="this interface only; default: all")
    parser.add_argument(
        "--to",
        type=_destination,
        metavar="ADDRESS[:PORT[/tcp|udp]]",
        help="ask OVN (ovn-trace, which must be on PATH) what becomes of the first packet to this address",
    )
    add_urls(parser)
    add_output(parser, ("text", "json"))
    add_cluster(parser)
    add_config(parser)

    def run(options: argparse.Namespace, config: Config) -> int:
        from ovnagent.commands import why

        config = with_cluster(config, options)
        key = key_of(options.vm, options, config.kubernetes)

        def show(observer: Observer) -> int:
            found = why.explain(observer, config, key, options.interface, options.to, SETTLE_SECONDS, options.url)
            print(why.render(found, options.output))
            return why.status(found)

        return observe(options, config, show)

    parser.set_defaults(function=run)


def add_migrations(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "migrations",
        help="show the last migrations as timelines",
        description="Show the migrations that the agents have seen, each agent by its own clock: the last 200 since it "
        "began to lead, and those under way. One that is named, or -o bars, is drawn step by step. Reads only. Outside of "
        "the agent's pod the agents are asked through the API server (the right to get pods/proxy in their namespace).",
    )
    parser.add_argument("vm", nargs="?", default="", metavar="VM", help="of this VM only")
    parser.add_argument("migration", nargs="?", default="", metavar="MIGRATION", help="this migration only: its name or UID")
    add_namespace(parser, "of this namespace only; default: of all")
    parser.add_argument("-A", "--all-namespaces", action="store_true", help="of all namespaces (the default)")
    add_urls(parser)
    formats = ("table", "bars", "json", "svg")
    parser.add_argument("-o", "--output", choices=formats, default="table", help="default: table, bars for one migration")
    add_cluster(parser)
    parser.set_defaults(plain=_migrations)


def _migrations(options: argparse.Namespace) -> int:
    access = KubeConfig(options.kubeconfig, options.context)
    try:
        answers, troubles = agents.ask("/migrations", options.url, access, options.agent_namespace, options.agent_port)
    except CannotLookError as error:
        print(error, file=sys.stderr)
        return 3
    namespace = "" if options.all_namespaces else options.namespace
    found = migrations.select(answers, namespace, options.vm, options.migration)
    style = "bars" if options.migration and options.output == "table" else options.output
    match style:
        case "json":
            print(json.dumps(found, indent=2))
        case "svg":
            print(migrations.render_svg(found))
        case "bars":
            print("\n\n".join(migrations.render_bars(each, coloured()) for each in found))
        case _:
            print(migrations.render_table(found))
    for trouble in troubles:
        print(trouble, file=sys.stderr)
    if not found:
        seen = ", ".join(f"{each.agent} since {each.body.get('leads_since') or 'never'}" for each in answers)
        print(f"no such migration was seen; agents that lead or led: {seen}", file=sys.stderr)
    return 3 if troubles else 1 if options.migration and not found else 0


def add_adopt(commands: Any, add_config: Callable[[argparse.ArgumentParser], None]) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "adopt",
        help="hand addresses to a VM: another VM's, or those of somebody else's port",
        description="Hand the addresses of a stopped VM to another one (--from), or take over a logical switch port that is "
        "not the agent's with its addresses (--port). Says what it would do; with --yes it does it: for some seconds it "
        "holds the agents' lock, writes the VMs' records and all rows in one transaction, and looks whether they stay. "
        "Exit status: 0 done, or it could be done; 1 refused, or undone; 2 wrong usage; 3 something could not be looked at.",
    )
    parser.add_argument("vm", metavar="VM", type=_vm, help="who gets them: VM, or NAMESPACE/VM")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--from", dest="source", type=_vm, metavar="VM", help="the VM that gives them: VM, or NAMESPACE/VM")
    source.add_argument("--port", metavar="NAME", help="the logical switch port that gives them")
    parser.add_argument("-i", "--interface", default="", metavar="NAME", help="with --port: the VM's interface")
    parser.add_argument("--yes", action="store_true", help="do it")
    add_namespace(parser, "the VMs' namespace; default: the kubeconfig context's, else default")
    parser.add_argument(
        "--timeout", type=float, default=30.0, metavar="SECONDS", help="how long Kubernetes and OVN may take; default: 30"
    )
    add_cluster(parser)
    add_config(parser)
    parser.set_defaults(function=_adopt)


def _adopt(options: argparse.Namespace, config: Config) -> int:
    from ovnagent.commands.adopt import FailedHandoverError, Operator
    from ovnagent.commands.handover import Handover, RefusedHandoverError, from_port, from_vm

    logs.setup("text", "error")
    config = with_cluster(config, options)
    target = key_of(options.vm, options, config.kubernetes)
    try:
        with Operator(config, options.timeout) as operator:

            def decide() -> Handover:
                if options.port:
                    return from_port(operator.look(), operator.foreign_row(options.port), target, options.interface)
                return from_vm(operator.look(), key_of(options.source, options, config.kubernetes), target)

            for sentence in decide().summary:
                print(plain(sentence))
            if not options.yes:
                print("nothing is changed; with --yes it is done", file=sys.stderr)
                return 0
            operator.carry_out(decide, lambda text: print(text, file=sys.stderr, flush=True))
            print("done")
            return 0
    except (RefusedHandoverError, FailedHandoverError) as error:
        print(plain(str(error)), file=sys.stderr)
        return 1
    except CannotLookError as error:
        print(error, file=sys.stderr)
        return 3


def add_completion(commands: Any, parser: argparse.ArgumentParser) -> None:
    own: argparse.ArgumentParser = commands.add_parser(
        "completion",
        help="print the script that completes commands in a shell",
        description="Print the script that completes commands and flags. bash: source <(ovnagent completion bash). zsh: the "
        "same. fish: ovnagent completion fish | source.",
    )
    own.add_argument("shell", choices=completion.SHELLS)

    def run(options: argparse.Namespace) -> int:
        print(completion.script(options.shell, completion.commands(parser)))
        return 0

    own.set_defaults(plain=run)


# ---- arguments that several have ------------------------------------------------------------------------------------


def add_namespace(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("-n", "--namespace", default="", metavar="NS", help=text)


def add_output(parser: argparse.ArgumentParser, formats: tuple[str, ...]) -> None:
    parser.add_argument("-o", "--output", choices=formats, default=formats[0], help=f"default: {formats[0]}")
    parser.add_argument(
        "--timeout", type=float, default=30.0, metavar="SECONDS", help="how long Kubernetes and OVN may take; default: 30"
    )


def add_cluster(parser: argparse.ArgumentParser) -> None:
    """kubectl's words for the cluster."""
    parser.add_argument("--kubeconfig", type=Path, metavar="FILE", help="default: the configuration's, else $KUBECONFIG")
    parser.add_argument("--context", metavar="NAME", help="the kubeconfig's context; default: its current one")


def add_urls(parser: argparse.ArgumentParser) -> None:
    """How the agents are found."""
    parser.add_argument(
        "--url", action="append", default=[], help="an agent's address, as http://10.0.0.1:9310; may be given several times"
    )
    parser.add_argument(
        "--agent-namespace", default=os.environ.get("POD_NAMESPACE", agents.NAMESPACE), metavar="NS", help=argparse.SUPPRESS
    )
    parser.add_argument("--agent-port", type=int, default=agents.PORT, metavar="PORT", help=argparse.SUPPRESS)


def with_cluster(config: Config, options: argparse.Namespace) -> Config:
    """The configuration, with the cluster that the arguments name."""
    if getattr(options, "kubeconfig", None) is None and getattr(options, "context", None) is None:
        return config
    kubeconfig = options.kubeconfig or config.kubernetes.kubeconfig
    return replace(config, kubernetes=KubeConfig(kubeconfig, options.context or config.kubernetes.context))


def key_of(vm: tuple[str, str], options: argparse.Namespace, access: KubeConfig) -> VmKey:
    """A VM by `NAMESPACE/VM`, else by -n, else in the context's namespace."""
    namespace, name = vm
    return VmKey(namespace or options.namespace or context_namespace(access), name)


def context_namespace(access: KubeConfig) -> str:
    """Where kubectl would look."""
    from kubernetes import config as kubernetes_config

    try:
        contexts, active = kubernetes_config.list_kube_config_contexts(str(access.kubeconfig) if access.kubeconfig else None)
        named = next((each for each in contexts if each["name"] == access.context), active)
        return str(named["context"].get("namespace") or "default")
    except Exception:  # in a pod there is none
        return "default"


def _vm(text: str) -> tuple[str, str]:
    namespace, _, name = text.rpartition("/")
    if not name or "/" in namespace:
        raise argparse.ArgumentTypeError(f"{text!r} is neither VM nor NAMESPACE/VM")
    return namespace, name


def _destination(text: str) -> object:
    try:
        return destination(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None

"""Whether all that the agent needs is left in its image: run while the image is built, with the image's own Python.

Every name that a line of ovnagent imports (those within functions, too) is imported; every command prints its help; and the
API server's client is made of each kind of kubeconfig, for that is where the official client's own imports happen late."""

from __future__ import annotations

import argparse
import ast
import importlib
import pkgutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import ovnagent
from ovnagent.commands import cli
from ovnagent.kube.client import Client, KubeConfig
from ovnagent.ovn import json_parser

CERTIFICATE = Path("/etc/ssl/certs/ca-certificates.crt")
CREDENTIALS = {
    "a token": "token: abc",
    "a password": "{username: a, password: b}",
    "a command": "exec: {apiVersion: client.authentication.k8s.io/v1, interactiveMode: Never, command: sh, args: [-c, 'echo "
    '{\\"apiVersion\\": \\"client.authentication.k8s.io/v1\\", \\"kind\\": \\"ExecCredential\\", '
    '\\"status\\": {\\"token\\": \\"abc\\"}}\']}',
}
KUBECONFIG = """
current-context: one
contexts: [{{name: one, context: {{cluster: one, user: one}}}}]
clusters: [{{name: one, cluster: {{server: "https://127.0.0.1:1", certificate-authority: {ca}{proxy}}}}}]
users:
- name: one
  user:
    {user}
"""


def imported(module: str) -> Iterator[tuple[str, str]]:
    """(module, name in it or nothing) of each import statement of a module."""
    source = importlib.import_module(module).__file__
    assert source is not None
    for node in ast.walk(ast.parse(Path(source).read_text())):
        if isinstance(node, ast.Import):
            yield from ((each.name, "") for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, each.name) for each in node.names)


def modules() -> list[str]:
    """ovnagent's own."""
    found = pkgutil.walk_packages(ovnagent.__path__, "ovnagent.")
    return [each.name for each in found if not each.name.endswith("__main__")]


def commands() -> list[str]:
    """By the parser."""
    (sub,) = (each for each in cli.parser()._actions if isinstance(each, argparse._SubParsersAction))
    return list(sub.choices)


def main() -> None:
    """Raises what is missing."""
    checked = 0
    for own in modules():
        for module, name in imported(own):
            there = importlib.import_module(module)
            if name and not hasattr(there, name):
                importlib.import_module(f"{module}.{name}")
            checked += 1
    for command in commands():
        subprocess.run(["ovnagent", command, "--help"], check=True, stdout=subprocess.DEVNULL)
    with tempfile.TemporaryDirectory() as folder:
        for user in CREDENTIALS.values():
            for proxy in ("", ", proxy-url: 'http://127.0.0.1:1'"):
                file = Path(folder) / "kubeconfig"
                file.write_text(KUBECONFIG.format(ca=CERTIFICATE, proxy=proxy, user=user))
                access = Client(KubeConfig(file))._access
                assert access.token(), user
    # 10,000 ports: 0.9 s instead of 2.5 s
    assert json_parser.install() in ("C", "frame"), "no fast JSON parser"
    print(f"there: {checked} imports, {len(commands())} commands, {len(CREDENTIALS)} kinds of credentials", file=sys.stderr)


if __name__ == "__main__":
    main()

"""Where the program begins. `plug` runs on every node and is kept small: it loads none of the other commands."""

from __future__ import annotations

import argparse
import sys


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] == ["plug"]:
        from ovnagent.commands import plug

        parser = argparse.ArgumentParser("ovnagent")
        plug.add_plug(parser.add_subparsers())
        return plug.plug(parser.parse_args(words))
    from ovnagent.commands import cli

    return cli.main(words)


def complete() -> int:
    """`kubectl_complete-ovnagent`, which kubectl asks when somebody completes `kubectl ovnagent ...`: one candidate a line,
    then cobra's directive 4 (no file names)."""
    from ovnagent.commands import cli, completion

    for word in completion.candidates(completion.commands(cli.parser()), sys.argv[1:]):
        print(word)
    print(":4")
    return 0

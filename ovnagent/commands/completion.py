"""Shell completion, written from the parser: scripts for bash, zsh and fish, and what kubectl asks of a plugin."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SHELLS = ("bash", "zsh", "fish")


@dataclass(frozen=True, slots=True)
class Flag:
    names: tuple[str, ...]
    choices: tuple[str, ...]
    file: bool
    takes_value: bool
    help: str


@dataclass(frozen=True, slots=True)
class Command:
    help: str
    flags: tuple[Flag, ...]
    choices: tuple[str, ...]
    """What its first argument may be, where that is one of a few words."""


def commands(parser: argparse.ArgumentParser) -> Mapping[str, Command]:
    """The parser's commands by name, with their flags; what has no help text is not shown."""
    (sub,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    helps = {action.dest: action.help or "" for action in sub._choices_actions}
    return {name: _command(each, helps[name]) for name, each in sub.choices.items() if name in helps}


def _command(parser: argparse.ArgumentParser, text: str) -> Command:
    shown = [action for action in parser._actions if action.help != argparse.SUPPRESS]
    flags = tuple(
        Flag(
            tuple(action.option_strings),
            tuple(map(str, action.choices or ())),
            action.type is Path,
            action.nargs != 0,
            action.help or "",
        )
        for action in shown
        if action.option_strings
    )
    positional = next((action for action in shown if not action.option_strings), None)
    return Command(text, flags, tuple(map(str, positional.choices)) if positional and positional.choices else ())


def candidates(known: Mapping[str, Command], words: Sequence[str]) -> list[str]:
    """What may stand in the place of the last word."""
    *before, last = words or [""]
    command = known.get(before[0]) if before else None
    if command is None:
        found: list[str] = [] if before else [*known, "--help", "--version"]
    else:
        flag = next((each for each in command.flags if before[-1] in each.names and each.takes_value), None)
        if flag is not None:
            found = list(flag.choices)
        elif last.startswith("-"):
            found = [name for each in command.flags for name in each.names]
        else:
            found = list(command.choices) if len(before) == 1 else []
    return [word for word in found if word.startswith(last)]


def script(shell: str, known: Mapping[str, Command]) -> str:
    """The script that a shell sources."""
    return _fish(known) if shell == "fish" else _bash(known, zsh=shell == "zsh")


def _bash(known: Mapping[str, Command], zsh: bool) -> str:
    values, files, flags, firsts = [], [], [], []
    for name, command in known.items():
        flags.append(f"    {name}) flags='{' '.join(each for flag in command.flags for each in flag.names)}' ;;")
        if command.choices:
            firsts.append(f"    {name}) words='{' '.join(command.choices)}' ;;")
        for flag in command.flags:
            if flag.choices:
                values.append(
                    f"    {'|'.join(f'{name}:{each}' for each in flag.names)}) words='{' '.join(flag.choices)}' ;;"
                )
            elif flag.file:
                files += [f"{name}:{each}" for each in flag.names]
            elif flag.takes_value:
                values.append(f"    {'|'.join(f'{name}:{each}' for each in flag.names)}) return ;;")
    lines = [
        "autoload -U +X bashcompinit && bashcompinit" if zsh else "",
        "_ovnagent() {",
        '  local last="${COMP_WORDS[COMP_CWORD]}" previous="${COMP_WORDS[COMP_CWORD-1]}" command="${COMP_WORDS[1]}"',
        "  local words='' flags=''",
        "  COMPREPLY=()",
        '  if [ "$COMP_CWORD" -eq 1 ]; then',
        f"    COMPREPLY=($(compgen -W '{' '.join((*known, '--help', '--version'))}' -- \"$last\"))",
        "    return",
        "  fi",
        '  case "$command:$previous" in',
        *values,
        f'    {"|".join(files)}) COMPREPLY=($(compgen -f -- "$last")); return ;;',
        "  esac",
        '  case "$command" in',
        *flags,
        "  esac",
        '  if [ -z "$words" ] && [ "$COMP_CWORD" -eq 2 ]; then',
        '    case "$command" in',
        *(f"  {each}" for each in firsts),
        "    esac",
        "  fi",
        '  if [ -z "$words" ] && [ "${last#-}" != "$last" ]; then words="$flags"; fi',
        '  COMPREPLY=($(compgen -W "$words" -- "$last"))',
        "}",
        "complete -F _ovnagent ovnagent kubectl-ovnagent",
    ]
    return "\n".join(line for line in lines if line)


def _fish(known: Mapping[str, Command]) -> str:
    lines = ["complete -c ovnagent -f"]
    for name, command in known.items():
        lines.append(f"complete -c ovnagent -n __fish_use_subcommand -a {name} -d {_quoted(command.help)}")
        where = f"complete -c ovnagent -n '__fish_seen_subcommand_from {name}'"
        if command.choices:
            lines.append(f"{where} -a {_quoted(' '.join(command.choices))}")
        for flag in command.flags:
            names = " ".join(f"-l {each[2:]}" if each.startswith("--") else f"-s {each[1:]}" for each in flag.names)
            value = f" -x -a {_quoted(' '.join(flag.choices))}" if flag.choices else " -r -F" if flag.file else ""
            value = value or (" -x" if flag.takes_value else "")
            lines.append(f"{where} {names}{value} -d {_quoted(flag.help)}")
    return "\n".join(lines)


def _quoted(text: str) -> str:
    """For fish: backslash and quote are escaped within single quotes."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", " ") + "'"

"""`ovnagent why`: the chain of one VM, until it is whole, or broken for good."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

import orjson

from ovnagent.commands.agents import ask
from ovnagent.commands.chain import Chain, Link, State, chains
from ovnagent.commands.observer import CannotLookError, Observer, View
from ovnagent.commands.path import path
from ovnagent.commands.text import BOLD, GREEN, RED, YELLOW, coloured, paint, plain, slow
from ovnagent.commands.trace import Destination
from ovnagent.config.file import Config
from ovnagent.core.placement import Situation
from ovnagent.core.ports import Port
from ovnagent.core.vm import VmKey
from ovnagent.kube.client import ApiError, Client

PAUSE_SECONDS = 0.25
FLEETING = ("row", "chassis", "northd", "plugged", "up")
"""Links that an agent at work, or a start, puts right in a moment: looked at again before they are called broken."""
EVENT_LINKS = ("guest", "plugged")
EVENTS = 3
COLOURS = {State.OK: GREEN, State.BROKEN: RED, State.WAITING: YELLOW, State.UNSEEN: YELLOW}
MOVING = (Situation.MIGRATING, Situation.SWITCHED)


def explain(
    observer: Observer,
    config: Config,
    key: VmKey,
    interface: str,
    to: Destination | None,
    seconds: float,
    agents: Sequence[str],
) -> list[Chain]:
    """The chains of a VM's interfaces. A link that may be about to be put right is looked at for so many seconds; `agents`:
    URLs of agents to ask since when a migration is where it is."""
    view = observer.look_closely()
    found = chains(view, key, interface)
    end = time.monotonic() + seconds
    with slow(f"looking for {seconds:g} s whether what is broken is put right"):
        while any(each.broken is not None and each.broken.name in FLEETING for each in found) and time.monotonic() < end:
            time.sleep(PAUSE_SECONDS)
            view = observer.look()
            found = chains(view, key, interface)
    return [_completed(view, config, key, each, to, agents) for each in found]


def _completed(view: View, config: Config, key: VmKey, chain: Chain, to: Destination | None, agents: Sequence[str]) -> Chain:
    links = [
        replace(link, evidence=f"{link.evidence}; {more}") if (more := _more(view, config, key, link, agents)) else link
        for link in chain.links
    ]
    chain = replace(chain, links=tuple(links))
    if to is not None and all(link.state is not State.WAITING for link in links) and chain.broken is None:
        port = _port(view, key, chain.port)
        chain = replace(chain, links=(*links, path(view, config, port, to)))
    return chain


def _port(view: View, key: VmKey, name: str) -> Port:
    return next(port for port in view.results[key].wanted if port.name == name)


def _more(view: View, config: Config, key: VmKey, link: Link, agents: Sequence[str]) -> str:
    case = view.cases.get(key)
    if case is None:
        return ""
    if link.state is State.BROKEN and link.name in EVENT_LINKS and case.facts.vmi is not None:
        pods = [pod.name for pod in case.facts.launchers]
        return _events(config, key, [key.name, *pods])
    if link.name == "chassis" and case.where.situation in MOVING:
        return _since(config, case.where.migration, agents)
    return ""


def _events(config: Config, key: VmKey, names: Sequence[str]) -> str:
    """The newest warnings about a VM and its launchers, of the CNI, of `ovnagent plug`, of KubeVirt."""
    try:
        client = Client(config.kubernetes)
        path = f"/api/v1/namespaces/{key.namespace}/events?fieldSelector=type%3DWarning&limit=1000"
        found = orjson.loads(client.request("GET", path))["items"]
        about = [each for each in found if each.get("involvedObject", {}).get("name") in names]
        about.sort(key=lambda each: str(each.get("lastTimestamp") or each.get("eventTime") or ""), reverse=True)
        texts = [f"Event {each.get('reason')}: {str(each.get('message', ''))[:300]}" for each in about[:EVENTS]]
        return "; ".join(texts) or "no Warning of the last hour speaks of it"
    except ApiError as error:
        return f"its Events could not be read (HTTP {error.status}: may you list Events in namespace {key.namespace}?)"
    except Exception as error:
        return f"its Events could not be read ({str(error)[:200]})"


def _since(config: Config, migration: str, agents: Sequence[str]) -> str:
    """Since when the migration's last step is done, by the agents' own clocks."""
    try:
        answers, _ = ask("/migrations", agents, config.kubernetes, port=config.port)
        shown = [each for answer in answers for each in answer.body["migrations"] if each["uid"] == migration]
        last = max(shown, key=lambda each: str(each["began"]), default=None)
        if last is None or not last["steps"]:
            return "no agent that leads now has seen a step of it"
        step = last["steps"][-1]
        began = datetime.fromisoformat(last["began"])
        waited = (datetime.now(UTC) - began).total_seconds() - step["seconds"]
        late = "".join(f"; late: {sentence}" for sentence in last["late"])
        return f"the last step was `{step['step']}`, {max(0.0, waited):.1f} s ago{late}"
    except CannotLookError as error:
        return f"since when, an agent would know ({error})"
    except Exception as error:
        return f"since when, an agent would know ({type(error).__name__}: {error})"


# ---- text -----------------------------------------------------------------------------------------------------------


def render(found: Sequence[Chain], style: str) -> str:
    """All chains, as text or JSON."""
    if style == "json":
        return json.dumps([_plain(chain) for chain in found], indent=2)
    return "\n\n".join(_text(chain, coloured()) for chain in found)


def _plain(chain: Chain) -> dict[str, Any]:
    broken = chain.broken
    links = [{**asdict(link), "state": link.state.value} for link in chain.links]
    return {**asdict(chain), "links": links, "broken": broken.name if broken is not None else ""}


def _text(chain: Chain, colour: bool) -> str:
    head = f"VM {chain.vm}"
    head += f", interface {chain.interface}" if chain.interface else ""
    head += f", port {chain.port}" if chain.port else ""
    lines = [paint(plain(head), BOLD, colour)]
    for link in chain.links:
        state = paint(link.state.value.ljust(8), COLOURS[link.state], colour)
        lines.append(f"  {state}  {link.name.ljust(8)} {plain(link.evidence)}")
        if link.remedy:
            lines.append(f"  {' ' * 8}  {' ' * 8} {'-> ' if link.state is State.BROKEN else ''}{plain(link.remedy)}")
    return "\n".join(lines)


def status(found: Sequence[Chain]) -> int:
    """0: every chain is whole; 1: a link is broken, or not there yet; 3: OVN was to be asked and could not be."""
    states = {link.state for chain in found for link in chain.links}
    if states & {State.BROKEN, State.WAITING}:
        return 1
    return 3 if State.FAILED in states else 0

"""Faults planted by hand, a line each: rules that must not get lost, whatever the operators happen to change."""

from __future__ import annotations

import ast
from functools import partial
from pathlib import Path

from hack.mutants.operators import Mutant

FAULTS = (
    # a launcher that still lives does not count
    ("identity.py", "living_launchers", "if pod.alive and uid in", "if not pod.alive and uid in"),
    # facts that may lack something give addresses back
    ("plan.py", "_released", "if draft.failure or draft.case.unsure:", "if draft.failure:"),
    # a VM that fails loses its rows
    ("plan.py", "_guarded", "retained=case.present, failure", "retained=(), failure"),
    # another VM's row of the same name is taken for its own
    ("plan.py", "_user", "row.port.vm != draft.key", "row.port.vm == draft.key"),
    # a foreign address is handed out from the free ones
    ("grants.py", "_address", "(ip for ip in found if str(ip) not in foreign.ips)", "(ip for ip in found)"),
    # a record is believed whatever it says
    ("settle.py", "_hold_by_record", "if by_row or not any(", "if by_row or [] != (") ,
    # rows say nothing after a restart
    ("settle.py", "settle", "_each(result, ordered, foreign, _hold_by_row)", "pass"),
    # who shared an address does not go on
    ("settle.py", "_go_on_sharing", "return book.share(claim.holder, known | more)", "return book"),
    # anybody may share anybody's address
    ("grants.py", "pair_refusal", 'if strangers and network.shared_addresses == "namespace":', "if False:"),
    # what was shared stays taken for ever
    ("books.py", "Book.release", "return self.share(holder, frozenset())._without", "return self._without"),
    # a copied record is a claim
    ("claims.py", "_claim", "(own if record.uid in owner.uids else wishes)", "own"),
    # any namespace may attach
    ("attachments.py", "_network", "network is not None and not network.namespaces.admit(", "not bool("),
    # the gateway is an address like any other
    ("networks.py", "Subnet.refuse", "if ip == self.gateway:", "if ip is self:"),
    # a few ports of many are as good as all
    ("deletion.py", "too_many", "ports > FEW and ports * 2 > owned", "ports > FEW or ports * 2 > owned"),
    # a finished migration's launcher, long gone, keeps a VM
    ("vm.py", "Facts.empty", "any(pod.alive for pod in self.launchers)", "any(True for pod in self.launchers)"),
    # an empty list of pods says that no guest runs
    ("owner.py", "guest_unaccounted", "return not any(", "return False and any("),
    # a migration whose object is missing is none
    ("placement.py", "_told_of", "state.uid == migration_uid != \"\" and", "state is None and"),
    # the last word is written before the source has let go
    ("placement.py", "_placed", "elapsed < GRACE_SECONDS", "elapsed < 0"),
)  # fmt: skip
"""(file, function, text that stands in it once, text in its place)."""


def planted(core: Path) -> list[Mutant]:
    """Raises LookupError where a fault's line is there no more: plant another in its place."""
    found = []
    for file, function, before, after in FAULTS:
        source = (core / file).read_text()
        if source.count(before) != 1:
            raise LookupError(f"{file} {function}: `{before}` stands there {source.count(before)} times")
        line = source[: source.index(before)].count("\n") + 1
        found.append(
            Mutant(file, function, line, f"planted: {before} -> {after}", partial(ast.parse, source.replace(before, after)))
        )
    return found

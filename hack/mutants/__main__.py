"""Mutation testing of ovnagent/core/: is each rule pinned by a fast test?

    python -m hack.mutants                       all mutants
    python -m hack.mutants --sample 60 --seed 1  some of them, always the same
    python -m hack.mutants --only settle.py      those of one file, or of `settle.py _grant`; more than one may be given

One process imports everything and collects the tests; a first run finds out which test calls which function. Then each
mutant has a forked process, in which one function's code is replaced, and runs the tests that call it until one fails. (A
file's own statements are looked at in a process that imports the changed file.) Known survivors stand in survivors.txt, each
with the reason; any other is an error, and so is a line there that does not survive, and a score below 95 %. The faults of
faults.py are tried in every run.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import contextlib
import gc
import hashlib
import importlib
import importlib.abc
import importlib.util
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings

from hack.mutants.faults import planted
from hack.mutants.operators import Mutant, mutants
from hack.mutants.tests_of import TESTS, TESTS_OF

ROOT = Path(__file__).resolve().parents[2]
CORE = ROOT / "ovnagent" / "core"
SURVIVORS = Path(__file__).with_name("survivors.txt")
SCORE = 0.95
SURVIVED, BROKEN = "survives", "not tried"
QUIET = ("-q", "-s", "--tb=native", "--assert=plain", "-p", "no:cacheprovider")
EXAMPLES = 5
"""Of a property, at most."""


@dataclass
class Outcome:
    """What became of a mutant."""

    mutant: Mutant
    killed_by: str
    """The test; `survives` if none, `time` if it took too long, `not tried...` if something else went wrong."""


@dataclass
class Known:
    """What the first run found."""

    tests: dict[str, list[str]] = field(default_factory=dict)
    """`<file> <function>` -> tests that call it, the quickest first."""
    seconds: dict[str, float] = field(default_factory=dict)


class Session:
    """Plugin: in place of pytest's own loop over the tests."""

    def __init__(self, chosen: Sequence[Mutant], workers: int) -> None:
        self.chosen, self.workers = chosen, workers
        self.outcomes: list[Outcome] = []
        self.failed: list[str] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self.items = {item.nodeid: item for item in session.items}
        for item in session.items:
            _few_examples(item)
        self.functions = functions()
        known = self._first_run()
        if not self.failed:
            gc.freeze()
            self._all(known)
        return True

    def run(self, names: Sequence[str], usual: Mapping[str, float] | None = None) -> str:
        """The first of these tests that fails, or nothing. `usual`: seconds of the processor that each takes; the process is
        ended by one that takes much longer (a mutant may go round for ever)."""
        for name in names:
            item = self.items[name]
            if usual is not None:
                signal.setitimer(signal.ITIMER_VIRTUAL, 1 + 5 * usual[name])
            before = item.session.testsfailed
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
            if item.session.testsfailed > before:
                return name
        return ""

    def _first_run(self) -> Known:
        """Which test calls which function; in several processes, each of which has a part of the tests."""
        known, calls = Known(), {}
        names = list(self.items)
        for found in in_children(
            [lambda part=part: self._probed(names[part :: self.workers]) for part in range(self.workers)]
        ):
            for line in found.splitlines():
                name, seconds, *functions = line.split("\t")
                known.seconds[name] = float(seconds)
                calls[name] = functions
                if functions == ["FAILED"]:
                    self.failed.append(name)
        for name in sorted(calls, key=lambda name: known.seconds[name]):
            for function in calls[name]:
                known.tests.setdefault(function, []).append(name)
        return known

    def _probed(self, names: Sequence[str]) -> str:
        """A line for each test: its name, its seconds, and the functions that it calls."""
        called: set[str] = set()
        setattr(builtins, PROBE, called.add)
        probe(self.functions)
        lines = []
        for name in names:
            called.clear()
            started = time.process_time()
            failed = self.run([name])
            found = ["FAILED"] if failed else sorted(called)
            lines.append("\t".join((name, f"{time.process_time() - started:.3f}", *found)))
        return "\n".join(lines)

    def _all(self, known: Known) -> None:
        queue = [
            (mutant, known.tests.get(f"{mutant.file} {mutant.function}", [])) for mutant in self.chosen if mutant.function
        ]

        def job(mutant: Mutant, names: list[str]) -> Callable[[], str]:
            return lambda: self._mutated(mutant, names, known.seconds)

        def say(index: int, answer: str) -> None:
            mutant, names = queue[index]
            if answer in names:  # what has found a fault in a function is tried first on the next one
                names.remove(answer)
                names.insert(0, answer)
            if answer == SURVIVED or answer.startswith(BROKEN):
                print(f"{answer}: {mutant.name} (line {mutant.line})", file=sys.__stderr__, flush=True)

        answers = in_children([job(*each) for each in queue], self.workers, say)
        self.outcomes += [Outcome(mutant, answer) for (mutant, _), answer in zip(queue, answers, strict=True)]

    def _mutated(self, mutant: Mutant, names: list[str], usual: Mapping[str, float]) -> str:
        try:
            apply(mutant, self.functions)
        except Exception as error:
            return f"{BROKEN}: {error!r}"
        return self.run(names, usual) or SURVIVED


Functions = dict[tuple[str, str], list[FunctionType]]


def functions() -> Functions:
    """(path, qualified name) -> the functions of core/, wherever they are referred to."""
    found: Functions = {}
    for each in gc.get_objects():
        if type(each) is FunctionType and each.__code__.co_filename.startswith(str(CORE)):
            found.setdefault((each.__code__.co_filename, each.__code__.co_qualname), []).append(each)
    return found


def apply(mutant: Mutant, known: Functions) -> None:
    """Replace the code of the function."""
    path = str(CORE / mutant.file)
    wanted = next(code for code in _codes(compile(mutant.make(), path, "exec")) if code.co_qualname == mutant.function)
    for function in known[path, mutant.function]:
        function.__code__ = wanted


PROBE = "__probe__"


def probe(known: Functions) -> None:
    """Each of these functions says its name when it is called."""
    for path in {path for path, _ in known}:
        tree = ast.parse(Path(path).read_text())
        for name, function in _outermost(tree, ""):
            told = ast.Constant(f"{Path(path).name} {name}")
            function.body.insert(0, ast.Expr(ast.Call(ast.Name(PROBE, ast.Load()), [told], [])))
        for code in _codes(compile(ast.fix_missing_locations(tree), path, "exec")):
            for function in known.get((path, code.co_qualname), ()):
                if len(code.co_freevars) == len(function.__code__.co_freevars):
                    function.__code__ = code


def _outermost(node: ast.AST, scope: str) -> Iterator[tuple[str, ast.FunctionDef]]:
    for each in ast.iter_child_nodes(node):
        if isinstance(each, ast.FunctionDef):
            yield f"{scope}{each.name}", each
        elif isinstance(each, ast.ClassDef):
            yield from _outermost(each, f"{scope}{each.name}.")


def _codes(code: CodeType) -> Iterator[CodeType]:
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield each
            yield from _codes(each)


def _few_examples(item: pytest.Item) -> None:
    """The same few every time, and none of an earlier run."""
    for owner, name in (
        (getattr(item, "obj", None), "_hypothesis_internal_use_settings"),
        (getattr(item, "cls", None), "settings"),
    ):
        given = getattr(owner, name, None)
        if isinstance(given, settings):
            few = min(EXAMPLES, given.max_examples)
            made = settings(
                given,
                max_examples=few,
                derandomize=True,
                database=None,
                phases=[Phase.explicit, Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            target = getattr(owner, "__func__", owner)
            setattr(target, name, made)


# ---- processes ------------------------------------------------------------------------------------------------------


def in_children(
    jobs: Sequence[Callable[[], str]], workers: int = 0, done: Callable[[int, str], None] = lambda *_: None
) -> list[str]:
    """What each job returns, each in a forked process of its own; `time` for one that was ended by a timer, or that is not
    done after ten minutes. `done` is told as they end."""
    answers: list[str] = [""] * len(jobs)
    running: dict[int, tuple[int, int, float]] = {}  # pipe -> job, process, deadline
    waiting = list(range(len(jobs)))[::-1]
    while waiting or running:
        while waiting and len(running) < (workers or len(jobs)):
            index = waiting.pop()
            reader, process = _fork(jobs[index])
            running[reader] = (index, process, time.monotonic() + 600)
        ready, _, _ = select.select(list(running), [], [], 0.2)
        for reader, (index, process, deadline) in list(running.items()):
            if reader not in ready and time.monotonic() < deadline:
                continue
            if reader not in ready:
                os.killpg(process, signal.SIGKILL)
            with os.fdopen(reader) as pipe:
                answers[index] = pipe.read()
            signalled = os.WTERMSIG(os.waitpid(process, 0)[1])
            if not answers[index]:
                timed = reader not in ready or signalled in (signal.SIGVTALRM, signal.SIGXCPU)
                answers[index] = "time" if timed else f"{BROKEN}: its process was killed"
            del running[reader]
            done(index, answers[index])
    return answers


def _fork(job: Callable[[], str]) -> tuple[int, int]:
    reader, writer = os.pipe()
    process = os.fork()
    if process:
        os.close(writer)
        return reader, process
    os.setpgid(0, 0)
    os.close(reader)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    try:
        answer = job()
    except BaseException as error:  # the mutant broke even the way to the test
        answer = f"{type(error).__name__}: {error}"[:200]
    os.write(writer, answer.encode())
    os._exit(0)


# ---- a file's own statements ----------------------------------------------------------------------------------------


class _Changed(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports the mutant in place of the file."""

    def __init__(self, mutant: Mutant) -> None:
        self.name = f"ovnagent.core.{mutant.file.removesuffix('.py')}"
        self.path = str(CORE / mutant.file)
        self.tree = mutant.make()

    def find_spec(self, name: str, *_: object) -> Any:
        return importlib.util.spec_from_loader(name, self) if name == self.name else None

    def exec_module(self, module: ModuleType) -> None:
        module.__file__ = self.path
        exec(compile(self.tree, self.path, "exec"), module.__dict__)


def own_statements(chosen: Sequence[Mutant], workers: int) -> list[Outcome]:
    """Before this process imports anything of the agent: a child does, with the mutant among it."""

    def job(mutant: Mutant) -> Callable[[], str]:
        def run() -> str:
            resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
            sys.meta_path.insert(0, _Changed(mutant))
            few = _Few()
            status = pytest.main([*QUIET, "-x", *TESTS_OF.get(mutant.file, TESTS)], plugins=[few])
            return SURVIVED if status == 0 else (few.failed or f"status {status}")

        return run

    if chosen:
        _import_what_others_made()
    answers = in_children([job(mutant) for mutant in chosen], workers)
    return [Outcome(mutant, answer) for mutant, answer in zip(chosen, answers, strict=True)]


def _import_what_others_made() -> None:
    """All that the tests import besides this project's own: a child need not do it then."""

    def found() -> str:
        pytest.main([*QUIET, "--collect-only", *TESTS])
        return " ".join(name for name in sys.modules if name.partition(".")[0] not in ("ovnagent", "tests", "hack"))

    for name in in_children([found])[0].split():
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    gc.freeze()


class _Few:
    """Plugin: few examples, and the first test that fails."""

    failed = ""

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            _few_examples(item)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.failed:
            self.failed = report.nodeid


# ---- the whole ------------------------------------------------------------------------------------------------------


def survivors() -> dict[str, str]:
    """Name of a mutant -> why it may survive. Each reason stands above the names that it is for, after a `#`."""
    found: dict[str, str] = {}
    reason = ""
    for line in SURVIVORS.read_text().splitlines() if SURVIVORS.exists() else ():
        if line.startswith("#"):
            reason = line[1:].strip()
        elif line.strip():
            found[line.strip()] = reason
    return found


def every_mutant() -> list[Mutant]:
    return [mutant for path in sorted(CORE.glob("*.py")) for mutant in mutants(path.name, path.read_text())]


def sample(chosen: Sequence[Mutant], size: int, seed: int) -> list[Mutant]:
    """So many, by lot. A mutant's lot hangs on its name alone: a change elsewhere in the code draws no others."""
    return sorted(chosen, key=lambda mutant: hashlib.sha256(f"{seed} {mutant.name}".encode()).digest())[:size]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sample", type=int, help="so many of them")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=[""], help="mutants whose names begin so")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    started = time.monotonic()
    chosen = [mutant for mutant in every_mutant() if mutant.name.startswith(tuple(arguments.only))]
    if arguments.sample:
        chosen = sample(chosen, arguments.sample, arguments.seed)
    chosen = [*planted(CORE), *chosen]
    outcomes = own_statements([mutant for mutant in chosen if not mutant.function], arguments.workers)
    session = Session(chosen, arguments.workers)
    with contextlib.redirect_stdout(sys.stderr):
        status = pytest.main([*QUIET, *TESTS], plugins=[session])
    if session.failed:
        print("these tests fail without any mutant:", *session.failed, sep="\n  ")
        return 2
    if status not in (0, pytest.ExitCode.NO_TESTS_COLLECTED):
        return int(status)
    return report(outcomes + session.outcomes, partial=bool(arguments.sample or any(arguments.only)), started=started)


def report(outcomes: Sequence[Outcome], partial: bool, started: float) -> int:
    known = survivors()
    alive = {outcome.mutant.name: outcome for outcome in outcomes if outcome.killed_by == SURVIVED}
    new = {name: outcome for name, outcome in alive.items() if name not in known}
    for name, outcome in new.items():
        print(f"survives: {name}    (line {outcome.mutant.line})")
    tried = {outcome.mutant.name for outcome in outcomes}
    stale = [name for name in known if name not in alive and (name in tried or not partial)]
    for name in stale:
        print(f"stands in {SURVIVORS.name}, but is killed or is there no more: {name}")
    broken = [outcome for outcome in outcomes if outcome.killed_by.startswith(BROKEN)]
    for outcome in broken:
        print(f"could not be tried: {outcome.mutant.name}: {outcome.killed_by}")
    killed = len(outcomes) - len(alive) - len(broken)
    late = sum(outcome.killed_by == "time" for outcome in outcomes)
    score = killed / max(len(outcomes), 1)
    print(
        f"{killed} of {len(outcomes)} mutants killed ({score:.1%}), {late} of them by their time; "
        f"{len(alive) - len(new)} survive for a known reason, {len(new)} for none; {time.monotonic() - started:.0f} s"
    )
    return 1 if new or stale or broken or (not partial and score < SCORE) else 0


if __name__ == "__main__":
    sys.exit(main())

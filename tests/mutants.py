"""Break the package in small ways, and name the changes that its tests do not notice.

    make mutants FILE=isoreg/masks.py
    make mutants SAMPLE=600 SEED=1

The first tries every change of a file; the second as many as it says, drawn from all files in
proportion to their changes. Each change meets the tests that run its line, the fastest first;
`tests/mutant_server.py` says how. First the tests run once under coverage, which takes some
minutes and is kept until they or the package change. Outcomes are written to ``build/mutants/`` as
they come, and a run that was stopped goes on; ``--again`` tries those that were not noticed anew.
Those that no test can notice are listed, with the reason, in ``tests/mutants.toml``.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import hashlib
import importlib
import itertools
import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

if __package__ in {None, ""}:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.mutant_server import (
    Judge,
    Outcome,
    Server,
    Trial,
    anew,
    forked,
    interpret,
    silent_pytest,
)
from tests.mutations import Mutation, mutations

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib  # type: ignore[no-redef]

ROOT = Path(__file__).resolve().parent.parent
LIST = ROOT / "tests" / "mutants.toml"
BUILD = ROOT / "build" / "mutants"
_LONGEST = 10.0
_FEWEST = 2  # of a file in a sample
_LONGEST_NAME = 150  # of a record
_LIBRARIES = ("torch", "pytest", "hypothesis", "numpy", "scipy", "numba")


def table() -> dict[str, Any]:
    """What `tests/mutants.toml` says."""
    found: dict[str, Any] = tomllib.loads(LIST.read_text())
    return found


def name_of(file: str, mutation: Mutation) -> str:
    """The same as long as the text of the file is."""
    return hashlib.sha256(f"{file}\n{mutation.text}".encode()).hexdigest()[:16]


@dataclass
class Seen:
    """What the tests do as they are.

    Attributes:
        seconds: How long each takes; those that fail are not among them.
        lines: By file and line, the tests that run it; "" is the import.
        modules: Of other packages, what they import.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    lines: dict[str, dict[int, set[str]]] = field(default_factory=dict)
    modules: set[str] = field(default_factory=set)

    def add(self, found: dict[str, Any]) -> None:
        """Add what the tests of a file do."""
        red = set(found["red"])
        self.seconds |= {name: took for name, took in found["seconds"].items() if name not in red}
        self.modules |= set(found["modules"])
        for file, by_test in found["lines"].items():
            lines = self.lines.setdefault(file, defaultdict(set))
            for test, numbers in by_test.items():
                for line in numbers:
                    lines[line].add(test)

    def tests_of(self, file: str, mutation: Mutation, source: str) -> set[str]:
        """Those that run a changed line, or, if none is counted, a line of its statement."""
        lines = self.lines.get(file, {})
        changed = range(mutation.line, mutation.last + 1)
        found: set[str] = set().union(*(lines.get(line, set()) for line in changed))
        if not found - {""}:
            around = statement(source, mutation.line)
            found = found.union(*(lines.get(line, set()) for line in around))
        return found


def statement(source: str, line: int) -> range:
    """The lines of the innermost statement around a line; of a block, its head."""
    best = range(line, line + 1)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or 0):
            body = getattr(node, "body", None)
            last = body[0].lineno - 1 if body else node.end_lineno or node.lineno
            if line <= last and node.lineno >= best.start - 60:
                best = range(node.lineno, last + 1)
    return best


def chosen(
    file: str, mutation: Mutation, source: str, seen: Seen, first: list[str], limit: float
) -> tuple[list[str], bool]:
    """Tests that a change meets, and whether it must be imported.

    They come `by_turns`, since tests of one file often see the same, as long as there is time for
    them. What runs at import meets first the tests of the lines that use it, then those of its
    file. A line that no test was seen to run, as it runs in other processes, meets those of
    ``first``.
    """
    running = seen.tests_of(file, mutation, source)
    imported = mutation.bound or "" in running
    near = running & set(seen.seconds)
    names = set(near)
    if imported or not names:
        lines = seen.lines.get(file, {})
        near = set().union(*(lines.get(line, set()) for line in uses(source, mutation.line)))
        near &= set(seen.seconds)
        of_file = set().union(*lines.values()) if imported else set()
        names |= {name for name in seen.seconds if name.partition("::")[0] in first}
        names |= of_file & set(seen.seconds)
    found, total = [], 0.0
    order = (by_turns(some, seen.seconds, first) for some in (near, names - near))
    for name in itertools.chain(*order):
        if not found or total + seen.seconds[name] <= limit:
            found.append(name)
            total += seen.seconds[name]
    return found, imported


def uses(source: str, line: int) -> set[int]:
    """The lines that use what a statement binds: a function's body, or all that name a constant."""
    tree = ast.parse(source)
    first = statement(source, line).start
    node = next(n for n in ast.walk(tree) if isinstance(n, ast.stmt) and n.lineno == first)
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return set(range(node.body[0].lineno, (node.end_lineno or first) + 1))
    named = [n for n in ast.walk(tree) if isinstance(n, ast.Name)]
    bound = {n.id for n in named if isinstance(n.ctx, ast.Store) and n.lineno == first}
    return {n.lineno for n in named if n.id in bound and isinstance(n.ctx, ast.Load)}


def by_turns(names: set[str], seconds: dict[str, float], first: list[str]) -> list[str]:
    """Tests of several files by turns, the fastest first: four of each that is named, or one."""
    turns: Counter[str] = Counter()
    places = []
    for name in sorted(names, key=lambda name: (seconds[name], name)):
        file = name.partition("::")[0]
        turn = turns[file] // (4 if file in first else 1)
        places.append((turn, file not in first, seconds[name], name))
        turns[file] += 1
    return [name for *_, name in sorted(places)]


def concerned(file: str, tests: dict[str, list[str]]) -> list[str]:
    """The tests of a file: those that the table names, or those called like it; its doctests."""
    named = tests.get(file) or [
        f"tests/{path.name}" for path in (ROOT / "tests").glob(f"test_{Path(file).stem}*.py")
    ]
    return [*named, file]


def drawn(changes: dict[str, list[Mutation]], count: int, seed: int) -> dict[str, list[Mutation]]:
    """So many changes, from each file in proportion to its own, but at least two."""
    total = sum(map(len, changes.values()))
    found = {}
    for file, of_file in changes.items():
        shuffled = random.Random(f"{seed} {file}").sample(of_file, len(of_file))
        found[file] = shuffled[: max(_FEWEST, round(count * len(of_file) / total))]
    return found


def share(
    alive: dict[str, int], tried: dict[str, int], all_of: dict[str, int]
) -> tuple[float, ...]:
    """The share of all changes that is alive, and the ends of its 95 % interval.

    Each file weighs as much as it has changes. The interval is Wilson's for as many draws as have
    that weighted mean's variance, were all files alike; that some are better only narrows it.
    """
    total = sum(all_of[file] for file in tried)
    weights = {file: all_of[file] / total for file in tried}
    p = sum(weights[file] * alive[file] / tried[file] for file in tried)
    n = 1 / sum(weights[file] ** 2 / tried[file] for file in tried)
    z = 1.96
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    reach = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return p, max(0.0, middle - reach), middle + reach


class Record:
    """What came of the changes, one a line of a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        lines = path.read_text().splitlines()
        self.outcomes = {entry["name"]: entry for entry in map(json.loads, lines)}

    def add(self, trial: Trial, mutation: Mutation, outcome: Outcome) -> None:
        """Write an outcome down, and print it if nothing noticed."""
        place = {"line": mutation.line, "was": mutation.was, "becomes": mutation.becomes}
        entry = {"name": trial.name, "file": trial.file, **place, **asdict(outcome)}
        entry["tests"] = len(trial.tests)
        self.outcomes[trial.name] = entry
        with self.path.open("a") as file:
            file.write(json.dumps(entry) + "\n")


def seen_path(test: str) -> Path:
    """The file for what a file of tests does, as long as its text is the same."""
    path = BUILD / "seen" / f"{Path(test).stem}-{_digest(ROOT / test)}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def kept(test: str) -> dict[str, Any] | None:
    """What a file of tests did, if no line that it runs has moved since.

    A line that was changed where it stands only makes the choice of tests an older one.
    """
    path = seen_path(test)
    if not path.exists():
        return None
    found: dict[str, Any] = json.loads(path.read_text())
    ran = [file for file, by_test in found["lines"].items() if set(by_test) - {""}]
    same = all(found["lengths"][file] == length_of(ROOT / file) for file in ran)
    return found if same else None


def length_of(path: Path) -> int:
    """Of a file, in lines; 0 if there is none."""
    return len(path.read_text().splitlines()) if path.exists() else 0


class Attempt:
    """Some changes of some files, and all that is needed to try them."""

    def __init__(self, todo: dict[str, list[Mutation]], record: Record, again: bool, limit: float):
        self.todo, self.record, self.limit = todo, record, limit
        self.sources = {file: (ROOT / file).read_text() for file in todo}
        done = record.outcomes
        self.open = {
            name_of(file, mutation): (file, mutation)
            for file, found in todo.items()
            for mutation in found
            if (entry := done.get(name_of(file, mutation))) is None
            or (again and entry["outcome"] != "killed")
        }
        # so that a run that is stopped has tried some of every file
        names = random.Random(0).sample(sorted(self.open), len(self.open))
        self.open = {name: self.open[name] for name in names}
        self.table = table()

    def to_see(self, test: str) -> Path | None:
        """Where what a file of tests does is to be written; None: it is known."""
        return None if kept(test) else seen_path(test)

    def seen(self) -> Seen:
        found = Seen()
        for test in (*self.tests(), *map(str, sorted(_sources()))):
            found.add(kept(test) or {"red": [], "seconds": {}, "modules": [], "lines": {}})
        return found

    def tests(self) -> list[str]:
        """All but those that are left out, which are of other things than the package."""
        names = sorted(f"tests/{path.name}" for path in (ROOT / "tests").glob("test_*.py"))
        return [name for name in names if name not in self.table["left_out"]]

    def trials(self, *, imported: bool, compiled: bool) -> list[Trial]:
        """Those of files that are compiled or of the others; all, or those that can be put in."""
        seen, found = self.seen(), []
        for name, (file, mutation) in self.open.items():
            if (file in self.table["compiled"]) != compiled:
                continue
            source, first = self.sources[file], concerned(file, self.table["tests"])
            limit = math.inf if compiled else self.limit
            tests, must = chosen(file, mutation, source, seen, first, limit)
            if imported or not (mutation.bound if compiled else must):
                usual = sum(seen.seconds[test] for test in tests)
                longest = 60 if compiled else 30 + 5 * usual
                tests += [] if compiled else self.table["readers"]
                if mutation.bound and not compiled:
                    tests += [t for t in seen.seconds if t.startswith(self.table["defaults"])]
                found.append(Trial(name, file, source, mutation.text, tests, longest, compiled))
        return found

    def report(self, trial: Trial, outcome: Outcome) -> None:
        _, mutation = self.open.pop(trial.name)
        self.record.add(trial, mutation, outcome)

    def run(self) -> None:
        """In two sessions what can be tried there, then the rest."""
        if not self.open:
            return
        for module in _LIBRARIES:
            importlib.import_module(module)
        before = length_of(self.record.path)
        for compiled in (False, True):
            if not any((file in self.table["compiled"]) == compiled for file in self.todo):
                continue
            code = forked(lambda: self._session(compiled=compiled), 24 * 3600)  # noqa: B023
            if code not in {0, 1, 5}:
                raise SystemExit(f"pytest ended with {code} before anything was changed")
            for line in self.record.path.read_text().splitlines()[before:]:
                self.open.pop(json.loads(line)["name"], None)
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
            for module in sorted(self.seen().modules):
                with contextlib.suppress(BaseException):
                    importlib.import_module(module)
        judge = Judge(anew)
        for compiled in (False, True):
            for trial in self.trials(imported=True, compiled=compiled):
                self.report(trial, judge.tried(trial))

    def _session(self, *, compiled: bool) -> int:
        """One for the files that Numba compiles, in which Python runs them instead, or the rest."""
        import coverage

        watched = coverage.Coverage(data_file=None, source=["isoreg"])
        tests = [*self.tests(), "isoreg"]
        if compiled:
            interpret()
            tests = sorted({t for f in self.table["compiled"] for t in self.table["tests"][f]})
        watched.start()

        def plan() -> list[Trial]:
            return self.trials(imported=False, compiled=compiled)

        return silent_pytest(tests, [Server(watched, self.to_see, plan, self.report)])


def _sources() -> list[Path]:
    return [path.relative_to(ROOT) for path in (ROOT / "isoreg").rglob("*.py")]


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def enter_copy() -> None:
    """Copy what git knows of, and what it does not ignore, and go there."""
    folder = BUILD / "tree"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.split("\0")  # fmt: skip
    names = [name for name in listed if name and (ROOT / name).is_file()]
    for path in list(folder.rglob("*.py")):
        if str(path.relative_to(folder)) not in names:
            path.unlink()
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    os.environ["NUMBA_CACHE_DIR"] = str(BUILD / "numba")
    os.chdir(folder)


def reason(file: str, mutation: Mutation, known: list[dict[str, str]]) -> str:
    """Why no test can notice a change; "" if the table does not say it.

    An entry names one change (``was`` and ``becomes``), or a kind: ``pattern`` is searched for in
    "was -> becomes". Its ``file`` may be a glob.
    """
    change = f"{mutation.was} -> {mutation.becomes}"
    for entry in known:
        pattern = entry.get("pattern")
        named = re.search(pattern, change) if pattern else change == _change(entry)
        if named and fnmatch(file, entry["file"]):
            return entry["why"]
    return ""


def _change(entry: dict[str, str]) -> str:
    return f"{entry['was']} -> {entry['becomes']}"


def summary(
    todo: dict[str, list[Mutation]], all_of: dict[str, int], record: Record
) -> tuple[str, int]:
    """What was found, as text, and how many changes are alive without a reason."""
    known = table()["explained"]
    lines, tried, alive, reasoned = [], Counter(), Counter(), Counter()
    for file, changes in todo.items():
        for mutation in changes:
            entry = record.outcomes.get(name_of(file, mutation))
            if entry is None:
                continue
            tried[file] += 1
            if entry["outcome"] == "killed":
                continue
            if reason(file, mutation, known):
                reasoned[file] += 1
            else:
                alive[file] += 1
                met = "no sound" if entry["outcome"] == "untested" else entry["tests"]
                lines.append(
                    f"{file}:{mutation.line}  [{met} tests]\n"
                    f"  - {mutation.was}\n  + {mutation.becomes}"
                )
    lines += [
        f"{file}: {tried[file]} of {all_of[file]} changes tried, {reasoned[file]} explained, "
        f"{alive[file]} alive"
        for file in tried
    ]
    if tried:
        for words, counts in (("alive", alive), ("alive or explained", alive + reasoned)):
            p, low, high = (100 * value for value in share(counts, tried, all_of))
            lines.append(f"{words}: {p:.1f} % of all changes, between {low:.1f} and {high:.1f}")
    return "\n".join(lines), sum(alive.values())


def run_known(entries: list[dict[str, Any]]) -> int:
    """Try the changes that were once alive, and say how many of them are so now."""
    alive, judge = 0, Judge(anew)
    for module in _LIBRARIES:
        importlib.import_module(module)
    for entry in entries:
        source = Path(entry["file"]).read_text()
        if source.count(entry["was"]) == 1:
            text = source.replace(entry["was"], entry["becomes"])
            trial = Trial("", entry["file"], source, text, entry["tests"], 900)
            outcome = judge.tried(trial).outcome
        else:
            outcome = "gone: say it as the file says it now"
        alive += outcome != "killed"
        print(f"{outcome}  {entry['file']}: {entry['was'].strip()}", flush=True)
    return alive


def main() -> None:
    """Run what the command line says.

    Raises:
        SystemExit: With 1 if a change survives that is not explained.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="*", help="default: all; known: those once alive")
    parser.add_argument("--sample", type=int, help="so many changes instead of all")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--again", action="store_true", help="try anew all but what a test noticed")
    parser.add_argument("--show", action="store_true", help="say what was found so far")
    parser.add_argument("--limit", type=float, default=_LONGEST, help="seconds of tests a change")
    options = parser.parse_args()
    if options.files == ["known"]:
        enter_copy()
        raise SystemExit(run_known(table()["known"]) > 0)
    left = table()["left_out"]
    files = options.files or [str(path) for path in sorted(_sources()) if str(path) not in left]
    changes = {file: found for file in files if (found := mutations((ROOT / file).read_text()))}
    todo = drawn(changes, options.sample, options.seed) if options.sample else changes
    sampled = f"-{options.sample}-{options.seed}" if options.sample else ""
    where = "all" if not options.files else "+".join(files).replace("/", ".")
    if len(where) > _LONGEST_NAME:
        where = f"{len(files)}-files-{hashlib.sha256(where.encode()).hexdigest()[:12]}"
    record = Record(BUILD / f"{where}{sampled}.jsonl")
    if not options.show:
        enter_copy()
        Attempt(todo, record, options.again, options.limit).run()
    text, alive = summary(todo, {f: len(c) for f, c in changes.items()}, Record(record.path))
    print(text)
    raise SystemExit(alive > 0)


if __name__ == "__main__":
    main()

"""Break a file in every small way, and name the changes that its tests do not notice.

    make mutants FILE=isoreg/masks.py

The tests that concern the file run once under coverage; then each change meets the tests that run
its line, the fastest first, in a copy of the tree. They run in a fork of a process that has torch
and its like loaded, so that a change costs a second or two: tools that start Python for each need
ten times as long, and those that do not leave decorated functions and constants of modules alone.
Survivors are printed and written to ``build/mutants/``; those that no test can notice are listed,
with the reason, in ``tests/mutants.toml``.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

if __package__ in {None, ""}:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.mutations import Mutation, mutations

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib  # type: ignore[no-redef]

ROOT = Path(__file__).resolve().parent.parent
LIST = ROOT / "tests" / "mutants.toml"
_OPTIONS = ("-q", "-x", "-p", "no:cacheprovider", "-p", "no:randomly", "--hypothesis-seed=0")
_LONGEST = 60.0


def concerned(file: str, table: dict[str, list[str]]) -> list[str]:
    """The tests of a file: those that the table names, else those called like it; its doctests."""
    named = table.get(file) or [
        f"tests/{path.name}" for path in (ROOT / "tests").glob(f"test_{Path(file).stem}*.py")
    ]
    return [*named, file]


class Watch:
    """A pytest plugin: how long each test takes and which lines of the file it runs."""

    def __init__(self, coverage: Any, file: str) -> None:
        self.coverage, self.file = coverage, file
        self.seconds: dict[str, float] = defaultdict(float)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.coverage.switch_context(nodeid)

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.seconds[report.nodeid] += report.duration
        if report.failed:
            self.seconds[report.nodeid] = float("inf")

    def found(self) -> dict[str, Any]:
        data = self.coverage.get_data()
        path = next(iter(data.measured_files()), None)
        contexts = data.contexts_by_lineno(path) if path else {}
        return {
            "seconds": {name: value for name, value in self.seconds.items() if value < 1e9},
            "red": [name for name, value in self.seconds.items() if value > 1e9],
            "lines": {line: [c for c in names if c] for line, names in contexts.items()},
            "modules": [name for name, module in list(sys.modules.items()) if _is_foreign(module)],
        }


def _is_foreign(module: Any) -> bool:
    return "site-packages" in str(getattr(module, "__file__", "") or "")


def forked(work: Any, seconds: float) -> tuple[int, float]:
    """The exit status of a function run in a fork, and its time; 124 if it took too long."""
    begin = time.monotonic()
    child = os.fork()
    if not child:
        status = 70
        try:
            os.setsid()
            status = int(work())
        except BaseException:
            status = 70
        finally:
            os._exit(status)
    while time.monotonic() - begin < seconds:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status), time.monotonic() - begin
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return 124, time.monotonic() - begin


def silent_pytest(arguments: list[str], plugins: list[Any] | None = None) -> int:
    """Pytest in this process, its words thrown away."""
    import pytest

    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.dont_write_bytecode = True
    sys.path.insert(0, os.getcwd())
    with (
        open(os.environ.get("MUTANTS_LOG", os.devnull), "a") as nowhere,
        contextlib.redirect_stdout(nowhere),
    ):
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
        return int(pytest.main(arguments, plugins=plugins or []))


def baseline(file: str, tests: list[str]) -> dict[str, Any]:
    """Times, lines and modules of the tests as they are.

    Raises:
        SystemExit: If pytest cannot run them.
    """

    def work() -> int:
        import coverage

        watched = coverage.Coverage(data_file=None, include=[str(Path(file).resolve())])
        watch = Watch(watched, file)
        watched.start()
        options = [option for option in _OPTIONS if option != "-x"]
        code = silent_pytest([*options, *tests], [watch])
        watched.stop()
        Path("baseline.json").write_text(json.dumps(watch.found()))
        return code

    code, _ = forked(work, 3600)
    if code not in {0, 1}:
        raise SystemExit(f"pytest ended with {code} before anything was changed")
    found: dict[str, Any] = json.loads(Path("baseline.json").read_text())
    return found


def chosen_for(mutation: Mutation, found: dict[str, Any], limit: float) -> list[str]:
    """The tests that run a changed line, the fastest first, until the time is used up."""
    seconds, lines = found["seconds"], found["lines"]
    touched = set()
    for line in range(mutation.line, mutation.last + 1):
        touched |= set(lines.get(str(line), []))
    names = set(seconds) if mutation.bound else touched & set(seconds)
    chosen, total = [], 0.0
    for name in sorted(names, key=lambda name: seconds[name]):
        total += seconds[name]
        if total > limit and chosen:
            break
        chosen.append(name)
    return chosen


def explained(file: str, known: list[dict[str, str]]) -> dict[tuple[str, str], str]:
    """The reasons of a file's survivors, by what the line was and what it becomes."""
    return {
        (entry["was"], entry["becomes"]): entry["why"] for entry in known if entry["file"] == file
    }


def copy_of_tree(folder: Path) -> None:
    """What git knows of, and what it does not ignore."""
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.split("\0")  # fmt: skip
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def run(file: str, options: argparse.Namespace) -> dict[str, Any]:
    """Try every change of a file, and say what came of it."""
    table = tomllib.loads(LIST.read_text())
    reasons = explained(file, table.get("explained", []))
    tests = options.tests or concerned(file, table.get("tests", {}))
    source = (ROOT / file).read_text()
    todo = [m for m in mutations(source) if not options.lines or m.line in options.lines]
    random.Random(0).shuffle(todo)
    todo = todo[: options.sample] if options.sample else todo
    found = baseline(file, tests)
    if found["red"]:
        print(f"left out, since they fail without a change: {', '.join(found['red'])}", flush=True)
    with contextlib.redirect_stderr(io.StringIO()):
        for name in found["modules"]:
            with contextlib.suppress(BaseException):
                importlib.import_module(name)
    names = sorted(found["seconds"], key=found["seconds"].__getitem__)
    if forked(lambda: silent_pytest([*_OPTIONS, *names]), 3600)[0]:
        raise SystemExit("the tests fail when they are run again without a change")
    result: dict[str, Any] = {"file": file, "tried": 0, "killed": 0, "explained": 0, "alive": []}
    for mutation in todo:
        names = chosen_for(mutation, found, options.limit)
        result["tried"] += 1
        if names and _is_killed(file, source, mutation, names, found):
            result["killed"] += 1
        elif (mutation.was, mutation.becomes) in reasons:
            result["explained"] += 1
        else:
            alive = {"line": mutation.line, "was": mutation.was, "becomes": mutation.becomes}
            result["alive"].append({**alive, "tests": len(names)})
            print(f"{file}:{mutation.line}  [{len(names)} tests]\n  - {mutation.was}\n"
                  f"  + {mutation.becomes}", flush=True)  # fmt: skip
        _save(result)
    return result


def run_known(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Try the changes that were once alive: all must be noticed."""
    result: dict[str, Any] = {"file": "known", "tried": 0, "killed": 0, "explained": 0, "alive": []}
    for module in ("torch", "pytest", "hypothesis", "numpy", "scipy", "numba"):
        importlib.import_module(module)
    for entry in entries:
        path = Path(entry["file"])
        source = path.read_text()
        if source.count(entry["was"]) != 1:
            print(f"GONE     {path}: {entry['was'].strip()}: say it as the file says it now")
            result["alive"].append(entry)
            continue
        path.write_text(source.replace(entry["was"], entry["becomes"]))
        code, _ = forked(lambda e=entry: silent_pytest([*_OPTIONS, *e["tests"]]), 900)
        path.write_text(source)
        result["tried"] += 1
        result["killed"] += code == 1
        if code != 1:
            result["alive"].append({**entry, "code": code})
        print(
            f"{'noticed' if code == 1 else f'ALIVE ({code})'}  {path}: {entry['was'].strip()}",
            flush=True,
        )
        _save(result)
    return result


def _is_killed(
    file: str, source: str, mutation: Mutation, names: list[str], found: dict[str, Any]
) -> bool:
    Path(file).write_text(mutation.text)
    usual = sum(found["seconds"][name] for name in names)
    try:
        code, _ = forked(lambda: silent_pytest([*_OPTIONS, *names]), 30 + 5 * usual)
    finally:
        Path(file).write_text(source)
    return code != 0


def _save(result: dict[str, Any]) -> None:
    path = ROOT / "build" / "mutants" / (result["file"].replace("/", ".") + ".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")


def main() -> None:
    """Run the files of the command line.

    Raises:
        SystemExit: With 1 if a change survives that is not explained.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="*", help="known: those of the list that were once alive")
    parser.add_argument("--tests", nargs="*", help="instead of those that concern the file")
    parser.add_argument("--sample", type=int, help="so many changes of each file, drawn once")
    parser.add_argument("--lines", nargs="*", type=int, help="of these lines alone")
    parser.add_argument("--limit", type=float, default=_LONGEST, help="seconds of tests a change")
    options = parser.parse_args()
    alive = 0
    for file in options.files:
        with tempfile.TemporaryDirectory() as folder:
            copy_of_tree(Path(folder))
            os.chdir(folder)
            if file == "known":
                result = run_known(tomllib.loads(LIST.read_text())["known"])
            else:
                result = run(file, options)
            os.chdir(ROOT)
        alive += len(result["alive"])
        print(f"{file}: {result['tried']} changes, {result['killed']} noticed, "
              f"{result['explained']} explained, {len(result['alive'])} alive")  # fmt: skip
    raise SystemExit(alive > 0)


if __name__ == "__main__":
    main()

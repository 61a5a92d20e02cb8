"""Run tests against changed sources, without starting Python or importing anything for each.

Two ways. In a *session*: one pytest session collects all tests; for each change it forks, puts the
changed code into the functions that live there, and runs the chosen tests until one fails. *Anew*:
what runs when a module is imported cannot be put in, so a fork of a process that has torch and its
like loaded, but neither the package nor its tests, imports the changed file. Either way the changed
file is on the disk too, for the tests that start processes of their own.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import resource
import signal
import sys
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from tests.mutant_code import living, swaps

_OPTIONS = ("-q", "-p", "no:cacheprovider", "-p", "no:randomly", "--hypothesis-seed=0")
_TOO_LONG, _USAGE, _FAULT = 124, 4, 70


@dataclass
class Trial:
    """A change and the tests that it meets.

    Attributes:
        name: Of the change.
        file: The path of the source.
        source: The source.
        text: What it becomes.
        tests: The ids of the tests, in their order.
        seconds: How long they may take.
        compiled: Whether Numba compiles the file; Python runs it instead.
    """

    name: str
    file: str
    source: str
    text: str
    tests: list[str]
    seconds: float
    compiled: bool = False


@dataclass
class Outcome:
    """What came of a trial.

    "killed", "alive", "slow", which on a busy machine says nothing, or "untested", where each of
    its tests fails without the change too.
    """

    outcome: str
    by: str
    seconds: float


Report = Callable[[Trial, Outcome], None]
Run = Callable[[Trial, list[str]], int]


def forked(work: Callable[[], int], seconds: float) -> int:
    """The exit status of a function run in a fork; 124 if it computed for longer than this.

    One that waits and does not compute has ten times as long: a busy machine lets it wait.
    """
    end, pause = time.monotonic() + 10 * seconds, 0.001
    child = os.fork()
    if not child:
        status = _FAULT
        try:
            os.setsid()
            resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(seconds), math.ceil(seconds) + 1))
            status = int(work())
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    done = 0
    while not done and time.monotonic() < end:
        time.sleep(pause)
        pause = min(0.05, 2 * pause)
        done, status = os.waitpid(child, os.WNOHANG)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # and what it has started
    if done:
        code = os.waitstatus_to_exitcode(status)
        return _TOO_LONG if code in {-signal.SIGXCPU, -signal.SIGKILL} else code
    os.waitpid(child, 0)
    return _TOO_LONG


def no_shrinking() -> None:
    """Let hypothesis fail with the first example that fails, in profiles made from here on."""
    from hypothesis import Phase, settings

    register = settings.register_profile
    phases = (Phase.explicit, Phase.generate)

    def registered(name: str, **options: Any) -> None:
        register(name, **{**options, "phases": phases})

    type.__setattr__(settings, "register_profile", staticmethod(registered))  # it is locked


def silent_pytest(arguments: list[str], plugins: list[Any] | None = None) -> int:
    """Pytest in this process, its words thrown away."""
    sys.dont_write_bytecode = True
    sys.path.insert(0, os.getcwd())
    os.environ["PYTHONPATH"] = os.getcwd()
    no_shrinking()
    with open(os.environ.get("MUTANTS_LOG", os.devnull), "a") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
        return int(pytest.main([*_OPTIONS, *arguments], plugins=plugins or []))


@contextlib.contextmanager
def written(trial: Trial) -> Iterator[None]:
    """The file with its new text; afterwards it is as it was, and as old."""
    path = Path(trial.file).resolve()
    times = path.stat()
    path.write_text(trial.text)
    try:
        yield
    finally:
        path.write_text(trial.source)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@dataclass(eq=False)  # plugins are hashed
class First:
    """A pytest plugin that writes the name of the first test that fails to a file."""

    path: Path = field(default_factory=lambda: Path("first").resolve())

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and not self.path.exists():
            self.path.write_text(report.nodeid)


@dataclass
class Judge:
    """Tries changes, and knows which tests notice many and which fail without a change.

    Attributes:
        run: Runs the tests of a trial.
        kills: How many changes each test was the first to notice.
        sound: Whether a test that noticed a change passes without one.
    """

    run: Run
    kills: Counter[str] = field(default_factory=Counter)
    sound: dict[str, bool] = field(default_factory=dict)

    def tried(self, trial: Trial) -> Outcome:
        """What came of a trial; those tests come first that noticed most so far."""
        begin, tests = time.monotonic(), trial.tests
        while True:
            tests = [test for test in tests if self.sound.get(test, True)]
            tests.sort(key=lambda test: -self.kills[test])
            with written(trial):
                code, by = self._noticed(trial, tests)
            if not by or self.is_sound(trial, by):
                break
        self.kills[by] += bool(by)
        outcome = {0: "alive", _TOO_LONG: "slow"}.get(code, "killed")
        if trial.tests and not tests:
            outcome = "untested"
        return Outcome(outcome, by, round(time.monotonic() - begin, 2))

    def is_sound(self, trial: Trial, test: str) -> bool:
        """Whether a test passes by itself as the file is."""
        if test not in self.sound:
            same = replace(trial, text=trial.source)
            self.sound[test] = self._noticed(same, [test])[0] == 0
        return self.sound[test]

    def _noticed(self, trial: Trial, tests: list[str]) -> tuple[int, str]:
        if not tests:
            return 0, ""
        first = First()
        first.path.unlink(missing_ok=True)
        code = forked(lambda: self.run(trial, tests), trial.seconds)
        if code == _FAULT:
            raise RuntimeError(f"the tests of {trial.file} could not be run; see $MUTANTS_LOG")
        return code, first.path.read_text() if first.path.exists() else ""


def interpret() -> None:
    """Let Python run what numba is told to compile, in modules that are imported from here on."""
    import numba
    import numba.extending

    numba.njit = lambda **_: lambda function: function
    numba.extending.intrinsic = lambda _: lambda *_: None


def anew(trial: Trial, tests: list[str]) -> int:
    """Run tests in a process that has imported nothing of the package."""
    if trial.compiled:
        interpret()
    code = silent_pytest(["-x", *tests], [First()])
    if code == _USAGE:  # a test of this name is no more there, or its file cannot be imported
        code = silent_pytest(["-x", *dict.fromkeys(t.partition("::")[0] for t in tests)], [First()])
    return code


@dataclass(eq=False)
class Server:
    """A pytest plugin: instead of running its tests, a session tries changes.

    Attributes:
        coverage: Started before the session is.
        seen: The file for what the tests of a file run, or None if it is known.
        plan: Makes the trials, once all that is known.
        report: Is told of each outcome; what cannot be swapped it never hears of.
    """

    coverage: Any
    seen: Callable[[str], Path | None]
    plan: Callable[[], list[Trial]]
    report: Report

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        by_file: dict[str, dict[str, Any]] = defaultdict(dict)
        for item in session.items:
            by_file[item.nodeid.partition("::")[0]].setdefault(item.nodeid, item)
        for file, items in by_file.items():
            out = self.seen(file)
            if out:
                forked(lambda: self._watched(session, list(items.values()), out), 3600)  # noqa: B023
        self.coverage.stop()
        self._try_all(
            session, {name: item for named in by_file.values() for name, item in named.items()}
        )
        return True

    def _try_all(self, session: pytest.Session, items: dict[str, Any]) -> None:
        functions = living()

        def run(trial: Trial, tests: list[str]) -> int:
            for function, code in swaps(trial.file, trial.source, trial.text, functions) or []:
                function.__code__ = code
            session.config.pluginmanager.register(First())
            return run_items(session, [items[test] for test in tests], stop=True)

        judge = Judge(run)
        for trial in self.plan():
            trial.tests = [test for test in trial.tests if test in items]
            if swaps(trial.file, trial.source, trial.text, functions) is not None:
                self.report(trial, judge.tried(trial))

    def _watched(self, session: pytest.Session, items: list[Any], out: Path) -> int:
        watch = Watch(self.coverage)
        session.config.pluginmanager.register(watch)
        run_items(session, items, stop=False)
        self.coverage.stop()
        out.write_text(json.dumps(watch.found()))
        return 0


def run_items(session: pytest.Session, items: list[Any], stop: bool) -> int:
    """Run tests of a session; 1 if one failed."""
    for item, following in zip(items, [*items[1:], None], strict=True):
        session.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.testsfailed and stop:
            break
    return int(session.testsfailed > 0)


class Watch:
    """A pytest plugin: how long each test takes, which lines it runs, and what is imported."""

    def __init__(self, coverage: Any) -> None:
        self.coverage, self.here = coverage, Path.cwd()
        self.seconds: dict[str, float] = defaultdict(float)
        self.red: set[str] = set()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.coverage.switch_context(nodeid)
        self.seconds[nodeid] -= _worked()

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self.seconds[nodeid] += _worked()

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.red.add(report.nodeid)

    def found(self) -> dict[str, Any]:
        """Lines stand by file and by test; what runs at import is the test ""."""
        data = self.coverage.get_data()
        lines: dict[str, dict[str, list[int]]] = {}
        lengths = {}
        for path in data.measured_files():
            runs = defaultdict(list)
            for line, tests in data.contexts_by_lineno(path).items():
                for test in tests:
                    runs[test].append(line)
            file = str(Path(path).relative_to(self.here))
            lines[file], lengths[file] = runs, len(Path(path).read_text().splitlines())
        foreign = [name for name, module in list(sys.modules.items()) if _is_foreign(module)]
        return {
            "seconds": self.seconds,
            "red": sorted(self.red),
            "lines": lines,
            "lengths": lengths,
            "modules": foreign,
        }


def _worked() -> float:
    """Seconds that this process and its children have computed; on a busy machine more pass."""
    return sum(os.times()[:4])


def _is_foreign(module: Any) -> bool:
    return "site-packages" in str(getattr(module, "__file__", "") or "")

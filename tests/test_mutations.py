"""The tool that breaks files changes each place in the ways it promises, and nothing else."""

from __future__ import annotations

import ast
import importlib
import json
import re
from pathlib import Path

import pytest

from tests import mutants
from tests.mutant_code import living, swaps
from tests.mutant_server import Outcome, Server, Trial, forked, silent_pytest
from tests.mutants import LIST, ROOT, Seen, by_turns, chosen, drawn, reason, share, tomllib
from tests.mutations import mutations


def becomes(source: str) -> set[str]:
    return {mutation.becomes for mutation in mutations(source)}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x = a < b", {"x = (a <= b)"}),
        ("x = a + 1", {"x = (a - 1)", "x = a + 2"}),
        ("x = a and not b", {"x = (a or not b)", "x = a and b"}),
        ("x = y.long()", {"x = y"}),
        ("x = torch.long(y)", set()),
        ("x = f(a, k=b)", {"x = f(a)"}),
        ("x = f(a, device=b)", set()),
        ("x = f(a, strict=True)", set()),
        ("x = a.to(b.device)", set()),
        ("x = a.cpu()", set()),
        ("x = a.to(b)", {"x = a"}),
        ("x = a == 'mps'", {"x = (a != 'mps')"}),
        ("x = a[1:]", {"x = a", "x = a[2:]"}),
        ("x = 1e-8", {"x = 0.0001"}),
        ("x = [i for i in a if i]", {"x = ([i for i in a])"}),
        ("f(a)", {"pass"}),
        ("def f(a: int = 1) -> int:\n    '''Text.'''", {"def f(a: int = 2) -> int:"}),
        ("raise E(f'{a + 1} is too many')", set()),
        ("import a", set()),
    ],
)
def test_a_place_is_changed_in_each_way_that_its_kind_knows(source: str, expected: set) -> None:
    found = {text.replace("[i for i in a]", "[i for i in a]") for text in becomes(source)}
    assert found == expected


def test_each_change_is_one_and_the_text_is_python() -> None:
    source = (ROOT / "isoreg" / "masks.py").read_text()
    found = mutations(source)
    assert len({mutation.text for mutation in found}) == len(found) > 100
    for mutation in found:
        ast.parse(mutation.text)
        assert mutation.text != source
        lines = mutation.text.splitlines()
        assert lines[: mutation.line - 1] == source.splitlines()[: mutation.line - 1]


def seen(seconds: dict[str, float], lines: dict[int, set[str]]) -> Seen:
    return Seen(seconds, {"a.py": lines})


def test_a_change_meets_the_tests_of_its_lines_the_fastest_first() -> None:
    known = seen({"a": 3.0, "b": 1.0, "c": 2.0}, {2: {"a", "b"}, 1: {""}})
    source = "def f():\n    return 1\nx = 1"
    inside, outside = (m for m in mutations(source) if m.line in {2, 3})
    assert chosen("a.py", inside, source, known, [], 60.0) == (["b", "a"], False)
    assert chosen("a.py", inside, source, known, [], 0.1) == (["b"], False), "one at least"
    assert chosen("a.py", outside, source, known, [], 60.0) == (["b", "a"], True)


def test_a_test_that_takes_too_long_leaves_those_after_it_their_time() -> None:
    seconds = {"t.py::a": 9.0, "u.py::b": 2.0, "u.py::d": 2.5}
    known, source = seen(seconds, {2: set(seconds)}), "def f():\n    return 1"
    (inside,) = mutations(source)
    assert chosen("a.py", inside, source, known, [], 5.0)[0] == ["u.py::b", "u.py::d"]


def test_a_constant_or_default_meets_first_the_tests_of_what_uses_it() -> None:
    source = "A = 1\nB = 2\n\ndef f(x=3):\n    return x + A\n\ndef g():\n    return B"
    lines = {5: {"t.py::slow"}, 8: {"t.py::fast"}, **{line: {""} for line in (1, 2, 4, 7)}}
    known = seen({"t.py::slow": 2.0, "t.py::fast": 1.0, "u.py::none": 0.5}, lines)
    changes = {m.line: m for m in mutations(source)}
    for line, first in ((1, "slow"), (2, "fast"), (4, "slow")):
        found, imported = chosen("a.py", changes[line], source, known, ["u.py"], 9.0)
        assert found[0] == f"t.py::{first}"
        assert sorted(found) == ["t.py::fast", "t.py::slow", "u.py::none"]
        assert imported


def test_every_file_of_tests_gets_its_turn_and_those_that_are_named_get_four() -> None:
    names = {f"{file}.py::{i}" for file in "tuv" for i in range(9)}
    order = by_turns(names, {name: int(name[-1]) for name in names}, ["u.py"])
    assert order[:6] == [*(f"u.py::{i}" for i in range(4)), "t.py::0", "v.py::0"]
    assert order[6:11] == [*(f"u.py::{i}" for i in range(4, 8)), "t.py::1"]
    assert sorted(order) == sorted(names)


def test_those_of_the_files_that_are_named_come_first_and_serve_where_nothing_is_counted() -> None:
    known = seen({"t.py::a": 3.0, "u.py::b": 1.0}, {2: {"t.py::a", "u.py::b"}})
    source = "def f():\n    return 1\ndef g():\n    return 2"
    counted, not_counted = mutations(source)
    assert chosen("a.py", counted, source, known, ["t.py"], 9.0)[0] == ["t.py::a", "u.py::b"]
    assert chosen("a.py", not_counted, source, known, ["u.py"], 9.0)[0] == ["u.py::b"]


def test_a_sample_is_in_proportion_and_the_same_for_the_same_seed() -> None:
    changes = {name: mutations("x = 1\n" * n) for name, n in (("a", 300), ("b", 100), ("c", 1))}
    first, again, other = (drawn(changes, 40, seed) for seed in (0, 0, 1))
    assert {name: len(found) for name, found in first.items()} == {"a": 30, "b": 10, "c": 1}
    assert first == again != other


def test_what_tests_do_is_kept_until_a_line_moves_in_a_file_that_they_run(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(mutants, "ROOT", tmp_path)
    monkeypatch.setattr(mutants, "BUILD", tmp_path / "build")
    for name in ("test_a.py", "run.py", "imported.py"):
        (tmp_path / name).write_text("1\n2\n")
    assert mutants.kept("test_a.py") is None
    lines = {"run.py": {"": [1], "test_a.py::b": [2]}, "imported.py": {"": [1, 2]}}
    found = {"lines": lines, "lengths": {"run.py": 2, "imported.py": 2}}
    mutants.seen_path("test_a.py").write_text(json.dumps(found))
    assert mutants.kept("test_a.py") == found
    (tmp_path / "imported.py").write_text("1\n2\n3\n")
    (tmp_path / "run.py").write_text("1\n3\n")
    assert mutants.kept("test_a.py") == found
    (tmp_path / "run.py").write_text("0\n1\n3\n")
    assert mutants.kept("test_a.py") is None
    (tmp_path / "run.py").write_text("1\n3\n")
    (tmp_path / "test_a.py").write_text("2\n")
    assert mutants.kept("test_a.py") is None


def test_the_share_weighs_files_by_their_changes_and_its_interval_is_wilson_s() -> None:
    p, low, high = share({"a": 2, "b": 0}, {"a": 10, "b": 10}, {"a": 300, "b": 100})
    assert p == pytest.approx(0.2 * 0.75)
    assert 0 < low < p < high < 1
    alike = share({"a": 2, "b": 1}, {"a": 30, "b": 10}, {"a": 300, "b": 100})
    n, z = 40, 1.96
    q = 0.75 * 2 / 30 + 0.25 / 10
    middle, reach = q + z * z / (2 * n), z * (q * (1 - q) / n + z * z / (4 * n * n)) ** 0.5
    expected = (q, *((middle + sign * reach) / (1 + z * z / n) for sign in (-1, 1)))
    assert alike == pytest.approx(expected)


@pytest.mark.parametrize(
    ("file", "entry", "expected"),
    [
        ("a/b.py", {"was": "x = 1.0", "becomes": "x = 2.0"}, "because"),
        ("a/b.py", {"was": "x = 1.0", "becomes": "x = 3.0"}, ""),
        ("a/b.py", {"was": "x = 1.", "becomes": "x = 2.0"}, ""),
        ("a/c.py", {"was": "x = 1.0", "becomes": "x = 2.0"}, ""),
        ("a/b.py", {"pattern": r"1\.0 -> .* 2"}, "because"),
        ("a/*.py", {"pattern": "^x = "}, "because"),
        ("a/*.py", {"pattern": "^ = "}, ""),
        ("c/*.py", {"pattern": "^x = "}, ""),
    ],
)
def test_a_reason_is_given_for_a_change_by_its_text_or_for_a_kind_by_a_pattern(
    file: str, entry: dict[str, str], expected: str
) -> None:
    (change,) = mutations("x = 1.0")
    assert reason("a/b.py", change, [{"file": file, **entry, "why": "because"}]) == expected


def test_a_living_function_takes_the_code_of_a_changed_source(tmp_path, monkeypatch) -> None:
    source = """
import functools
LIMIT = 3
@functools.wraps(print)
def decorated(x): return x + 1
class A:
    def method(self):
        def inner(): return 5
        return inner() + LIMIT
def make(factor):
    def inside(x): return x * factor
    return inside
twice = make(2)
"""
    (tmp_path / "changed_source.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("changed_source")
    functions, path = living(), str(tmp_path / "changed_source.py")

    def after(old: str, new: str) -> bool:
        found = swaps(path, source, source.replace(old, new), functions)
        for function, code in found or []:
            function.__code__ = code
        return bool(found)

    made = module.A()
    assert made.method() == 8
    assert after("return 5", "return 6")
    assert made.method() == 9
    assert after("x + 1", "x - 1")
    assert module.decorated(1) == 0
    assert after("x * factor", "x + factor")
    assert (module.twice(3), module.make(4)(3)) == (5, 7), "made before and after the change"
    assert not after("LIMIT = 3", "LIMIT = 4"), "what ran at import must be imported again"


PLANTED = """
def double(x):
    extra = 0
    return 2 * x + extra
"""
NOTICING = """
from planted import double

def test_zero():
    assert double(0) == 0

def test_two():
    assert double(2) == 4
"""


class Unwatched:
    def stop(self) -> None:
        """Nothing was counted."""


def test_the_server_tells_what_is_noticed_from_what_is_not(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("planted.py").write_text(PLANTED)
    Path("test_planted.py").write_text(NOTICING)

    def trial(old: str, new: str, *tests: str) -> Trial:
        names = [f"test_planted.py::{name}" for name in tests]
        return Trial(new, "planted.py", PLANTED, PLANTED.replace(old, new), names, 30)

    trials = [
        trial("extra = 0", "extra = 1", "test_two"),
        trial("2 * x", "3 * x", "test_zero"),
        trial("2 * x", "3 * x", "test_zero", "test_two"),
        trial("2 * x", "3 * x"),
    ]

    def report(_: Trial, found: Outcome) -> None:
        with Path("outcomes").open("a") as file:
            file.write(f"{found.outcome} {found.by}\n")

    server = Server(Unwatched(), lambda _: None, lambda: trials, report)
    forked(lambda: silent_pytest(["test_planted.py"], [server]), 120)
    assert Path("outcomes").read_text().splitlines() == [
        "killed test_planted.py::test_two",
        "alive ",
        "killed test_planted.py::test_two",
        "alive ",
    ]
    assert Path("planted.py").read_text() == PLANTED, "it is as it was"


def test_the_list_names_files_that_there_are_and_a_reason_for_each_survivor() -> None:
    table = tomllib.loads(LIST.read_text())
    for entry in (*table["known"], *table["explained"]):
        assert list(ROOT.glob(entry["file"])), entry
        assert {"was", "becomes"} <= set(entry) or re.compile(entry["pattern"]), entry
        assert entry.get("was") != entry.get("becomes") or "pattern" in entry, entry
    assert all(entry["why"] for entry in table["explained"])
    for file, tests in (
        *table["tests"].items(),
        *((entry["file"], entry["tests"]) for entry in table["known"]),
    ):
        assert (ROOT / file).is_file(), file
        assert all((ROOT / test).is_file() for test in tests), tests


def test_what_the_list_says_of_one_line_is_of_a_line_that_there_is() -> None:
    table = tomllib.loads(LIST.read_text())
    for entry in table["explained"]:
        if "was" in entry:
            files = [path.read_text() for path in ROOT.glob(entry["file"])]
            joined = [" ".join(map(str.strip, text.splitlines())) for text in files]
            assert any(entry["was"] in text for text in joined), entry
    for entry in table["known"]:
        assert (ROOT / entry["file"]).read_text().count(entry["was"]) == 1, entry

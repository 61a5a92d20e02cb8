"""The tool that breaks files changes each place in the ways it promises, and nothing else."""

from __future__ import annotations

import ast

import pytest

from tests.mutants import LIST, ROOT, chosen_for, explained, tomllib
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


def test_a_change_meets_the_chosen_for_its_lines_the_fastest_first() -> None:
    found = {"seconds": {"a": 3.0, "b": 1.0, "c": 2.0}, "lines": {"2": ["a", "b"]}}
    inside, outside = mutations("def f():\n    return 1")[0], mutations("x = 1")[0]
    assert chosen_for(inside, found, 60.0) == ["b", "a"]
    assert chosen_for(outside, found, 60.0) == ["b", "c", "a"]
    assert chosen_for(outside, found, 3.5) == ["b", "c"]
    assert chosen_for(outside, found, 0.1) == ["b"], "one at least"


def test_the_list_names_files_that_there_are_and_a_reason_for_each_survivor() -> None:
    table = tomllib.loads(LIST.read_text())
    for entry in (*table["known"], *table["explained"]):
        assert (ROOT / entry["file"]).is_file(), entry
        assert entry["was"] != entry["becomes"], entry
    for file in {entry["file"] for entry in table["explained"]}:
        assert all(explained(file, table["explained"]).values())
    for file, tests in (
        *table["tests"].items(),
        *((entry["file"], entry["tests"]) for entry in table["known"]),
    ):
        assert (ROOT / file).is_file(), file
        assert all((ROOT / test).is_file() for test in tests), tests

"""What is published follows from the runs: tables from their JSON, numbers on pages from tables."""

from __future__ import annotations

import json

import pytest

from benchmarks import pages
from benchmarks.check import FROZEN, RESULTS, check, committed
from benchmarks.pages import Mark, agrees, find, marks, tables_of
from benchmarks.results import read
from benchmarks.studies import STUDIES
from examples.demo import BETAS
from examples.demo_choice import GRIDS, chosen

ROOT = RESULTS.parent.parent
COMMITTED = committed(STUDIES)
# page: how many of its numbers are marked, at least
MARKED = {
    "README.md": 2,
    "docs/beta.md": 28,
    "docs/encoders.md": 56,
    "docs/evaluating.md": 10,
    "docs/is-it-for-me.md": 19,
    "docs/mathematics.md": 3,
    "docs/robust-training.md": 19,
    "docs/robustness.md": 12,
    "docs/evidence/digits.md": 160,
    "docs/evidence/maps.md": 90,
    "docs/evidence/paper.md": 80,
    "docs/evidence/photographs.md": 48,
    "docs/evidence/rivals.md": 80,
    "docs/evidence/robust.md": 100,
    "docs/evidence/scaling.md": 50,
    "docs/evidence/speed.md": 50,
    "docs/evidence/timm.md": 120,
}


def test_every_committed_file_is_of_a_study_or_frozen_with_a_reason() -> None:
    files = {path.stem for path in RESULTS.glob("*.json")} | {p.stem for p in RESULTS.glob("*.md")}
    assert files == set(COMMITTED) | set(FROZEN)


def test_no_committed_run_is_stale_none_is_lacking_and_every_table_is_what_they_give() -> None:
    found = {findings.file: findings for findings in check(STUDIES)}
    assert len(found) == len(COMMITTED)
    assert not [name for name, f in found.items() if f.error or f.stale or f.lacking]
    assert not [name for name, f in found.items() if not f.table or not f.images]
    assert all((RESULTS / f"{file}.md").exists() for file in COMMITTED)


def test_every_committed_run_says_what_determined_it_and_from_which_commit_it_is() -> None:
    for file in COMMITTED:
        held = read(RESULTS / f"{file}.json")
        assert all(run["made"] in held["made"] and "commit" in run for run in held["runs"]), file


@pytest.mark.parametrize("page", MARKED)
def test_the_numbers_of_a_page_are_those_of_the_runs(page: str) -> None:
    found = list(marks((ROOT / page).read_text()))
    wrong = [f"{mark}: {mark.shown}, borne {mark.borne()}" for mark in found if not right(mark)]
    assert not wrong
    assert len(found) >= MARKED[page]


def test_the_readmes_first_table_is_what_the_demo_printed() -> None:
    rows = json.loads((ROOT / "docs" / "images" / "demo.json").read_text())
    (table,) = [
        table
        for table in tables_of((ROOT / "README.md").read_text())
        if "by ten, %" in table.header
    ]
    shown = {cells[0].partition(":")[0]: cells[1:] for cells in table.rows}
    names = {"the pixels, no network": "pixels, no network"}
    names["the reference itself, no network"] = "reference, no network"
    assert {names.get(name, name): cells for name, cells in shown.items()} == rows


def test_the_demos_strengths_are_those_that_the_validation_images_chose() -> None:
    tried = json.loads((ROOT / "docs" / "images" / "demo-choice.json").read_text())
    assert {name: tuple(map(float, by_beta)) for name, by_beta in tried.items()} == GRIDS
    assert {"plain": 0.0} | {name: chosen(by_beta) for name, by_beta in tried.items()} == BETAS
    for name, grid in GRIDS.items():
        assert min(grid) < BETAS[name] < max(grid), "the best may lie beyond"


def right(mark: Mark) -> bool:
    return agrees(mark.shown, mark.borne())


TEXT = """
<!-- figures: mnist | Accuracy and geometry (the paper's table 1)
columns: - | test accuracy % | within-class distances: Pearson r + stress
rows: 0 | - | 10 -->

| beta | accuracy | r / stress |
|---|---:|---:|
| none | {} | 0.33 / 0.57 |
| not asked | 12.3 | 9 / 9 |
| ten | 91.6 ± 0.2 | 0.90 / 0.61 |

It falls to 92 % <!-- figure: mnist | Accuracy and geometry (the paper's table 1) | 10 |
test accuracy % -->.
"""


def test_a_number_that_no_run_bears_turns_the_test_red() -> None:
    def wrong(text: str) -> list[str]:
        return [mark.shown for mark in marks(text) if not right(mark)]

    stress = find("mnist", "Accuracy and geometry (the paper's table 1)", "0", "stress")
    text = TEXT.replace("0.57", stress.split()[0])
    ten = find("mnist", "Accuracy and geometry (the paper's table 1)", "10", "stress").split()[0]
    text = text.replace("0.61", ten)
    assert wrong(text.format("**97.2 ± 0.2**")) == []
    assert wrong(text.format("97.2")) == []
    assert wrong(text.format("97.3")) == ["97.3"]
    assert wrong(text.format("97.2 ± 0.3")) == ["97.2 ± 0.3"]
    assert wrong(text.replace("92 %", "91 %").format("97")) == ["91"]
    assert wrong(text.format("97.20")) == ["97.20"], "more digits than the runs give"


STEPS = """
# Steps

| case | ranks | median | fastest |
|---|---:|---:|---:|
| digits | 1 | 0.3 ± 0.1 | 0.2 |
| digits | 4 | 31.3 | 19.9 |
"""
SEVERAL = """
<!-- figures: steps | Steps
columns: - | median + fastest | fastest + median
rows: digits / 1 | digits / 4 -->

| case | alone | range |
|---|---:|---:|
| one | 0.3 ± 0.1 (0.2) | 0.2 to 0.3 |
| four | 31.3 (19.9) | 20, 31 |
"""


def test_a_mark_bears_cells_of_several_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "committed_tables", lambda _: tables_of(STEPS))
    assert [f"{mark}: {mark.borne()}" for mark in marks(SEVERAL) if not right(mark)] == []
    assert len(list(marks(SEVERAL))) == 8
    for shown, other in (
        ("(0.2)", "(0.3)"),
        ("to 0.3", "to 0.4"),
        ("20, 31", "21, 31"),
        ("31.3 (19.9)", "31.2 (19.9)"),
    ):
        assert SEVERAL.count(shown) == 1
        wrong = [mark for mark in marks(SEVERAL.replace(shown, other)) if not right(mark)]
        assert len(wrong) == 1, shown


def test_a_mark_that_points_nowhere_is_refused_with_what_is_needed() -> None:
    with pytest.raises(ValueError, match=r"one cell of mnist.md under 'x' .* got 0"):
        find("mnist", "x", "0", "stress")
    with pytest.raises(ValueError, match="each column and row of its table, got 3 columns and 2"):
        list(marks(TEXT.replace("rows: 0 | - | 10", "rows: 0 | 10")))
    with pytest.raises(ValueError, match="a mark has 4 parts"):
        list(marks("5 <!-- figure: mnist | x -->"))


def test_tables_below_one_heading_are_numbered_and_rows_may_need_two_names() -> None:
    rows = "| a | b |\n|---|---:|\n| x | 1 |\n|  | 2 |\n\n"
    first, second = tables_of(f"# t\n\n## h\n\n{rows}{rows}")
    assert (first.heading, second.heading) == ("h", "h #2")
    assert first.names() == ["x / 1", "x / 2"]


def test_every_study_says_what_it_shows_and_how_long_it_takes() -> None:
    assert all(study.shows and study.time for study in STUDIES)
    assert len({study.name for study in STUDIES}) == len(STUDIES)

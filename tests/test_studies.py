"""The one runner: it goes on, adds and never replaces; files that are none are left as they are."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import pytest
import torch
import typer
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from typer.testing import CliRunner

from benchmarks.ascent import ascent, climb, cross_entropy, margin
from benchmarks.check import check
from benchmarks.command import command_of, takes
from benchmarks.commands import app
from benchmarks.results import Results, as_text, fingerprint, read
from benchmarks.sampling import even_rows
from benchmarks.studies import by_command
from benchmarks.study import Lab, Lacking, Skip, Study, expected, new_lab, run
from benchmarks.tables import Column, grouped, page, table
from benchmarks.training import Batches, adam, descend
from isoreg import InputError, isometry_penalty
from isoreg.datasets import mnist


@dataclass(frozen=True)
class Settings:
    """A grid, and what determines a run."""

    grid: tuple[int, ...] = (1, 2)
    depth: int = 3


def settings(quick: bool, depth: Annotated[int, typer.Option(help="How deep.")] = 3) -> Settings:
    """Some."""
    if depth < 0:
        raise ValueError(f"--depth must not be negative, got {depth}")
    return Settings(depth=1 if quick else depth)


def keys(lab: Lab[Settings]) -> Iterator[dict[str, Any]]:
    """The grid, then its best."""
    for value in lab.settings.grid:
        yield {"phase": "choose", "value": value}
    tried = [run for run in lab.runs if run["key"]["phase"] == "choose"]
    if not tried:
        raise Lacking
    best = max(tried, key=lambda run: run["figures"]["score"])["key"]["value"]
    for seed in range(lab.seeds):
        yield {"phase": "test", "value": best, "seed": seed}


def measure(key: dict[str, Any], lab: Lab[Settings]) -> dict[str, Any]:
    """A figure that depends on all of it."""
    if key["value"] == 13:
        raise Skip("thirteen is unlucky")
    return {"score": key["value"] * lab.settings.depth + key.get("seed", 0)}


def tables(found: dict[str, Any]) -> str:
    """Every run."""
    columns = [Column("score", "score", digits=1)]
    return page("# Toy", table("value", grouped(found["runs"], "value"), columns))


TOY = Study(
    "toy",
    settings,
    keys,
    measure,
    tables,
    shows="nothing",
    time="none",
    seeds=2,
    determines=lambda key, settings: {"depth": settings.depth},
)


def lab(path: Path, study: Study[Settings] = TOY, seeds: int = 2, **options: Any) -> Lab[Settings]:
    return new_lab(study, path, seeds=seeds, options=options)


def with_grid(*grid: int) -> Study[Settings]:
    return replace(TOY, settings=lambda quick: Settings(grid=grid))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the runs of the toy are kept."""
    return tmp_path / "toy.json"


def test_a_finished_study_measures_nothing_again(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "toy.json"
    first = run(TOY, lab(path))
    before = path.read_bytes()
    again = run(replace(TOY, measure=None), lab(path))  # type: ignore[arg-type]
    assert again["runs"] == first["runs"]
    assert path.read_bytes() == before
    assert [run["key"]["value"] for run in first["runs"]] == [1, 2, 2, 2]


def test_a_wider_grid_adds_runs_and_makes_none_again(path: Path) -> None:
    before = run(TOY, lab(path))["runs"]
    wider = with_grid(1, 2, 5)
    after = run(wider, lab(path, wider))
    held = read(path)["runs"]
    assert held[: len(before)] == before
    assert [r["key"]["value"] for r in held[len(before) :]] == [5, 5, 5]
    # the old choice is kept in the file, and is in no table any more
    assert [run["key"]["value"] for run in after["runs"]] == [1, 2, 5, 5, 5]
    assert tables(after).count("| 2 |") == 1


def test_other_settings_add_runs_of_their_own(path: Path) -> None:
    shallow = run(TOY, lab(path, depth=3))
    deep = run(TOY, lab(path, depth=7))
    assert len(read(path)["runs"]) == 8
    assert [r["figures"]["score"] for r in deep["runs"]] == [7, 14, 14, 15]
    assert run(TOY, lab(path, depth=3))["runs"] == shallow["runs"]


@given(
    st.dictionaries(st.text(max_size=3), st.integers() | st.lists(st.integers(), max_size=2)),
    st.text(max_size=3),
)
def test_a_fingerprint_depends_on_values_and_not_on_their_order(found: dict, name: str) -> None:
    turned = dict(reversed(found.items()))
    assert fingerprint(found) == fingerprint(turned)
    assert fingerprint({**found, name: 1}) != fingerprint({**found, name: 2})
    assert fingerprint({"a": (1, 2)}) == fingerprint({"a": [1, 2]})


def test_what_cannot_be_measured_is_skipped_and_the_rest_goes_on(tmp_path: Path) -> None:
    study = with_grid(1, 13, 2)
    found = run(study, lab(tmp_path / "toy.json", study))
    assert [run["key"]["value"] for run in found["runs"]] == [1, 2, 2, 2]


def add_many(path: Path, name: str, count: int) -> None:
    results = Results(path, "toy", {})
    for index in range(count):
        results.add({"by": name, "index": index}, {"depth": 1}, {"score": index})


def test_processes_that_write_to_one_file_lose_no_run_of_each_other(
    path: Path, tmp_path: Path
) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=add_many, args=(path, name, 15)) for name in "abc"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    found = {(run["key"]["by"], run["key"]["index"]) for run in read(path)["runs"]}
    assert found == {(name, index) for name in "abc" for index in range(15)}
    assert sorted(p.name for p in tmp_path.iterdir()) == [".toy.json.lock", "toy.json"]


def test_of_two_processes_that_make_the_same_run_the_faster_one_s_is_kept(path: Path) -> None:

    def overtaken(key: dict[str, Any], mine: Lab[Settings]) -> dict[str, Any]:
        other = Results(path, "toy", {})
        other.add(key, {"depth": mine.settings.depth}, measure(key, mine))
        return {"score": -1}

    found = run(replace(TOY, measure=overtaken), lab(path))
    assert [run["figures"]["score"] for run in found["runs"]] == [3, 6, 6, 7]
    assert read(path)["runs"] == found["runs"]


def test_a_run_that_another_process_made_meanwhile_is_not_made_again(path: Path) -> None:
    mine = lab(path)
    run(TOY, lab(path))
    never = replace(TOY, measure=lambda *_: pytest.fail("measured again"))
    assert len(run(never, mine)["runs"]) == 4


EMPTY = {"study": "toy", "settings": {}, "environment": {}, "made": {}, "runs": []}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "cannot be read as JSON"),
        ("[1, 2]", "holds no results of a study, 'study' is missing"),
        ('{"settings": {}, "runs": []}', "holds no results of a study, 'study' is missing"),
        (json.dumps({**EMPTY, "runs": [1]}), "holds no results of a study, 'runs' is missing"),
        (
            json.dumps({**EMPTY, "runs": [{"key": {}, "figures": [], "made": "x"}]}),
            "holds no results of a study, 'runs' is missing",
        ),
        (json.dumps({**EMPTY, "study": "other"}), "holds results of 'other', not of 'toy'"),
    ],
)
def test_a_broken_or_foreign_file_is_left_as_it_is_with_a_sentence(
    path: Path, tmp_path: Path, text: str, says: str
) -> None:
    path.write_text(text)
    with pytest.raises(SystemExit, match=f"toy.json: .*{says}.*It is left as it is"):
        run(TOY, lab(path))
    assert path.read_text() == text


def test_runs_with_keys_of_another_version_are_kept_and_not_shown(path: Path) -> None:
    Results(path, "toy", {}).add({"old name": 1}, {"depth": 3}, {"score": 99})
    found = run(TOY, lab(path))
    assert "99" not in tables(found)
    assert read(path)["runs"][0]["key"] == {"old name": 1}


def test_the_check_says_what_is_lacking_and_what_is_stale_and_why(
    path: Path, tmp_path: Path
) -> None:
    run(TOY, lab(path, depth=7))
    Results(path, "toy", {}).add({"phase": "choose", "value": 1}, {"depth": 3}, {"score": 3})
    (tmp_path / "broken.json").write_text("{")
    broken, found = check([TOY, replace(TOY, name="broken")], tmp_path)
    assert "cannot be read as JSON" in broken.error
    assert (found.file, found.runs) == ("toy.json", 1)
    # what follows from the best of 1 and 2 is not known before 2 is there
    assert found.lacking == [{"phase": "choose", "value": 2}, *two_tests(1)]
    stale = {json.dumps(key): why for key, why in found.stale}
    assert stale['{"phase": "choose", "value": 2}'] == "depth: 7, now 3"
    assert len(stale) == 4


def test_the_check_goes_on_where_a_table_lacks_the_runs_that_it_chooses_by(tmp_path: Path) -> None:
    def lacking(_: dict[str, Any]) -> str:
        raise Lacking

    run(TOY, lab(tmp_path / "toy.json"))
    (tmp_path / "toy.md").write_text("# Toy")
    (found,) = check([replace(TOY, tables=lacking)], tmp_path)
    assert (found.runs, found.error, found.table) == (4, "", False)


def test_the_check_goes_on_with_a_sentence_where_a_file_holds_figures_of_another_version(
    tmp_path: Path,
) -> None:
    def older(found: dict[str, Any]) -> str:
        return str(found["runs"][0]["figures"]["seen"])

    run(TOY, lab(tmp_path / "a.json", replace(TOY, name="a")))
    run(TOY, lab(tmp_path / "toy.json"))
    (tmp_path / "a.md").write_text("# Toy")
    first, second = check([replace(TOY, name="a", tables=older), TOY], tmp_path)
    assert first.error == "holds runs that its study cannot read (KeyError: 'seen')"
    assert (second.error, second.runs) == ("", 4)


def test_the_check_goes_on_where_the_keys_of_a_study_stumble_over_a_file(tmp_path: Path) -> None:
    def stumbling(lab: Lab[Settings]) -> Iterator[dict[str, Any]]:
        yield {"phase": lab.results.runs[0]["key"]["task"]}

    run(TOY, lab(tmp_path / "toy.json"))
    (found,) = check([replace(TOY, keys=stumbling)], tmp_path)
    assert found.error == "holds runs that its study cannot read (KeyError: 'task')"


def test_runs_that_nothing_makes_any_more_are_kept_and_shown(path: Path, tmp_path: Path) -> None:
    Results(path, "toy", {}).add({"value": "older"}, {"depth": 1}, {"score": 99})
    frozen = replace(TOY, frozen=lambda key: key["value"] == "older")
    assert "99" in tables(run(frozen, lab(path, frozen)))
    assert "99" not in tables(run(TOY, lab(path)))
    assert [len(found.stale) for study in (frozen, TOY) for found in check([study], tmp_path)] == [
        0,
        1,
    ]


def two_tests(value: int) -> list[dict[str, Any]]:
    return [{"phase": "test", "value": value, "seed": seed} for seed in (0, 1)]


def test_keys_that_wait_for_runs_end_the_list_of_what_is_expected(tmp_path: Path) -> None:
    found = [key for key, _ in expected(TOY, lab(tmp_path / "toy.json"))]
    assert found == [{"phase": "choose", "value": 1}, {"phase": "choose", "value": 2}]


def test_an_environment_that_differs_from_the_file_s_is_kept_with_the_run(path: Path) -> None:
    run(TOY, lab(path))
    held = json.loads(path.read_text())
    held["environment"]["python"] = "1.5"
    path.write_text(json.dumps(held))
    run(TOY, lab(path, seeds=3))
    *before, new = read(path)["runs"]
    assert not any("environment" in run for run in before)
    assert new["environment"]["python"] != "1.5"
    assert read(path)["environment"]["python"] == "1.5"


def test_a_note_in_a_file_and_the_settings_it_began_with_are_kept(path: Path) -> None:
    run(TOY, lab(path))
    began = read(path)
    path.write_text(json.dumps({"study": "toy", "note": "carried over", **began}))
    run(TOY, lab(path, depth=7))
    held = read(path)
    assert len(held["runs"]) == 2 * len(began["runs"])
    assert (held["note"], held["settings"]) == ("carried over", began["settings"])
    assert list(held)[:3] == ["study", "note", "settings"]


def toy_app(*studies: Study[Any]) -> typer.Typer:
    found = typer.Typer()
    found.command()(command_of(studies))
    found.callback()(lambda: None)
    return found


def test_a_command_takes_what_the_settings_of_its_parts_take(tmp_path: Path) -> None:
    other = replace(TOY, name="toy-other", settings=lambda quick: Settings(grid=(4,)))
    cli, out = toy_app(TOY, other), tmp_path / "toy.json"
    assert takes(TOY) == ["quick", "seeds", "out", "depth"]
    command = ["toy", "--depth", "5", "--out", str(out)]
    assert CliRunner().invoke(cli, command).exit_code == 0
    assert read(out)["settings"] == {**asdict(Settings(depth=5)), "grid": [1, 2]}
    assert "| 2 | 10.3 ± 0.6 |" in out.with_suffix(".md").read_text()
    refused = CliRunner().invoke(cli, [*command, "--part", "other"])
    assert refused.exit_code == 2
    assert "--depth: no option of --part other" in refused.output
    assert "--part must be one of" in CliRunner().invoke(cli, [*command, "--part", "x"]).output
    assert "must not be negative" in CliRunner().invoke(cli, ["toy", "--depth", "-1"]).output


@pytest.mark.parametrize("name", ["toy.md", "toy.png", "toy", "taken/toy.json"])
def test_a_file_that_would_lose_its_runs_is_refused_before_anything_is_measured(
    tmp_path: Path, name: str
) -> None:
    def measure(key: dict[str, Any], lab: Lab[Settings]) -> dict[str, Any]:
        raise AssertionError

    (tmp_path / "taken").write_text("a file")
    cli = toy_app(replace(TOY, measure=measure))
    done = CliRunner().invoke(cli, ["toy", "--out", str(tmp_path / name)])
    assert done.exit_code == 2, done.output
    assert "--out must" in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_where_a_command_runs_is_checked_before_it_does(tmp_path: Path) -> None:
    cli = toy_app(replace(TOY, data="MNIST", device=True))
    where = ["toy", "--out", str(tmp_path / "toy.json")]
    for option, value in (("--device", "abacus"), ("--data-dir", str(tmp_path / "nowhere"))):
        done = CliRunner().invoke(cli, [*where, option, value])
        assert (done.exit_code, type(done.exception)) == (2, SystemExit)
    assert CliRunner().invoke(cli, [*where, "--device", "auto"]).exit_code == 0


def test_data_that_are_not_there_are_a_sentence_and_another_error_shows_its_place(
    tmp_path: Path,
) -> None:
    def reads(key: dict[str, Any], lab: Lab[Settings]) -> dict[str, Any]:
        return {"images": len(mnist("test", tmp_path)[0])}

    def errs(key: dict[str, Any], lab: Lab[Settings]) -> dict[str, Any]:
        return {"penalty": isometry_penalty(torch.ones(2, 1), torch.ones(3, 1))}

    where = ["toy", "--out", str(tmp_path / "toy.json")]
    done = CliRunner().invoke(toy_app(replace(TOY, measure=reads)), where)
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit)
    assert str(done.exception).startswith("mnist: t10k-images-idx3-ubyte is not in")
    done = CliRunner().invoke(toy_app(replace(TOY, measure=errs)), where)
    assert isinstance(done.exception, InputError)


def test_a_study_that_begins_anew_deletes_no_file_of_another(path: Path) -> None:
    run(TOY, lab(path))
    anew = replace(TOY, fresh=lambda _: True)
    assert lab(path, anew).results.runs == []
    run(TOY, lab(path))
    with pytest.raises(SystemExit, match=r"of 'toy', not of 'other'\. It is left as it is"):
        lab(path, replace(anew, name="other"))
    assert read(path)["runs"]


@pytest.mark.parametrize("name", by_command())
def test_every_command_explains_its_options(name: str) -> None:
    shown = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200"}).output
    assert all(f"--{o.replace('_', '-')}" in shown for s in by_command()[name] for o in takes(s))


def test_the_check_of_the_command_line_ends_with_an_error_where_something_is_wrong(
    tmp_path: Path,
) -> None:
    (tmp_path / "rings.json").write_text("{")
    done = CliRunner().invoke(app, ["check", "--folder", str(tmp_path)])
    assert done.exit_code == 1
    assert "rings.json" in done.output
    assert "cannot be read as JSON" in " ".join(done.output.split())


@given(st.integers(1, 400), st.integers(1, 500), st.booleans())
def test_an_even_sample_has_gaps_that_differ_by_one_at_most(
    length: int, count: int, both_ends: bool
) -> None:
    rows = even_rows(length, count, both_ends=both_ends).tolist()
    assert len(rows) == min(length, count) == len(set(rows))
    assert rows[0] == 0
    assert rows[-1] < length
    gaps = [b - a for a, b in pairwise(rows if both_ends else [*rows, length])]
    assert not gaps or max(gaps) - min(gaps) <= 1
    assert not both_ends or len(rows) == 1 or rows[-1] == length - 1
    if not both_ends and length % count == 0:
        assert rows == list(range(0, length, length // count))


@given(st.integers(1, 30), st.integers(1, 12), st.integers(1, 3), st.booleans())
def test_batches_hold_every_sample_once_an_epoch(
    samples: int, size: int, epochs: int, whole: bool
) -> None:
    batches = Batches(samples, size, epochs, whole=whole)
    found = list(batches)
    assert len(found) == len(batches)
    each = len(found) // epochs
    for epoch in range(epochs):
        rows = [r for batch in found[epoch * each : (epoch + 1) * each] for r in batch.tolist()]
        assert len(rows) == len(set(rows)) == (samples // size * size if whole else samples)


def test_descent_tells_the_loss_its_progress_and_lowers_it() -> None:
    weight, seen = nn.Parameter(torch.tensor([3.0])), []

    def loss(rows: torch.Tensor, progress: float) -> torch.Tensor:
        seen.append(progress)
        return weight.square().sum() * len(rows)

    descend(loss, adam([weight], 0.1), Batches(4, 2, 10))
    assert seen == [step / 20 for step in range(20)]
    assert weight.item() < 1.5


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_every_point_of_an_ascent_lies_in_ball_and_pixels_and_climbs_a_linear_loss(
    norm: str,
) -> None:
    torch.manual_seed(0)
    x, y = 0.5 + 0.1 * torch.rand(5, 12), torch.arange(5) % 3
    model = nn.Linear(12, 3)
    order = float("inf") if norm == "Linf" else 2
    for loss in (cross_entropy(model, y), margin(model, y)):
        points = list(ascent(loss, x, eps=0.2, step=0.1, steps=5, norm=norm))
        assert len(points) == 6
        for point in points:
            assert ((point - x).norm(order, dim=1) <= 0.2 + 1e-6).all()
            assert 0 <= point.min() <= point.max() <= 1
        values = [loss(point).item() for point in points]
        assert values[-1] > values[0]
        last = climb(loss, x, eps=0.2, step=0.1, steps=5, norm=norm)
        torch.testing.assert_close(last, points[-1])


def test_a_file_has_lists_of_numbers_on_one_line_and_comes_back_as_it_was() -> None:
    points = [[0.1, -2.0], [1e-9, None], [True, 3]]
    found = {"text": "[1,  2]", "points": points, "words": ["a", "b"], "empty": []}
    text = as_text(found)
    assert json.loads(text) == found
    assert "[ 0.1, -2.0 ]" in text
    assert '\n  "a",\n' in text


def test_the_check_finds_nothing_right_in_a_folder_that_is_not_there(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["check", "--folder", str(tmp_path / "nowhere")])
    assert done.exit_code == 2
    assert "--folder" in done.output

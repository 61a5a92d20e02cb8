"""The rivals' benchmark: its rule for choosing, its costs, and that it goes on where it stopped."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from benchmarks.__main__ import app
from benchmarks.objectives import METHODS
from benchmarks.rivals import costs, experiment
from benchmarks.rivals.experiment import chosen, grids, train
from benchmarks.rivals.figure import FAMILIES
from benchmarks.rivals.settings import Settings
from benchmarks.timing import peak_memory


def tried(method: str, setting: int, clean: float, score: float) -> dict:
    key = {"phase": "choose", "method": method, "setting": setting}
    figures = {"recipe": {method: {"n": setting}}, "clean": clean, "score": score}
    return {"key": key, "figures": figures}


def test_the_most_robust_setting_is_chosen_among_the_accurate_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(experiment, "METHODS", {"pgd": METHODS["pgd"]})
    runs = [
        tried("cross-entropy", 0, 0.9, 0.0),
        tried("cross-entropy", 1, 0.94, 0.1),
        tried("cross-entropy", 2, 0.93, 0.3),
        tried("pgd", 0, 0.97, 0.4),
        tried("pgd", 1, 0.95, 0.6),
        tried("pgd", 2, 0.949, 0.9),
    ]
    found = chosen(runs, Settings(clean_floor=0.95))
    assert found["pgd"] == {"pgd": {"n": 1}}
    assert found["cross-entropy"] == {"cross-entropy": {"n": 1}}, "no one is accurate enough"


def test_every_method_is_tried_tested_and_drawn() -> None:
    assert list(grids(Settings())) == ["cross-entropy", *METHODS]
    assert grids(Settings())["pgd"] == [{"pgd": dict(o)} for o in METHODS["pgd"].grid]
    drawn = [method for _, _, methods in FAMILIES.values() for method in methods]
    assert sorted(drawn) == sorted(grids(Settings()))


def test_all_methods_start_alike_and_a_seed_repeats() -> None:
    images, labels = torch.rand(60, 1, 28, 28), torch.arange(60) % 10
    settings = replace(Settings(), epochs=1, batch_size=20)
    state = train({}, images, labels, seed=3, settings=settings).state_dict()
    again = train({}, images, labels, seed=3, settings=settings).state_dict()
    # a noise of nothing draws random numbers, and sees the same batches
    noise = train({"noise": {"sigma": 0.0}}, images, labels, seed=3, settings=settings).state_dict()
    torch.testing.assert_close(state, again, rtol=0, atol=0)
    torch.testing.assert_close(state, noise, rtol=0, atol=0)


@pytest.mark.skipif("not __import__('sys').platform.startswith('linux')")
def test_the_memory_of_training_is_measured_in_a_process_of_its_own() -> None:
    recipe = {"isometry": {"beta": 0.1}}
    assert 1e5 < peak_memory(costs.memory_program(recipe, Settings())) < 1e9


def test_the_step_that_is_timed_trains() -> None:
    images, labels = torch.rand(20, 1, 28, 28), torch.arange(20) % 10
    with ExitStack() as stack:
        step = costs.training_step({"pgd": {"eps": 0.1}}, images, labels, Settings(), stack)
        losses = [step() for _ in range(30)]
    assert losses[-1] < losses[0] - 0.1


def test_the_command_goes_on_and_leaves_tables_and_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = {name: METHODS[name] for name in ("isometry", "orthogonal", "fgsm")}
    monkeypatch.setattr(experiment, "METHODS", some)
    monkeypatch.setattr(costs, "peak_memory", lambda _: 5_000_000)
    images, labels = torch.rand(60_000, 1, 2, 14).repeat(1, 1, 14, 2), torch.arange(60_000) % 10
    monkeypatch.setattr(experiment, "mnist", lambda *_: (images, labels))
    out = tmp_path / "rivals.json"
    done = CliRunner().invoke(app, ["rivals", "--quick", "--out", str(out)])
    assert done.exit_code == 0, done.output
    runs = json.loads(out.read_text())["runs"]
    assert [run["key"]["phase"] for run in runs] == ["choose"] * 4 + ["cost"] + ["test"] * 4
    table = out.with_suffix(".md").read_text()
    assert table.count("| FGSM training | eps 0.1 |") == 2
    assert out.with_suffix(".png").stat().st_size > 20_000
    stopped = {**json.loads(out.read_text()), "runs": runs[:-2]}
    out.write_text(json.dumps(stopped))
    assert CliRunner().invoke(app, ["rivals", "--quick", "--out", str(out)]).exit_code == 0
    again = json.loads(out.read_text())["runs"]
    assert [run["figures"] for run in again] == [run["figures"] for run in runs]

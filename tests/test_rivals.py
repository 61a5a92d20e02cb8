"""The rivals' benchmark: its rule for choosing, its costs, and that it goes on where it stopped."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from commandline import run_quickly

from benchmarks.costs import memory
from benchmarks.methods import METHODS, Part, grid, method, rivals
from benchmarks.rivals import costs
from benchmarks.rivals import study as experiment
from benchmarks.rivals.figure import FAMILIES, family_of
from benchmarks.rivals.study import Settings, chosen, grids, train

SHAPE = {"width": 100, "batch_size": 20, "rate": 1e-3}


def tried(method: str, setting: int, clean: float, score: float) -> dict:
    key = {"phase": "choose", "method": method, "recipe": {method: {"n": setting}}}
    return {"key": key, "figures": {"clean": clean, "score": score}}


def test_the_most_robust_setting_is_chosen_among_the_accurate_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(experiment, "rivals", lambda: {"pgd": METHODS["pgd"]})
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
    assert list(grids(Settings())) == ["cross-entropy", *rivals()]
    assert grids(Settings())["pgd"] == [{"pgd": dict(o)} for o in METHODS["pgd"].grid]
    assert all(METHODS[name].family in FAMILIES for name in rivals())
    assert family_of("cross-entropy") == family_of("noise") == "no local term"


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
    assert 1e5 < memory(costs.training_step, recipe, steps=10, **SHAPE) < 1e9


def test_the_step_that_is_timed_trains() -> None:
    with ExitStack() as stack:
        step = costs.training_step({"pgd": {"eps": 0.1}}, stack, **SHAPE)
        losses = [step() for _ in range(30)]
    assert losses[-1] < losses[0] - 0.1


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Three rivals, and random images; all methods are there again at the end."""
    every = dict(METHODS)
    some = {name: METHODS[name] for name in ("isometry", "orthogonal", "fgsm")}
    for name in set(METHODS) - set(some):
        del METHODS[name]
    monkeypatch.setattr(costs, "memory", lambda *_, **__: 5_000_000)
    quick = experiment.settings(quick=True)
    tiny = replace(quick, train_images=200, validation_images=5, test_images=5, timing_seconds=0.01)
    monkeypatch.setitem(vars(experiment.STUDY), "settings", lambda quick: tiny)
    images, labels = torch.rand(60_000, 1, 2, 14).repeat(1, 1, 14, 2), torch.arange(60_000) % 10
    monkeypatch.setattr("benchmarks.sampling.mnist", lambda *_: (images, labels))
    yield
    METHODS.clear()
    METHODS.update(every)


@pytest.mark.usefixtures("few")
def test_the_command_goes_on_and_leaves_tables_and_figure(tmp_path: Path) -> None:
    out = tmp_path / "rivals.json"
    runs = run_quickly(out, "rivals")
    phases = [run["key"]["phase"] for run in runs]
    assert phases == ["choose"] * 4 + ["cost"] * 4 + ["test"] * 4
    table = out.with_suffix(".md").read_text()
    assert table.count("| FGSM training | eps 0.1 |") == 2
    assert out.with_suffix(".png").stat().st_size > 20_000
    held = json.loads(out.read_text())
    out.write_text(json.dumps({**held, "runs": runs[:-2]}))
    again = run_quickly(out, "rivals")
    assert [run["figures"] for run in again] == [run["figures"] for run in runs]


@pytest.mark.usefixtures("few")
def test_a_rival_is_added_in_ten_lines_and_only_its_own_runs_are_made(tmp_path: Path) -> None:
    out = tmp_path / "rivals.json"
    before = run_quickly(out, "rivals")

    @method("confidence", title="confidence", family="no local term", grid=grid("weight", 0.1))
    def confidence(model: torch.nn.Module, *, weight: float) -> Part:
        def term(step):  # type: ignore[no-untyped-def]
            return weight * step.logits.softmax(1).square().sum(1).mean()

        return Part(term=term)

    after = run_quickly(out, "rivals")
    new = [run["key"] for run in after if run not in before]
    assert [run for run in after if run in before] == before, "no run is made again, none is lost"
    assert [(key["phase"], key["method"]) for key in new] == [
        (phase, "confidence") for phase in ("choose", "cost", "test")
    ]
    assert out.with_suffix(".md").read_text().count("| confidence | weight 0.1 |") == 2
    METHODS["confidence"] = dataclasses.replace(METHODS["confidence"], version=2)
    again = run_quickly(out, "rivals")
    assert len(again) == len(after) + 3, "another version of a method has runs of its own"
    assert out.with_suffix(".md").read_text().count("| confidence | weight 0.1 |") == 2
    del METHODS["confidence"]
    assert len(run_quickly(out, "rivals")) == len(again), "runs of a method that is gone are kept"
    assert "confidence" not in out.with_suffix(".md").read_text()

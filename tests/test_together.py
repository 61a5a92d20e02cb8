"""Isometry together with a second head: what it adds, when it is gone, and the study of both."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from photographs import fake_photographs
from test_structure import TINY, small_mnist
from torch import Tensor, nn

from benchmarks.methods import attach
from benchmarks.structure import data as samples
from benchmarks.structure import together
from benchmarks.structure.settings import Settings
from benchmarks.structure.together_report import draw
from benchmarks.structure.training import mlp
from benchmarks.study import Study, new_lab, run
from isoreg import isometry_penalty

RECIPE = {"isometry-and-head": {"weight": 0.3, "outputs": 5, "head": 0.2, "until": 0.5}}


def batch() -> tuple[nn.Sequential, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    model = mlp(torch.empty(6), 2, TINY)
    return model, torch.rand(12, 6), torch.arange(12) % 2, torch.randn(12, 5)


@pytest.mark.parametrize("progress, share", [(0.0, 1.0), (0.25, 0.5), (0.5, 0.0), (0.9, 0.0)])
def test_the_heads_weight_falls_and_the_penalty_stays(progress: float, share: float) -> None:
    model, x, labels, reference = batch()
    with attach(model, RECIPE) as objective:
        found = objective(x, labels, progress, reference=reference)
        weight, bias = objective.parameters[-2:]
        features = model[:-1](x)
        head = (features @ weight.T + bias - reference).square().sum(1).mean()
        plain = nn.functional.cross_entropy(model(x), labels)
        iso = 0.3 * isometry_penalty(reference, features, labels)
        torch.testing.assert_close(found, plain + iso + share * 0.2 * head)


def test_the_head_is_trained_and_no_hook_stays() -> None:
    model, x, labels, reference = batch()
    with attach(model, RECIPE) as objective:
        objective(x, labels, 0.0, reference=reference).backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in objective.parameters[-2:])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_without_an_end_the_heads_weight_stays() -> None:
    model, x, labels, reference = batch()
    kept = {"isometry-and-head": RECIPE["isometry-and-head"] | {"until": None}}
    with attach(model, kept) as objective:
        values = [objective(x, labels, p, reference=reference).item() for p in (0.0, 0.9)]
    assert values[0] == pytest.approx(values[1])


@pytest.mark.parametrize("study", together.STUDIES, ids=lambda study: study.name)
def test_the_study_measures_probes_and_distances_of_every_training(
    study: Study[Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "mnist", small_mnist)
    for split, each in (("train", 30), ("test", 10)):
        fake_photographs(tmp_path, split, each)
    found = run(study, new_lab(study, tmp_path / "t.json", quick=True, data_dir=tmp_path))
    text = study.page(found)
    for name in together.DIGITS.trials:
        assert f"| {name} | 1 |" in text
    tested = [run for run in found["runs"] if "seed" in run["key"]]
    assert all({"r", "kNN", "few-shot"} <= set(run["figures"]) for run in tested)
    draw(found, tmp_path / "t.png")
    assert (tmp_path / "t.png").stat().st_size > 10_000

"""The benchmarks' own attacks, their saving and their command line."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import torchattacks
from commandline import run_and_resume, run_quickly
from torch import Tensor, nn
from torch.nn import functional as F
from typer.testing import CliRunner

from benchmarks.ascent import climb, cross_entropy, margin
from benchmarks.commands import app
from benchmarks.library import speed
from benchmarks.library.census import SAMPLE
from benchmarks.library.census_check import Subject, check
from benchmarks.library.census_subjects import timm_subject, transformers_subjects
from benchmarks.library.speed import STEP_LIMITS, failures
from benchmarks.library.speed_penalties import PENALTIES, Case
from benchmarks.library.speed_report import tables
from benchmarks.library.speed_steps import Step, _added_loss, measure_step, penalty_alone, steps
from benchmarks.networks import mlp
from benchmarks.paper import mnist as experiment
from benchmarks.paper.mnist import Settings, combined_loss, train
from benchmarks.studies import STUDIES
from benchmarks.study import new_lab, run
from isoreg.datasets import mnist


def batch(n: int = 20) -> tuple[Tensor, Tensor]:
    return torch.rand(n, 1, 28, 28), torch.arange(n) % 10


def test_one_step_of_the_ascent_is_torchattacks_fgsm() -> None:
    model, (x, y) = mlp(), batch()
    ours = climb(cross_entropy(model, y), x, eps=0.1, step=0.1, steps=1)
    torch.testing.assert_close(ours, torchattacks.FGSM(model, eps=0.1)(x, y))


def test_many_steps_of_the_ascent_are_torchattacks_pgd() -> None:
    model, (x, y) = mlp(), batch()
    ours = climb(cross_entropy(model, y), x, eps=0.1, step=0.03, steps=7)
    theirs = torchattacks.PGD(model, eps=0.1, alpha=0.03, steps=7, random_start=False)(x, y)
    torch.testing.assert_close(ours, theirs)


def test_gradients_at_the_clean_image_make_pgd_an_fgsm_of_the_summed_steps() -> None:
    model, (x, y) = mlp(), batch()
    loss = cross_entropy(model, y)
    (gradient,) = torch.autograd.grad(loss(at := x.clone().requires_grad_()), at)
    for step, size in [(0.02, 0.2), (0.3, 0.5)]:
        released = x
        for _ in range(10):
            released = (x + (released + step * gradient.sign() - x).clamp(-0.5, 0.5)).clamp(0, 1)
        torch.testing.assert_close(released, climb(loss, x, eps=size, step=size, steps=1))


def test_the_combined_loss_is_the_training_loss_and_without_beta_cross_entropy() -> None:
    model, (x, y) = mlp(), batch()
    plain = F.cross_entropy(model(x), y)
    torch.testing.assert_close(combined_loss(model, x, y, beta=0)(x), plain)
    same = y[:, None] == y[None, :]
    features, pixels = model[:-1](x), x.flatten(1)
    gaps = (torch.cdist(pixels, pixels) - torch.cdist(features, features)) * same
    expected = plain + 0.5 * gaps.square().mean()
    found = combined_loss(model, x, y, beta=0.5)(x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_margin_is_positive_exactly_where_the_image_is_misclassified() -> None:
    model, (x, y) = mlp(), batch(200)
    wrong = model(x).argmax(1) != y
    margins = torch.stack([margin(model, y[i : i + 1])(x[i : i + 1]) for i in range(200)])
    assert 0 < wrong.sum() < 200
    assert torch.equal(margins > 0, wrong)


def test_training_is_the_same_for_the_same_seed_and_leaves_no_hook() -> None:
    settings = replace(Settings(), epochs=1)
    images, labels = batch(200)
    first, second = (train(images, labels, beta=0.1, seed=3, settings=settings) for _ in range(2))
    torch.testing.assert_close(first.state_dict(), second.state_dict(), rtol=0, atol=0)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in first.modules())


class Stopped(Exception):
    pass


def test_a_stopped_experiment_keeps_its_runs_and_ends_as_an_unbroken_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = experiment.settings(quick=True)
    small = replace(quick, train_images=300, test_images=100, attack_sizes=(0.03, 0.1), steps=3)
    study = replace(experiment.STUDY, settings=lambda quick: small)
    data = batch(400)
    monkeypatch.setattr(experiment, "mnist", lambda *_: data)

    def runs(name: str) -> list[dict[str, object]]:
        lab = new_lab(study, tmp_path / f"{name}.json")
        kept = [dict(done["figures"]) for done in run(study, lab)["runs"]]
        for figures in kept:
            figures.pop("training seconds")
        return kept

    whole, real = runs("whole"), experiment.train

    def stop_at_second(*args: Tensor, beta: float, **options: object) -> nn.Sequential:
        if beta > 0:
            raise Stopped
        return real(*args, beta=beta, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(experiment, "train", stop_at_second)
    with pytest.raises(Stopped):
        runs("stopped")
    assert len(json.loads((tmp_path / "stopped.json").read_text())["runs"]) == 1
    monkeypatch.setattr(experiment, "train", real)
    assert runs("stopped") == whole


def test_the_command_line_prints_tables_and_saves_all_three_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = replace(
        Settings(), betas=(0.0, 0.1), epochs=1, train_images=300, test_images=100, steps=2
    )
    monkeypatch.setitem(vars(experiment.STUDY), "settings", lambda quick: small)
    monkeypatch.setattr(experiment, "mnist", lambda *_: batch(400))
    out = tmp_path / "m.json"
    done = CliRunner().invoke(app, ["mnist", "--quick", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "Robust accuracy" in done.output
    assert json.loads(out.read_text())["settings"] == json.loads(json.dumps(asdict(small)))
    assert "| 0.1 |" in out.with_suffix(".md").read_text()
    assert out.with_suffix(".png").stat().st_size > 10_000


def test_the_list_names_every_benchmark() -> None:
    listed = CliRunner().invoke(app, ["list"], env={"COLUMNS": "200"}).output
    commands = {command.name or command.callback.__name__ for command in app.registered_commands}  # type: ignore[union-attr]
    assert commands - {"list", "check"} == {study.command for study in STUDIES}
    assert all(study.command in listed and study.part in listed for study in STUDIES)


@pytest.mark.skipif("ISOREG_DATA" not in __import__("os").environ, reason="needs ISOREG_DATA")
def test_the_real_mnist_is_read_whole() -> None:
    images, labels = mnist("test")
    assert images.shape == (10_000, 1, 28, 28)
    assert labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_the_speed_check_passes_at_a_size_for_tests(tmp_path: Path) -> None:
    (found,) = run_quickly(tmp_path / "speed.json", "speed", "--check")
    figures = found["figures"]
    assert figures["gradient error"] < 1e-5
    assert set(figures["ratio"]) == {"isoreg without numba", "plain", "pytorch-metric-learning"}


def test_the_speed_check_fails_below_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.library.speed.QUICK_LIMIT", 1e6)
    done = CliRunner().invoke(
        app, ["speed", "--quick", "--check", "--out", str(tmp_path / "speed.json")]
    )
    assert done.exit_code != 0
    assert "times plain, limit" in str(done.exception)


def test_the_rivals_of_the_speed_benchmark_compute_the_same_penalty() -> None:
    inputs, features, labels = Case(60, 8, 4, 2, p=12).data()
    expected = PENALTIES["isoreg"](inputs, features, labels)
    for name in ("isoreg without numba", "plain", "pytorch-metric-learning"):
        torch.testing.assert_close(PENALTIES[name](inputs, features, labels), expected)


@pytest.mark.parametrize("step", steps()[1::2], ids=str)
def test_the_plain_penalty_in_a_step_is_that_of_the_regularizer(step: Step) -> None:
    step = replace(step, batch=4)
    model, x, _ = step.data("cpu")
    y = torch.tensor([0, 1, 0, 1])
    plain, ours = (_added_loss(model, step, name) for name in ("plain", "isoreg"))
    model(x)
    torch.testing.assert_close(0.1 * plain(x, y), ours(x, y), rtol=1e-3, atol=0)


def test_a_step_is_measured_with_and_without_each_penalty() -> None:
    step = Step("mlp", 28, 10, 4, "flatten")
    figures = measure_step(step, "cpu", seconds=0.01)
    for share in ("share", "share by difference"):
        assert figures[share].keys() == {"isoreg", "isoreg without numba", "plain"}
    assert min(figures["milliseconds"]["penalty"].values()) > 0
    assert len(penalty_alone(step, "plain", "cpu")()) == 4


def test_the_speed_check_fails_where_a_step_spends_too_much_on_the_penalty(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step = Step("mlp", 28, 10, 1, "flatten")
    figures = measure_step(step, "cpu", seconds=0.01)
    settings = {"check": True, "threads": 1, "device": "cpu"}
    found = {"settings": settings, "runs": [{"key": asdict(step), "figures": figures}]}
    assert not failures(found)
    monkeypatch.setitem(STEP_LIMITS, step, 0.0)
    assert "of a step, limit 0.0" in failures(found)[0]
    assert not failures({**found, "settings": {**settings, "check": False}}), "no check, no limit"
    assert "mlp, 28 px, batch 10, 1 layer flattened" in tables(found)
    assert speed.STUDY.verdict is failures


def small() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 10))


def test_the_census_says_ok_for_a_model_that_is_left_as_it_was() -> None:
    row = check(Subject("mlp", small, lambda: torch.randn(4, 6), {}))
    assert row["result"] == "ok", row
    assert row["layer"] == "2"
    assert row["features"] == "(4, 5)"


def test_the_census_quotes_what_went_wrong_and_when() -> None:
    row = check(Subject("mlp", small, lambda: torch.randn(4, 7), {}))
    assert row["result"] == "failed while training without isoreg"
    row = check(Subject("mlp", small, lambda: torch.randn(4, 6), {"layers": "nowhere"}))
    assert row["result"] == "failed while training"
    assert "nowhere" in row["reason"]
    frozen = Subject("mlp", lambda: small().requires_grad_(False), lambda: torch.randn(4, 6), {})
    assert check(frozen)["result"].startswith("failed while training")


@pytest.mark.parametrize("module", SAMPLE)
def test_the_regularizer_attaches_to_a_small_model_of_eight_timm_modules(module: str) -> None:
    row = check(timm_subject(module))
    assert row["result"] == "ok", row


def test_the_regularizer_attaches_to_transformers() -> None:
    rows = [check(subject) for subject in transformers_subjects()]
    assert len(rows) == 5
    assert [row for row in rows if row["result"] != "ok"] == []


@pytest.mark.parametrize("name", ["rings", "torus"])
def test_the_paper_s_shapes_run_resume_and_leave_table_and_figure(
    name: str, tmp_path: Path
) -> None:
    out = tmp_path / f"{name}.json"
    runs = run_and_resume(out, name)
    assert len(runs) == {"rings": 3, "torus": 2}[name]
    assert out.with_suffix(".png").stat().st_size > 20_000
    table = out.with_suffix(".md").read_text()
    assert all(run["key"]["variant"] in table for run in runs)

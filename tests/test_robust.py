"""The robustness benchmark: its schedule, its choice, its plans and its command."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from commandline import run_and_resume
from matplotlib.figure import Figure
from torch import Tensor, nn

from benchmarks.methods import attach
from benchmarks.robust import study as experiment
from benchmarks.robust.figure import draw
from benchmarks.robust.plans import (
    BUDGET,
    EPOCHS,
    NETWORKS,
    OURS,
    RECIPES,
    STAGES,
    Choice,
    Plan,
    Schedule,
    batch_of,
    measured,
    network,
    plan_of,
)
from benchmarks.robust.report import costs, score
from benchmarks.robust.runs import relative_cost, train, validate
from benchmarks.robust.study import STUDY, Settings, best, tries
from benchmarks.sampling import mnist_part
from benchmarks.study import Lacking
from benchmarks.training import OPTIMIZERS, cosine, set_rate


def images(n: int = 60) -> tuple[Tensor, Tensor]:
    """Noise with a bright row that tells the label."""
    generator = torch.Generator().manual_seed(0)
    noise, labels = torch.rand(n, 1, 28, 28, generator=generator), torch.arange(n) % 10
    noise[torch.arange(n), 0, labels] = 1
    return noise, labels


def tried(
    clean: float, attacked: float, rate: float = 0.01, optimizer: str = "adam", **options: float
) -> dict[str, Any]:
    """A run of the choice."""
    key = {"phase": "choose", "network": "relu", "method": OURS, "setting": str(options)}
    key["plan"] = asdict(
        Plan({OURS: options}, Schedule(1, learning_rate=rate, optimizer=optimizer))
    )
    return {"key": key, "figures": {"clean": clean, "attacked": {"0.1": attacked, "0.2": 0.5}}}


def test_the_rate_rises_to_its_peak_and_falls_to_zero() -> None:
    rates = [cosine(0.4, warmup=0.1)(p) for p in (0.0, 0.05, 0.1, 0.55, 1.0)]
    assert rates == pytest.approx([0.0, 0.2, 0.4, 0.2, 0.0])


@pytest.mark.parametrize("name", NETWORKS)
def test_the_networks_have_four_hidden_layers_of_their_width(name: str) -> None:
    activation, width = NETWORKS[name]
    model = network(name)
    linear = [module for module in model if isinstance(module, nn.Linear)]
    assert [layer.out_features for layer in linear] == [width] * 4 + [10]
    assert sum(isinstance(module, activation) for module in model) == 4


def test_training_repeats_from_its_seed_and_lowers_the_loss() -> None:
    models = []
    for _ in range(2):
        torch.manual_seed(3)
        model = network("relu")
        schedule = Schedule(20, batch_size=20, learning_rate=3e-3)
        assert train(model, *images(), plan=Plan({OURS: {"eps": 0.01}}, schedule)) > 0
        models.append(model)
    first, second = models
    torch.testing.assert_close(first.state_dict(), second.state_dict(), rtol=0, atol=0)
    assert not first.training
    x, y = images()
    assert (first(x).argmax(1) == y).float().mean() > 0.5


def test_training_takes_the_optimizer_of_its_schedule() -> None:
    weights = {}
    for optimizer in OPTIMIZERS:
        torch.manual_seed(3)
        model = network("tanh")
        schedule = Schedule(1, batch_size=20, optimizer=optimizer)
        train(model, *images(), plan=Plan({}, schedule))
        weights[optimizer] = model[3].weight
    assert not torch.allclose(weights["adam"], weights["muon"])


def test_the_choice_takes_the_most_robust_of_those_that_are_accurate_enough() -> None:
    settings = Settings()
    runs = [
        tried(0.97, 0.7, eps=0.1),
        tried(0.966, 0.8, rate=0.02, optimizer="muon", eps=0.2),
        tried(0.96, 0.9),
    ]
    assert best(runs, "relu", OURS, settings=settings) == Choice({OURS: {"eps": 0.2}}, "muon", 0.02)
    of_adam = Choice({OURS: {"eps": 0.1}}, "adam", 0.01)
    assert best(runs, "relu", OURS, "adam", settings=settings) == of_adam
    assert best(runs[2:], "relu", OURS, settings=settings) == Choice({OURS: {}}, "adam", 0.01)
    inaccurate = [tried(0.90, 0.9, eps=0.3), tried(0.95, 0.2, eps=0.1)]
    assert best(inaccurate, "relu", OURS, settings=settings) == of_adam
    with pytest.raises(Lacking):
        best([], "relu", OURS, settings=settings)


def test_every_recipe_is_tried_and_then_the_best_at_the_other_rate_with_each_optimizer() -> None:
    runs: list[dict[str, Any]] = []
    seen = []
    for key, choice in tries(runs, "relu", list(RECIPES), Settings()):
        seen.append((key["method"], choice))
        recipes = RECIPES[key["method"]]
        # the second recipe of each method is the best with Adam, the first with Muon
        wanted = recipes[min(1, len(recipes) - 1) if choice.optimizer == "adam" else 0]
        figures: dict[str, Any] = {"clean": 0.97}
        figures["attacked"] = {"0.1": float(choice.recipe == wanted)}
        plan = asdict(plan_of("relu", key["method"], choice))
        runs.append({"key": {**key, "plan": plan}, "figures": figures})
    for method, recipes in RECIPES.items():
        for optimizer, best_one in (
            ("adam", recipes[min(1, len(recipes) - 1)]),
            ("muon", recipes[0]),
        ):
            of_both = [
                choice for name, choice in seen if (name, choice.optimizer) == (method, optimizer)
            ]
            assert [choice.recipe for choice in of_both[:-1]] == list(recipes)
            assert of_both[-1].recipe == best_one
            assert of_both[-1].rate != of_both[0].rate
    keys = [json.dumps(run["key"]) for run in runs]
    assert len(set(keys)) == len(keys)


def test_validation_counts_the_images_that_survive() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    x, _ = images()
    labels = model(x).argmax(1)
    labels[:15] = (labels[:15] + 1) % 10
    found = validate(model, x, labels, radii=(0.0, 1.0), steps=5)
    assert found["clean"] == pytest.approx(0.75)
    assert found["attacked"]["0"] == pytest.approx(0.75)
    assert found["attacked"]["1"] < 0.1
    assert score(found) == pytest.approx((1.5 + found["attacked"]["1"]) / 3)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_plan_can_be_attached_and_costs_the_budget_by_its_epochs(name: str) -> None:
    plans: dict[str, Plan] = {}
    for stage in range(len(STAGES)):
        plans |= measured(name, first_choice, stage)
    assert len(plans) == 14
    assert plans["RobustLoss"].schedule.optimizer == "muon"
    assert plans["RobustLoss, Adam"].schedule.optimizer == "adam"
    x, y = images(20)
    for plan in plans.values():
        model = network(name)
        with attach(model, plan.recipe) as objective:
            objective(x, y).backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
    for method in RECIPES:
        for optimizer in OPTIMIZERS:
            plan = plan_of(name, method, Choice({}, optimizer, 0.01))
            assert plan.schedule.batch_size == batch_of(optimizer, method)
            assert abs(plan.schedule.epochs - BUDGET * EPOCHS[name][optimizer][method]) <= 0.5


def first_choice(_: str, method: str, optimizer: str = "muon") -> Choice:
    """The first recipe of a method."""
    return Choice(RECIPES[method][0], optimizer, 0.01)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_changes_every_parameter_once_and_obeys_its_rate(name: str) -> None:
    model = network("tanh")
    optimizers = OPTIMIZERS[name](model)
    held = [p for o in optimizers for group in o.param_groups for p in group["params"]]
    assert sorted(map(id, held)) == sorted(map(id, model.parameters()))
    x, y = images()
    nn.functional.cross_entropy(model(x), y).backward()
    before = [p.detach().clone() for p in model.parameters()]
    set_rate(optimizers, 0.0)
    for optimizer in optimizers:
        optimizer.step()
    torch.testing.assert_close(list(model.parameters()), before, rtol=0, atol=0)
    set_rate(optimizers, 0.01)
    for optimizer in optimizers:
        optimizer.step()
    for parameter, old in zip(model.parameters(), before, strict=True):
        step = (parameter - old).square().mean().sqrt()
        assert 0.0005 < step < 0.02, parameter.shape


def test_muon_moves_the_hidden_matrices_in_all_directions_alike() -> None:
    model = network("tanh")
    before = model[3].weight.detach().clone()
    optimizers = OPTIMIZERS["muon"](model)
    hidden = [p for group in optimizers[0].param_groups for p in group["params"]]
    assert [tuple(p.shape) for p in hidden] == [(100, 784), *[(100, 100)] * 3]
    set_rate(optimizers, 0.01)
    x, y = images()
    nn.functional.cross_entropy(model(x), y).backward()
    ranks = torch.linalg.matrix_rank(model[3].weight.grad, rtol=0.1)
    for optimizer in optimizers:
        optimizer.step()
    assert torch.linalg.matrix_rank(model[3].weight - before, rtol=0.1) > 2 * ranks


def test_costs_are_epochs_times_the_time_of_a_step_over_its_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def timed(steps: dict[str, Any], seconds: float) -> dict[str, float]:
        for step in steps.values():
            step()  # can be called
        return {"unit": 1.0, "plan": 3.0}

    built = []

    def build(name: str, model: nn.Module) -> Any:
        built.append(name)
        return OPTIMIZERS[name](model)

    builders = {name: partial(build, name) for name in OPTIMIZERS}
    monkeypatch.setattr("benchmarks.robust.runs.OPTIMIZERS", builders)
    monkeypatch.setattr("benchmarks.robust.runs.interleaved", timed)
    large = Plan({OURS: {"eps": 0.1}}, Schedule(5, batch_size=200, optimizer="muon"))
    long = Plan({}, Schedule(20, batch_size=300))
    found = [relative_cost("tanh", plan, seconds=1.0) for plan in (large, long)]
    assert found == pytest.approx([1.5, 4.0])
    assert built == ["muon", "adam", "adam", "adam"]


def test_the_splits_are_those_they_are_called(monkeypatch: pytest.MonkeyPatch) -> None:
    def numbered(split: str, root: Path | None) -> tuple[Tensor, Tensor]:
        del root
        labels = torch.arange(60_000 if split == "train" else 10_000)
        return labels.view(-1, 1, 1, 1).float(), labels

    monkeypatch.setattr("benchmarks.sampling.mnist", numbered)
    ends = {
        split: mnist_part(split, None)[1][[0, -1]].tolist()
        for split in ("fit", "validation", "train", "test")
    }
    assert ends == {
        "fit": [0, 49_999],
        "validation": [50_000, 59_999],
        "train": [0, 59_999],
        "test": [0, 9_999],
    }
    assert mnist_part("test", None, count=4)[1].tolist() == [0, 2500, 5000, 7500]


def measured_run(name: str, training: str, share: float) -> dict[str, Any]:
    """A run on test images with one worst case."""
    key = {"phase": "test", "network": name, "training": training, "seed": 0}
    return {"key": key, "figures": {"Linf": {"shares": {"worst case": {"0.1": share}}}}}


def test_the_figure_shows_every_budget_of_every_network(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: drawn.append(self))
    runs = []
    for name, cost in (("relu", 3.0), ("tanh", 8.0)):
        cheap = "RobustLoss, a third of the cost"
        runs += [measured_run(name, "RobustLoss", 0.9), measured_run(name, cheap, 0.8)]
        runs += [measured_run(name, "RobustLoss, a fifth of the rate", 0.1)]  # no budget
        # costs are measured stage by stage
        for stage, found in enumerate(({"RobustLoss": cost}, {cheap: cost / 3})):
            for title, value in found.items():
                key = {"phase": "cost", "network": name, "stage": stage, "training": title}
                runs.append({"key": key, "figures": {"cost": value}})
    assert costs({"runs": runs}, "tanh") == {"RobustLoss": 8.0, cheap: 8.0 / 3}
    settings = {"linf": [0.1, 0.2], "l2": [1.0]}
    draw({"settings": settings, "runs": runs}, tmp_path / "robust.png")
    axes = drawn[0].axes
    assert len(axes) == 2 * 3
    for axis, cost in ((axes[0], 3.0), (axes[3], 8.0)):
        assert axis.get_xlim()[0] == 0
        assert axis.get_xlim()[1] > 8
        line = axis.lines[0]
        assert list(line.get_xdata()) == pytest.approx([cost / 3, cost])
        assert list(line.get_ydata()) == pytest.approx([80.0, 90.0])


def test_the_command_runs_resumes_and_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "benchmarks.sampling.mnist", lambda split, _: images(60 if split == "test" else 11_000)
    )
    monkeypatch.setattr(experiment, "measured", lambda *_: {"RobustLoss": QUICK})
    monkeypatch.setattr(experiment, "STAGES", ((OURS,),))
    path = tmp_path / "robust.json"
    phases = [run["key"]["phase"] for run in run_and_resume(path, "robust")]
    assert phases == ["choose", "choose", "test", "cost"]
    assert "RobustLoss" in path.with_suffix(".md").read_text()
    assert path.with_suffix(".png").stat().st_size > 1000
    assert STUDY.tables(json.loads(path.read_text())) == path.with_suffix(".md").read_text()


QUICK = Plan({OURS: {"eps": 0.1}}, Schedule(1), preset="quick")

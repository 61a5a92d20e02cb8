"""Choose a setting for each method on validation images, then train, attack and time it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.mnist.settings import CONVENTIONS
from benchmarks.mnist.training import mlp
from benchmarks.objectives import METHODS, attach
from benchmarks.objectives.methods import Recipe
from benchmarks.progress import progress_bar
from benchmarks.results import Results, Run
from benchmarks.rivals.costs import costs
from benchmarks.rivals.settings import Settings
from isoreg.datasets import mnist
from isoreg.robustness import evaluate

Split = tuple[Tensor, Tensor]
_VALIDATION = slice(50_000, 60_000)


def run(
    settings: Settings, *, seeds: int, data_dir: Path | None, device: str, out: Path
) -> Results:
    """Run what is not yet in the file ``out``: choosing first, then costs, then seed by seed."""
    results = Results(out, {**asdict(settings), "grids": grids(settings)})
    todo = [key for key in _keys(settings, seeds) if not results.has(key)]
    if not todo:
        return results
    images, labels = mnist("train", data_dir)
    train_set = _even(images[:50_000], labels[:50_000], settings.train_images, device)
    validation = _even(images[_VALIDATION], labels[_VALIDATION], 10_000, device)
    test_images, test_labels = mnist("test", data_dir)
    test_set = _even(test_images, test_labels, settings.test_images, device)
    with progress_bar() as progress:
        bar = progress.add_task("", total=len(todo))
        for key in todo:
            progress.update(bar, description=" ".join(str(value) for value in key.values()))
            if key["phase"] == "choose":
                recipe = _grid(key["method"], settings)[key["setting"]]
                figures = _validate(recipe, train_set, validation, settings)
            elif key["phase"] == "cost":
                figures = costs(chosen(results.runs, settings), train_set, settings)
            else:
                recipe = chosen(results.runs, settings)[key["method"]]
                figures = _test(recipe, key["seed"], train_set, test_set, settings)
            results.add(key, figures)
            progress.advance(bar)
    return results


def chosen(runs: list[Run], settings: Settings) -> dict[str, Recipe]:
    """The recipe of each method by the rule of `Settings`, from the runs on validation images."""
    found: dict[str, Recipe] = {}
    for method in grids(settings):
        tried = [
            run["figures"]
            for run in runs
            if run["key"]["phase"] == "choose" and run["key"]["method"] == method
        ]
        accurate = [figures for figures in tried if figures["clean"] >= settings.clean_floor]
        if accurate:
            found[method] = max(accurate, key=lambda figures: figures["score"])["recipe"]
        else:
            found[method] = max(tried, key=lambda figures: figures["clean"])["recipe"]
    return found


def grids(settings: Settings) -> dict[str, list[Recipe]]:
    """The recipes to try of each method."""
    return {name: _grid(name, settings) for name in ("cross-entropy", *METHODS)}


def train(
    recipe: Recipe, images: Tensor, labels: Tensor, *, seed: int, settings: Settings
) -> nn.Sequential:
    """Train one network; the seed fixes its initial weights, the batches and their order."""
    torch.manual_seed(seed)
    model = mlp(settings.width, CONVENTIONS["text"]).to(images.device)
    order = torch.Generator().manual_seed(seed)
    batches = [
        batch
        for _ in range(settings.epochs)
        for batch in torch.randperm(len(images), generator=order).split(settings.batch_size)
    ]
    with attach(model, recipe) as objective:
        optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
        for step, batch in enumerate(batches):
            loss = objective(images[batch], labels[batch], progress=step / len(batches))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            objective.after_step()
    return model.eval()


def _keys(settings: Settings, seeds: int) -> list[dict[str, Any]]:
    methods = grids(settings)
    choosing = [
        {"phase": "choose", "method": method, "setting": index}
        for method, recipes in methods.items()
        for index in range(len(recipes))
    ]
    testing = [
        {"phase": "test", "method": method, "seed": seed}
        for seed in range(seeds)
        for method in methods
    ]
    return [*choosing, {"phase": "cost"}, *testing]


def _grid(method: str, settings: Settings) -> list[Recipe]:
    if method == "cross-entropy":
        return [{}]
    return [{method: dict(options)} for options in METHODS[method].grid[slice(*settings.tried)]]


def _validate(
    recipe: Recipe, train_set: Split, validation: Split, settings: Settings
) -> dict[str, Any]:
    model = train(recipe, *train_set, seed=0, settings=settings)
    images, labels = validation
    with torch.no_grad():
        clean = (model(images).argmax(1) == labels).double().mean().item()
    some = _even(images, labels, settings.validation_images, str(images.device))
    report = evaluate(
        model, *some, eps=settings.chosen_at, attacks=settings.choosing_attacks, batch_size=1000
    )
    worst = list(report.worst_case.values())
    return {
        "recipe": recipe,
        "clean": clean,
        "worst case": worst,
        "score": sum(worst) / len(worst),
        "warnings": report.warnings,
    }


def _test(
    recipe: Recipe, seed: int, train_set: Split, test_set: Split, settings: Settings
) -> dict[str, Any]:
    model = train(recipe, *train_set, seed=seed, settings=settings)
    figures: dict[str, Any] = {"recipe": recipe}
    for norm, eps, attacks in (
        ("Linf", settings.eps, settings.attacks),
        ("L2", settings.eps_l2, settings.attacks_l2),
    ):
        report = evaluate(model, *test_set, eps=eps, norm=norm, attacks=attacks, batch_size=1000)
        figures["clean"] = report.clean
        figures[norm] = {
            "worst case": list(report.worst_case.values()),
            "accuracy": {name: list(found.values()) for name, found in report.accuracy.items()},
            "warnings": report.warnings,
        }
    return figures


def _even(images: Tensor, labels: Tensor, count: int, device: str) -> Split:
    """An even sample: MNIST's test images are not in random order of difficulty."""
    sample = slice(None, None, max(1, len(images) // count))
    return images[sample][:count].to(device), labels[sample][:count].to(device)

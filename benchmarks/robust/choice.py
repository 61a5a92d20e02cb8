"""The choice of settings: every recipe of a method, then the best one at another learning rate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from benchmarks.objectives.methods import Recipe
from benchmarks.results import Run
from benchmarks.robust.plans import RATES, RECIPES
from benchmarks.robust.settings import Settings
from isoreg.robustness.pgd import pgd

Key = dict[str, Any]


def tries(
    runs: list[Run], name: str, methods: Sequence[str], settings: Settings
) -> Iterator[tuple[Key, Recipe, float]]:
    """Keys of the runs of the choice on a network with their recipes and rates, as they come.

    The last one of a method depends on the runs before it, which ``runs`` must have by then.
    """
    rate, other_rate = RATES[name]
    for method in methods:
        for recipe in RECIPES[method][: settings.recipes_each]:
            yield _key(name, method, recipe, rate), recipe, rate
        if settings.other_rate:
            recipe, _ = best(runs, name, method, settings)
            yield _key(name, method, recipe, other_rate), recipe, other_rate


def best(runs: list[Run], name: str, method: str, settings: Settings) -> tuple[Recipe, float]:
    """Recipe and rate by the rule of `Settings`."""
    wanted = {"phase": "choose", "network": name, "method": method}
    tried = [run["figures"] for run in runs if wanted.items() <= run["key"].items()]
    accurate = [figures for figures in tried if figures["clean"] >= settings.clean_floor]
    found = (
        max(accurate, key=score) if accurate else max(tried, key=lambda figures: figures["clean"])
    )
    return found["recipe"], found["rate"]


def score(figures: dict[str, Any]) -> float:
    """Mean of the clean accuracy and those at each radius."""
    accuracies: list[float] = [figures["clean"], *figures["attacked"].values()]
    return sum(accuracies) / len(accuracies)


def validate(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, settings: Settings
) -> dict[str, Any]:
    """Clean accuracy, and what survives PGD on the margin at each radius."""
    torch.manual_seed(1)
    with torch.no_grad():
        correct = model(images).argmax(1) == labels
    x, y = images[correct], labels[correct]
    attacked: Mapping[str, float] = {
        f"{eps:g}": (len(x) - pgd(model, x, y, eps=eps, steps=settings.choice_steps)[1][-1])
        / len(images)
        for eps in settings.choice_radii
    }
    return {"clean": correct.float().mean().item(), "attacked": attacked}


def _key(name: str, method: str, recipe: Recipe, rate: float) -> Key:
    options = ", ".join(f"{k} {v:g}" for k, v in recipe.get(method, {}).items())
    return {
        "phase": "choose",
        "network": name,
        "method": method,
        "setting": f"{options}, rate {rate:g}".removeprefix(", "),
    }

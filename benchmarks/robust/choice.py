"""The choice of settings: every recipe, then the best at another rate, with each optimizer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from benchmarks.results import Run
from benchmarks.robust.budgets import RATES
from benchmarks.robust.optimizers import OPTIMIZERS
from benchmarks.robust.plans import RECIPES, Choice
from benchmarks.robust.settings import Settings
from isoreg.robustness.pgd import pgd

Key = dict[str, Any]


def tries(
    runs: list[Run], name: str, methods: Sequence[str], settings: Settings
) -> Iterator[tuple[Key, Choice]]:
    """Keys of the runs of the choice on a network with what they try, as they come.

    The last one with each optimizer depends on the runs before it, which ``runs`` must have by
    then.
    """
    for method in methods:
        for optimizer in OPTIMIZERS:
            rates = RATES[name][optimizer]
            for recipe in RECIPES[method][: settings.recipes_each]:
                yield _keyed(name, method, Choice(recipe, optimizer, rates.first))
            if settings.other_rate:
                recipe = best(runs, name, method, settings, optimizer).recipe
                yield _keyed(name, method, Choice(recipe, optimizer, rates.other))


def best(
    runs: list[Run], name: str, method: str, settings: Settings, optimizer: str | None = None
) -> Choice:
    """The choice by the rule of `Settings`, among all optimizers or with one of them."""
    wanted = {"phase": "choose", "network": name, "method": method}
    tried = [run["figures"] for run in runs if wanted.items() <= run["key"].items()]
    if optimizer:
        tried = [figures for figures in tried if figures["schedule"]["optimizer"] == optimizer]
    accurate = [figures for figures in tried if figures["clean"] >= settings.clean_floor]
    found = (
        max(accurate, key=score) if accurate else max(tried, key=lambda figures: figures["clean"])
    )
    schedule = found["schedule"]
    return Choice(found["recipe"], schedule["optimizer"], schedule["learning_rate"])


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


def _keyed(name: str, method: str, choice: Choice) -> tuple[Key, Choice]:
    options = ", ".join(f"{k} {v:g}" for k, v in choice.recipe.get(method, {}).items())
    setting = f"{options}, {choice.optimizer.title()} {choice.rate:g}".removeprefix(", ")
    return {"phase": "choose", "network": name, "method": method, "setting": setting}, choice

"""Choose on validation images, time the steps, then train and attack, seed by seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.objectives.methods import Recipe
from benchmarks.progress import progress_bar
from benchmarks.results import Results
from benchmarks.robust.choice import Key, best, tries, validate
from benchmarks.robust.cost import relative_costs
from benchmarks.robust.evaluation import DECISIVE, attacked
from benchmarks.robust.plans import OURS, RECIPES, Plan, measured, plan_of, title_of
from benchmarks.robust.settings import Settings
from benchmarks.robust.training import load, network, train

Split = tuple[Tensor, Tensor]


def run(
    settings: Settings, *, seeds: int, data_dir: Path | None, device: str, out: Path
) -> Results:
    """Run what is not yet in the file ``out``."""
    results = Results(out, {**asdict(settings), "recipes": RECIPES})
    data = _Data(settings, data_dir, device)
    with progress_bar() as progress:
        bar = progress.add_task("", total=_count(settings, seeds))
        for name in settings.networks:
            for key, recipe, rate in tries(results.runs, name, settings):
                progress.update(bar, description=_describe(key), advance=1)
                if not results.has(key):
                    results.add(key, _try(key, recipe, rate, settings, data))
        for key, plan in _measurements(results, settings, seeds):
            progress.update(bar, description=_describe(key), advance=1)
            if results.has(key):
                continue
            if plan is None:
                plans = _plans(results, key["network"], settings)
                costs = relative_costs(key["network"], plans, seconds=settings.timing_seconds)
                results.add(key, costs)
            else:
                results.add(key, _measure(key, plan, settings, data))
    return results


class _Data:
    """The splits, read when they are first needed."""

    def __init__(self, settings: Settings, data_dir: Path | None, device: str) -> None:
        self._settings, self._data_dir, self.device = settings, data_dir, device
        self._read: dict[str, Split] = {}

    def __call__(self, split: str) -> Split:
        counts = {
            "validation": self._settings.choice_images,
            "test": self._settings.test_images,
        }
        if split not in self._read:
            count = counts.get(split, self._settings.train_images)
            self._read[split] = load(split, self._data_dir, self.device, count)
        return self._read[split]


def _plans(results: Results, name: str, settings: Settings) -> dict[str, Plan]:
    plans = measured(name, lambda name, method: best(results.runs, name, method, settings))
    return {
        title: replace(plan, schedule=settings.shortened(plan.schedule))
        for title, plan in plans.items()
    }


def _measurements(
    results: Results, settings: Settings, seeds: int
) -> Iterator[tuple[Key, Plan | None]]:
    """Keys and plans, those that matter most first; no plan: the costs of all plans."""
    for name in settings.networks:
        plans = _plans(results, name, settings)
        yield {"phase": "cost", "network": name}, None
        for rank in sorted({plan.rank for plan in plans.values()}):
            for seed in range(seeds):
                for title, plan in plans.items():
                    if plan.rank == rank:
                        key = {"phase": "test", "network": name, "training": title, "seed": seed}
                        yield key, plan
            if rank == 0:
                last = replace(plans[title_of(OURS)], preset=settings.last_preset)
                key = {"phase": "last", "network": name, "training": title_of(OURS), "seed": 0}
                yield key, last


def _try(key: Key, recipe: Recipe, rate: float, settings: Settings, data: _Data) -> dict[str, Any]:
    plan = plan_of(key["network"], key["method"], recipe, rate)
    plan = replace(plan, schedule=settings.shortened(plan.schedule))
    model, seconds = _trained(key["network"], plan, 0, data("fit"), data.device)
    figures = validate(model, *data("validation"), settings)
    return {**figures, "rate": rate, "training seconds": seconds, **plan.to_dict()}


def _measure(key: Key, plan: Plan, settings: Settings, data: _Data) -> dict[str, Any]:
    images, labels = data("train")
    kept = slice(None, len(images) - min(plan.held_out, len(images) // 6))
    model, seconds = _trained(
        key["network"], plan, key["seed"], (images[kept], labels[kept]), data.device
    )
    figures = attacked(model, *data("test"), "Linf", settings.linf, plan.preset or DECISIVE)
    if key["seed"] < plan.l2_seeds and settings.l2:
        # the standard preset in L2 is left to the last phase: it takes as long as all the rest
        preset = plan.preset if key["phase"] == "last" else None
        figures |= attacked(model, *data("test"), "L2", settings.l2, preset or DECISIVE)
    return {**figures, "training seconds": seconds, **plan.to_dict()}


def _trained(
    name: str, plan: Plan, seed: int, split: Split, device: str
) -> tuple[nn.Module, float]:
    torch.manual_seed(seed)
    model = network(name).to(device)
    return model, train(model, *split, recipe=plan.recipe, schedule=plan.schedule)


def _count(settings: Settings, seeds: int) -> int:
    """Runs in all."""
    trying = sum(
        len(recipes[: settings.recipes_each]) + settings.other_rate for recipes in RECIPES.values()
    )
    plans = [
        len(measured(name, lambda _, method: ({method: {}}, 0.0))) for name in settings.networks
    ]
    return trying * len(settings.networks) + sum(2 + seeds * count for count in plans)


def _describe(key: Key) -> str:
    return ", ".join(str(value) for value in key.values())

"""Stage by stage: choose on validation images, train and attack, time the steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.progress import progress_bar
from benchmarks.results import Results
from benchmarks.robust.budgets import CHOICE_BUDGET, EPOCHS, OURS, RATES, batch_of
from benchmarks.robust.choice import Key, best, tries, validate
from benchmarks.robust.cost import relative_costs
from benchmarks.robust.evaluation import DECISIVE, attacked
from benchmarks.robust.optimizers import OPTIMIZERS
from benchmarks.robust.plans import (
    RECIPES,
    SHORTER,
    STAGES,
    UNIT,
    UNIT_TITLE,
    Choice,
    Plan,
    measured,
    plan_of,
    shorter,
    title_of,
)
from benchmarks.robust.settings import Settings
from benchmarks.robust.training import load, network, train

Split = tuple[Tensor, Tensor]
Job = Callable[[], dict[str, Any]]


def run(
    settings: Settings, *, seeds: int, data_dir: Path | None, device: str, out: Path
) -> Results:
    """Run what is not yet in the file ``out``."""
    tried = {
        "recipes": RECIPES,
        "rates": RATES,
        "epochs": EPOCHS,
        "batches": {
            name: {method: batch_of(name, method) for method in RECIPES} for name in OPTIMIZERS
        },
    }
    results = Results(out, {**asdict(settings), **tried})
    data = _Data(settings, data_dir, device)
    with progress_bar() as progress:
        bar = progress.add_task("", total=_count(settings, seeds))
        for key, job in _jobs(results, settings, seeds, data):
            progress.update(bar, description=", ".join(map(str, key.values())), advance=1)
            if not results.has(key):
                results.add(key, job())
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


def _jobs(
    results: Results, settings: Settings, seeds: int, data: _Data
) -> Iterator[tuple[Key, Job]]:
    """Keys and what gives their figures: what matters most first, on all seeds."""
    for stage, methods in enumerate(STAGES):
        for name in settings.networks:
            for key, choice in tries(results.runs, name, methods, settings):
                yield key, partial(_try, key, choice, settings, data)
            plans = measured(name, partial(_best, results, settings), stage)
            for title, seed in _order(list(plans), seeds, by_title=stage == 0):
                key = {"phase": "test", "network": name, "training": title, "seed": seed}
                yield key, partial(_measure, key, plans[title], settings, data)
            key = {"phase": "cost", "network": name, "stage": stage}
            yield key, partial(relative_costs, name, plans, seconds=settings.timing_seconds)
    for name in settings.networks:
        ours = measured(name, partial(_best, results, settings), 0)[title_of(OURS)]
        last = replace(ours, preset=settings.last_preset)
        alone = {UNIT_TITLE: UNIT, title_of(OURS): ours, title_of(OURS) + SHORTER: shorter(ours)}
        key = {"phase": "alone", "network": name}
        yield key, partial(_alone, name, alone, settings, data)
        key = {"phase": "last", "network": name, "training": title_of(OURS), "seed": 0}
        yield key, partial(_measure, key, last, settings, data)


def _order(titles: list[str], seeds: int, *, by_title: bool) -> list[tuple[str, int]]:
    """What is compared with each other seed by seed, unless one training after the other."""
    found = [(title, seed) for seed in range(seeds) for title in titles]
    return sorted(found, key=lambda pair: titles.index(pair[0])) if by_title else found


def _best(
    results: Results, settings: Settings, name: str, method: str, optimizer: str | None = None
) -> Choice:
    return best(results.runs, name, method, settings, optimizer)


def _try(key: Key, choice: Choice, settings: Settings, data: _Data) -> dict[str, Any]:
    plan = plan_of(key["network"], key["method"], choice, budget=CHOICE_BUDGET)
    model, seconds = _trained(key["network"], plan, 0, data("fit"), settings, data.device)
    figures = validate(model, *data("validation"), settings)
    return {**figures, "training seconds": seconds, **plan.to_dict()}


def _measure(key: Key, plan: Plan, settings: Settings, data: _Data) -> dict[str, Any]:
    images, labels = data("train")
    kept = slice(None, len(images) - min(plan.held_out, len(images) // 6))
    split = (images[kept], labels[kept])
    model, seconds = _trained(key["network"], plan, key["seed"], split, settings, data.device)
    first = key["seed"] == 0
    attacks = plan.preset if first and plan.preset else DECISIVE
    figures = attacked(model, *data("test"), "Linf", settings.linf, attacks)
    if first and settings.l2:
        # the presets in L2 are left to the last phase: they take as long as all the rest
        attacks = attacks if key["phase"] == "last" else DECISIVE
        figures |= attacked(model, *data("test"), "L2", settings.l2, attacks)
    return {**figures, "training seconds": seconds, **plan.to_dict()}


def _alone(name: str, plans: dict[str, Plan], settings: Settings, data: _Data) -> dict[str, float]:
    """Seconds of whole trainings, one after the other: steps that are timed in turn lose caches."""
    split = data("train")
    return {
        title: _trained(name, plan, 0, split, settings, data.device)[1]
        for title, plan in plans.items()
    }


def _trained(
    name: str, plan: Plan, seed: int, split: Split, settings: Settings, device: str
) -> tuple[nn.Module, float]:
    torch.manual_seed(seed)
    model = network(name).to(device)
    schedule = settings.shortened(plan.schedule)
    return model, train(model, *split, recipe=plan.recipe, schedule=schedule)


def _count(settings: Settings, seeds: int) -> int:
    """Runs in all."""

    def any_choice(_: str, method: str, optimizer: str = "adam") -> Choice:
        return Choice(RECIPES[method][0], optimizer, 0.0)

    found = 2
    for stage, methods in enumerate(STAGES):
        found += len(OPTIMIZERS) * sum(
            len(RECIPES[method][: settings.recipes_each]) + settings.other_rate
            for method in methods
        )
        found += seeds * len(measured(settings.networks[0], any_choice, stage)) + 1
    return found * len(settings.networks)

"""The search for something in which the geometry helps: one seed of all, more of what promises."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.progress import progress_bar
from benchmarks.results import Results
from benchmarks.robust.choice import Key
from benchmarks.robust.cost import relative_costs
from benchmarks.robust.evaluation import DECISIVE, attacked, survival
from benchmarks.robust.plans import Plan
from benchmarks.robust.selection import (
    SearchSettings,
    ahead_of_baseline,
    best,
    kept,
    promising,
)
from benchmarks.robust.training import load, network, train
from benchmarks.robust.variants import baselines, setting_name

Job = Callable[[], dict[str, Any]]
Planned = tuple[Key, Plan]
NETWORK = "relu"


def run(
    settings: SearchSettings, *, seeds: int, data_dir: Path | None, device: str, out: Path
) -> Results:
    """Run what is not yet in the file ``out``."""
    tried = {
        title: {"options": dict(variant.options), "settings": list(map(dict, variant.settings))}
        for title, variant in settings.tried.items()
    }
    results = Results(out, {**asdict(settings), "tried": tried})
    lab = _Lab(settings, data_dir, device)
    with progress_bar() as progress:
        bar = progress.add_task("", total=None)
        for key, job in _jobs(results, settings, seeds, lab):
            progress.update(bar, description=", ".join(map(str, key.values())))
            if not results.has(key):
                results.add(key, job())
    return results


class _Lab:
    """Trains and attacks; data are read when they are first needed."""

    def __init__(self, settings: SearchSettings, data_dir: Path | None, device: str) -> None:
        self._settings, self._data_dir, self._device = settings, data_dir, device
        self._read: dict[str, tuple[Tensor, Tensor]] = {}

    def validate(self, plan: Plan, seed: int) -> dict[str, Any]:
        """Train on the first 50,000 images, attack validation images."""
        settings = self._settings
        model, seconds = self._trained(plan, seed, "fit")
        found = survival(model, *self._data("validation"), settings.radii, settings.attacks)
        return {**found, "training seconds": seconds, **plan.to_dict()}

    def test(self, plan: Plan, seed: int) -> dict[str, Any]:
        """Train on all images, attack test images, by what decides in the other parts too."""
        model, seconds = self._trained(plan, seed, "train")
        found = attacked(model, *self._data("test"), "Linf", self._settings.radii, DECISIVE)
        worst = found["Linf"]["shares"]["worst case"]
        return {**found, "worst case": worst, "training seconds": seconds, **plan.to_dict()}

    def _trained(self, plan: Plan, seed: int, split: str) -> tuple[nn.Module, float]:
        torch.manual_seed(seed)
        model = network(NETWORK).to(self._device)
        seconds = train(model, *self._data(split), recipe=plan.recipe, schedule=plan.schedule)
        return model, seconds

    def _data(self, split: str) -> tuple[Tensor, Tensor]:
        settings = self._settings
        if split not in self._read:
            count = settings.images if split in ("validation", "test") else settings.train_images
            self._read[split] = load(split, self._data_dir, self._device, count)
        return self._read[split]


def _jobs(
    results: Results, settings: SearchSettings, seeds: int, lab: _Lab
) -> Iterator[tuple[Key, Job]]:
    """Keys and what gives their figures; each stage depends on what came out before."""
    titles = list(settings.tried)
    for title, plan in baselines(settings.epochs).items():
        yield _key(title), partial(lab.validate, plan, 0)
    yield from _validations(_settings_of(titles, settings), lab)
    yield {"phase": "cost"}, partial(_costs, settings)
    controlled = ahead_of_baseline(results.runs, settings)
    yield from _validations(_settings_of(controlled, settings, control=True), lab)
    found = promising(results.runs, settings)
    for seed in range(1, seeds):
        yield from _validations(_chosen(results, found, settings, seed), lab)
    found = kept(results.runs, settings)
    for seed in range(seeds):
        for key, plan in _chosen(results, found, settings, seed):
            yield {**key, "phase": "test"}, partial(lab.test, plan, seed)
    yield from _validations(_settings_of(titles, settings, control=True), lab)


def _validations(planned: Sequence[Planned], lab: _Lab) -> Iterator[tuple[Key, Job]]:
    for key, plan in planned:
        yield key, partial(lab.validate, plan, key["seed"])


def _settings_of(
    titles: Sequence[str], settings: SearchSettings, *, control: bool = False
) -> list[Planned]:
    """All settings of variants, or of the controls of those that have one, on seed 0."""
    found = []
    for title in titles:
        variant = settings.tried[title]
        if control and variant.control is None:
            continue
        for setting in variant.settings:
            key = _key(title, setting_name(setting), control=control)
            found.append((key, variant.plan(setting, settings.epochs, control=control)))
    return found


def _chosen(
    results: Results, titles: Sequence[str], settings: SearchSettings, seed: int
) -> list[Planned]:
    """The baselines, and the best settings of variants and of their controls, on another seed."""
    if not titles:
        return []
    found = [(_key(title, seed=seed), plan) for title, plan in baselines(settings.epochs).items()]
    for title in titles:
        for control in (False, True):
            chosen = best(results.runs, title, settings, control=control)
            for key, plan in _settings_of([title], settings, control=control):
                if chosen and key == chosen["key"]:
                    found.append(({**key, "seed": seed}, plan))
    return found


def _costs(settings: SearchSettings) -> dict[str, float]:
    """The cost of each variant's training, in those of the first baseline."""
    plans = baselines(settings.epochs)
    for title, variant in settings.tried.items():
        plans[title] = variant.plan(variant.settings[0], settings.epochs)
    costs = relative_costs(NETWORK, plans, seconds=settings.timing_seconds)
    unit = costs[next(iter(plans))]
    return {title: cost / unit for title, cost in costs.items()}


def _key(title: str, setting: str = "", *, control: bool = False, seed: int = 0) -> Key:
    return {
        "phase": "search",
        "training": title,
        "setting": setting,
        "control": control,
        "seed": seed,
    }

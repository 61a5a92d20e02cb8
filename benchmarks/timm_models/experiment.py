"""Choose settings on validation images, measure the costs, then train and measure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from statistics import mean
from typing import Any

from rich.progress import Progress
from torch import nn

from benchmarks.objectives.methods import Recipe
from benchmarks.progress import progress_bar
from benchmarks.results import Results, Run
from benchmarks.timm_models.cost import costs, shares
from benchmarks.timm_models.data import Epochs, Splits, evenly, load
from benchmarks.timm_models.evaluation import measure, worst_case
from benchmarks.timm_models.networks import network, stages
from benchmarks.timm_models.settings import METHODS, STAGES, Schedule, Settings, Way
from benchmarks.timm_models.training import Training, accuracy, train

WIDTHS = ("narrow", "full")

Key = dict[str, Any]
Job = Callable[[], dict[str, Any]]


@dataclass
class Bench:
    """Where an experiment runs, and on what.

    Attributes:
        settings: What determines the figures.
        data_dir: Folder with the images, or None.
        out: The JSON file; checkpoints and logs are kept in a folder of its name.
        device: A torch device.
        workers: Processes that augment images.
    """

    settings: Settings
    data_dir: Path | None
    out: Path
    device: str = "cpu"
    workers: int = 0
    tick: Callable[[], None] = lambda: None

    @cached_property
    def splits(self) -> Splits:
        """The images, read when they are first needed."""
        s = self.settings
        return load(
            self.data_dir,
            self.out.parent / "cache",
            size=s.size,
            validation_images=s.validation_images,
            test_images=s.test_images,
        )

    @cached_property
    def epochs(self) -> Epochs:
        """The training images, augmented."""
        return Epochs(self.splits.train, self.workers)

    def network(self, name: str, seed: int) -> nn.Sequential:
        """An untrained network."""
        s = self.settings
        return network(name, classes=self.splits.classes, size=s.size, narrow=s.narrow, seed=seed)

    def folder(self, key: Key) -> Path:
        """Where the checkpoint, the log and the weights of a run are kept."""
        words = re.sub(r"[^a-z0-9.]+", "-", " ".join(map(str, key.values())).lower())
        return self.out.with_suffix("") / words

    def train(
        self, key: Key, model: nn.Sequential, recipe: Recipe, schedule: Schedule, *, mixup: bool
    ) -> nn.Sequential:
        """Train a network; the moving average of its weights."""
        training = Training(
            epochs=self.epochs,
            validation=evenly(self.splits.validation, 1_000),
            schedule=schedule,
            batch_size=self.settings.batch_size,
            weight_decay=self.settings.weight_decay,
            mixup=self.settings.mixup if mixup else 0.0,
            seed=key.get("seed", 0),
            device=self.device,
            folder=self.folder(key),
            tick=self.tick,
        )
        return train(model, with_stages(recipe, model), training)


def with_stages(recipe: Recipe, model: nn.Sequential) -> Recipe:
    """The recipe with the names of the network's stages where it says "stages"."""
    return {
        method: {**options, "layers": stages(model)} if options.get("layers") == STAGES else options
        for method, options in recipe.items()
    }


def run(bench: Bench, *, seeds: int) -> Results:
    """Run what is not yet in the file."""
    results = Results(bench.out, {**asdict(bench.settings), "methods": _as_json(METHODS)})
    run_jobs(bench, results, _jobs(bench, results, seeds), _count(bench.settings, seeds))
    return results


def run_jobs(bench: Bench, results: Results, jobs: Iterator[tuple[Key, Job]], count: int) -> None:
    """Do what the file does not hold, under two bars: runs, and steps of the present one."""
    with progress_bar() as progress:
        bar = progress.add_task("", total=count)
        for key, job in jobs:
            progress.update(bar, description=", ".join(map(str, key.values())))
            if not results.has(key):
                results.add(key, _with_steps(bench, progress, job))
            progress.advance(bar)


def _with_steps(bench: Bench, progress: Progress, job: Job) -> dict[str, Any]:
    steps = progress.add_task("  steps of training", total=None)
    bench.tick = lambda: progress.advance(steps)
    try:
        return job()
    finally:
        progress.remove_task(steps)


def _jobs(bench: Bench, results: Results, seeds: int) -> Iterator[tuple[Key, Job]]:
    s = bench.settings
    key: Key
    for name in s.networks:
        for method, way in METHODS.items():
            for setting in way.recipes if len(way.recipes) > 1 else ():
                key = {"phase": "choose", "network": name, "method": method, "setting": setting}
                yield key, partial(_try, bench, key, way)
    for name in s.networks:
        yield {"phase": "cost", "network": name}, partial(_costs, bench, name)
        for width in WIDTHS if s.narrow else WIDTHS[1:]:
            key = {"phase": "share", "network": name, "width": width}
            yield key, partial(_shares, bench, key)
    # one seed of everything first: what is stopped then is a smaller experiment
    for name in s.networks:
        yield from _tests(bench, results, name, range(1))
    for name in s.networks:
        yield from _tests(bench, results, name, range(1, seeds))


def _tests(bench: Bench, results: Results, name: str, seeds: range) -> Iterator[tuple[Key, Job]]:
    for seed in seeds:
        for method in _methods(seed):
            key = {"phase": "test", "network": name, "method": method, "seed": seed}
            yield key, partial(_measure, bench, results, key)


def chosen(runs: list[Run], name: str, method: str) -> str:
    """The setting with the largest mean of clean and attacked accuracy on validation images."""
    settings = list(METHODS[method].recipes)
    if len(settings) == 1:
        return settings[0]
    found = {
        run["key"]["setting"]: mean([run["figures"]["clean"], run["figures"]["attacked"]])
        for run in runs
        if run["key"]["phase"] == "choose"
        and (run["key"]["network"], run["key"]["method"]) == (name, method)
    }
    return max(settings, key=lambda setting: found[setting])


def _try(bench: Bench, key: Key, way: Way) -> dict[str, Any]:
    s = bench.settings
    model = bench.network(key["network"], seed=0)
    recipe = way.recipes[key["setting"]]
    average = bench.train(key, model, recipe, s.choice, mixup=way.mixup)
    split = evenly(bench.splits.validation, s.choice_images)
    attacked = worst_case(average, split, (2,), (("pgd-margin",),))
    return {
        "clean": accuracy(average, bench.splits.validation, bench.device),
        "attacked": attacked["shares"]["2"],
    }


def _costs(bench: Bench, name: str) -> dict[str, Any]:
    s = bench.settings
    recipes = {method: next(iter(way.recipes.values())) for method, way in METHODS.items()}
    model = bench.network(name, seed=0)
    return costs(
        name,
        {method: with_stages(recipe, model) for method, recipe in recipes.items()},
        size=s.size,
        batch=s.batch_size,
        narrow=s.narrow,
        device=bench.device,
        seconds=s.timing_seconds,
        measure_memory=s.measure_memory,
    )


def _shares(bench: Bench, key: Key) -> dict[str, Any]:
    s = bench.settings
    return shares(
        key["network"],
        size=s.size,
        batch=s.batch_size,
        narrow=key["width"] == WIDTHS[0],
        device=bench.device,
        seconds=s.timing_seconds / 5,
    )


def _measure(bench: Bench, results: Results, key: Key) -> dict[str, Any]:
    s, way = bench.settings, METHODS[key["method"]]
    setting = chosen(results.runs, key["network"], key["method"])
    model = bench.network(key["network"], key["seed"])
    average = bench.train(key, model, way.recipes[setting], s.schedule, mixup=way.mixup)
    return {"setting": setting, **measure(average, bench.splits.test, s, bench.device)}


def _count(settings: Settings, seeds: int) -> int:
    tries = sum(len(way.recipes) for way in METHODS.values() if len(way.recipes) > 1)
    widths = len(WIDTHS) if settings.narrow else 1
    tests = sum(len(_methods(seed)) for seed in range(seeds))
    return len(settings.networks) * (tries + 1 + widths + tests)


def _methods(seed: int) -> list[str]:
    return [method for method, way in METHODS.items() if seed == 0 or not way.once]


def _as_json(methods: dict[str, Way]) -> dict[str, Any]:
    return {name: asdict(way) for name, way in methods.items()}

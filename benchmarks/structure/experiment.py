"""Coarse to fine on MNIST: choose strengths on validation images, then measure on test images."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from statistics import mean
from typing import Any

from torch import nn

from benchmarks.geometry import embedding
from benchmarks.progress import progress_bar
from benchmarks.results import Results, Run
from benchmarks.structure import data as samples
from benchmarks.structure.data import MANIFOLD, Data, even_sample
from benchmarks.structure.evaluation import (
    choose_strength,
    coarse_accuracy,
    features_of,
    fine_figures,
    freeze,
    pixels_of,
)
from benchmarks.structure.methods import FITTED, METHODS, Method
from benchmarks.structure.probes import few_shot_accuracy, knn_accuracy
from benchmarks.structure.settings import SEARCH_SEED, TASKS, Settings
from benchmarks.structure.training import Network, autoencoder, mlp, run_in_parts, train
from isoreg import references

FIRST = (
    *("cross-entropy", "isometry, manifold", "control: manifold, shuffled"),
    *("manifold predicted by a head", "Jacobian", "isometry, pixels", "control: pixels, shuffled"),
)
"""Measured on all seeds before the others are begun."""

DRAWN = (
    *("cross-entropy", "isometry, pixels", "isometry, manifold"),
    "control: manifold, shuffled",
)
PICTURED = 1500

WIDE = ("cross-entropy", "isometry, manifold", "control: manifold, shuffled")
WIDTH = 300
"""Measured on the first task with that many units a layer too: the choice that helped most."""

LONGER = 2
"""Times the epochs, of the same with all that helped: images moved, the scale fitted."""

SLACK = 0.003
"""Of the coarse accuracy, in the choice of a strength."""

UNTRAINED = ("raw pixels", "patches", MANIFOLD, "autoencoder")
"""What the features are to be compared with; none of them sees a label."""


def run(
    settings: Settings, *, seeds: int, data_dir: Path | None, out: Path, tasks: tuple[str, ...]
) -> Results:
    """Every method on every task, measured on test images; what is in ``out`` is not repeated."""
    results = Results(out, asdict(settings))
    others = tuple(name for name in METHODS if name not in FIRST)
    keys: list[dict[str, Any]] = [
        {"task": "none", "method": name, "seed": seed}
        for name in UNTRAINED
        for seed in range(seeds if name == "autoencoder" else 1)
    ]
    keys += [
        {"task": task, "method": name, "seed": seed}
        for task in tasks
        for names in (FIRST, others)
        for seed in range(seeds)
        for name in names
    ]
    keys += [
        {"task": task, "method": name, "seed": seed, "width": WIDTH, **longer}
        for task in tasks[:1]
        for longer in ({}, {"epochs": LONGER * settings.epochs})
        for seed in range(seeds)
        for name in WIDE
    ]
    todo = [key for key in keys if not results.has(key)]
    if not todo:
        return results
    data = samples.digits(settings, data_dir, cache=out.parent / "cache", validate=False)
    for key in progress_over(todo):
        results.add(key, _measure(key, data, settings))
    return results


def progress_over(keys: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The keys, with a progress bar that names them."""
    with progress_bar(60) as progress:
        bar = progress.add_task("", total=len(keys))
        for key in keys:
            progress.update(bar, description=", ".join(map(str, key.values())))
            yield key
            progress.advance(bar)


def _measure(key: dict[str, Any], data: Data, settings: Settings) -> dict[str, Any]:
    seed = key["seed"]
    if key["task"] == "none":
        return fine_figures(
            _untrained(key["method"], data, seed, settings), data, settings, seed=seed
        )
    method = METHODS[key["method"]]
    wide = "width" in key
    settings = replace(settings, width=key["width"]) if wide else settings
    if "epochs" in key:
        settings = replace(settings, epochs=key["epochs"], shift=1)
        method = FITTED.get(key["method"], method)
    drawn = not wide and (seed, key["task"]) == (0, next(iter(TASKS))) and key["method"] in DRAWN
    task = data.of_task(TASKS[key["task"]])
    return measure(method, method.strength, task, seed, settings, drawn=drawn)


def measure(
    method: Method,
    strength: float,
    data: Data,
    seed: int,
    settings: Settings,
    *,
    drawn: bool = False,
    network: Network = mlp,
) -> dict[str, Any]:
    """Train once, and measure everything."""
    begin = time.perf_counter()
    model = train(data, method, strength=strength, seed=seed, settings=settings, network=network)
    seconds = time.perf_counter() - begin
    return {
        "training seconds": seconds,
        "coarse": coarse_accuracy(model, data),
        **fine_figures(features_of(model), data, settings, seed=seed),
        **({"picture": _picture(model, data)} if drawn else {}),
    }


def _picture(model: nn.Sequential, data: Data) -> dict[str, Any]:
    """UMAP of the features of some test samples, with their fine labels."""
    shown = data.test.take(slice(None, None, max(1, len(data.test.x) // PICTURED)))
    points = embedding(features_of(model)(shown.x), seed=0)
    return {"points": points, "labels": shown.fine.tolist()}


def _untrained(name: str, data: Data, seed: int, settings: Settings) -> Any:
    if name == "raw pixels":
        return pixels_of
    if name == "patches":
        return references.patches(even_sample(data.train.x, settings.landmarks))
    if name == MANIFOLD:
        return manifold_of_patches(data, settings)
    encoder = autoencoder(data, seed=seed, settings=settings)
    return lambda x: run_in_parts(encoder, x)


def manifold_of_patches(data: Data, settings: Settings) -> references.Reference:
    """The reference itself, which `Data` has for the training images alone."""
    landmarks = even_sample(data.train.x, settings.landmarks)
    return references.manifold(landmarks, reference=references.patches(landmarks))


def search(settings: Settings, *, data_dir: Path | None, out: Path) -> Results:
    """Every strength of every method, one seed, on validation images of the first task."""
    results = Results(out, asdict(settings))
    keys: list[dict[str, Any]] = [
        {"method": name, "strength": strength}
        for name, method in METHODS.items()
        for strength in method.strengths or (0.0,)
    ]
    todo = [key for key in keys if not results.has(key)]
    if not todo:
        return results
    data = samples.digits(settings, data_dir, cache=out.parent / "cache", validate=True)
    for key in progress_over(todo):
        results.add(key, measure_shortly(METHODS[key["method"]], key["strength"], data, settings))
    return results


def measure_shortly(
    method: Method,
    strength: float,
    data: Data,
    settings: Settings,
    *,
    seed: int = SEARCH_SEED,
    network: Network = mlp,
) -> dict[str, Any]:
    """Coarse accuracy, neighbours and a probe of ten examples of each fine class."""
    model = train(data, method, strength=strength, seed=seed, settings=settings, network=network)
    frozen = freeze(features_of(model), data, settings)
    found: dict[str, Any] = {"coarse": coarse_accuracy(model, data)}
    for examples in (1, 10):
        probe = choose_strength(frozen, examples, settings)
        accuracies = few_shot_accuracy(
            *frozen.known, *frozen.test, examples=examples, draws=range(5), strength=probe
        )
        found[f"{examples} a class"] = mean(accuracies)
    return found | {"kNN": knn_accuracy(*frozen.known, *frozen.test)}


def tries(runs: list[Run]) -> list[Run]:
    """Those on validation images, among which strengths are chosen."""
    return [run for run in runs if "strength" in run["key"]]


def chosen_strengths(
    runs: list[Run], *, slack: float = SLACK, by: str = "10 a class"
) -> dict[str, float]:
    """The strength with the best figure ``by`` among those that keep the coarse accuracy.

    Kept means: at most ``slack`` below cross-entropy's; if none is, the most accurate is taken.
    """
    by_method: dict[str, list[tuple[float, dict[str, float]]]] = {}
    for found in runs:
        key, figures = found["key"], found["figures"]
        by_method.setdefault(key["method"], []).append((key["strength"], figures))
    floor = by_method["cross-entropy"][0][1]["coarse"] - slack
    chosen = {}
    for name, tried in by_method.items():
        keeping = [pair for pair in tried if pair[1]["coarse"] >= floor]
        if keeping:
            chosen[name] = max(keeping, key=lambda pair: pair[1][by])[0]
        else:
            chosen[name] = max(tried, key=lambda pair: pair[1]["coarse"])[0]
    return chosen

"""Coarse to fine on the torus: 2 or 4 sectors to 8, with the settings of the digits."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.results import Results
from benchmarks.structure.data import Data, Split
from benchmarks.structure.evaluation import fine_figures, pixels_of
from benchmarks.structure.experiment import measure, progress_over
from benchmarks.structure.methods import METHODS, Method, isometry
from benchmarks.structure.settings import Settings
from isoreg import references
from isoreg.shapes import torus

TASKS: dict[str, list[list[int]]] = {
    "2 sectors": [[0, 1, 2, 3], [4, 5, 6, 7]],
    "4 sectors": [[0, 1], [2, 3], [4, 5], [6, 7]],
}


def _against_points(name: str, **options: Any) -> Method:
    return replace(METHODS[name], build=isometry(**options), reference="points")


TORUS_METHODS: dict[str, Method] = {
    "cross-entropy": METHODS["cross-entropy"],
    "isometry": _against_points("isometry, manifold"),
    "all pairs": _against_points("all pairs, manifold", pairs="all"),
    "control: shuffled": _against_points("control: manifold, shuffled", shuffled=True),
    "control: constant distance": METHODS["control: constant distance"],
    "control: feature norm": METHODS["control: feature norm"],
    "supervised contrastive": METHODS["supervised contrastive"],
    "label smoothing": METHODS["label smoothing"],
    "dropout": METHODS["dropout"],
}


def torus_settings(quick: bool) -> Settings:
    """The digits' network on fewer samples, for about as many steps."""
    examples = ((1, 20), (5, 10), (10, 10), (100, 3))
    settings = replace(Settings(), train_images=1_600, known=1_600, examples=examples, epochs=150)
    if not quick:
        return settings
    return replace(
        settings, train_images=300, epochs=2, examples=((1, 1), (10, 1)), strengths=(1.0, 100.0)
    )


def run(*, quick: bool, seeds: int, out: Path) -> Results:
    """Every method on both tasks."""
    settings = torus_settings(quick)
    results = Results(out, asdict(settings))
    keys: list[dict[str, Any]] = [
        {"task": task, "method": name, "seed": seed}
        for task in list(TASKS)[: 1 if quick else None]
        for name in list(TORUS_METHODS)[: 2 if quick else None]
        for seed in range(seeds)
    ]
    keys.append({"task": "without labels", "method": "the points", "seed": 0})
    data = _points(settings.train_images)
    for key in progress_over([key for key in keys if not results.has(key)]):
        if key["method"] == "the points":
            figures = fine_figures(pixels_of, data, settings, seed=0)
        else:
            method = TORUS_METHODS[key["method"]]
            task = data.of_task(TASKS[key["task"]])
            figures = measure(method, method.strength, task, key["seed"], settings)
        results.add(key, figures)
    return results


def _points(count: int) -> Data:
    """Three draws of points; their distances are multiplied to the scale of the strengths."""
    draws = [torus(count, seed=seed) for seed in (0, 1_000, 2_000)]
    train, validation, test = (Split(x, levels[2]) for x, levels in draws)
    points = references.scaled(None, train.x)(train.x)
    tables = {"points": points, "pixels": points}
    return Data(train, validation, test, next(iter(TASKS.values())), tables)

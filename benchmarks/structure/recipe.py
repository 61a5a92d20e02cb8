"""The recipe on images that it was not tuned on: scikit-learn's digits of 8 by 8 pixels."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.results import Results
from benchmarks.structure.data import MANIFOLD, Data, Split
from benchmarks.structure.evaluation import fine_figures, pixels_of
from benchmarks.structure.experiment import measure, progress_over
from benchmarks.structure.methods import METHODS, Method, isometry, regression
from benchmarks.structure.settings import TASKS, Settings
from isoreg import references
from isoreg.datasets import digits

BETA = 0.1
"""For references of root mean squared distance 10."""


def recipe(reference: str, *, shuffled: bool = False) -> Method:
    """The default layer, pairs of equal label, beta 0.1."""
    return Method(isometry(shuffled=shuffled), strength=BETA, reference=reference)


RECIPES: dict[str, Method] = {
    "cross-entropy": METHODS["cross-entropy"],
    "isometry, pixels": recipe("pixels"),
    "control: pixels, shuffled": recipe("pixels", shuffled=True),
    "isometry, patches": recipe("patches"),
    "isometry, manifold": recipe(MANIFOLD),
    "control: manifold, shuffled": recipe(MANIFOLD, shuffled=True),
    "manifold predicted by a head": Method(regression, strength=BETA, reference=MANIFOLD),
}


def recipe_settings(quick: bool) -> Settings:
    """All of the small data set."""
    settings = replace(
        Settings(),
        train_images=1_077,
        known=1_077,
        landmarks=1_077,
        test_images=360,
        epochs=40,
        examples=((1, 20), (5, 10), (10, 10), (50, 3)),
    )
    if not quick:
        return settings
    return replace(settings, epochs=1, examples=((1, 1), (10, 1)), strengths=(1.0, 100.0))


def run(*, seeds: int, out: Path, quick: bool) -> Results:
    """Every method of `RECIPES` on even or odd."""
    settings = recipe_settings(quick)
    results = Results(out, asdict(settings))
    task = next(iter(TASKS))
    keys: list[dict[str, Any]] = [
        {"task": task, "method": name, "seed": seed}
        for name in list(RECIPES)[: 2 if quick else None]
        for seed in range(seeds)
    ]
    keys.append({"task": "without labels", "method": "raw pixels", "seed": 0})
    data = small_digits()
    for key in progress_over([key for key in keys if not results.has(key)]):
        if key["task"] == task:
            method = RECIPES[key["method"]]
            figures = measure(method, method.strength, data, key["seed"], settings)
        else:
            figures = fine_figures(pixels_of, data, settings, seed=0)
        results.add(key, figures)
    return results


def small_digits() -> Data:
    """The fixed split of `isoreg.datasets.digits`; patches of 3 by 3 pixels."""
    train, validation, test = (Split(*digits(part)) for part in ("train", "validation", "test"))
    x = train.x
    patches = references.patches(x, size=3)
    tables = {
        "pixels": references.scaled(None, x)(x),
        "patches": references.scaled(patches, x)(x),
        MANIFOLD: references.manifold(x, reference=patches)(x),
    }
    return Data(train, validation, test, next(iter(TASKS.values())), tables)

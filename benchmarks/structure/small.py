"""The recipe as it is, untuned, on scikit-learn's digits of 8 by 8 pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from benchmarks.images import Part, Uses
from benchmarks.results import Figures, Found, Key
from benchmarks.structure.data import Data, Split
from benchmarks.structure.evaluation import fine_figures, pixels_of
from benchmarks.structure.fairness import entries
from benchmarks.structure.report import every_task
from benchmarks.structure.settings import TASKS, Settings
from benchmarks.structure.training import determined_by, measure
from benchmarks.structure.trials import MANIFOLD, PLAIN, Trial, isometry
from benchmarks.study import Lab, Study, quickly
from benchmarks.tables import page
from isoreg import datasets, references

BETA = 0.1
"""The recipe's strength for distances of about 10, the default layer and pairs of equal label."""
RECIPES: dict[str, Trial] = {
    "cross-entropy": PLAIN,
    "isometry, pixels": isometry(strength=BETA),
    "control: pixels, shuffled": isometry(strength=BETA, shuffled=True),
    "isometry, patches": isometry(strength=BETA, reference="patches"),
    "control: patches, shuffled": isometry(strength=BETA, reference="patches", shuffled=True),
    "isometry, manifold": isometry(strength=BETA, reference=MANIFOLD),
    "control: manifold, shuffled": isometry(strength=BETA, reference=MANIFOLD, shuffled=True),
    "manifold predicted by a head": Trial("second-head", strength=BETA, reference=MANIFOLD),
}
TASK = "even or odd"
PIXELS = "raw pixels"
"""A row without a network, which the features of networks have to beat."""
UNLABELLED = "without labels"
FEW: dict[str, Any] = {"examples": ((1, 1), (10, 1)), "strengths": (1.0, 100.0)}
# MNIST's network on fewer samples: 40 epochs are 440 steps, where MNIST's five are 2,500
ON_DIGITS = replace(
    Settings(),
    train_images=1_077,
    known=1_077,
    landmarks=1_077,
    test_images=360,
    epochs=40,
    examples=((1, 20), (5, 10), (10, 10), (50, 3)),
)


def keys(lab: Lab[Settings]) -> Iterator[Key]:
    """Every method on every seed, then the pixels themselves."""
    for name in list(RECIPES)[: 2 if lab.quick else None]:
        for seed in range(lab.seeds):
            strength = RECIPES[name].strength
            yield {"task": TASK, "method": name, "strength": strength, "seed": seed}
    yield {"task": UNLABELLED, "method": PIXELS, "seed": 0}


def determines(key: Key, settings: Settings) -> dict[str, Any]:
    """The settings and the trial."""
    return determined_by(RECIPES.get(key["method"]), settings)


def measure_key(key: Key, lab: Lab[Settings]) -> Figures:
    """All figures of a network, or of the pixels."""
    data, settings = lab.once("data", small_digits), lab.settings
    if key["task"] == UNLABELLED:
        return fine_figures(pixels_of, data, settings, seed=0)
    how = {"strength": key["strength"], "seed": key["seed"], "settings": settings}
    return measure(data, RECIPES[key["method"]], **how)


def small_digits() -> Data:
    """The fixed split of `isoreg.datasets.digits` with references; patches are 3 by 3 pixels."""
    train, validation, test = (
        Split(*datasets.digits(split)) for split in ("train", "validation", "test")
    )
    x = train.x
    patches = references.patches(x, size=3)
    tables = {
        "pixels": references.scaled(None, x)(x),
        "patches": references.scaled(patches, x)(x),
        MANIFOLD: references.manifold(x, reference=patches)(x),
    }
    return Data(train, validation, test, TASKS[TASK], tables)


def tables(results: Found) -> str:
    """The page, with a table for each task."""
    return page(
        "# The recipe on scikit-learn's digits",
        "Networks learn even or odd from 1,077 images of 8 by 8 pixels; then the ten digits are "
        "read from their frozen last hidden layer. 360 test images, in %, mean ± standard "
        "deviation over seeds (over draws where there is one seed). References have root mean "
        "squared distance 10 and every strength is 0.1: the recipe, untuned.",
        every_task(results),
    )


RECIPE = Study(
    "structure-recipe",
    quickly(ON_DIGITS, epochs=1, **FEW),
    keys,
    measure_key,
    tables,
    shows="the untuned recipe on small digits",
    time="10 minutes on one core",
    seeds=3,
    determines=determines,
    uses=Uses(*((Part(f"digits {split}"),) for split in ("train", "validation", "test"))),
    entries=lambda _: entries(RECIPES),
)

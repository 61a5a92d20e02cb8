"""The same on two small data sets: the paper's torus, and scikit-learn's digits of 8 by 8."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from benchmarks.results import Figures, Found, Key
from benchmarks.structure.data import Data, Split
from benchmarks.structure.evaluation import fine_figures, pixels_of
from benchmarks.structure.report import every_task
from benchmarks.structure.settings import TASKS as DIGIT_TASKS
from benchmarks.structure.settings import Settings
from benchmarks.structure.training import determined_by, measure
from benchmarks.structure.trials import MANIFOLD, PLAIN, TRIALS, Trial, isometry
from benchmarks.study import Lab, Study
from benchmarks.tables import page
from isoreg import datasets, references

TASKS: dict[str, list[list[int]]] = {
    "2 sectors": [[0, 1, 2, 3], [4, 5, 6, 7]],
    "4 sectors": [[0, 1], [2, 3], [4, 5], [6, 7]],
}
TORUS_TRIALS: dict[str, Trial] = {
    "cross-entropy": PLAIN,
    "isometry": replace(TRIALS["isometry, manifold"], reference="points"),
    "all pairs": replace(TRIALS["all pairs, manifold"], reference="points"),
    "control: shuffled": replace(TRIALS["control: manifold, shuffled"], reference="points"),
    **{
        name: TRIALS[name]
        for name in (
            *("control: constant distance", "control: feature norm", "supervised contrastive"),
            *("label smoothing", "dropout"),
        )
    },
}
BETA = 0.1
"""For references of root mean squared distance 10: the default layer, pairs of equal label."""
RECIPES: dict[str, Trial] = {
    "cross-entropy": PLAIN,
    "isometry, pixels": isometry(strength=BETA),
    "control: pixels, shuffled": isometry(strength=BETA, shuffled=True),
    "isometry, patches": isometry(strength=BETA, reference="patches"),
    "isometry, manifold": isometry(strength=BETA, reference=MANIFOLD),
    "control: manifold, shuffled": isometry(strength=BETA, reference=MANIFOLD, shuffled=True),
    "manifold predicted by a head": Trial("second-head", strength=BETA, reference=MANIFOLD),
}
UNLABELLED = "without labels"


def torus_settings(quick: bool) -> Settings:
    """The digits' network on fewer samples, for about as many steps."""
    examples = ((1, 20), (5, 10), (10, 10), (100, 3))
    chosen = replace(Settings(), train_images=1_600, known=1_600, examples=examples, epochs=150)
    if not quick:
        return chosen
    fewer = replace(chosen, examples=((1, 1), (10, 1)), strengths=(1.0, 100.0))
    return replace(fewer, train_images=300, epochs=2)


def recipe_settings(quick: bool) -> Settings:
    """All of the small data set."""
    chosen = replace(
        Settings(),
        train_images=1_077,
        known=1_077,
        landmarks=1_077,
        test_images=360,
        epochs=40,
        examples=((1, 20), (5, 10), (10, 10), (50, 3)),
    )
    if not quick:
        return chosen
    return replace(chosen, epochs=1, examples=((1, 1), (10, 1)), strengths=(1.0, 100.0))


def torus_keys(lab: Lab[Settings]) -> Iterator[Key]:
    """Every method on both tasks, then the points themselves."""
    for task in list(TASKS)[: 1 if lab.quick else None]:
        yield from _keys(task, TORUS_TRIALS, lab)
    yield {"task": UNLABELLED, "method": "the points", "seed": 0}


def recipe_keys(lab: Lab[Settings]) -> Iterator[Key]:
    """Every method on even or odd, then the pixels."""
    yield from _keys(next(iter(DIGIT_TASKS)), RECIPES, lab)
    yield {"task": UNLABELLED, "method": "raw pixels", "seed": 0}


def _keys(task: str, trials: dict[str, Trial], lab: Lab[Settings]) -> Iterator[Key]:
    for name in list(trials)[: 2 if lab.quick else None]:
        for seed in range(lab.seeds):
            yield {"task": task, "method": name, "strength": trials[name].strength, "seed": seed}


def measure_on_torus(key: Key, lab: Lab[Settings]) -> Figures:
    """All figures of a network on points, or of the points."""
    data = lab.once("points", lambda: points(lab.settings.train_images))
    groups = TASKS.get(key["task"], data.groups)
    return _measure(key, TORUS_TRIALS, data.of_task(groups), lab)


def measure_recipe(key: Key, lab: Lab[Settings]) -> Figures:
    """All figures of a network on small digits, or of the pixels."""
    return _measure(key, RECIPES, lab.once("digits", small_digits), lab)


def _measure(key: Key, trials: dict[str, Trial], data: Data, lab: Lab[Settings]) -> Figures:
    if key["task"] == UNLABELLED:
        return fine_figures(pixels_of, data, lab.settings, seed=0)
    return measure(trials[key["method"]], key["strength"], data, key["seed"], lab.settings)


def points(count: int) -> Data:
    """Three draws of points; their distances are multiplied to the scale of the strengths."""
    draws = [datasets.torus(count, seed=seed) for seed in (0, 1_000, 2_000)]
    train, validation, test = (Split(x, levels[2]) for x, levels in draws)
    scaled = references.scaled(None, train.x)(train.x)
    tables = {"points": scaled, "pixels": scaled}
    return Data(train, validation, test, next(iter(TASKS.values())), tables)


def small_digits() -> Data:
    """The fixed split of `isoreg.datasets.digits`; patches of 3 by 3 pixels."""
    splits = (Split(*datasets.digits(part)) for part in ("train", "validation", "test"))
    train, validation, test = splits
    x = train.x
    patches = references.patches(x, size=3)
    tables = {
        "pixels": references.scaled(None, x)(x),
        "patches": references.scaled(patches, x)(x),
        MANIFOLD: references.manifold(x, reference=patches)(x),
    }
    return Data(train, validation, test, next(iter(DIGIT_TASKS.values())), tables)


def torus_tables(found: Found) -> str:
    """A table a task."""
    return page(
        "# Coarse to fine on the torus",
        "Networks learn 2 or 4 sectors of the torus; then its 8 sectors are read from their "
        "frozen last hidden layer. New points, in %, mean ± standard deviation over seeds; "
        "strengths are those of the digits.",
        every_task(found),
    )


def recipe_tables(found: Found) -> str:
    """A table a task."""
    return page(
        "# The recipe on scikit-learn's digits",
        "Networks learn even or odd from 1,077 images of 8 by 8 pixels; then the ten digits are "
        "read from their frozen last hidden layer. 360 test images, in %, mean ± standard "
        "deviation over seeds (over draws where there is one seed). References have root mean "
        "squared distance 10 and every strength is 0.1: the recipe, untuned.",
        every_task(found),
    )


def _determines(trials: dict[str, Trial], key: Key, settings: Settings) -> dict[str, Any]:
    return determined_by(trials.get(key["method"]), settings)


TORUS = Study(
    "structure-torus",
    torus_settings,
    torus_keys,
    measure_on_torus,
    torus_tables,
    shows="the same on the torus",
    time="an hour on one core",
    seeds=5,
    determines=lambda key, settings: _determines(TORUS_TRIALS, key, settings),
)
RECIPE = Study(
    "structure-recipe",
    recipe_settings,
    recipe_keys,
    measure_recipe,
    recipe_tables,
    shows="the untuned recipe on small digits",
    time="10 minutes on one core",
    seeds=3,
    determines=lambda key, settings: _determines(RECIPES, key, settings),
)

"""The same on two small data sets: the paper's torus, and scikit-learn's digits of 8 by 8."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.images import Part, Uses, everything
from benchmarks.results import Figures, Found, Key
from benchmarks.structure.data import Data, Split
from benchmarks.structure.evaluation import fine_figures, pixels_of
from benchmarks.structure.fairness import entries
from benchmarks.structure.report import every_task
from benchmarks.structure.settings import TASKS as DIGIT_TASKS
from benchmarks.structure.settings import Settings
from benchmarks.structure.training import determined_by, measure
from benchmarks.structure.trials import MANIFOLD, PLAIN, TRIALS, Trial, isometry
from benchmarks.study import Lab, Study, quickly
from benchmarks.tables import page
from isoreg import datasets, references

TASKS: dict[str, list[list[int]]] = {
    "2 sectors": [[0, 1, 2, 3], [4, 5, 6, 7]],
    "4 sectors": [[0, 1], [2, 3], [4, 5], [6, 7]],
}
_SAME = (
    *("control: constant distance", "control: feature norm", "supervised contrastive"),
    *("label smoothing", "dropout"),
)
TORUS_TRIALS: dict[str, Trial] = {
    "cross-entropy": PLAIN,
    "isometry": replace(TRIALS["isometry, manifold"], reference="points"),
    "all pairs": replace(TRIALS["all pairs, manifold"], reference="points"),
    "control: shuffled": replace(TRIALS["control: manifold, shuffled"], reference="points"),
    **{name: TRIALS[name] for name in _SAME},
}
BETA = 0.1
"""For references of root mean squared distance 10: the default layer, pairs of equal label."""
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
UNLABELLED = "without labels"
FEW: dict[str, Any] = {"examples": ((1, 1), (10, 1)), "strengths": (1.0, 100.0)}
# the digits' network on fewer samples, for about as many steps
_ON_TORUS = replace(Settings(), train_images=1_600, known=1_600, epochs=150)
ON_DIGITS = replace(
    Settings(),
    train_images=1_077,
    known=1_077,
    landmarks=1_077,
    test_images=360,
    epochs=40,
    examples=((1, 20), (5, 10), (10, 10), (50, 3)),
)


@dataclass(frozen=True)
class Small:
    """What is trained on a small data set.

    Attributes:
        trials: By name, each with its strength.
        tasks: Fine labels of each coarse class.
        load: Reads or draws the samples.
        inputs: What the samples are called where no network is trained.
    """

    trials: dict[str, Trial]
    tasks: dict[str, list[list[int]]]
    load: Callable[[Settings], Data]
    inputs: str

    def keys(self, lab: Lab[Settings]) -> Iterator[Key]:
        """Every method on every task, then the samples themselves."""
        for task in list(self.tasks)[: 1 if lab.quick else None]:
            for name in list(self.trials)[: 2 if lab.quick else None]:
                for seed in range(lab.seeds):
                    strength = self.trials[name].strength
                    yield {"task": task, "method": name, "strength": strength, "seed": seed}
        yield {"task": UNLABELLED, "method": self.inputs, "seed": 0}

    def determines(self, key: Key, settings: Settings) -> dict[str, Any]:
        """The settings and the trial."""
        return determined_by(self.trials.get(key["method"]), settings)

    def measure(self, key: Key, lab: Lab[Settings]) -> Figures:
        """All figures of a network, or of the samples."""
        data, settings = lab.once("data", lambda: self.load(lab.settings)), lab.settings
        if key["task"] == UNLABELLED:
            return fine_figures(pixels_of, data, settings, seed=0)
        how = {"strength": key["strength"], "seed": key["seed"], "settings": settings}
        return measure(data.of_task(self.tasks[key["task"]]), self.trials[key["method"]], **how)


def points(settings: Settings) -> Data:
    """Three draws of points; their distances are multiplied to the scale of the strengths."""
    draws = [datasets.torus(settings.train_images, seed=seed) for seed in (0, 1_000, 2_000)]
    train, validation, test = (Split(x, levels[2]) for x, levels in draws)
    scaled = references.scaled(None, train.x)(train.x)
    tables = {"points": scaled, "pixels": scaled}
    return Data(train, validation, test, next(iter(TASKS.values())), tables)


def small_digits(_: Settings) -> Data:
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


_TORUS = Small(TORUS_TRIALS, TASKS, points, "the points")
_RECIPE = Small(RECIPES, dict([next(iter(DIGIT_TASKS.items()))]), small_digits, "raw pixels")

TORUS = Study(
    "structure-torus",
    quickly(_ON_TORUS, train_images=300, epochs=2, **FEW),
    _TORUS.keys,
    _TORUS.measure,
    torus_tables,
    shows="the same on the torus",
    time="an hour on one core",
    seeds=5,
    determines=_TORUS.determines,
    uses=Uses(*((Part("torus", seeds=(seed,)),) for seed in (0, 1_000, 2_000))),
    entries=lambda _: entries(TORUS_TRIALS, {"all pairs": "no gain over a class's is claimed"}),
)
RECIPE = Study(
    "structure-recipe",
    quickly(ON_DIGITS, epochs=1, **FEW),
    _RECIPE.keys,
    _RECIPE.measure,
    recipe_tables,
    shows="the untuned recipe on small digits",
    time="10 minutes on one core",
    seeds=3,
    determines=_RECIPE.determines,
    uses=Uses(*((everything(f"digits {part}"),) for part in ("train", "validation", "test"))),
    entries=lambda _: entries(RECIPES),
)

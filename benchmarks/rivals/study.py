"""Isometry beside its rivals: every way to train, tuned alike, under one evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.choice import best_of
from benchmarks.claims import Entry
from benchmarks.images import Uses, rows
from benchmarks.methods import Recipe, attach, rivals
from benchmarks.methods.registry import title_of, versions
from benchmarks.networks import accuracy_of, mlp
from benchmarks.results import Figures, Found, Key, Run
from benchmarks.rivals.costs import costs
from benchmarks.rivals.figure import draw
from benchmarks.rivals.report import tables
from benchmarks.sampling import even_split, mnist_part
from benchmarks.study import Lab, Study, quickly
from benchmarks.tables import with_keys
from benchmarks.training import Batches, adam, descend
from isoreg.robustness import evaluate

Split = tuple[Tensor, Tensor]
PLAIN = "cross-entropy"


@dataclass(frozen=True)
class Settings:
    """The paper's MLP and training; all other settings were fixed before the first run.

    Each method gets the setting with the largest mean of its worst cases at ``chosen_at``, on
    validation images, of those with a clean accuracy of ``clean_floor`` or more; if there are none,
    it gets the one with the largest clean accuracy.
    """

    width: int = 100
    epochs: int = 5
    batch_size: int = 100
    learning_rate: float = 1e-3
    train_images: int = 50_000
    validation_images: int = 1_000
    test_images: int = 1_000
    chosen_at: tuple[float, ...] = (0.1, 0.2)
    clean_floor: float = 0.95
    choosing_attacks: tuple[str, ...] = ("pgd-ce", "pgd-margin")
    eps: tuple[float, ...] = (0.1, 0.2, 0.3)
    attacks: tuple[str, ...] = (
        *("fgsm", "pgd-ce", "pgd-margin", "apgd-ce", "apgd-t", "square", "noise"),
    )
    eps_l2: tuple[float, ...] = (1.0, 2.0)
    attacks_l2: tuple[str, ...] = ("fgsm", "pgd-ce", "pgd-margin", "apgd-ce", "apgd-t", "noise")
    # number of settings of each grid that are tried; None: all
    tried: int | None = None
    timing_seconds: float = 40.0


settings = quickly(
    Settings(),
    epochs=1,
    train_images=500,
    validation_images=50,
    test_images=50,
    attacks=("fgsm", "pgd-ce"),
    attacks_l2=("pgd-ce",),
    tried=1,
    timing_seconds=0.1,
)

_OF_TRAINING = ("width", "epochs", "batch_size", "learning_rate", "train_images")
_OF_PHASE = {
    "choose": (*_OF_TRAINING, "validation_images", "chosen_at", "choosing_attacks"),
    "test": (*_OF_TRAINING, "test_images", "eps", "attacks", "eps_l2", "attacks_l2"),
    "cost": ("width", "batch_size", "learning_rate", "timing_seconds"),
}


def keys(lab: Lab[Settings]) -> Iterator[Key]:
    """First the choice of settings, then what a step costs, then the test, seed by seed."""
    tried = grids(lab.settings)
    for method, recipes in tried.items():
        for recipe in recipes:
            yield {"phase": "choose", "method": method, "recipe": recipe}
    best = chosen(lab.runs, lab.settings)
    for method, recipe in best.items():
        yield {"phase": "cost", "method": method, "recipe": recipe}
    for seed in range(lab.seeds):
        for method, recipe in best.items():
            yield {"phase": "test", "method": method, "recipe": recipe, "seed": seed}


def determines(key: Key, settings: Settings) -> dict[str, Any]:
    """The settings of the phase, and the version of the method."""
    phase_settings = {name: asdict(settings)[name] for name in _OF_PHASE[key["phase"]]}
    return {**phase_settings, "data": "MNIST", "versions": versions(key["recipe"])}


def grids(settings: Settings) -> dict[str, list[Recipe]]:
    """The recipes to try for each method."""
    recipes: dict[str, list[Recipe]] = {PLAIN: [{}]}
    for name, method in rivals().items():
        recipes[name] = [{name: dict(o)} for o in method.grid[: settings.tried]]
    return recipes


def chosen(runs: list[Run], settings: Settings) -> dict[str, Recipe]:
    """The recipe of each method by the rule of `Settings`, from the runs on validation images."""
    tried = {
        method: with_keys({"runs": runs}, phase="choose", method=method)
        for method in grids(settings)
    }
    floor = settings.clean_floor
    return {
        m: best_of(candidates, "score", floor=floor)["key"]["recipe"]
        for m, candidates in tried.items()
    }


def entries(results: Found) -> dict[str, Entry]:
    """For the methods with one number to choose: the numbers that were tried, and the one taken."""
    runs = results["runs"]
    tried = grouped_recipes(run["key"] for run in runs if run["key"]["phase"] == "choose")
    taken = grouped_recipes(run["key"] for run in runs if run["key"]["phase"] == "test")
    return {
        title_of(method): Entry(tuple(tried[method]), taken[method][0])
        for method in taken
        if len(tried.get(method, ())) > 1
    }


def grouped_recipes(keys: Iterable[Key]) -> dict[str, list[float]]:
    """For each method the numbers of its recipes, once each; recipes of several are left out."""
    numbers: dict[str, dict[float, None]] = {}
    for key in keys:
        values = [value for options in key["recipe"].values() for value in options.values()]
        if len(values) == 1:
            numbers.setdefault(key["method"], {})[values[0]] = None
    return {method: list(values) for method, values in numbers.items()}


def measure(key: Key, lab: Lab[Settings]) -> Figures:
    """Validate a setting, time a step, or train, attack and test."""
    s, recipe = lab.settings, key["recipe"]
    if key["phase"] == "cost":
        shape = {"width": s.width, "batch_size": s.batch_size, "rate": s.learning_rate}
        return costs(recipe, device=lab.device, seconds=s.timing_seconds, **shape)
    model = train(recipe, *_data("fit", lab), seed=key.get("seed", 0), settings=s)
    if key["phase"] == "choose":
        return _validate(model, _data("validation", lab), lab)
    return _test(model, _data("test", lab), s)


def _data(split: str, lab: Lab[Settings]) -> Split:
    count = {"fit": lab.settings.train_images, "test": lab.settings.test_images}.get(split)
    return lab.once(split, lambda: mnist_part(split, lab.data_dir, count, lab.device))


def train(
    recipe: Recipe, images: Tensor, labels: Tensor, *, seed: int, settings: Settings
) -> nn.Sequential:
    """Train one network; the seed fixes its initial weights, the batches and their order."""
    torch.manual_seed(seed)
    model = mlp(width=settings.width).to(images.device)
    order = torch.Generator().manual_seed(seed)
    batches = Batches(len(images), settings.batch_size, settings.epochs, generator=order)
    with attach(model, recipe) as objective:
        descend(
            lambda rows, progress: objective(images[rows], labels[rows], progress=progress),
            adam([*model.parameters(), *objective.parameters], settings.learning_rate),
            batches,
            after=objective.after_step,
        )
    return model.eval()


def _validate(model: nn.Module, validation: Split, lab: Lab[Settings]) -> Figures:
    settings = lab.settings
    sample = even_split(*validation, settings.validation_images, lab.device)
    report = evaluate(
        model, *sample, eps=settings.chosen_at, attacks=settings.choosing_attacks, batch_size=1000
    )
    worst = list(report.worst_case.values())
    return {
        "clean": accuracy_of(model, *validation),
        "worst case": worst,
        "score": sum(worst) / len(worst),
        "warnings": report.warnings,
    }


def _test(model: nn.Module, test_set: Split, settings: Settings) -> Figures:
    figures: Figures = {}
    for norm, eps, attacks in (
        ("Linf", settings.eps, settings.attacks),
        ("L2", settings.eps_l2, settings.attacks_l2),
    ):
        report = evaluate(model, *test_set, eps=eps, norm=norm, attacks=attacks, batch_size=1000)
        figures["clean"] = report.clean
        figures[norm] = {
            "worst case": list(report.worst_case.values()),
            "accuracy": {
                name: list(by_radius.values()) for name, by_radius in report.accuracy.items()
            },
            "warnings": report.warnings,
        }
    return figures


STUDY = Study(
    "rivals",
    settings,
    keys,
    measure,
    tables,
    draw,
    shows="isometry beside fourteen other ways to train",
    time="two hours on one core",
    data="MNIST",
    seeds=5,
    device=True,
    determines=determines,
    uses=Uses(
        (rows("MNIST train", 0, 50_000),),
        (rows("MNIST train", 50_000, 60_000),),
        (rows("MNIST test", 0, 10_000, step=10),),
    ),
    without_control="no gain of isometry is claimed here",
    entries=entries,
)

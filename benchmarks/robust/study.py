"""Robustness on MNIST without adversarial images: the recipe and its rivals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.choice import best_of
from benchmarks.images import Part, Uses, rows
from benchmarks.methods.registry import versions
from benchmarks.results import Figures, Key, Run
from benchmarks.robust import plans
from benchmarks.robust import runs as work
from benchmarks.robust.figure import draw
from benchmarks.robust.plans import STAGES, Choice, Plan, measured, plan_from
from benchmarks.robust.report import score, tables
from benchmarks.sampling import mnist_part
from benchmarks.study import Lab, Study, quickly
from benchmarks.tables import with_keys
from benchmarks.training import OPTIMIZERS


@dataclass(frozen=True)
class Settings:
    """The experiment.

    Each method gets the recipe, optimizer and rate with the largest mean of clean accuracy and
    accuracies at ``choice_radii``, on validation images, of those with a clean accuracy of
    ``clean_floor`` or more; if there are none, those with the largest clean accuracy. Networks of
    the choice are trained on the first 50,000 images, measured ones on all 60,000.
    """

    networks: tuple[str, ...] = ("relu", "tanh")
    train_images: int | None = None
    clean_floor: float = 0.965
    choice_images: int = 2000
    choice_radii: tuple[float, ...] = (0.1, 0.2)
    choice_steps: int = 30
    recipes_each: int = 10
    other_rate: bool = True
    test_images: int = 1000
    linf: tuple[float, ...] = (0.1, 0.2, 0.3)
    l2: tuple[float, ...] = (1.0, 2.0)
    longest: int = 1000
    timing_seconds: float = 40.0


settings = quickly(
    Settings(),
    networks=("tanh",),
    train_images=1000,
    choice_images=50,
    choice_steps=2,
    recipes_each=1,
    other_rate=False,
    test_images=20,
    linf=(0.1,),
    l2=(),
    longest=1,
    timing_seconds=0.1,
)
_OF_TRAINING = ("train_images", "longest")
_OF_PHASE = {
    "choose": (*_OF_TRAINING, "choice_images", "choice_radii", "choice_steps"),
    "test": (*_OF_TRAINING, "test_images", "linf", "l2"),
    "cost": ("timing_seconds",),
}


def keys(lab: Lab[Settings]) -> Iterator[Key]:
    """Stage by stage: each has its choice, all seeds, then costs. Every key holds its plan."""
    chosen = partial(best, lab.runs, settings=lab.settings)
    for stage, methods in enumerate(STAGES):
        for name in lab.settings.networks:
            for key, choice in tries(lab.runs, name, methods, lab.settings):
                plan = plans.plan_of(name, key["method"], choice, budget=plans.CHOICE_BUDGET)
                yield {**key, "plan": asdict(plan)}
            trainings = measured(name, chosen, stage)
            for seed in range(lab.seeds):
                for title, plan in trainings.items():
                    key = {"phase": "test", "network": name, "training": title, "seed": seed}
                    yield {**key, "plan": asdict(plan)}
            for title, plan in trainings.items():
                key = {"phase": "cost", "network": name, "training": title}
                yield {**key, "plan": asdict(replace(plan, preset=None))}


def determines(key: Key, settings: Settings) -> dict[str, Any]:
    """The settings of the phase, and the versions of the methods."""
    phase_settings = {name: asdict(settings)[name] for name in _OF_PHASE[key["phase"]]}
    return {**phase_settings, "data": "MNIST", "versions": versions(key["plan"]["recipe"])}


def tries(
    runs: list[Run], name: str, methods: Sequence[str], settings: Settings
) -> Iterator[tuple[Key, Choice]]:
    """Keys of the choice with what they try: every recipe, then the best one at another rate.

    With each optimizer, this last try depends on the runs before it, which ``runs`` must hold by
    then.
    """
    for method in methods:
        for optimizer in OPTIMIZERS:
            rates = plans.RATES[name][optimizer]
            for recipe in plans.RECIPES[method][: settings.recipes_each]:
                yield _keyed(name, method, Choice(recipe, optimizer, rates.first))
            if settings.other_rate:
                recipe = best(runs, name, method, optimizer, settings=settings).recipe
                yield _keyed(name, method, Choice(recipe, optimizer, rates.other))


def _keyed(name: str, method: str, choice: Choice) -> tuple[Key, Choice]:
    options = ", ".join(f"{k} {v:g}" for k, v in choice.recipe.get(method, {}).items())
    setting = f"{options}, {choice.optimizer.title()} {choice.rate:g}".removeprefix(", ")
    return {"phase": "choose", "network": name, "method": method, "setting": setting}, choice


def best(
    runs: list[Run], name: str, method: str, optimizer: str | None = None, *, settings: Settings
) -> Choice:
    """The best try by the rule of `Settings`, among all optimizers or with one of them."""
    tried = [
        run
        for run in with_keys({"runs": runs}, phase="choose", network=name, method=method)
        if optimizer in (None, run["key"]["plan"]["schedule"]["optimizer"])
    ]
    plan = best_of(tried, score, floor=settings.clean_floor)["key"]["plan"]
    return Choice(plan["recipe"], plan["schedule"]["optimizer"], plan["schedule"]["learning_rate"])


def measure(key: Key, lab: Lab[Settings]) -> Figures:
    """Validate a try, train and attack a network, or time its steps."""
    phase, name, plan = key["phase"], key["network"], plan_from(key["plan"])
    if phase == "cost":
        return {"cost": work.relative_cost(name, plan, seconds=lab.settings.timing_seconds)}
    if phase == "choose":
        model, seconds = _trained(name, plan, 0, _data("fit", lab), lab)
        s, validation = lab.settings, _data("validation", lab)
        figures = work.validate(model, *validation, radii=s.choice_radii, steps=s.choice_steps)
        return {**figures, "training seconds": seconds}
    model, seconds = _trained(name, plan, key["seed"], _data("train", lab), lab)
    return {**_attacked(model, plan, key["seed"] == 0, lab), "training seconds": seconds}


def _data(split: str, lab: Lab[Settings]) -> work.Split:
    s = lab.settings
    count = {"validation": s.choice_images, "test": s.test_images}.get(split, s.train_images)
    return lab.once(split, lambda: mnist_part(split, lab.data_dir, count, lab.device))


def _trained(
    name: str, plan: Plan, seed: int, split: work.Split, lab: Lab[Settings]
) -> tuple[nn.Module, float]:
    torch.manual_seed(seed)
    model = plans.network(name).to(lab.device)
    epochs = min(plan.schedule.epochs, lab.settings.longest)
    plan = replace(plan, schedule=replace(plan.schedule, epochs=epochs))
    return model, work.train(model, *split, plan=plan)


def _attacked(model: nn.Module, plan: Plan, first: bool, lab: Lab[Settings]) -> Figures:
    """Attack in L-inf; on the first seed use the plan's preset, and attack in L2 too."""
    settings, test = lab.settings, _data("test", lab)
    attacks = plan.preset if first and plan.preset else work.DECISIVE
    figures = work.attacked(model, test, "Linf", settings.linf, attacks)
    if first and settings.l2:
        figures |= work.attacked(model, test, "L2", settings.l2, work.DECISIVE)
    return figures


STUDY = Study(
    "robust",
    settings,
    keys,
    measure,
    tables,
    draw,
    shows="robustness without adversarial images",
    time="three and a half hours on one core",
    data="MNIST",
    seeds=5,
    device=True,
    determines=determines,
    frozen=lambda key: (
        key["phase"] in plans.ANSWERED_PHASES or key.get("training") in plans.ANSWERED
    ),
    uses=Uses(
        (Part("MNIST train"),),
        (rows("MNIST train", 50_000, 60_000),),
        (rows("MNIST test", 0, 10_000, step=10),),
    ),
    without_control="isometry stands beside its controls in a part of its own, where nothing is "
    "gained over them",
)

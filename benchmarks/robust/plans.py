"""What is trained: tries on validation data, and the runs that are measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from benchmarks.objectives import METHODS
from benchmarks.objectives.methods import Recipe
from benchmarks.robust.training import VALIDATION, Schedule

OURS = "first-order-margin"
BUDGET = 3.0  # in trainings by `UNIT`
RATES = (1.5e-2, 5e-3)  # all recipes are tried at the first rate, the best one at the second
RECIPES: dict[str, Sequence[Recipe]] = {
    "cross-entropy": [{}],
    OURS: [{OURS: {"eps": eps}} for eps in (0.13, 0.17)],
    "fgsm": [{"fgsm": {"eps": eps}} for eps in (0.15, 0.2)],
    "pgd": [{"pgd": {"eps": eps}} for eps in (0.1, 0.2)],
    "trades": [{"trades": {"eps": 0.2, "beta": beta}} for beta in (1.0, 6.0)],
    "jacobian": [{"jacobian": {"weight": weight}} for weight in (0.1, 0.5)],
    "input-gradient": [{"input-gradient": {"weight": weight}} for weight in (10.0, 100.0)],
}
# epochs that cost as much as UNIT, from the times of a step; the report measures them again
EPOCHS: dict[str, dict[str, float]] = {
    "relu": {
        "cross-entropy": 7.9,
        OURS: 3.7,
        "fgsm": 4.0,
        "pgd": 1.2,
        "trades": 1.3,
        "jacobian": 3.8,
        "input-gradient": 3.7,
    },
    "tanh": {
        "cross-entropy": 10.8,
        OURS: 4.9,
        "fgsm": 4.6,
        "pgd": 1.5,
        "trades": 1.6,
        "jacobian": 4.6,
        "input-gradient": 4.6,
    },
}


@dataclass(frozen=True)
class Plan:
    """One way to train, and how it is attacked afterwards.

    Attributes:
        recipe: Methods and options.
        schedule: Epochs, batch, learning rate.
        rank: Plans of rank 0 are run on all seeds before those of rank 1, and so on.
        preset: The report card's for L-inf; None for the attacks that decide alone.
        l2_seeds: Seeds on which L2 attacks are made as well.
        held_out: Training images that are left out, the last ones.
    """

    recipe: Recipe
    schedule: Schedule
    rank: int = 2
    preset: str | None = None
    l2_seeds: int = 1
    held_out: int = 0

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"recipe": dict(self.recipe), "schedule": asdict(self.schedule)}


# the unit of cost: the length and the batches of the paper's training
UNIT = Plan({}, Schedule(epochs=5, batch_size=100, learning_rate=2e-3))
# network and method: the recipe and the rate that were best
Chosen = Callable[[str, str], tuple[Recipe, float]]


def plan_of(name: str, method: str, recipe: Recipe, rate: float, *, budget: float = BUDGET) -> Plan:
    """A recipe on a network at a cost of ``budget`` units; ``method`` says what an epoch costs."""
    epochs = max(1, round(budget * EPOCHS[name][method]))
    return Plan(recipe, Schedule(epochs=epochs, learning_rate=rate))


def title_of(method: str) -> str:
    """The method in tables and figures."""
    return METHODS[method].title if method in METHODS else method


def measured(name: str, chosen: Chosen) -> dict[str, Plan]:
    """All runs on a network by their title."""
    every = 1_000_000
    ours = plan_of(name, OURS, *chosen(name, OURS))
    plans = {
        title_of(OURS): replace(ours, rank=0, preset="standard", l2_seeds=every),
        "cross-entropy, 5 epochs": replace(UNIT, rank=0, l2_seeds=every),
        title_of("fgsm"): replace(
            plan_of(name, "fgsm", *chosen(name, "fgsm")), rank=0, l2_seeds=every
        ),
    }
    for method in RECIPES:
        plan = replace(plan_of(name, method, *chosen(name, method)), rank=1)
        plans.setdefault(title_of(method), plan)
    if name == "relu":
        plans |= _parts(ours)
    for method in (OURS, "fgsm", "pgd", "trades"):
        plan = plan_of(name, method, *chosen(name, method), budget=BUDGET / 3)
        plans[f"{title_of(method)}, a third of the cost"] = replace(plan, rank=3)
    return plans


def _parts(ours: Plan) -> dict[str, Plan]:
    """Our recipe without each of its parts, and with others in addition."""
    options, title = dict(ours.recipe[OURS]), title_of(OURS)

    def also(**recipe: Any) -> Plan:
        return replace(ours, recipe={**ours.recipe, **recipe})

    penalty = {"beta": 0.1, "scale": 10.0}
    shuffled = {"isometry-control": {**penalty, "target": "shuffled"}}
    slow = replace(ours.schedule, learning_rate=2e-3)
    plans = {
        f"{title} + isometry": also(isometry=penalty),
        f"{title} + shuffled": also(**shuffled),
        f"{title} + feature norm": also(**{"feature-norm": {"weight": 1e-3}}),
    }
    less = {
        f"{title}, no ramp": replace(ours, recipe={OURS: {**options, "ramp": 1e-9}}),
        f"{title}, rate 2e-3": replace(ours, schedule=slow),
        f"{title}, 50,000 images": replace(ours, held_out=VALIDATION),
    }
    return plans | {title: replace(plan, rank=3) for title, plan in less.items()}

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
# the choice has 50,000 images an epoch in place of 60,000: about the same number of steps
CHOICE_BUDGET = 3.5
# all recipes are tried at the first rate, the best one at the second; tanh diverges at 1.5e-2
RATES = {"relu": (1.5e-2, 5e-3), "tanh": (5e-3, 1.5e-3)}
RECIPES: dict[str, Sequence[Recipe]] = {
    "cross-entropy": [{}],
    OURS: [{OURS: {"eps": eps}} for eps in (0.13, 0.17)],
    "fgsm": [{"fgsm": {"eps": eps}} for eps in (0.15, 0.2)],
    "pgd": [{"pgd": {"eps": eps}} for eps in (0.1, 0.2)],
    "trades": [{"trades": {"eps": 0.2, "beta": beta}} for beta in (1.0, 6.0)],
    "jacobian": [{"jacobian": {"weight": weight}} for weight in (0.1, 0.5)],
    "input-gradient": [{"input-gradient": {"weight": weight}} for weight in (10.0, 100.0)],
}
# in the order of the stages: methods that are chosen at the beginning of each
STAGES: Sequence[Sequence[str]] = (
    (OURS, "fgsm"),
    (),
    ("cross-entropy", "pgd", "trades", "jacobian", "input-gradient"),
    (),
)
# epochs that cost as much as UNIT, from the times of a step; the report measures them again
EPOCHS: dict[str, dict[str, float]] = {
    "relu": {
        "cross-entropy": 6.9,
        OURS: 3.1,
        "fgsm": 3.4,
        "pgd": 1.1,
        "trades": 1.1,
        "jacobian": 3.1,
        "input-gradient": 3.1,
    },
    "tanh": {
        "cross-entropy": 9.4,
        OURS: 4.2,
        "fgsm": 4.0,
        "pgd": 1.3,
        "trades": 1.4,
        "jacobian": 4.0,
        "input-gradient": 4.0,
    },
}


@dataclass(frozen=True)
class Plan:
    """One way to train, and how it is attacked afterwards.

    Attributes:
        recipe: Methods and options.
        schedule: Epochs, batch, learning rate.
        preset: The report card's for L-inf on the first seed; None for the attacks that decide
            alone, which are made on all seeds.
        held_out: Training images that are left out, the last ones.
    """

    recipe: Recipe
    schedule: Schedule
    preset: str | None = None
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


def measured(name: str, chosen: Chosen, stage: int) -> dict[str, Plan]:
    """The runs of a stage on a network by their title; the stages go from what matters most."""

    def plan(method: str, **options: Any) -> Plan:
        return plan_of(name, method, *chosen(name, method), **options)

    if stage == 0:
        return {
            title_of(OURS): replace(plan(OURS), preset="standard"),
            "cross-entropy, 5 epochs": UNIT,
            title_of("fgsm"): plan("fgsm"),
        }
    if stage == 1:
        return _additions(plan(OURS))
    if stage == 2:
        return {title_of(method): plan(method) for method in STAGES[stage]}
    cheap = {
        f"{title_of(method)}, a third of the cost": plan(method, budget=BUDGET / 3)
        for method in (OURS, "fgsm", "pgd", "trades")
    }
    return _parts(plan(OURS)) | cheap


def _additions(ours: Plan) -> dict[str, Plan]:
    """Our recipe with isometry inside, and with isometry's controls."""
    penalty = {"beta": 0.1, "scale": 10.0}
    additions: dict[str, Recipe] = {
        "isometry": {"isometry": penalty},
        "shuffled distances": {"isometry-control": {**penalty, "target": "shuffled"}},
        "feature norm": {"feature-norm": {"weight": 1e-3}},
    }
    return {
        f"{title_of(OURS)} + {name}": replace(ours, recipe={**ours.recipe, **recipe})
        for name, recipe in additions.items()
    }


def _parts(ours: Plan) -> dict[str, Plan]:
    """Our recipe without each of its parts."""
    options, title = dict(ours.recipe[OURS]), title_of(OURS)
    slow = replace(ours.schedule, learning_rate=2e-3)
    small = replace(ours.schedule, batch_size=100, epochs=max(1, ours.schedule.epochs * 3 // 4))
    return {
        f"{title}, no ramp": replace(ours, recipe={OURS: {**options, "ramp": 1e-9}}),
        f"{title}, rate 2e-3": replace(ours, schedule=slow),
        f"{title}, batches of 100": replace(ours, schedule=small),
        f"{title}, 50,000 images": replace(ours, held_out=VALIDATION),
    }

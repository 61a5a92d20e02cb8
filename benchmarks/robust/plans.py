"""What is trained: tries for the choice on validation data, and the runs that are measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from benchmarks.objectives import METHODS
from benchmarks.objectives.methods import Recipe
from benchmarks.robust.training import VALIDATION, Schedule

OURS = "first-order-margin"
BUDGET = 3.0  # in trainings by `UNIT`
RATES = (1e-2, 4e-3)  # every strength is tried at the first rate, the best one at the second
STRENGTHS: dict[str, tuple[float, ...]] = {
    "cross-entropy": (0.0,),
    OURS: (0.1, 0.15, 0.2),
    "fgsm": (0.1, 0.2, 0.3),
    "pgd": (0.1, 0.15, 0.2),
    "trades": (0.1, 0.15, 0.2),
    "jacobian": (0.1, 0.3, 1.0),
    "input-gradient": (1.0, 10.0, 100.0),
}
# epochs that cost as much as UNIT, from the times of a step (the table's column "cost" checks it)
EPOCHS: dict[str, dict[str, float]] = {
    "relu": {
        "cross-entropy": 7.0,
        OURS: 3.0,
        "fgsm": 3.7,
        "pgd": 1.2,
        "trades": 1.3,
        "jacobian": 3.0,
        "input-gradient": 3.0,
    },
    "tanh": {
        "cross-entropy": 7.0,
        OURS: 3.0,
        "fgsm": 3.7,
        "pgd": 1.2,
        "trades": 1.3,
        "jacobian": 3.0,
        "input-gradient": 3.0,
    },
}


@dataclass(frozen=True)
class Plan:
    """One way to train.

    Attributes:
        recipe: Methods and options.
        schedule: Epochs, batch, learning rate.
        attacks: What attacks it: a preset's name, or "decisive".
        held_out: Training images that are left out, the last ones.
    """

    recipe: Recipe
    schedule: Schedule
    attacks: str = "decisive"
    held_out: int = 0

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"recipe": dict(self.recipe), "schedule": asdict(self.schedule)}


# the unit of cost: the length and the batches of the paper's training
UNIT = Plan({}, Schedule(epochs=5, batch_size=100, learning_rate=2e-3))
# strength, rate
Choice = tuple[float, float]
Chosen = Callable[[str, str], Choice]


def recipe_of(method: str, strength: float) -> Recipe:
    """The method at this strength: its radius, or its weight."""
    if method == "cross-entropy":
        return {}
    option = "weight" if method in ("jacobian", "input-gradient") else "eps"
    return {method: {option: strength}}


def plan_of(name: str, method: str, choice: Choice, *, budget: float = BUDGET) -> Plan:
    """A method on a network at a cost of ``budget`` units."""
    strength, rate = choice
    epochs = max(1, round(budget * EPOCHS[name][method]))
    return Plan(recipe_of(method, strength), Schedule(epochs=epochs, learning_rate=rate))


def title_of(method: str) -> str:
    """The method in tables and figures."""
    return METHODS[method].title if method in METHODS else method


def measured(name: str, chosen: Chosen) -> dict[str, Plan]:
    """All runs on a network by their title, those that matter most first."""
    ours = replace(plan_of(name, OURS, chosen(name, OURS)), attacks="standard")
    plans = {title_of(OURS): ours, "cross-entropy, 5 epochs": UNIT}
    for method in STRENGTHS:
        plan = plan_of(name, method, chosen(name, method))
        plans.setdefault(title_of(method), plan)
    if name == "relu":
        plans.update(_parts(ours, chosen(name, OURS)))
    for method in (OURS, "fgsm", "pgd", "trades"):
        plan = plan_of(name, method, chosen(name, method), budget=1)
        plans[f"{title_of(method)}, a third of the cost"] = plan
    return plans


def _parts(ours: Plan, choice: Choice) -> dict[str, Plan]:
    """Our recipe without each of its parts, and with others' in addition."""
    ours = replace(ours, attacks="decisive")
    options, title = dict(ours.recipe[OURS]), title_of(OURS)

    def also(**recipe: Any) -> Plan:
        return replace(ours, recipe={**ours.recipe, **recipe})

    def at(**schedule: Any) -> Plan:
        return replace(ours, schedule=replace(ours.schedule, **schedule))

    penalty = {"beta": 0.1, "scale": 10.0}
    return {
        f"{title}, no ramp": replace(ours, recipe={OURS: {**options, "ramp": 1e-9}}),
        f"{title}, rate 2e-3": at(learning_rate=2e-3),
        f"{title}, 50,000 images": replace(ours, held_out=VALIDATION),
        f"{title} + isometry": also(isometry=penalty),
        f"{title} + shuffled": also(**{"isometry-control": {**penalty, "target": "shuffled"}}),
        f"{title} + constant": also(**{"isometry-control": {**penalty, "target": "constant"}}),
        f"{title} + feature norm": also(**{"feature-norm": {"weight": 3e-3}}),
    }

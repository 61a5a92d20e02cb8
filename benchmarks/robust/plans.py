"""What is trained: networks, schedules, tries on validation data, runs that are measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from torch import nn

from benchmarks.methods import Recipe
from benchmarks.methods.registry import title_of
from benchmarks.networks import mlp
from benchmarks.training import OPTIMIZERS

# name: activation, width of each of the four hidden layers
NETWORKS: dict[str, tuple[type[nn.Module], int]] = {"relu": (nn.ReLU, 200), "tanh": (nn.Tanh, 100)}
TITLES = {"relu": "ReLU MLP 4 x 200", "tanh": "the paper's tanh MLP 4 x 100"}
OURS = "first-order-margin"

BUDGET = 3.0
"""Of each method, in trainings of five epochs of cross-entropy on batches of 100: units."""
CHOICE_BUDGET = 3.5
"""In the choice, which has 50,000 images an epoch in place of 60,000: about as many steps."""


def network(name: str) -> nn.Sequential:
    """A network of `NETWORKS`."""
    activation, width = NETWORKS[name]
    return mlp(width=width, activation=activation)


class Rates(NamedTuple):
    """Of an optimizer: all recipes are tried at the first rate, the best at the other."""

    first: float
    other: float


# tanh diverges with Adam at 1.5e-2; with Muon at 1e-2 next to nothing survives 0.2
RATES: dict[str, dict[str, Rates]] = {
    "relu": {"adam": Rates(1.5e-2, 5e-3), "muon": Rates(1e-2, 5e-3)},
    "tanh": {"adam": Rates(5e-3, 1.5e-3), "muon": Rates(2e-3, 1e-3)},
}
# Muon's own part of a step costs as much whatever the batch: larger ones pay where gradients are
# cheap, and cost the others steps
_BATCHES = {"adam": 250, "muon": 500}
_DEAR = ("pgd", "trades")

RECIPES: dict[str, Sequence[Recipe]] = {
    "cross-entropy": [{}],
    OURS: [{OURS: {"eps": eps}} for eps in (0.13, 0.15, 0.17)],
    "fgsm": [{"fgsm": {"eps": eps}} for eps in (0.15, 0.2, 0.25)],
    "pgd": [{"pgd": {"eps": eps}} for eps in (0.1, 0.2, 0.25)],
    "trades": [{"trades": {"eps": 0.2, "beta": beta}} for beta in (0.5, 1.0, 6.0)],
    "jacobian": [{"jacobian": {"weight": weight}} for weight in (0.1, 0.25, 0.5)],
    "input-gradient": [{"input-gradient": {"weight": weight}} for weight in (1.0, 10.0, 100.0)],
}


def batch_of(optimizer: str, method: str) -> int:
    """Images a step."""
    return 250 if method in _DEAR else _BATCHES[optimizer]


def _epochs(*epochs: float) -> dict[str, float]:
    return dict(zip(RECIPES, epochs, strict=True))


EPOCHS: dict[str, dict[str, dict[str, float]]] = {
    "relu": {
        "adam": _epochs(6.9, 3.1, 3.4, 1.1, 1.1, 3.1, 3.1),
        "muon": _epochs(5.0, 2.8, 2.8, 0.93, 1.0, 2.8, 2.8),
    },
    "tanh": {
        "adam": _epochs(9.4, 4.2, 4.0, 1.3, 1.4, 4.0, 4.0),
        "muon": _epochs(6.0, 3.6, 3.6, 1.1, 1.1, 3.6, 3.6),
    },
}
"""Epochs that cost a unit, from the times of a step; the report measures the costs again."""
# in the order of the stages: methods that are chosen at the beginning of each
STAGES: Sequence[Sequence[str]] = (
    (OURS, "fgsm"),
    ("cross-entropy", "pgd", "trades", "jacobian", "input-gradient"),
    (),
)


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: the rate rises along ``warmup``, a share of the steps, then falls.

    Its end is 0, along a cosine; the optimizer is one of `benchmarks.training.OPTIMIZERS`.
    """

    epochs: int
    batch_size: int = 250
    learning_rate: float = 6e-3
    warmup: float = 0.05
    optimizer: str = "adam"


@dataclass(frozen=True)
class Plan:
    """One way to train, and how it is attacked afterwards.

    Attributes:
        recipe: Methods and options.
        schedule: Epochs, batch, learning rate.
        preset: The report card's for L-inf on the first seed; None for the attacks that decide
            alone, which are made on all seeds.
        held_out: Training images that are left out: none any more.
    """

    recipe: Recipe
    schedule: Schedule
    preset: str | None = None
    held_out: int = 0


def plan_from(found: dict[str, Any]) -> Plan:
    """A plan from its dict."""
    return Plan(**{**found, "schedule": Schedule(**found["schedule"])})


ANSWERED = tuple(
    f"{title_of(OURS)}{what}"
    for what in (
        *(" + isometry", " + shuffled distances", " + feature norm"),
        *(", no ramp", ", a fifth of the rate", ", batches of 100"),
        *(", 50,000 images", ", three quarters of the epochs"),
    )
)
"""Trainings whose runs are kept, without their code: none gains on both networks."""
ANSWERED_PHASES = ("alone", "last")
"""Kept so too: the seconds of whole trainings, nothing beside them, and the longest preset."""
CHEAP = ", a third of the cost"
UNIT_TITLE = "cross-entropy, 5 epochs"
# the unit of cost: the length and the batches of the paper's training
UNIT = Plan({}, Schedule(epochs=5, batch_size=100, learning_rate=2e-3))


@dataclass(frozen=True)
class Choice:
    """What is tried, or chosen, on validation images."""

    recipe: Recipe
    optimizer: str
    rate: float


# network, method and perhaps the optimizer: what was best
Chosen = Callable[..., Choice]


def plan_of(name: str, method: str, choice: Choice, *, budget: float = BUDGET) -> Plan:
    """A choice on a network at a cost of ``budget`` units; ``method`` says what an epoch costs."""
    optimizer = choice.optimizer
    epochs = max(1, round(budget * EPOCHS[name][optimizer][method]))
    schedule = Schedule(epochs, batch_of(optimizer, method), choice.rate, optimizer=optimizer)
    return Plan(choice.recipe, schedule)


def measured(name: str, chosen: Chosen, stage: int) -> dict[str, Plan]:
    """The runs of a stage on a network by their title; the stages go from what matters most."""

    def plan(method: str, **options: Any) -> Plan:
        return plan_of(name, method, chosen(name, method), **options)

    if stage == 0:
        ours = replace(plan(OURS), preset="standard")
        plans = {title_of(OURS): ours, UNIT_TITLE: UNIT, title_of("fgsm"): plan("fgsm")}
        for method in (OURS, "fgsm"):
            (other,) = set(OPTIMIZERS) - {chosen(name, method).optimizer}
            title = f"{title_of(method)}, {other.title()}"
            plans[title] = plan_of(name, method, chosen(name, method, other))
        return plans
    if stage == 1:
        return {title_of(method): plan(method) for method in STAGES[stage]}
    return {
        f"{title_of(method)}{CHEAP}": plan(method, budget=BUDGET / 3)
        for method in (OURS, "fgsm", "pgd", "trades")
    }

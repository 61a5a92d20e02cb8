"""What the study trains: networks, schedules, tries on validation data, and measured runs."""

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
"""Cost of each training, in units: five epochs of cross-entropy on batches of 100 cost one."""
CHOICE_BUDGET = 3.5
"""Cost in the choice, where an epoch has 50,000 images, not 60,000: about as many steps."""


def network(name: str) -> nn.Sequential:
    """A network of `NETWORKS`."""
    activation, width = NETWORKS[name]
    return mlp(width=width, activation=activation)


class Rates(NamedTuple):
    """Rates of an optimizer: all recipes are tried at ``first``, the best one at ``other`` too."""

    first: float
    other: float


# tanh diverges with Adam at 1.5e-2; with Muon at 1e-2 almost no image survives eps 0.2
RATES: dict[str, dict[str, Rates]] = {
    "relu": {"adam": Rates(1.5e-2, 5e-3), "muon": Rates(1e-2, 5e-3)},
    "tanh": {"adam": Rates(5e-3, 1.5e-3), "muon": Rates(2e-3, 1e-3)},
}
# Muon's own part of a step costs the same for every batch size: large batches pay off where
# gradients are cheap; where they are dear, large batches would only mean fewer steps
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
    """The batch size."""
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
"""Epochs that cost one unit, from the times of a step; the study measures the costs again."""
# for each stage, the methods whose settings are chosen at its beginning
STAGES: Sequence[Sequence[str]] = (
    (OURS, "fgsm"),
    ("cross-entropy", "pgd", "trades", "jacobian", "input-gradient"),
    (),
)


@dataclass(frozen=True)
class Schedule:
    """Length and learning rate of a training; ``optimizer`` is a name of `OPTIMIZERS`.

    The rate rises linearly during ``warmup``, a share of the steps, then falls along a cosine to 0.
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
        preset: The report card's preset for L-inf on the first seed; None: only the attacks that
            decide the worst case, which all other seeds get.
        held_out: Number of training images left out; 0 but in the keys of runs that are kept.
    """

    recipe: Recipe
    schedule: Schedule
    preset: str | None = None
    held_out: int = 0


def plan_from(fields: dict[str, Any]) -> Plan:
    """A plan from the dict that a run's key holds."""
    return Plan(**{**fields, "schedule": Schedule(**fields["schedule"])})


ANSWERED = tuple(
    f"{title_of(OURS)}{variant}"
    for variant in (
        *(" + isometry", " + shuffled distances", " + feature norm"),
        *(", no ramp", ", a fifth of the rate", ", batches of 100"),
        *(", 50,000 images", ", three quarters of the epochs"),
    )
)
"""Trainings whose runs are kept without code: none of them gains on both networks."""
ANSWERED_PHASES = ("alone", "last")
"""Phases that are kept without code: whole trainings timed alone, and the longest preset."""
CHEAP = ", a third of the cost"
UNIT_TITLE = "cross-entropy, 5 epochs"
# the unit of cost: the length and the batches of the paper's training
UNIT = Plan({}, Schedule(epochs=5, batch_size=100, learning_rate=2e-3))


@dataclass(frozen=True)
class Choice:
    """A setting that is tried, or was chosen, on validation images."""

    recipe: Recipe
    optimizer: str
    rate: float


# takes network, method and perhaps an optimizer; gives the best choice
Chosen = Callable[..., Choice]


def plan_of(name: str, method: str, choice: Choice, *, budget: float = BUDGET) -> Plan:
    """The plan of a choice at a cost of ``budget`` units; ``method`` says what an epoch costs."""
    optimizer = choice.optimizer
    epochs = max(1, round(budget * EPOCHS[name][optimizer][method]))
    schedule = Schedule(epochs, batch_of(optimizer, method), choice.rate, optimizer=optimizer)
    return Plan(choice.recipe, schedule)


def measured(name: str, chosen: Chosen, stage: int) -> dict[str, Plan]:
    """The plans of a stage on a network, by title; what matters most is in the first stage."""

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

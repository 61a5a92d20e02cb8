"""What is tried beside the first-order margin, in which settings, and with which control."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.objectives.methods import Options, Recipe
from benchmarks.robust.budgets import OURS, batch_of
from benchmarks.robust.plans import Plan, title_of
from benchmarks.robust.training import Schedule

EPS = 0.15
OPTIMIZER, RATE = "muon", 1e-2
SECOND = "second-linearisation"  # replaces the margin, where the others are added to it
PLAIN = title_of(OURS)
NORM = f"{PLAIN} + feature norm"
LONGER = f"{PLAIN}, as long as two passes take"
# a step with a second pass, or with the pairs of a batch, takes about so many times as long
TWICE = 1.7
_MARGIN: Recipe = {OURS: {"eps": EPS}}


@dataclass(frozen=True)
class Variant:
    """One idea.

    Attributes:
        term: The name of what is added to the loss, or replaces it; None: another learning rate.
        settings: Options among which to choose.
        options: Those that all settings share.
        control: Options that make its control of it; none: it has no control.
        baseline: The title of the training that costs as much, or nearly.
    """

    term: str | None
    settings: Sequence[Options]
    options: Options = field(default_factory=dict)
    control: Options | None = None
    baseline: str = PLAIN

    def plan(self, setting: Options, epochs: int, *, control: bool = False) -> Plan:
        """The training by a setting."""
        if self.term is None:
            return Plan(_MARGIN, _schedule(epochs, **setting))
        added = self.control if control and self.control else {}
        recipe = {self.term: {**self.options, **setting, **added}}
        return Plan(recipe if self.term == SECOND else {**_MARGIN, **recipe}, _schedule(epochs))


_SHUFFLED: Options = {"shuffled": True}
_RANDOM: Options = {"random": True}
# distances of features shrink to a fifteenth, or stay about as they are within classes
_WITHIN: Sequence[Options] = ({"beta": 10.0, "size": 1.0}, {"beta": 0.1, "size": 10.0})
_WEIGHTS: Sequence[Options] = tuple({"weight": weight} for weight in (0.03, 0.3, 1.0, 3.0))


def _pairs(settings: Sequence[Options], **options: Any) -> Variant:
    return Variant("batch-pairs", settings, options, _SHUFFLED, LONGER)


def _worst(settings: Sequence[Options], **options: Any) -> Variant:
    return Variant("worst-case-pairs", settings, {"eps": EPS, **options}, _RANDOM, LONGER)


VARIANTS: Mapping[str, Variant] = {
    "rate": Variant(None, ({"learning_rate": 2e-2}, {"learning_rate": 3e-2})),
    "worst case kept at its distance": _worst(_WEIGHTS, factor=1.0),
    "worst case pulled to the image": _worst(_WEIGHTS),
    "isometry within classes, L1": _pairs(_WITHIN, metric="manhattan"),
    "non-contracting between classes": _pairs(
        ({"beta": 1e-3, "size": 40.0}, {"beta": 1e-3, "size": 80.0}),
        punish="shrinking",
        pairs="between",
    ),
    "non-expansive within classes": _pairs(_WITHIN, punish="stretching"),
    "non-expansive, all pairs": _pairs(
        ({"beta": 1e-3, "size": 10.0}, {"beta": 1e-3, "size": 30.0}),
        punish="stretching",
        pairs="all",
    ),
    "isometry within classes, L-inf": _pairs(_WITHIN, metric="chebyshev"),
    "second linearisation": Variant(
        SECOND, ({"share": 0.5}, {"share": 1.0}), {"eps": EPS}, _RANDOM, LONGER
    ),
}


def baselines(epochs: int) -> dict[str, Plan]:
    """What the variants are compared with."""
    norm: Recipe = {**_MARGIN, "feature-norm": {"weight": 1e-3}}
    return {
        PLAIN: Plan(_MARGIN, _schedule(epochs)),
        NORM: Plan(norm, _schedule(epochs)),
        LONGER: Plan(_MARGIN, _schedule(round(TWICE * epochs))),
    }


def setting_name(setting: Options) -> str:
    """The options that differ, for keys and tables."""
    return ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in setting.items())


def _schedule(epochs: int, learning_rate: float = RATE) -> Schedule:
    return Schedule(epochs, batch_of(OPTIMIZER, OURS), learning_rate, optimizer=OPTIMIZER)

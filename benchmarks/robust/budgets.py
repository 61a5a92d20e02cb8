"""Learning rates, batches, and how many epochs each method has for its money."""

from __future__ import annotations

from typing import NamedTuple

OURS = "first-order-margin"
BUDGET = 3.0
"""Of each method, in trainings of five epochs of cross-entropy on batches of 100: units."""

CHOICE_BUDGET = 3.5
"""In the choice, which has 50,000 images an epoch in place of 60,000: about as many steps."""


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

_METHODS = ("cross-entropy", OURS, "fgsm", "pgd", "trades", "jacobian", "input-gradient")


def batch_of(optimizer: str, method: str) -> int:
    """Images a step."""
    return 250 if method in _DEAR else _BATCHES[optimizer]


def _epochs(*epochs: float) -> dict[str, float]:
    return dict(zip(_METHODS, epochs, strict=True))


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

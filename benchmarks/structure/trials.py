"""The rows of these studies: methods of the registry, each with a reference and strengths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from benchmarks.methods import METHODS, Recipe

MANIFOLD = "manifold of patches"
TARGET = 10.0
"""About the root mean squared distance of all references; controls without geometry aim at it."""
_STRENGTH = {"isometry": "beta", "label-smoothing": "share", "dropout": "share"}
"""For each method whose strength is not the option ``weight``, the name of that option."""


@dataclass(frozen=True)
class Trial:
    """A method of `benchmarks.methods.METHODS` ("": cross-entropy alone), and how strong it is.

    For digits, ``strength`` is the one of ``strengths`` that ``structure --part search`` chose on
    validation images. ``reference``, a name in `Data.references`, is what features are compared
    with.
    """

    method: str
    strengths: tuple[float, ...] = ()
    strength: float = 0.0
    reference: str = "pixels"
    options: Mapping[str, Any] = field(default_factory=dict)

    def recipe(self, strength: float, width: int) -> Recipe:
        """The recipe at a strength, for references with ``width`` numbers a sample."""
        if not self.method:
            return {}
        options = {_STRENGTH.get(self.method, "weight"): strength, **self.options}
        if self.method in {"second-head", "isometry-and-head"}:
            options["outputs"] = width
        return {self.method: options}

    def describe(self) -> dict[str, Any]:
        """What determines a run of this trial, except its strength."""
        version = METHODS[self.method].version if self.method else 1
        options = {"method": self.method, "options": dict(self.options), "version": version}
        return {**options, "reference": self.reference}


def isometry(
    strengths: tuple[float, ...] = (),
    strength: float = 0.0,
    reference: str = "pixels",
    **options: Any,
) -> Trial:
    """The penalty of this library, by default on what enters the classifier."""
    return Trial("isometry", strengths, strength, reference, options)


def compared_with(
    reference: str,
    *,
    name: str,
    strengths: tuple[float, ...],
    of_control: tuple[float, ...],
    of_head: tuple[float, ...],
) -> dict[str, Trial]:
    """Isometry, its control and a second head, with one reference and strengths to choose from.

    ``name`` is what the reference is called in the names of the trials.
    """
    return {
        f"isometry, {name}": isometry(strengths, reference=reference),
        f"control: {name}, shuffled": isometry(of_control, reference=reference, shuffled=True),
        f"{name} predicted by a head": Trial("second-head", of_head, reference=reference),
    }


def constant_distance(points: Tensor) -> Tensor:
    """The distance `TARGET` for all pairs."""
    return TARGET * (1 - torch.eye(len(points)))


_BETAS = (0.02, 0.1, 0.5)
_WIDER = (0.004, *_BETAS, 2.0)
_EVERY: dict[str, Any] = {"layers": "activations"}
_MOVED: dict[str, Any] = {"shuffled": True}
_CONSTANT = {"distances": constant_distance}
_LENGTH = {"length": TARGET / 2**0.5}

PLAIN = Trial("")
# Each trial has three strengths, and more where the best lay at an end; a control has all the
# strengths of the method that it controls.
TRIALS: dict[str, Trial] = {
    "cross-entropy": PLAIN,
    "isometry, pixels": isometry(_BETAS, 0.1, **_EVERY),
    "isometry, patches": isometry((0.004, *_BETAS), 0.02, "patches", **_EVERY),
    "isometry, manifold": isometry((*_BETAS, 2.0), 0.5, MANIFOLD),
    "all pairs, manifold": isometry((*_BETAS, 2.0), 0.5, MANIFOLD, pairs="all"),
    "control: pixels, shuffled": isometry((0.0008, *_WIDER), 0.004, **(_EVERY | _MOVED)),
    "control: manifold, shuffled": isometry((*_BETAS, 2.0), 0.1, MANIFOLD, **_MOVED),
    "control: constant distance": Trial("given-distances", _BETAS, 0.1, options=_CONSTANT),
    "control: feature norm": Trial("feature-norm", (0.002, 0.01, 0.05, 0.2), 0.05, options=_LENGTH),
    "manifold predicted by a head": Trial("second-head", (0.004, 0.02, 0.1, 0.5), 0.1, MANIFOLD),
    "supervised contrastive": Trial("supervised-contrastive", (0.02, 0.1, 0.5, 2.0), 0.1),
    "Jacobian": Trial("jacobian", (0.01, 0.1, 0.5, 2.0, 10.0, 50.0), 10.0),
    "label smoothing": Trial("label-smoothing", (0.05, 0.15, 0.4, 0.7, 0.85, 0.95), 0.85),
    "dropout": Trial("dropout", (0.001, 0.005, 0.02, 0.05, 0.15, 0.4), 0.001),
}

# trials with the scale of each batch fitted, at the strengths that were chosen without that
FITTED: dict[str, Trial] = {
    "isometry, manifold": isometry((), 0.5, MANIFOLD, scale="fit"),
    "control: manifold, shuffled": isometry((), 0.1, MANIFOLD, **_MOVED, scale="fit"),
}

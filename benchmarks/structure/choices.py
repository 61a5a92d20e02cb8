"""Which choice makes it work: one thing changed at a time, measured on validation images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmarks.cache import computed_once
from benchmarks.results import Figures, Found, Key
from benchmarks.sampling import evenly
from benchmarks.structure import data as samples
from benchmarks.structure.data import Data
from benchmarks.structure.report import SHORT
from benchmarks.structure.settings import Settings, settings
from benchmarks.structure.training import determined_by, measure_shortly
from benchmarks.structure.trials import MANIFOLD, TRIALS, Trial
from benchmarks.structure.unlearnt import random_convolutions, whitened
from benchmarks.study import Lab, Study
from benchmarks.tables import grouped, page, table
from isoreg import references


@dataclass(frozen=True)
class Choice:
    """A trial with its strength, and what differs in the settings."""

    trial: Trial
    changes: dict[str, Any] = field(default_factory=dict)


_PLAIN = TRIALS["cross-entropy"]
_OURS = TRIALS["isometry, manifold"]


def _changed(changes: dict[str, Any], name: str) -> dict[str, Choice]:
    """Cross-entropy and the penalty with the same change."""
    trials = {"cross-entropy": _PLAIN, "isometry": _OURS}
    return {f"{kind}, {name}": Choice(trial, changes) for kind, trial in trials.items()}


def _with(reference: str = MANIFOLD, **options: Any) -> Choice:
    """The penalty with another reference, or with options of `isometry`."""
    return Choice(replace(_OURS, options=options, reference=reference))


_HIDDEN = ("2", "4", "6", "8")
"""Outputs of the hidden layers of `mlp`, by name."""
_LAST = (
    *("pixels", "blurred pixels", "patches", "manifold of pixels"),
    *("whitened pixels", "random convolutions"),
)
_EVERY = ("blurred pixels", "manifold of pixels", "manifold of patches")

CHOICES: dict[str, Choice] = {
    "cross-entropy": Choice(_PLAIN),
    "isometry against the manifold of patches": Choice(_OURS),
    **{f"last hidden layer against {name}": _with(name) for name in _LAST},
    "last hidden layer against the first, scale fitted": _with(inputs=_HIDDEN[0], scale="fit"),
    "last hidden layer against the one before, scale fitted": _with(
        inputs=_HIDDEN[-2], scale="fit"
    ),
    "second hidden layer against manifold of patches": _with(layers=_HIDDEN[1]),
    "manifold in 10 dimensions": _with("manifold in 10 dimensions"),
    **{f"all hidden layers against {name}": _with(name, layers="activations") for name in _EVERY},
    "all pairs in place of those of a class": _with(pairs="all"),
    "scale fitted to each batch": _with(scale="fit"),
    "mean over the pairs of a class": _with(reduction="pairs"),
    **_changed({"activation": "ReLU"}, "ReLU"),
    **_changed({"width": 300}, "300 units a layer"),
    **_changed({"batch_size": 400, "learning_rate": 2e-3}, "batches of 400"),
    **_changed({"epochs": 10, "shift": 1}, "10 epochs, images moved by up to a pixel"),
}


def keys(lab: Lab[Settings]) -> Iterator[Key]:
    """Every choice once."""
    for name in list(CHOICES)[: 2 if lab.quick else None]:
        yield {"choice": name, "strength": CHOICES[name].trial.strength}


def determines(key: Key, settings: Settings) -> dict[str, Any]:
    """The settings, the trial and what is changed."""
    choice = CHOICES.get(key["choice"])
    if choice is None:
        return determined_by(None, settings)
    return determined_by(choice.trial, settings, changes=choice.changes)


def measure(key: Key, lab: Lab[Settings]) -> Figures:
    """Figures on validation images."""
    choice = CHOICES[key["choice"]]
    data = lab.once("data", lambda: _data(lab))
    changed = replace(lab.settings, **({} if lab.quick else choice.changes))
    return measure_shortly(data, choice.trial, strength=key["strength"], settings=changed)


def _data(lab: Lab[Settings]) -> Data:
    data = samples.digits(lab.settings, lab.data_dir, cache=lab.cache, validate=True)
    return _with_more_references(data, lab.settings, lab.cache)


def _with_more_references(data: Data, settings: Settings, cache: Path) -> Data:
    """Also the manifold of pixels, ten dimensions of that of patches, and what is not learnt."""
    x = data.train.x
    landmarks = evenly(x, settings.landmarks)

    def of_pixels() -> Tensor:
        return references.manifold(landmarks)(x)

    few = data.references[MANIFOLD][:, :10]
    more = {
        "manifold of pixels": computed_once(cache / f"manifold-of-pixels-{len(x)}.pt", of_pixels),
        "manifold in 10 dimensions": references.scaled(None, few)(few),
        "whitened pixels": whitened(landmarks)(x),
        "random convolutions": random_convolutions(landmarks, size=7, filters=32, grid=3)(x),
    }
    return replace(data, references=data.references | more)


def tables(found: Found) -> str:
    """A Markdown table: one line a choice."""
    by_choice = grouped(found["runs"], "choice")
    return page(
        "# Which choice makes it work",
        "Even or odd, 8,000 validation images, one seed, in %. Where a line says nothing else: "
        "the last hidden layer, pairs of equal label, against the manifold of patches, "
        "beta chosen by `--part search`.",
        table("choice", {name: by_choice[name] for name in CHOICES if name in by_choice}, SHORT),
    )


STUDY = Study(
    "structure-choices",
    settings,
    keys,
    measure,
    tables,
    shows="which choice makes it work",
    time="a quarter of an hour on one core",
    data="MNIST",
    determines=determines,
)

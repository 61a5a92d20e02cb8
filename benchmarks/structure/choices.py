"""Which choice makes it work: one thing changed at a time, measured on validation images."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.cache import computed_once
from benchmarks.results import Results
from benchmarks.structure import data as samples
from benchmarks.structure.data import MANIFOLD, Data, even_sample
from benchmarks.structure.experiment import measure_shortly, progress_over
from benchmarks.structure.methods import METHODS, Method, isometry
from benchmarks.structure.settings import Settings
from benchmarks.structure.unlearnt import random_convolutions, whitened
from isoreg import references


@dataclass(frozen=True)
class Choice:
    """A method with its strength, and what differs in the settings."""

    method: Method
    changes: dict[str, Any] = field(default_factory=dict)


_PLAIN = METHODS["cross-entropy"]
_OURS = METHODS["isometry, manifold"]


def _changed(changes: dict[str, Any], name: str) -> dict[str, Choice]:
    """Cross-entropy and the penalty with the same change."""
    return {
        f"cross-entropy, {name}": Choice(_PLAIN, changes),
        f"isometry, {name}": Choice(_OURS, changes),
    }


def _with(reference: str = MANIFOLD, **options: Any) -> Choice:
    """The penalty with another reference, or with options of `isometry`."""
    return Choice(replace(_OURS, build=isometry(**options), reference=reference))


_HIDDEN = ("2", "4", "6", "8")
"""Outputs of the hidden layers of `mlp`, by name."""


CHOICES: dict[str, Choice] = {
    "cross-entropy": Choice(_PLAIN),
    "isometry against the manifold of patches": Choice(_OURS),
    **{
        f"last hidden layer against {name}": _with(name)
        for name in (
            *("pixels", "blurred pixels", "patches", "manifold of pixels"),
            *("whitened pixels", "random convolutions"),
        )
    },
    "last hidden layer against the first, scale fitted": _with(inputs=_HIDDEN[0], scale="fit"),
    "last hidden layer against the one before, scale fitted": _with(
        inputs=_HIDDEN[-2], scale="fit"
    ),
    "second hidden layer against manifold of patches": _with(layers=_HIDDEN[1]),
    "manifold in 10 dimensions": _with("manifold in 10 dimensions"),
    **{
        f"all hidden layers against {name}": _with(name, layers=nn.Tanh)
        for name in ("blurred pixels", "manifold of pixels", "manifold of patches")
    },
    "all pairs in place of those of a class": _with(pairs="all"),
    "scale fitted to each batch": _with(scale="fit"),
    "mean over the pairs of a class": _with(reduction="pairs"),
    **_changed({"activation": "ReLU"}, "ReLU"),
    **_changed({"width": 300}, "300 units a layer"),
    **_changed({"batch_size": 400, "learning_rate": 2e-3}, "batches of 400"),
    **_changed({"epochs": 10, "shift": 1}, "10 epochs, images moved by up to a pixel"),
}


def run(settings: Settings, *, data_dir: Path | None, out: Path, quick: bool) -> Results:
    """Measure every choice once."""
    results = Results(out, asdict(settings))
    names = list(CHOICES)[: 2 if quick else None]
    todo = [{"choice": name} for name in names if not results.has({"choice": name})]
    if not todo:
        return results
    data = samples.digits(settings, data_dir, cache=out.parent / "cache", validate=True)
    data = _with_more_references(data, settings, out.parent / "cache")
    for key in progress_over(todo):
        choice = CHOICES[key["choice"]]
        changed = replace(settings, **({} if quick else choice.changes))
        figures = measure_shortly(choice.method, choice.method.strength, data, changed)
        results.add(key, figures)
    return results


def _with_more_references(data: Data, settings: Settings, cache: Path) -> Data:
    """Also the manifold of pixels, ten dimensions of that of patches, and what is not learnt."""
    x = data.train.x
    landmarks = even_sample(x, settings.landmarks)

    def of_pixels() -> torch.Tensor:
        return references.manifold(landmarks)(x)

    few = data.references[MANIFOLD][:, :10]
    more = {
        "manifold of pixels": computed_once(cache / f"manifold-of-pixels-{len(x)}.pt", of_pixels),
        "manifold in 10 dimensions": references.scaled(None, few)(few),
        "whitened pixels": whitened(landmarks)(x),
        "random convolutions": random_convolutions(landmarks, size=7, filters=32, grid=3)(x),
    }
    return replace(data, references=data.references | more)

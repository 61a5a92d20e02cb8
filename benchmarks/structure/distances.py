"""Distances of features beside those of what they were compared with, on digits not trained on."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.cache import computed_once
from benchmarks.results import Results, Run
from benchmarks.structure import data as samples
from benchmarks.structure.agreement import AMONG, agreement, linear_fit
from benchmarks.structure.data import MANIFOLD, Data, even_sample
from benchmarks.structure.evaluation import Embed, coarse_accuracy, features_of, pixels_of
from benchmarks.structure.experiment import (
    chosen_strengths,
    manifold_of_patches,
    progress_over,
    tries,
)
from benchmarks.structure.methods import METHODS, Method, compared_with, from_distances, regression
from benchmarks.structure.settings import SEARCH_SEED, Settings
from benchmarks.structure.shifts import MOST, placed_by_distances, shift_distances
from benchmarks.structure.training import train

PIXELS, SHIFTS = "pixels", "shifts"
PLACED = "places by shifts"
"""Coordinates whose distances are about those by shifts, which have none of their own."""

PLAIN = "cross-entropy"
RAW = "raw pixels"
UNTRAINED = (RAW, PLACED)
BEST = "best r"
"""By which strengths are chosen."""

_OF_ISOMETRY = (0.1, 0.5, 2.0, 8.0)
_OF_CONTROL = (0.004, 0.02, 0.1, 0.5, 2.0)
_OF_HEAD = (0.02, 0.1, 0.5, 2.0)
_DIMENSIONS = 100
_LANDMARKS = 1_000
_SHOWN = 2_000
_PAIRS = 300

COMPARED: dict[str, dict[str, Method]] = {
    **{
        reference: compared_with(
            reference,
            name=reference,
            strengths=_OF_ISOMETRY,
            of_control=_OF_CONTROL,
            of_head=_OF_HEAD,
        )
        for reference in (MANIFOLD, PIXELS)
    },
    SHIFTS: {
        f"isometry, {SHIFTS}": Method(from_distances(shift_distances), _OF_ISOMETRY),
        f"control: {SHIFTS}, shuffled": Method(
            from_distances(shift_distances, shuffled=True), _OF_CONTROL
        ),
        f"{SHIFTS} predicted by a head": Method(regression, _OF_HEAD, reference=PLACED),
    },
}
"""By reference, the ways to train that are to keep its distances."""

ALL: dict[str, Method] = {PLAIN: METHODS[PLAIN]} | {
    name: method for methods in COMPARED.values() for name, method in methods.items()
}
DRAWN = (PLAIN, *COMPARED[MANIFOLD])
"""Of these some pairs of the first seed are kept, with their distances by the manifold."""


@dataclass(frozen=True)
class Truth:
    """Images that are asked about, and their distances by each reference.

    Attributes:
        images: (n, 1, 28, 28) that no network was trained on.
        labels: (n,) the coarse ones.
        distances: By reference, (n, n).
    """

    images: Tensor
    labels: Tensor
    distances: dict[str, Tensor]


@dataclass(frozen=True)
class Asked:
    """Samples to train and to measure on, what is measured against, and places by shifts."""

    data: Data
    truth: Truth
    placed: Embed


def run(
    settings: Settings, *, seeds: int, data_dir: Path | None, out: Path, quick: bool
) -> Results:
    """Choose every strength on validation images, then measure on test images."""
    results = Results(out, _recorded(settings))
    names = [name for name in ALL if not quick or name in DRAWN]
    keys: list[dict[str, Any]] = [
        {"method": name, "strength": strength}
        for name in names
        for strength in (ALL[name].strengths or (0.0,))[: 1 if quick else None]
    ]
    keys += [{"method": name, "seed": 0} for name in UNTRAINED]
    keys += [{"method": name, "seed": seed} for seed in range(seeds) for name in names]
    todo = [key for key in keys if not results.has(key)]
    ask = cache(lambda validate: asked(settings, data_dir, out.parent / "cache", validate))
    for key in progress_over(todo):
        if "strength" in key:
            results.add(key, _try(key, ask(True), settings))
        else:
            results.add(key, _measure(key, ask(False), settings, results.runs))
    return results


def _recorded(settings: Settings) -> dict[str, Any]:
    """All that determines the figures."""
    own = {"dimensions": _DIMENSIONS, "landmarks of shifts": _LANDMARKS, "most": MOST}
    return asdict(settings) | own | {"shown": _SHOWN, "among": AMONG, "pairs": _PAIRS}


def asked(settings: Settings, data_dir: Path | None, folder: Path, validate: bool) -> Asked:
    """With ``validate`` no test image is read: validation images stand in for them."""
    data = samples.digits(settings, data_dir, cache=folder, validate=validate)
    placed = _placed_by_shifts(data, settings)
    name = f"places-by-shifts-{len(data.train.x)}-{_DIMENSIONS}-{_LANDMARKS}-{MOST}.pt"
    places = computed_once(folder / name, lambda: placed(data.train.x))
    data = replace(data, references=data.references | {PLACED: places})
    shown = data.test.sample(_SHOWN)
    points = {PIXELS: pixels_of(shown.x), MANIFOLD: manifold_of_patches(data, settings)(shown.x)}
    distances = {each: torch.cdist(found, found) for each, found in points.items()}
    distances[SHIFTS] = shift_distances(shown.x)
    return Asked(data, Truth(shown.x, data.coarse(shown.fine), distances), placed)


def _placed_by_shifts(data: Data, settings: Settings) -> Embed:
    """Places of images by their distances to some of the training images."""
    landmarks = even_sample(data.train.x, min(_LANDMARKS, settings.landmarks))
    return placed_by_distances(landmarks, shift_distances, _DIMENSIONS)


def reference_of(name: str) -> str:
    """Whose distances a method is to keep; cross-entropy is asked about the manifold."""
    return next((each for each, methods in COMPARED.items() if name in methods), MANIFOLD)


def _try(key: dict[str, Any], ask: Asked, settings: Settings) -> dict[str, Any]:
    method, strength = ALL[key["method"]], key["strength"]
    model = train(ask.data, method, strength=strength, seed=SEARCH_SEED, settings=settings)
    own = agreements(features_of(model), ask, settings)[reference_of(key["method"])]
    best = max(own["r"], own["fitted r"])
    return {"coarse": coarse_accuracy(model, ask.data), BEST: best, **own}


def _measure(
    key: dict[str, Any], ask: Asked, settings: Settings, runs: list[Run]
) -> dict[str, Any]:
    name, seed = key["method"], key["seed"]
    if name in UNTRAINED:
        return agreements(pixels_of if name == RAW else ask.placed, ask, settings)
    strength = chosen_strengths(tries(runs), by=BEST)[name]
    model = train(ask.data, ALL[name], strength=strength, seed=seed, settings=settings)
    embed = features_of(model)
    return {
        "strength": strength,
        "coarse": coarse_accuracy(model, ask.data),
        **agreements(embed, ask, settings),
        **({"pairs": some_pairs(embed, ask.truth)} if seed == 0 and name in DRAWN else {}),
    }


def agreements(embed: Embed, ask: Asked, settings: Settings) -> dict[str, dict[str, float]]:
    """By reference: of the features' distances, and of those after a linear map to its places.

    The map is fitted on known training images.
    """
    known = ask.data.train.x[: settings.known]
    features, of_known = embed(ask.truth.images), embed(known)
    found = {}
    for name, distances in ask.truth.distances.items():
        places = ask.data.references[PLACED if name == SHIFTS else name][: settings.known]
        mapped = linear_fit(of_known, places.flatten(1))(features)
        plain, fitted = (
            agreement(distances, torch.cdist(points, points), ask.truth.labels)
            for points in (features, mapped)
        )
        found[name] = plain | {f"fitted {figure}": value for figure, value in fitted.items()}
    return found


def some_pairs(embed: Embed, truth: Truth) -> list[list[float]]:
    """Distances by the manifold and by the features, of pairs of equal label."""
    alike = (truth.labels[:, None] == truth.labels).triu(1)
    features = embed(truth.images)
    drawn = torch.randperm(int(alike.sum()), generator=torch.Generator().manual_seed(0))[:_PAIRS]
    tables = (truth.distances[MANIFOLD], torch.cdist(features, features))
    return [[round(float(value), 2) for value in table[alike][drawn]] for table in tables]

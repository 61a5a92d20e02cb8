"""Do distances of features mean something? Compared with those of the reference on new digits."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.cache import computed_once
from benchmarks.results import Results, Run
from benchmarks.structure import data as samples
from benchmarks.structure.agreement import agreement, linear_fit
from benchmarks.structure.data import Data
from benchmarks.structure.evaluation import Embed, coarse_accuracy, features_of, pixels_of
from benchmarks.structure.experiment import chosen_strengths, manifold_of_patches, progress_over
from benchmarks.structure.methods import METHODS, Method, compared_with, from_distances, regression
from benchmarks.structure.settings import SEARCH_SEED, Settings
from benchmarks.structure.shifts import placed_by_distances, shift_distances
from benchmarks.structure.training import train
from isoreg import references

PIXELS, MANIFOLD, SHIFTS = "pixels", "manifold of patches", "shifts"
PLACED = "places by shifts"
"""Coordinates whose distances are about those by shifts, which have none of their own."""

_STRENGTHS, _SMALLER = (0.1, 0.5, 2.0), (0.02, 0.1, 0.5)
_DIMENSIONS = 30
_LANDMARKS = 1_000
_SHOWN = 2_000

# by the reference, what is compared
COMPARED: dict[str, dict[str, Method]] = {
    PIXELS: compared_with(PIXELS, PIXELS, _STRENGTHS, _SMALLER),
    MANIFOLD: compared_with(MANIFOLD, MANIFOLD, _STRENGTHS, _SMALLER),
    SHIFTS: {
        f"isometry, {SHIFTS}": Method(from_distances(shift_distances), _STRENGTHS),
        f"control: {SHIFTS}, shuffled": Method(
            from_distances(shift_distances, shuffled=True), _SMALLER
        ),
        f"{SHIFTS} predicted by a head": Method(regression, _SMALLER, reference=PLACED),
    },
}
PLAIN = "cross-entropy"
ALL: dict[str, Method] = {PLAIN: METHODS[PLAIN]} | {
    name: method for methods in COMPARED.values() for name, method in methods.items()
}
UNTRAINED = ("raw pixels", PLACED)
DRAWN = (PLAIN, *COMPARED[MANIFOLD])
"""Of these some pairs of the first seed are kept, with their distances by the manifold."""
_PAIRS = 1_000


@dataclass(frozen=True)
class Truth:
    """What is measured against.

    Attributes:
        images: (n, 1, 28, 28) that no network was trained on.
        labels: (n,) the coarse ones.
        distances: By reference, (n, n) of each two images.
    """

    images: Tensor
    labels: Tensor
    distances: dict[str, Tensor]


def run(
    settings: Settings, *, seeds: int, data_dir: Path | None, out: Path, quick: bool
) -> Results:
    """Choose every strength on validation images, then measure on test images."""
    results = Results(out, asdict(settings))
    names = list(ALL)[: 2 if quick else None]
    keys: list[dict[str, Any]] = [
        {"method": name, "strength": strength}
        for name in names
        for strength in (ALL[name].strengths or (0.0,))[: 1 if quick else None]
    ]
    keys += [{"method": name, "seed": 0} for name in UNTRAINED]
    keys += [{"method": name, "seed": seed} for seed in range(seeds) for name in names]
    todo = [key for key in keys if not results.has(key)]
    if not todo:
        return results
    data = samples.digits(settings, data_dir, cache=out.parent / "cache", validate=False)
    manifold, placed = manifold_of_patches(data, settings), _placed_by_shifts(data, settings)
    places = computed_once(
        out.parent / "cache" / f"places-by-shifts-{len(data.train.x)}.pt",
        lambda: placed(data.train.x),
    )
    data = replace(data, references=data.references | {PLACED: places})
    on_validation, on_test = data.unseen(), data
    truths = [_truth(each, manifold) for each in (on_validation, on_test)]
    for key in progress_over(todo):
        if key["method"] in UNTRAINED:
            embed = pixels_of if key["method"] == UNTRAINED[0] else placed
            results.add(key, _agreements(embed, on_test, truths[1], settings))
        elif "strength" in key:
            results.add(key, _try(key, on_validation, truths[0], settings))
        else:
            results.add(key, _measure(key, on_test, truths[1], settings, results.runs))
    return results


def tries(runs: list[Run]) -> list[Run]:
    """Those on validation images."""
    return [run for run in runs if "strength" in run["key"]]


def reference_of(name: str) -> str:
    """Whose distances a method is to keep; cross-entropy is asked about pixels."""
    return next((each for each, methods in COMPARED.items() if name in methods), PIXELS)


def _try(key: dict[str, Any], data: Data, truth: Truth, settings: Settings) -> dict[str, Any]:
    method, strength = ALL[key["method"]], key["strength"]
    model = train(data, method, strength=strength, seed=SEARCH_SEED, settings=settings)
    own = _agreements(features_of(model), data, truth, settings)[reference_of(key["method"])]
    best = max(own["r"], own["fitted r"])
    return {"coarse": coarse_accuracy(model, data), "best r": best, **own}


def _measure(
    key: dict[str, Any], data: Data, truth: Truth, settings: Settings, runs: list[Run]
) -> dict[str, Any]:
    name, seed = key["method"], key["seed"]
    strength = chosen_strengths(tries(runs), by="best r")[name]
    model = train(data, ALL[name], strength=strength, seed=seed, settings=settings)
    embed = features_of(model)
    return {
        "strength": strength,
        "coarse": coarse_accuracy(model, data),
        **_agreements(embed, data, truth, settings),
        **({"pairs": _some_pairs(embed, truth)} if seed == 0 and name in DRAWN else {}),
    }


def _agreements(
    embed: Embed, data: Data, truth: Truth, settings: Settings
) -> dict[str, dict[str, float]]:
    """By reference: of the features' distances, and of those after a linear map to its places."""
    features, known = embed(truth.images), embed(data.train.x[: settings.known])
    found = {}
    for name, distances in truth.distances.items():
        places = data.references[PLACED if name == SHIFTS else name][: settings.known]
        mapped = linear_fit(known, places.flatten(1))(features)
        plain, fitted = (
            agreement(distances, torch.cdist(points, points), truth.labels)
            for points in (features, mapped)
        )
        found[name] = plain | {f"fitted {figure}": value for figure, value in fitted.items()}
    return found


def _some_pairs(embed: Embed, truth: Truth) -> list[list[float]]:
    """Distances by the manifold and by the features, of pairs of equal label."""
    alike = (truth.labels[:, None] == truth.labels).triu(1)
    features = embed(truth.images)
    drawn = torch.randperm(int(alike.sum()), generator=torch.Generator().manual_seed(0))[:_PAIRS]
    tables = (truth.distances[MANIFOLD], torch.cdist(features, features))
    return [[round(float(value), 2) for value in table[alike][drawn]] for table in tables]


def _truth(data: Data, manifold: references.Reference) -> Truth:
    shown = data.test.take(slice(None, None, max(1, len(data.test.x) // _SHOWN)))
    places = manifold(shown.x)
    pixels = shown.x.flatten(1)
    distances = {
        PIXELS: torch.cdist(pixels, pixels),
        MANIFOLD: torch.cdist(places, places),
        SHIFTS: shift_distances(shown.x),
    }
    return Truth(shown.x, data.coarse(shown.fine), distances)


def _placed_by_shifts(data: Data, settings: Settings) -> Embed:
    """Places of images by their distances to some of the training images."""
    x = data.train.x
    landmarks = x[:: max(1, len(x) // min(_LANDMARKS, settings.landmarks))][:_LANDMARKS]
    return placed_by_distances(landmarks, shift_distances, _DIMENSIONS)

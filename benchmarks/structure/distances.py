"""How distances of features follow those of their reference, on digits that are not trained on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.cache import computed_once
from benchmarks.results import Figures, Key
from benchmarks.sampling import evenly
from benchmarks.structure import data as samples
from benchmarks.structure.agreement import AMONG, agreement, linear_fit
from benchmarks.structure.data import Data, manifold_of_patches
from benchmarks.structure.evaluation import Embed, coarse_accuracy, features_of, pixels_of
from benchmarks.structure.fairness import Choice
from benchmarks.structure.settings import SEARCH_SEED, Settings
from benchmarks.structure.shifts import MOST, placed_by_distances, shift_distances
from benchmarks.structure.training import determined_by, train, try_keys
from benchmarks.structure.trials import MANIFOLD, TRIALS, Trial, compared_with
from benchmarks.study import Lab

PIXELS, SHIFTS = "pixels", "shifts"
PLACED = "places by shifts"
"""Coordinates whose distances are near those by shifts, which have no coordinates themselves."""

PLAIN = "cross-entropy"
RAW = "raw pixels"
UNTRAINED = (RAW, PLACED)
BEST = "best r"
"""The figure by which strengths are chosen."""

_GRIDS: dict[str, tuple[float, ...]] = {
    "strengths": (0.1, 0.5, 2.0, 8.0),
    "of_control": (0.004, 0.02, 0.1, 0.5, 2.0, 8.0),
    "of_head": (0.02, 0.1, 0.5, 2.0, 8.0),
}
_BY_SHIFTS = {"distances": shift_distances}
DIMENSIONS = 100
SHOWN = 2_000
_LANDMARKS = 1_000
_PAIRS = 300

COMPARED: dict[str, dict[str, Trial]] = {
    **{name: compared_with(name, name=name, **_GRIDS) for name in (MANIFOLD, PIXELS)},
    SHIFTS: {
        f"isometry, {SHIFTS}": Trial("given-distances", _GRIDS["strengths"], options=_BY_SHIFTS),
        f"control: {SHIFTS}, shuffled": Trial(
            "given-distances", _GRIDS["of_control"], options={**_BY_SHIFTS, "shuffled": True}
        ),
        f"{SHIFTS} predicted by a head": Trial("second-head", _GRIDS["of_head"], reference=PLACED),
    },
}
"""For each reference, the trials that should keep its distances, and their controls."""

ALL: dict[str, Trial] = {PLAIN: TRIALS[PLAIN]} | {
    name: method for methods in COMPARED.values() for name, method in methods.items()
}
CHOICE = Choice(ALL, by=BEST)
DRAWN = (PLAIN, *COMPARED[MANIFOLD])
"""For the first seed of these the distances of some pairs are kept, to be drawn."""


@dataclass(frozen=True)
class Truth:
    """Images that no network was trained on, their labels, and (n, n) distances by reference."""

    images: Tensor
    labels: Tensor
    distances: dict[str, Tensor]


@dataclass(frozen=True)
class Asked:
    """Samples to train and measure on, the true distances, and the embedding of `PLACED`."""

    data: Data
    truth: Truth
    placed: Embed


def keys(lab: Lab[Settings]) -> Iterator[Key]:
    """Every strength on validation images, then the rows that are measured on test images."""
    names = [name for name in ALL if not lab.quick or name in DRAWN]
    yield from try_keys({name: ALL[name] for name in names}, first=1 if lab.quick else None)
    for name in UNTRAINED:
        yield {"method": name, "seed": 0}
    chosen = CHOICE.strengths(lab.runs)
    for seed in range(lab.seeds):
        for name in names:
            yield {"method": name, "strength": chosen[name], "seed": seed}


def determines(key: Key, settings: Settings) -> dict[str, Any]:
    """The settings, the trial and the constants of the measurement."""
    constants = {"dimensions": DIMENSIONS, "landmarks of shifts": _LANDMARKS, "most": MOST}
    constants |= {"shown": SHOWN, "among": AMONG, "pairs": _PAIRS}
    return determined_by(ALL.get(key["method"]), settings, **constants)


def measure(key: Key, lab: Lab[Settings]) -> Figures:
    """Try a strength, or measure a trained network or a row that needs none."""
    name, settings, validate = key["method"], lab.settings, "seed" not in key
    subject = lab.once(
        f"asked {validate}", lambda: asked(settings, lab.data_dir, lab.cache, validate)
    )
    if name in UNTRAINED:
        return dict(agreements(pixels_of if name == RAW else subject.placed, subject, settings))
    seed = key.get("seed", SEARCH_SEED)
    model = train(subject.data, ALL[name], strength=key["strength"], seed=seed, settings=settings)
    by_reference = agreements(features_of(model), subject, settings)
    coarse = {"coarse": coarse_accuracy(model, subject.data)}
    if validate:
        figures = by_reference[reference_of(name)]
        return {**coarse, BEST: max(figures["r"], figures["fitted r"]), **figures}
    drawn = seed == 0 and name in DRAWN
    pairs = {"pairs": some_pairs(features_of(model), subject.truth)} if drawn else {}
    return {**coarse, **by_reference, **pairs}


def asked(settings: Settings, data_dir: Path | None, folder: Path, validate: bool) -> Asked:
    """Load the data; with ``validate`` no test image is read, validation images stand in."""
    data = samples.digits(settings, data_dir, cache=folder, validate=validate)
    landmarks = evenly(data.train.x, min(_LANDMARKS, settings.landmarks))
    placed = placed_by_distances(landmarks, shift_distances, DIMENSIONS)
    name = f"places-by-shifts-{len(data.train.x)}-{DIMENSIONS}-{_LANDMARKS}-{MOST}.pt"
    places = computed_once(folder / name, lambda: placed(data.train.x))
    data = replace(data, references=data.references | {PLACED: places})
    sample = data.test.sample(SHOWN)
    points = {PIXELS: pixels_of(sample.x), MANIFOLD: manifold_of_patches(data, settings)(sample.x)}
    distances = {reference: torch.cdist(rows, rows) for reference, rows in points.items()}
    distances[SHIFTS] = shift_distances(sample.x)
    return Asked(data, Truth(sample.x, data.coarse(sample.fine), distances), placed)


def reference_of(name: str) -> str:
    """The reference whose distances a method should keep; for cross-entropy, the manifold."""
    return next((reference for reference, methods in COMPARED.items() if name in methods), MANIFOLD)


def agreements(embed: Embed, subject: Asked, settings: Settings) -> dict[str, dict[str, float]]:
    """For each reference the agreement of the features' distances, before and after a linear map.

    The map goes to the reference's coordinates and is fitted on known training images.
    """
    known = subject.data.train.x[: settings.known]
    features, known_features = embed(subject.truth.images), embed(known)
    by_reference = {}
    for name, distances in subject.truth.distances.items():
        places = subject.data.references[PLACED if name == SHIFTS else name][: settings.known]
        mapped = linear_fit(known_features, places.flatten(1))(features)
        plain, fitted = (
            agreement(distances, torch.cdist(points, points), subject.truth.labels)
            for points in (features, mapped)
        )
        by_reference[name] = plain | {f"fitted {figure}": value for figure, value in fitted.items()}
    return by_reference


def some_pairs(embed: Embed, truth: Truth) -> list[list[float]]:
    """Distances by the manifold and by the features, of some pairs of equal label."""
    alike = (truth.labels[:, None] == truth.labels).triu(1)
    features = embed(truth.images)
    sample = torch.randperm(int(alike.sum()), generator=torch.Generator().manual_seed(0))[:_PAIRS]
    tables = (truth.distances[MANIFOLD], torch.cdist(features, features))
    return [[round(float(value), 2) for value in table[alike][sample]] for table in tables]

"""Rivals that learn coordinates: a network is fitted to SMACOF's map of all samples or each class.

The network, its optimizer, the kind of noise on its inputs and the places of the classes are those
of `IsometricEmbedding`, so that the methods differ only in what the network learns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F  # noqa: N812 (torch's own convention)

from isoreg.embedding.fitting import APART, CLOSEST, default_epochs
from isoreg.embedding.layout import lay_out, smacof
from isoreg.embedding.network import MapNetwork, Optimizer, batches, mlp

Array = NDArray[Any]
BATCH, RATE = 256, 1e-2  # those of `IsometricEmbedding`


@dataclass(frozen=True)
class Coordinates:
    """The coordinates that the network learns.

    Attributes:
        points: (n, 2) coordinates, in units of ``radius``.
        radius: Mean radius of the classes, or without classes the radius of all samples.
        prototypes: (k, 2) places of the classes, or None.
    """

    points: Array
    radius: float
    prototypes: Array | None = None


def distances(a: Array, b: Array) -> Array:
    """(a, b) Euclidean distances."""
    exact = "donot_use_mm_for_euclid_dist"
    gaps: Array = torch.cdist(torch.as_tensor(a), torch.as_tensor(b), compute_mode=exact).numpy()
    return gaps


def prepare_smacof(x: Array, y: Array) -> Coordinates:
    """Metric MDS of all samples."""
    del y
    radius = float(np.sqrt(x.var(0).sum()))
    return Coordinates(smacof(distances(x, x), 2, rounds=100) / radius, radius)


def prepare_class_smacof(x: Array, y: Array) -> Coordinates:
    """Metric MDS of each class, around the places that `IsometricEmbedding` gives the classes."""
    k = int(y.max()) + 1
    layout = lay_out(distances(x, x), y, k, 2, apart=APART, closest=CLOSEST)
    points = layout.prototypes[y]
    for label in range(k):
        members = x[y == label]
        if len(members) > 1:
            points[y == label] += smacof(distances(members, members), 2, rounds=100) / layout.radius
    return Coordinates(points, layout.radius, layout.prototypes)


def on_smacof(x: Array, y: Array, seed: int, known: Coordinates, noise: float) -> Any:
    """Fit a network to the coordinates by least squares."""
    return _learned(x, y, seed, known, noise, 1.0)


def on_class_smacof(
    x: Array, y: Array, seed: int, known: Coordinates, noise: float, weight: float
) -> Any:
    """Fit by least squares, plus cross-entropy of distances to the classes' places."""
    return _learned(x, y, seed, known, noise, weight)


def _learned(x: Array, y: Array, seed: int, known: Coordinates, noise: float, weight: float) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body = mlp(x.shape[1], 2)
    spread = float(x.std()) or 1.0
    network = MapNetwork(body, torch.as_tensor(x.mean(0)), spread, known.radius)
    inputs, labels = network.standard(torch.as_tensor(x)), torch.as_tensor(y)
    points = torch.as_tensor(known.points, dtype=torch.float32)
    places = known.prototypes
    classes = None if places is None else torch.as_tensor(places, dtype=torch.float32)
    deviation = noise * known.radius / spread / np.sqrt(x.shape[1])
    per_epoch = max(1, len(x) // BATCH)
    steps = per_epoch * default_epochs(len(x), per_epoch)
    optimizer = Optimizer(body, RATE, steps)
    generator = torch.Generator().manual_seed(seed)
    for _, batch in zip(range(steps), batches(len(x), BATCH, generator), strict=False):
        rows = inputs[batch]
        placed = body(rows + deviation * torch.randn(rows.shape, generator=generator))
        loss = weight * (placed - points[batch]).square().sum(1).mean()
        if classes is not None:
            logits = -2 * (placed[:, None] - classes).square().sum(2)
            loss = loss + F.cross_entropy(logits, labels[batch])
        optimizer.step(loss)

    @torch.no_grad()
    def place(new: Array) -> Array:
        new_points: Array = network(torch.as_tensor(new)).numpy()
        return new_points

    return place(x), place

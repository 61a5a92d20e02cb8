"""A distance without coordinates: how alike two images are when one may be moved a little."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor

_LEAST = 1e-6
MOST = 2
"""Pixels by which an image may be moved in each direction."""


def shift_distances(images: Tensor, others: Tensor | None = None) -> Tensor:
    """The least Euclidean distance (n, m) of each two images when one is moved by up to two pixels.

    Pixels that leave the image on one side enter on the other; in MNIST they are black. Without
    others (m, c, h, w) the images (n, c, h, w) are compared with themselves; the diagonal is 0.
    """
    partners = images if others is None else others
    flat = images.flatten(1)
    overlap = torch.full((len(images), len(partners)), -torch.inf, dtype=images.dtype)
    for shift in product(range(-MOST, MOST + 1), repeat=2):
        overlap = torch.maximum(overlap, flat @ partners.roll(shift, (2, 3)).flatten(1).T)
    lengths = flat.square().sum(1)[:, None] + partners.flatten(1).square().sum(1)
    distances = (lengths - 2 * overlap).clamp_min(0).sqrt()
    return distances.fill_diagonal_(0) if others is None else distances


def placed_by_distances(
    landmarks: Tensor, distances: Callable[[Tensor, Tensor], Tensor], dimensions: int
) -> Callable[[Tensor], Tensor]:
    """Coordinates for samples that have only distances: multidimensional scaling of landmarks.

    The function that is returned places any samples by their distances to the landmarks. Distances
    that no points can have give negative eigenvalues; coordinates of those, and of zero, are 0.

    Source: de Silva and Tenenbaum (2004), "Sparse multidimensional scaling using landmark points".
    """
    squares = distances(landmarks, landmarks).double().square()
    means = squares.mean(1)
    centred = -(squares - means[:, None] - means + means.mean()) / 2
    values, vectors = torch.linalg.eigh(centred)
    real = values > _LEAST * values[-1]
    lengths = torch.where(real, values, torch.inf).sqrt()
    places = (vectors / lengths)[:, -dimensions:]

    def place(samples: Tensor) -> Tensor:
        to_landmarks = distances(samples, landmarks).double().square()
        placed: Tensor = (means - to_landmarks) @ places / 2
        return placed.to(samples.dtype)

    return place

"""All 60,000 images of MNIST without labels, where MDS of all pairs cannot go."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from benchmarks.maps.data import all_of_mnist
from benchmarks.maps.regression import distances
from benchmarks.results import Figures
from benchmarks.sampling import even_rows
from isoreg.diagnostics import distortion
from isoreg.embedding import IsometricEmbedding

Array = NDArray[Any]
NAME, VERSION = "MNIST, all 60,000", 1
_LANDMARKS = (500, 1000, 2000, 4000)
_CHOSEN_ON = 2000  # training images


def data(folder: Path | None) -> tuple[Array, Array]:
    """Images to learn from, and new ones."""
    return all_of_mnist(folder)


def landmark_mds(known: Array, landmarks: int, seed: int) -> Callable[[Array], Array]:
    """Classical MDS of some samples, and all others by their distances from these.

    Source: de Silva and Tenenbaum (2004), Sparse multidimensional scaling using landmark points.
    """
    chosen = np.random.default_rng(seed).choice(len(known), landmarks, replace=False)
    marks = known[chosen].astype(np.float64)
    squares = distances(marks, marks) ** 2
    centre = np.eye(landmarks) - 1 / landmarks
    values, vectors = np.linalg.eigh(-centre @ squares @ centre / 2)
    to_points = (vectors[:, -2:] / np.sqrt(values[-2:])).T

    def place(new: Array) -> Array:
        gaps = distances(new.astype(np.float64), marks) ** 2 - squares.mean(0)
        points: Array = -gaps @ to_points.T / 2
        return points

    return place


def _landmarks(known: Array, seed: int) -> Callable[[Array], Array]:
    """The number of landmarks whose stress on training images is the least."""
    some = known[even_rows(len(known), _CHOSEN_ON).numpy()]
    tried = [landmark_mds(known, landmarks, seed) for landmarks in _LANDMARKS]
    return min(tried, key=lambda place: _distortion(some, place(some)).stress)


METHODS: dict[str, Callable[[Array, int], Callable[[Array], Array]]] = {
    "PCA": lambda known, seed: PCA(2, random_state=seed).fit(known).transform,
    "landmark MDS": _landmarks,
    "isometry, no classes": lambda known, seed: (
        IsometricEmbedding(random_state=seed).fit(known).transform
    ),
}


def measure(method: str, seed: int, known: Array, new: Array) -> Figures:
    """Stress and r of all pairs of new images."""
    torch.set_num_threads(1)
    start = time.process_time()
    place = METHODS[method](known, seed)
    seconds = time.process_time() - start
    found = _distortion(new, place(new))
    return {"stress": found.stress, "r": found.correlation, "fit": seconds}


def _distortion(x: Array, points: Array) -> Any:
    rows, phi = (torch.as_tensor(np.asarray(each, dtype=np.float64)) for each in (x, points))
    return distortion(rows, phi, scale="fit")

"""Random walks over samples: the places of the samples, and of new points among them.

Axes: n = samples, b = batch, k = neighbours, d = dimensions.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from isoreg.distances import exact_dtype
from isoreg.errors import InputError

_AT_ONCE, _AMONG = 500, 100
_EIGEN_STEPS, _EIGEN_ROUNDS = 200, 5
_FEWEST_MODES = 31  # the least number to seek: a long thin set's modes are found only among more
_SETTLED = 0.01
_JUMP = 1e-3


def commute_places(points: Tensor, neighbors: int, dimensions: int) -> tuple[Tensor, Tensor]:
    """Place samples by the commute times of a walk; see `isoreg.references.manifold`.

    Args:
        points: (n, d) samples.
        neighbors: Number of neighbours of each sample in the graph.
        dimensions: Number of dimensions of the places.

    Returns:
        Places (n, dimensions), and the distance of each sample to its last neighbour, (n,).

    Raises:
        InputError: If a distance is not finite.
    """
    n = len(points)
    distances_nk, indices_nk = _nearest(points, points, neighbors + 1)  # each sample finds itself
    if not distances_nk.isfinite().all():
        raise InputError(
            "distances between samples must be finite, got some that are not. Are there infinite "
            "entries, NaN, or numbers whose squares overflow?"
        )
    scales = distances_nk[:, -1].clamp_min(_least(distances_nk))
    weights_nk = _exponents(distances_nk, scales, scales[indices_nk]).exp()
    rows_nk = torch.arange(n, device=points.device)[:, None].expand_as(indices_nk)
    parts = _count_parts(indices_nk.where(weights_nk > 0, rows_nk))  # weight 0 joins nothing
    if parts > 1:
        warnings.warn(
            f"isoreg.references.manifold: the graph of {neighbors} neighbours falls into {parts} "
            "parts, between which distances mean little. Use more neighbors, or drop copies of "
            "samples.",
            stacklevel=3,
        )
    distinct = rows_nk != indices_nk
    rows, columns, values = rows_nk[distinct], indices_nk[distinct], weights_nk[distinct] / 2
    degrees = torch.zeros(n, dtype=values.dtype, device=points.device)
    degrees = degrees.index_add_(0, rows, values).index_add_(0, columns, values).clamp_min(1e-12)
    values = values * (degrees[rows] * degrees[columns]).rsqrt()
    pairs = torch.cat([torch.stack([rows, columns]), torch.stack([columns, rows])], 1)
    walk = torch.sparse_coo_tensor(
        pairs, values.repeat(2), (n, n), device=points.device, check_invariants=False
    ).coalesce()
    modes, vectors = _slowest_modes(walk, degrees.sqrt(), dimensions)
    places = vectors / degrees.sqrt()[:, None] / (1 - (1 - _JUMP) * modes).sqrt()
    return places, scales


def place_among(
    points: Tensor, samples: Tensor, scales: Tensor, places: Tensor, neighbors: int
) -> Tensor:
    """Weighted means of the places of the nearest samples.

    Args:
        points: (b, d) new points.
        samples: (n, d) samples.
        scales: (n,) distance of each sample to its last neighbour.
        places: (n, dimensions) places of the samples.
        neighbors: Number of samples in each mean, less one.

    Returns:
        Places (b, dimensions).
    """
    distances_bk, indices_bk = _nearest(points, samples, neighbors + 1)
    scales_b = distances_bk[:, -1].clamp_min(_least(distances_bk))
    weights_bk = _exponents(distances_bk, scales_b, scales[indices_bk]).softmax(1)
    return (weights_bk[:, :, None] * places[indices_bk]).sum(1)


def _nearest(points: Tensor, samples: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Distances and indices (b, count) of the nearest samples, nearest first."""
    # relative to a median of the data and in the exact dtype, because cdist loses digits far from 0
    subset = samples[:: -(-len(samples) // _AMONG)].to(exact_dtype(points.device))
    origin = subset.median(0).values
    centred, batches = samples - origin, points.split(_AT_ONCE)
    nearest = [torch.cdist(batch - origin, centred).topk(count, largest=False) for batch in batches]
    distances = torch.cat([batch.values for batch in nearest])
    return distances, torch.cat([batch.indices for batch in nearest])


def _least(distances: Tensor) -> float:
    """A distance to use instead of 0: about the smallest whose square is a normal number."""
    return float(torch.finfo(distances.dtype).tiny ** 0.5)


def _count_parts(indices_nk: Tensor) -> int:
    """Number of connected parts of the graph of nearest neighbours."""
    n = len(indices_nk)
    numbers = torch.arange(n, device=indices_nk.device)
    while True:  # each sample takes the least number of its neighbours, in both directions
        least = numbers[indices_nk].amin(1)
        least = least.scatter_reduce(
            0, indices_nk.flatten(), numbers[:, None].expand_as(indices_nk).flatten(), "amin"
        )
        least = torch.minimum(least, numbers)
        least = least[least]
        if torch.equal(least, numbers):
            return len(numbers.unique())
        numbers = least


def _exponents(distances_bk: Tensor, scales_b: Tensor, scales_bk: Tensor) -> Tensor:
    return -distances_bk.square() / (scales_b[:, None] * scales_bk)


def _slowest_modes(walk: Tensor, constant: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The largest eigenvalues (count,) and their eigenvectors (n, count), without the constant."""
    n, constant = len(constant), constant / constant.norm()
    sought = min(max(count + 1, _FEWEST_MODES), n // 3)
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(n, sought, generator=generator, dtype=walk.dtype, device="cpu")
    vectors = vectors.to(walk.device)
    for _ in range(_EIGEN_ROUNDS):
        _, vectors = torch.lobpcg(walk, X=vectors, largest=True, niter=_EIGEN_STEPS)
        projected = vectors - constant[:, None] * (constant @ vectors)
        basis = torch.linalg.svd(projected, full_matrices=False).U[:, : sought - 1]
        modes, rotation = torch.linalg.eigh(basis.T @ (walk @ basis))
        modes, eigenvectors = modes.flip(0)[:count], (basis @ rotation).flip(1)[:, :count]
        residuals = (walk @ eigenvectors - eigenvectors * modes).norm(dim=0)
        if bool((residuals < _SETTLED * (1 - (1 - _JUMP) * modes)).all()):
            return modes, eigenvectors
    warnings.warn(
        f"isoreg.references.manifold: the {count} slowest modes of the walk were not found to the "
        "hundredth, so distances along the data are rough. Use more neighbors, or fewer samples.",
        stacklevel=4,
    )
    return modes, eigenvectors

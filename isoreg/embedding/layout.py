"""Where the classes go on the map, from the distances of a few samples. Axes: k = classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.spatial.distance import cdist

from isoreg.errors import InputError

Array = NDArray[np.float64]
LEAST, MOST = 1e-30, 1e30  # range of the largest distance: the network computes in float32
NOTHING = 1e-6  # a distance below this share of the largest one, or of a radius, is rounding

FEW, DROWNED = 3, 1e-3  # see `drowning`


@dataclass(frozen=True)
class Layout:
    """The classes' places on the map, and the unit in which the map is learned.

    Attributes:
        radius: Mean over the classes of the root mean squared distance of a member from the
            middle of its class, in the data's unit; without classes, the same of all samples.
        prototypes: (k, components) places of the classes, in radii.
    """

    radius: float
    prototypes: Array


def lay_out(
    distances: Array,
    classes: NDArray[np.int64],
    k: int,
    components: int,
    *,
    apart: float,
    closest: float,
) -> Layout:
    r"""Place the classes by metric MDS of their means.

    Means need no coordinates: :math:`|\mu_k - \mu_l|^2 = m_{kl} - (m_{kk} + m_{ll}) / 2` with m
    the mean squared distance between the members of two classes (all ordered pairs). This is true
    in a Euclidean space, and it is the definition for any other metric. The squared radius of a
    class is m_kk / 2.

    Args:
        distances: (m, m) distances of some samples; NaN marks one that is not known.
        classes: (m,) their classes, or -1.
        k: Number of classes; 0 for a map without classes.
        components: Dimensions of the map.
        apart: Median distance between two prototypes, in radii.
        closest: Least distance between two prototypes that MDS aims at, in radii.

    Returns:
        The layout.

    Raises:
        InputError: If no distance is known, all are 0, or the largest is out of range.
    """
    largest = np.nanmax(np.where(np.eye(len(distances), dtype=bool), 0, distances))
    if largest and not LEAST < largest < MOST:
        raise InputError(
            f"the largest distance must be between {LEAST:g} and {MOST:g}, got {largest:.4g}. "
            "Choose another unit: lengths of a map are float32."
        )
    squares = distances**2
    np.fill_diagonal(squares, 0)
    means = _class_means(squares, classes, k)
    radii = np.sqrt(means.diagonal() / 2)
    # A class whose members coincide, but for rounding, has no radius.
    known = radii[np.nan_to_num(radii) > NOTHING * largest]
    radius = float(known.mean()) if len(known) else _overall_radius(squares)
    if k < 2:
        return Layout(radius, np.zeros((k, components)))
    gaps = means - (means.diagonal()[:, None] + means.diagonal()[None, :]) / 2
    gaps = np.sqrt(np.clip(gaps, 0, None))
    median = float(np.nanmedian(gaps[np.triu_indices(k, 1)])) if (gaps > 0).any() else 0.0
    gaps = gaps * apart / median if median > 0 else np.full_like(gaps, apart)
    gaps = np.maximum(np.where(np.isnan(gaps), apart, gaps), closest)
    np.fill_diagonal(gaps, 0)
    # A round costs k^2. With many classes the stress after 30 is within a thousandth of the final.
    return Layout(radius, smacof(gaps, components, rounds=int(np.clip(3e8 / k**2, 30, 300))))


def drowning(distances: Array) -> tuple[NDArray[np.int64], float]:
    """Up to three samples without which under a thousandth of the squared distances is left.

    A map could then lose all distances among the others at a stress of 0.03. At most one sample in
    ten is named, and none if the others coincide, since they have no distances to lose.

    Args:
        distances: (m, m) distances; NaN marks one that is not known.

    Returns:
        The places of as few samples as suffice, and the share that is left; else no places, and 1.
    """
    known = np.nan_to_num(distances)  # infinity becomes the largest number
    squares = (known / (known.max() or 1.0)) ** 2
    order = np.argsort(-squares.sum(1))
    for count in range(1, 1 + min(FEW, len(order) // 10)):
        rest = order[count:]
        share = float(squares[np.ix_(rest, rest)].sum() / squares.sum())
        if share < DROWNED and known[np.ix_(rest, rest)].any():
            return order[:count], share
    return order[:0], 1.0


def _overall_radius(squares: Array) -> float:
    known = squares[~np.isnan(squares) & ~np.eye(len(squares), dtype=bool)]
    if not len(known) or known.max() == 0:
        got, what_to_do = "none but 0", "Do all samples coincide?"
        if not len(known):
            got, what_to_do = "no known one", "Give more, or raise batch_size."
        raise InputError(
            f"some distances between samples must be known and above 0, got {got} among "
            f"{len(squares)} samples. {what_to_do}"
        )
    return float(np.sqrt(known.mean() / 2))


def _class_means(squares: Array, classes: NDArray[np.int64], k: int) -> Array:
    """(k, k) mean squared distances between the members of two classes; NaN if none is known."""
    member = csr_array((classes[:, None] == np.arange(k)).astype(float))
    known = ~np.isnan(squares)
    with np.errstate(invalid="ignore"):
        means: Array = (member.T @ np.nan_to_num(squares) @ member) / (member.T @ known @ member)
    return means


def smacof(distances: Array, components: int, *, rounds: int = 300) -> Array:
    """Metric MDS: points whose Euclidean distances are close to the given ones, by least squares.

    The iteration starts from classical MDS, and the result is deterministic.

    Source: de Leeuw (1977); chapter 8 of Borg and Groenen, "Modern Multidimensional Scaling".

    Args:
        distances: (k, k) symmetric distances, 0 on the diagonal.
        components: Dimensions of the points.
        rounds: Number of Guttman transforms.

    Returns:
        (k, components) points around the origin.
    """
    k = len(distances)
    points = np.zeros((k, components))
    centre = np.eye(k) - 1 / k
    values, vectors = np.linalg.eigh(-centre @ (distances**2) @ centre / 2)
    leading = np.argsort(-values)[: min(k, components)]
    points[:, : len(leading)] = vectors[:, leading] * np.sqrt(np.clip(values[leading], 0, None))
    jitter: Any = np.random.default_rng(0)  # equal points would never separate
    points += 1e-3 * distances.mean() * jitter.normal(size=points.shape)
    for _ in range(rounds):
        pull = distances / np.maximum(cdist(points, points), 1e-12)
        points = (pull.sum(1)[:, None] * points - pull @ points) / k
    return points

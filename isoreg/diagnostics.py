"""How isometric a map is, measured on a batch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from isoreg.distances import Metric, distances_by, flatten_points, resolve_metric
from isoreg.errors import InputError, called
from isoreg.masks import pair_weights


@dataclass(frozen=True)
class Distortion:
    r"""What a map did to the distances of the compared pairs.

    Attributes:
        pairs: Number of pairs i < j that were compared.
        correlation: Pearson's r between input and feature distances; 1 for any scaled isometry.
        stress: Kruskal's stress :math:`\sqrt{\sum (d_x - d_\phi)^2 / \sum d_x^2}`, 0 for an
            isometry, 1 for features that all coincide.
        expansion: Largest :math:`d_\phi / d_x`, a lower bound on the Lipschitz constant.
        contraction: Smallest :math:`d_\phi / d_x`; 0 when two different inputs coincide.
        scale: The factor on :math:`d_\phi` that makes the stress smallest.

    Values that the batch does not determine are NaN.

    Example:
        >>> distortion(torch.eye(3), 2 * torch.eye(3)).pairs
        3
    """

    pairs: int
    correlation: float
    stress: float
    expansion: float
    contraction: float
    scale: float

    def __str__(self) -> str:
        return (
            f"{self.pairs} pairs: r {self.correlation:.3f}, stress {self.stress:.3f}, "
            f"distances times {self.contraction:.3f} to {self.expansion:.3f}"
        )


@torch.no_grad()
def distortion(
    inputs: Tensor,
    features: Tensor,
    labels: Tensor | None = None,
    *,
    distance: Metric = "euclidean",
) -> Distortion:
    """Measure how well features keep the distances of their inputs.

    Source: stress-1 of Kruskal (1964), Psychometrika 29, without its monotone regression.

    Args:
        inputs: (N, ...) inputs.
        features: (N, ...) features of the same samples.
        labels: None (all pairs) or (N,) integers (pairs of equal label).
        distance: A name in `isoreg.distances.METRICS` or a callable (N, D) -> (N, N).

    Returns:
        The distortion over the selected pairs; without any, ``pairs`` is 0 and the rest NaN.

    Raises:
        InputError: If shapes disagree or the labels are probabilities.

    Example:
        >>> x = torch.tensor([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]])
        >>> print(distortion(x, x / 2))
        3 pairs: r 1.000, stress 0.500, distances times 0.500 to 0.500
    """
    with called("distortion"):
        return distortion_of(*distances_within(inputs, features, labels, distance=distance))


@torch.no_grad()
def distances_within(
    inputs: Tensor,
    features: Tensor,
    labels: Tensor | None = None,
    *,
    distance: Metric = "euclidean",
) -> tuple[Tensor, Tensor]:
    """Distances of the compared pairs before and after a map.

    Args:
        inputs: (N, ...) inputs.
        features: (N, ...) features of the same samples.
        labels: None (all pairs) or (N,) integers (pairs of equal label).
        distance: A name in `isoreg.distances.METRICS` or a callable (N, D) -> (N, N).

    Returns:
        (P,) distances between inputs and (P,) between features, float64, of the pairs i < j.

    Raises:
        InputError: If shapes disagree or the labels are probabilities.

    Example:
        >>> x = torch.tensor([[0.0, 0.0], [3.0, 4.0], [9.0, 9.0]])
        >>> distances_within(x, x / 2, torch.tensor([0, 0, 1]))
        (tensor([5.], dtype=torch.float64), tensor([2.5000], dtype=torch.float64))
    """
    with called("distances_within"):
        metric = resolve_metric(distance)
        x, phi = flatten_points(inputs, "inputs"), flatten_points(features, "features")
        if len(x) != len(phi):
            raise InputError(
                f"inputs and features must be the same samples, got {len(x)} and {len(phi)}."
            )
        if labels is not None and labels.is_floating_point():
            raise InputError("labels must be integers or None, got probabilities.")
        compared = pair_weights(labels, len(x), device=x.device).bool().triu(1)
        return (
            distances_by(metric, x)[compared].double(),
            distances_by(metric, phi)[compared].double(),
        )


def distortion_of(dx: Tensor, dphi: Tensor) -> Distortion:
    """The distortion of pairs whose distances are known.

    Args:
        dx: (P,) distances between inputs.
        dphi: (P,) distances between their features.

    Returns:
        The distortion; without pairs, ``pairs`` is 0 and the rest NaN.

    Example:
        >>> distortion_of(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 4.0])).scale
        0.5
    """
    if not len(dx):
        return Distortion(0, *[math.nan] * 5)
    ratios = (dphi / dx)[dx > 0]
    return Distortion(
        pairs=len(dx),
        correlation=_pearson(dx, dphi),
        stress=math.sqrt(_ratio((dx - dphi).square().sum(), dx.square().sum())),
        expansion=ratios.max().item() if len(ratios) else math.nan,
        contraction=ratios.min().item() if len(ratios) else math.nan,
        scale=_ratio((dx * dphi).sum(), dphi.square().sum()),
    )


def _pearson(a: Tensor, b: Tensor) -> float:
    a, b = a - a.mean(), b - b.mean()
    return _ratio((a * b).sum(), a.norm() * b.norm())


def _ratio(above: Tensor, below: Tensor) -> float:
    return (above / below).item() if below > 0 else math.nan

"""How isometric a map is, measured on a batch."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from isoreg._pairs.options import Scale, check_scale
from isoreg._pairs.plan import Call, known_pairs
from isoreg._tables import check_dense, pair_table
from isoreg.distances import Metric, distances_by, exact_dtype, flatten_points, resolve_metric
from isoreg.errors import InputError, error_prefix
from isoreg.masks import pair_weights

_ALIKE = 1e-6  # distances whose relative variation is smaller are equal up to rounding


@dataclass(frozen=True)
class Distortion:
    r"""What a map did to the distances of the compared pairs.

    Attributes:
        pairs: Number of pairs i < j that were compared.
        correlation: Pearson's r between input and feature distances; 1 for any scaled isometry,
            NaN if the distances on either side are all equal up to rounding.
        stress: Kruskal's stress :math:`\sqrt{\sum (d_x - d_\phi)^2 / \sum d_x^2}`, 0 for an
            isometry, 1 for features that all coincide.
        expansion: Largest :math:`d_\phi / d_x`, a lower bound on the Lipschitz constant.
        contraction: Smallest :math:`d_\phi / d_x`; 0 when two different inputs coincide.
            Both use only pairs with :math:`d_x > 0`, so they do not show what equal inputs become.
        scale: The factor on :math:`d_\phi` that makes the stress smallest.

    ``scale`` is that of the features as they were given; the other figures are those of the
    features times the ``scale`` argument. Values that the batch does not determine are NaN.

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
            f"{self.pairs} pair{'s' * (self.pairs != 1)}: "
            f"r {self.correlation:.3f}, stress {self.stress:.3f}, "
            f"distances times {self.contraction:.3f} to {self.expansion:.3f}"
        )


@torch.no_grad()
def distortion(
    inputs: Tensor | None,
    features: Tensor,
    labels: Tensor | None = None,
    *,
    input_distances: Tensor | None = None,
    distance: Metric = "euclidean",
    input_distance: Metric | None = None,
    scale: Scale = 1.0,
) -> Distortion:
    """Measure how well features keep the distances of their inputs.

    Source: stress-1 of Kruskal (1964), Psychometrika 29, without its monotone regression.

    Args:
        inputs: (N, ...) inputs; not read where ``input_distances`` are given.
        features: (N, ...) features of the same samples.
        labels: None (all pairs) or (N,) integers (pairs of equal label).
        input_distances: (N, N) distances to use in place of those between ``inputs``, symmetric,
            0 or more, NaN where a pair is not known and is left out. The diagonal is not read.
        distance: A name in `isoreg.distances.METRICS` or a callable (N, D) -> (N, N).
        input_distance: The same for the inputs; None: as ``distance``.
        scale: The factor on the feature distances; "fit": the factor with the smallest stress.

    Returns:
        The distortion over the selected pairs; without any, ``pairs`` is 0 and the rest NaN.

    Raises:
        InputError: If shapes disagree, the labels are probabilities, or given distances that
            count are negative, infinite or not symmetric.

    Example:
        >>> x = torch.tensor([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]])
        >>> print(distortion(x, x / 2))
        3 pairs: r 1.000, stress 0.500, distances times 0.500 to 0.500
        >>> print(distortion(x, x / 2, scale="fit"))
        3 pairs: r 1.000, stress 0.000, distances times 1.000 to 1.000
    """
    with error_prefix("distortion"):
        scale = check_scale(scale)
        dx, dphi = distances_within(
            inputs,
            features,
            labels,
            input_distances=input_distances,
            distance=distance,
            input_distance=input_distance,
        )
        factor = best_factor(dx, dphi) if isinstance(scale, str) else float(scale)
        return dataclasses.replace(distortion_of(dx, factor * dphi), scale=_best_scale(dx, dphi))


@torch.no_grad()
def distances_within(
    inputs: Tensor | None,
    features: Tensor,
    labels: Tensor | None = None,
    *,
    input_distances: Tensor | None = None,
    distance: Metric = "euclidean",
    input_distance: Metric | None = None,
    scale: Scale = 1.0,
) -> tuple[Tensor, Tensor]:
    """Distances of the compared pairs before and after a map.

    Args:
        inputs: (N, ...) inputs; None if ``input_distances`` is given.
        features: (N, ...) features of the same samples.
        labels: None (all pairs) or (N,) integers (pairs of equal label).
        input_distances: As in `distortion`.
        distance: A name in `isoreg.distances.METRICS` or a callable (N, D) -> (N, N).
        input_distance: The same for the inputs; None: as ``distance``.
        scale: The factor on the feature distances; "fit": the factor with the smallest stress.

    Returns:
        (P,) distances between inputs and (P,) between features times the scale, float64 (float32
        on Apple's MPS), of the pairs i < j.

    Raises:
        InputError: As `distortion` does.

    Example:
        >>> x = torch.tensor([[0.0, 0.0], [3.0, 4.0], [9.0, 9.0]])
        >>> distances_within(x, x / 2, torch.tensor([0, 0, 1]))
        (tensor([5.], dtype=torch.float64), tensor([2.5000], dtype=torch.float64))
    """
    with error_prefix("distances_within"):
        metric = resolve_metric(distance)
        input_metric = metric if input_distance is None else resolve_metric(input_distance)
        scale = check_scale(scale)
        phi = flatten_points(features, "features")
        n = len(phi)
        if isinstance(labels, Tensor) and labels.is_floating_point() and labels.ndim == 2:
            raise InputError("labels must be integers or None, got probabilities.")
        compared = pair_weights(labels, n, device=phi.device).bool().triu(1)
        if input_distances is not None:
            table = pair_table(input_distances, "input_distances", n, n, phi)
            call = Call(None, [phi], None, table)
            known_bb, weights_bb = known_pairs(call, compared | compared.T)
            assert known_bb is not None
            dx_bb, compared = known_bb, compared & (weights_bb > 0)
        elif inputs is None:
            raise InputError("inputs must be a tensor unless input_distances is given, got None.")
        else:
            x = flatten_points(inputs, "inputs")
            if len(x) != n:
                raise InputError(
                    f"inputs and features must be the same samples, got {len(x)} and {n}."
                )
            dx_bb = distances_by(input_metric, x).to(phi.device)
        exact = exact_dtype(phi.device)
        dx, dphi = (d_bb[compared].to(exact) for d_bb in (dx_bb, distances_by(metric, phi)))
        factor = best_factor(dx, dphi) if isinstance(scale, str) else float(scale)
        return dx, factor * dphi


def distortion_of(dx: Tensor, dphi: Tensor) -> Distortion:
    """The distortion of pairs, from their distances before and after the map.

    Args:
        dx: (P,) distances between inputs.
        dphi: (P,) distances between their features.

    Returns:
        The distortion; without pairs, ``pairs`` is 0 and the rest NaN.

    Raises:
        InputError: If the distances are not two vectors of real numbers of equal length.

    Example:
        >>> distortion_of(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 4.0])).scale
        0.5
    """
    dx, dphi = _checked(dx, dphi)
    if not len(dx):
        return Distortion(0, *[math.nan] * 5)
    ratios = (dphi / dx)[dx > 0]
    return Distortion(
        pairs=len(dx),
        correlation=_pearson(dx, dphi),
        stress=_stress(dx, dphi),
        expansion=ratios.max().item() if len(ratios) else math.nan,
        contraction=ratios.min().item() if len(ratios) else math.nan,
        scale=_best_scale(dx, dphi),
    )


def best_factor(dx: Tensor, dphi: Tensor) -> float:
    """The factor on feature distances with the smallest stress; 1 if all these distances are 0.

    Args:
        dx: (P,) distances between inputs.
        dphi: (P,) distances between their features.

    Returns:
        The factor; NaN without pairs, or where a distance is no number.

    Example:
        >>> best_factor(torch.tensor([1.0, 2.0]), torch.zeros(2))
        1.0
    """
    dx, dphi = _checked(dx, dphi)
    return 1.0 if len(dphi) and not dphi.any() else _best_scale(dx, dphi)


def _checked(dx: Tensor, dphi: Tensor) -> tuple[Tensor, Tensor]:
    for name, values in (("dx", dx), ("dphi", dphi)):
        check_dense(values, name)
        if values.is_complex():
            raise InputError(f"{name} must hold real numbers, got {values.dtype}.")
    if dx.ndim != 1 or dx.shape != dphi.shape:
        raise InputError(
            "dx and dphi must hold one distance a pair, (P,) each, got "
            f"{tuple(dx.shape)} and {tuple(dphi.shape)}."
        )
    return dx.to(exact_dtype(dx.device)), dphi.to(exact_dtype(dphi.device))


def _best_scale(dx: Tensor, dphi: Tensor) -> float:
    (x, size), (phi, unit) = _sized(dx), _sized(dphi)
    return _ratio((x * phi).sum(), phi.square().sum()) * (size / unit)


def _stress(dx: Tensor, dphi: Tensor) -> float:
    (gaps, size), (x, unit) = _sized(dx - dphi), _sized(dx)
    return _ratio(gaps.norm(), x.norm()) * (size / unit)


def _pearson(a: Tensor, b: Tensor) -> float:
    a, b = _sized(a)[0], _sized(b)[0]
    means, sizes = [x.mean() for x in (a, b)], [x.norm() for x in (a, b)]
    a, b = (x - mean for x, mean in zip((a, b), means, strict=True))
    if any(x.norm() <= _ALIKE * size for x, size in zip((a, b), sizes, strict=True)):
        return math.nan
    return _ratio((a * b).sum(), a.norm() * b.norm())


def _sized(x: Tensor) -> tuple[Tensor, float]:
    """Numbers as shares of the largest, whose squares stay in range, and the largest."""
    size = x.abs().amax().item() if len(x) else 0.0
    size = size if 0 < size < math.inf else 1.0
    return x / size, size


def _ratio(above: Tensor, below: Tensor) -> float:
    return (above / below).item() if below > 0 else math.nan

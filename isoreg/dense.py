"""The penalty by all N^2 distances and autograd: any metric, any weights, any scale.

Slower than `isoreg.blockwise`, which it is the reference for. Axes: b = batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from isoreg.distances import check_pairs, distances_by
from isoreg.errors import InputError
from isoreg.masks import pair_weights

Scale: TypeAlias = float | Tensor | Literal["fit"]


def check_scale(scale: Scale) -> None:
    """Refuse a scale that is neither a positive number nor "fit".

    Args:
        scale: The scale to check.

    Raises:
        InputError: If it is not usable.
    """
    number = scale.ndim == 0 if isinstance(scale, Tensor) else isinstance(scale, int | float)
    if number and not isinstance(scale, str):
        if 0 < (scale.detach().item() if isinstance(scale, Tensor) else scale) < math.inf:
            return
    elif isinstance(scale, str) and scale == "fit":
        return
    raise InputError(
        f"scale must be a positive number, a 0-dimensional tensor or 'fit', got {scale!r}."
    )


class Options(NamedTuple):
    """How distances are compared; see `isoreg.isometry_penalty`.

    Attributes:
        metric: A function from (n, d) points to (n, n) distances.
        input_metric: The same for the inputs.
        scale: A number, a 0-dimensional tensor or "fit".
        reduction: "batch" or "pairs".
        given: Whether the reference holds distances, not points.
        fast: Whether the pairs of own rows in closed form cover these options.
    """

    metric: Callable[[Tensor], Tensor]
    input_metric: Callable[[Tensor], Tensor]
    scale: Scale
    reduction: str
    given: bool
    fast: bool = False

    def __str__(self) -> str:
        scale = "a tensor" if isinstance(self.scale, Tensor) else self.scale
        metric, input_metric = (
            getattr(metric, "__name__", type(metric).__name__)
            for metric in (self.metric, self.input_metric)
        )
        reference = "input_distances" if self.given else "inputs"
        inputs = "" if self.input_metric is self.metric else f"; input_distance {input_metric}"
        return (
            f"distance {metric}{inputs}; scale {scale}; reduction {self.reduction}; "
            f"with {reference}"
        )


def dense_by_options(
    reference: Tensor,
    features: Sequence[Tensor],
    labels: Tensor | None,
    options: Options,
    given_weights: Tensor | None,
) -> Tensor:
    """The penalties of `isoreg.isometry_penalty` by all pairs of a batch.

    Args:
        reference: (b, p) inputs, or (b, b) given distances.
        features: L tensors (b, d).
        labels: None, (b,) integers or (b, classes) probabilities.
        options: How distances are compared.
        given_weights: (b, b) pair weights that those of the labels are multiplied with, or None.

    Returns:
        (L,) penalties, differentiable in everything that is a tensor.

    Raises:
        InputError: If given distances or weights that count are not usable.
    """
    o = options
    targets_bb = reference if o.given else distances_by(o.input_metric, reference)
    if o.given:
        targets_bb, given_weights = known_pairs(labels, reference, given_weights)
    elif given_weights is not None:
        _, given_weights = known_pairs(labels, None, given_weights)
    return dense_penalty(
        targets_bb, features, labels, o.metric, o.scale, o.reduction, given_weights
    )


def dense_penalty(
    targets_bb: Tensor,
    features: Sequence[Tensor],
    labels: Tensor | None,
    metric: Callable[[Tensor], Tensor],
    scale: Scale,
    reduction: str,
    given: Tensor | None = None,
) -> Tensor:
    """The penalties of `isoreg.isometry_penalty` from given input distances.

    Args:
        targets_bb: (b, b) distances that the features should have; NaN: not known.
        features: L tensors (b, d).
        labels: None, (b,) integers or (b, classes) probabilities.
        metric: A function from (b, d) points to (b, b) distances.
        scale: Factor of the feature distances, or "fit".
        reduction: "batch" or "pairs".
        given: (b, b) pair weights that those of the labels are multiplied with.

    Returns:
        (L,) penalties, differentiable in everything that is a tensor.
    """
    device, n = targets_bb.device, len(targets_bb)
    weights_bb = pair_weights(labels, n, dtype=targets_bb.dtype, device=device)
    if given is not None:
        weights_bb = weights_bb * given
    total = _total_weight(weights_bb, reduction)
    stresses = [_stress(targets_bb, distances_by(metric, x), weights_bb, scale) for x in features]
    return torch.stack(stresses) / total


def known_pairs(
    labels: Tensor | None, distances_bb: Tensor | None, weights_bb: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Given distances and pair weights, checked, with zeros where a pair does not count.

    Args:
        labels: As in `dense_penalty`.
        distances_bb: (b, b) given distances or None; NaN where a pair is not known. The diagonal
            is not read.
        weights_bb: (b, b) given weights or None. The diagonal is not read.

    Returns:
        Distances, 0 on the diagonal and for pairs that do not count, or the weights again if none
        are given; and weights, 0 for pairs that are not known and 1 on the diagonal.

    Raises:
        InputError: If an entry that counts is negative, infinite or not symmetric.
    """
    table = distances_bb if distances_bb is not None else weights_bb
    assert table is not None
    n, device = len(table), table.device
    own = torch.eye(n, dtype=torch.bool, device=device)
    counted = ~own
    if labels is not None and not labels.requires_grad:  # a gradient reaches pairs of weight 0 too
        counted = counted & (pair_weights(labels, n, device=device) > 0)
    if weights_bb is not None:
        weights_bb = check_pairs(weights_bb, counted, "pair_weights").masked_fill(~counted, 0)
        counted = weights_bb.detach() != 0  # NaN counts
    if distances_bb is not None:
        unknown = distances_bb.detach().isnan()
        counted = counted & ~(unknown & unknown.T)
        distances_bb = check_pairs(distances_bb, counted, "input_distances")
        distances_bb = distances_bb.masked_fill(~counted, 0)
        like = distances_bb if weights_bb is None else weights_bb
        ones = torch.ones_like(like) if weights_bb is None else weights_bb
        weights_bb = ones.masked_fill(~counted, 0)
    assert weights_bb is not None
    weights_bb = weights_bb.masked_fill(own, 1)
    return weights_bb if distances_bb is None else distances_bb, weights_bb


def _stress(targets_bb: Tensor, distances_bb: Tensor, weights_bb: Tensor, scale: Scale) -> Tensor:
    """Weighted sum of the squared differences between distances: raw stress, in MDS's words."""
    if isinstance(scale, str):
        together = (weights_bb * targets_bb * distances_bb).sum()
        scale = best_scale(together, (weights_bb * distances_bb.square()).sum())
    return (weights_bb * (targets_bb - scale * distances_bb).square()).sum()


def best_scale(together: Tensor, alone: Tensor) -> Tensor:
    """The scale that makes the stress smallest; 0 where all features are equal.

    Args:
        together: Weighted sum of the input distances times the feature distances.
        alone: Weighted sum of the squared feature distances.

    Returns:
        Their ratio.
    """
    return together / alone.masked_fill(alone == 0, 1)


def _total_weight(weights_bb: Tensor, reduction: str) -> Tensor:
    if reduction == "batch":
        return weights_bb.new_tensor(max(1, weights_bb.numel()))
    total = weights_bb.sum() - weights_bb.diagonal().sum()
    return total.masked_fill(total <= 0, 1)  # no pair: the stress is 0 as well

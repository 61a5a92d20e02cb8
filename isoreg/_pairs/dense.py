"""The penalty by all N^2 distances and autograd: any metric, any weights, second derivatives.

It is slower than the backends, whose results are tested against it. Axes: b = batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from isoreg._pairs.options import Options, Scale
from isoreg._pairs.plan import Call, known_pairs
from isoreg.distances import distances_by, exact_dtype
from isoreg.errors import InputError
from isoreg.masks import pair_weights


def dense_by_options(
    reference: Tensor,
    features: Sequence[Tensor],
    labels: Tensor | None,
    options: Options,
    given_weights: Tensor | None,
) -> Tensor:
    """The penalties of `isoreg.isometry_penalty` by all pairs of a batch."""
    o = options
    targets_bb = reference if o.given else distances_by(o.input_metric, reference)
    if o.given or given_weights is not None:
        counted = None
        # if labels need a gradient, pairs of weight 0 get one too, so all pairs count
        if labels is not None and not labels.requires_grad:
            counted = pair_weights(labels, len(reference), device=reference.device) > 0
        targets = reference if o.given else None
        call = Call(None, list(features), None, targets, given_weights)
        distances_bb, given_weights = known_pairs(call, counted)
        given_weights.fill_diagonal_(1)  # the diagonal keeps the weights of the labels
        targets_bb = targets_bb if distances_bb is None else distances_bb
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
    given_weights: Tensor | None = None,
) -> Tensor:
    """The same penalties from known input distances and checked weights."""
    device, n = targets_bb.device, len(targets_bb)
    weights_bb = pair_weights(labels, n, dtype=targets_bb.dtype, device=device)
    if given_weights is not None:
        weights_bb = weights_bb * given_weights
    # In float64, because in float32 the square of a pair that does not count may be infinite, and
    # 0 times infinity is NaN; squares of small numbers would be rounded to 0.
    exact, dtype = exact_dtype(device), targets_bb.dtype
    targets_bb, weights_bb = targets_bb.to(exact), weights_bb.to(exact)
    tables = (_feature_distances(metric, x).to(exact) for x in features)
    stresses = [_stress(targets_bb, distances_bb, weights_bb, scale) for distances_bb in tables]
    return (torch.stack(stresses) / _total_weight(weights_bb, reduction)).to(dtype)


def _feature_distances(metric: Callable[[Tensor], Tensor], features: Tensor) -> Tensor:
    """(n, n) distances that a gradient reaches, if the features need one."""
    distances_bb = distances_by(metric, features)
    if features.requires_grad and torch.is_grad_enabled() and not distances_bb.requires_grad:
        raise InputError(
            "the distance of the features must be differentiable, got distances without a "
            "gradient. Compute them by torch alone: no numpy, detach, comparison or integers."
        )
    return distances_bb


def mean_stress(
    targets_bb: Tensor, distances_bb: Tensor, weights_bb: Tensor, scale: Scale
) -> Tensor:
    """The penalty from known input and feature distances, with the reduction "pairs"."""
    stress = _stress(targets_bb, distances_bb, weights_bb, scale)
    return stress / _total_weight(weights_bb, "pairs")


def fitted_scale(targets_bb: Tensor, distances_bb: Tensor, weights_bb: Tensor) -> Tensor:
    """The scale that makes the stress smallest."""
    weighted_bb = weights_bb * distances_bb
    return best_scale((weighted_bb * targets_bb).sum(), (weighted_bb * distances_bb).sum())


def _stress(targets_bb: Tensor, distances_bb: Tensor, weights_bb: Tensor, scale: Scale) -> Tensor:
    """Weighted sum of squared differences of distances: raw stress in multidimensional scaling."""
    if isinstance(scale, str):
        scale = fitted_scale(targets_bb, distances_bb, weights_bb)
    if isinstance(scale, Tensor):
        distances_bb, scale = scale * distances_bb, 1.0
    gaps_bb = torch.sub(targets_bb, distances_bb, alpha=scale)
    return (weights_bb * gaps_bb.square()).sum()


def best_scale(cross: Tensor, squared: Tensor) -> Tensor:
    """The scale that makes the stress smallest; 0 where all features are equal."""
    return cross / squared.masked_fill(squared == 0, 1)


def _total_weight(weights_bb: Tensor, reduction: str) -> Tensor:
    if reduction == "batch":
        return weights_bb.new_tensor(max(1, weights_bb.numel()))
    total = weights_bb.sum() - weights_bb.diagonal().sum()
    return total.masked_fill(total <= 0, 1)  # without pairs the stress is 0 too

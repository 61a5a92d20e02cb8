"""The penalty by all N^2 distances and autograd: any metric, any weights, any scale.

Slower than `isoreg.blockwise`, which it is the reference for. Axes: b = batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from isoreg.distances import distances_by
from isoreg.masks import pair_weights

Scale: TypeAlias = float | Tensor | Literal["fit"]


def dense_penalty(
    targets_bb: Tensor,
    features: Sequence[Tensor],
    labels: Tensor | None,
    metric: Callable[[Tensor], Tensor],
    scale: Scale,
    reduction: str,
) -> Tensor:
    """The penalties of `isoreg.isometry_penalty` from given input distances.

    Args:
        targets_bb: (b, b) distances that the features should have.
        features: L tensors (b, d).
        labels: None, (b,) integers or (b, classes) probabilities.
        metric: A function from (b, d) points to (b, b) distances.
        scale: Factor of the feature distances, or "fit".
        reduction: "batch" or "pairs".

    Returns:
        (L,) penalties, differentiable in everything that is a tensor.
    """
    device, n = targets_bb.device, len(targets_bb)
    weights_bb = pair_weights(labels, n, dtype=targets_bb.dtype, device=device)
    total = _total_weight(weights_bb, reduction)
    stresses = [_stress(targets_bb, distances_by(metric, x), weights_bb, scale) for x in features]
    return torch.stack(stresses) / total


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

"""The fast way as one autograd node for all layers: their gradients are computed beside them."""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from isoreg import blockwise, compiled
from isoreg.dense import Scale, best_scale, dense_penalty
from isoreg.distances import distances_by, euclidean, exact_dtype
from isoreg.plan import plan_pairs


def fast_penalty(
    inputs: Tensor, features: list[Tensor], labels: Tensor | None, scale: Scale, reduction: str
) -> Tensor | None:
    """The Euclidean penalties of `isoreg.isometry_penalty` from the pairs of equal label alone.

    Args:
        inputs: (n, p) points without gradient.
        features: L tensors (n, d).
        labels: None, (n,) integers or (n, C) probabilities without gradient.
        scale: s, or "fit".
        reduction: "batch" or "pairs".

    Returns:
        (L,) penalties, twice differentiable in the features and in the scale; None where only
        the dense way covers soft labels.
    """
    n = len(inputs)
    dtype = functools.reduce(torch.promote_types, (x.dtype for x in [inputs, *features]))
    points = [x.to(dtype) for x in [inputs, *features]]
    way: ModuleType = compiled
    plan: Any = compiled.plan_blocks(points, labels)
    if plan is None and labels is not None and labels.is_floating_point():
        return None
    if plan is None:
        way, plan = blockwise, plan_pairs(labels, n, device=inputs.device, dtype=dtype)
    total = n * n if reduction == "batch" else plan.count_pairs()
    # inside the function, autograd no longer says whether it is on
    wanted = torch.is_grad_enabled() and any(x.requires_grad for x in features)
    options = _Options(way, plan, labels, scale, reduction, total if total > 0 else 1, wanted)
    penalties: Tensor = _Penalty.apply(
        options, scale if isinstance(scale, Tensor) else None, *points
    )
    return penalties


class _Options(NamedTuple):
    way: ModuleType
    plan: Any
    labels: Tensor | None
    scale: Scale
    reduction: str
    total: float
    wanted: bool


def _number(scale: Scale) -> float:
    return float(scale.detach() if isinstance(scale, Tensor) else scale)


class _Penalty(torch.autograd.Function):
    """The penalties of all layers. Twice differentiable."""

    @staticmethod
    def forward(
        ctx: Any, options: _Options, scale: Tensor | None, inputs: Tensor, *features: Tensor
    ) -> Tensor:
        o, learned = options, scale is not None and scale.requires_grad
        if learned or o.scale == "fit":
            together, alone = o.way.scale_moments(inputs, features, o.plan)
        if o.scale == "fit":
            # the derivative with respect to the best scale is 0: from here on it is a number
            scales = best_scale(together, alone)
        else:
            exact = exact_dtype(inputs.device)
            scales = torch.full(
                (len(features),), _number(o.scale), dtype=exact, device=inputs.device
            )
        penalties: Tensor
        penalties, gradients = o.way.penalties_and_gradients(
            inputs, features, o.plan, scales=scales, total=o.total, wanted=o.wanted
        )
        ctx.options, ctx.gradients = o, gradients
        ctx.slopes = 2 * (scales * alone - together) / o.total if learned else None
        ctx.save_for_backward(scale, inputs, *features)
        return penalties

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (shares,) = grad_outputs
        o: Any = ctx.options
        if not torch.is_grad_enabled():
            slope = None if ctx.slopes is None else (ctx.slopes * shares).sum().to(o.scale)
            gradients = ctx.gradients or [None] * len(shares)
            pairs = zip(gradients, shares.unbind(), strict=True)
            return None, slope, None, *(None if g is None else g * share for g, share in pairs)
        # create_graph=True: the stored gradients are constants, so go by the dense way
        scale, inputs, *features = ctx.saved_tensors
        targets_bb = distances_by(euclidean, inputs)
        factor = o.scale if scale is None else scale
        penalties = dense_penalty(targets_bb, features, o.labels, euclidean, factor, o.reduction)
        variables = [scale, *features]
        wanted = [x for x in variables if x is not None and x.requires_grad]
        found = iter(torch.autograd.grad(penalties, wanted, shares, create_graph=True))
        slope, *gradients = (
            next(found) if x is not None and x.requires_grad else None for x in variables
        )
        return None, slope, None, *gradients

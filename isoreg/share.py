"""A rank's share of the penalty as one autograd node: the pairs of its own rows in closed form."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from isoreg.dense import Options, Scale, best_scale
from isoreg.distances import exact_dtype
from isoreg.distributed import Gathered, mean_over_ranks
from isoreg.errors import InputError
from isoreg.rows import Block, count_pairs, plan_rows, row_moments, rows_and_gradients

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def share_of_rows(
    own: list[Tensor],
    everything: list[Tensor],
    labels: Tensor | None,
    batch: Gathered,
    options: Options,
    *,
    rows: int,
    group: ProcessGroup | None,
) -> Tensor:
    """The penalties V_r of `isoreg.across`, from the pairs of the own rows alone.

    Args:
        own: Own inputs and features, (n, d) each.
        everything: Those of all ranks, and behind them those of a queue, (m, d) each.
        labels: (m,) int64, or None.
        batch: Where the own rows stand, and the number of ranks.
        options: How distances are compared, by the Euclidean metric.
        rows: How many samples all ranks hold.
        group: The ranks, which agree on a fitted scale.

    Returns:
        (L,) penalties, differentiable in the own features and in the scale.
    """
    n, device, scale = len(everything[0]), own[0].device, options.scale
    dtype = functools.reduce(torch.promote_types, (x.dtype for x in own))
    width = max(1, *(x.shape[1] for x in own))
    blocks = plan_rows(labels, batch.own, n, device=device, width=width)
    total = rows * n if options.reduction == "batch" else count_pairs(labels, rows, n)
    wanted = torch.is_grad_enabled() and any(x.requires_grad for x in own[1:])
    points = [x.to(dtype) for x in everything]
    work = _Work(points, batch.own, blocks, scale, max(1, total) / batch.ranks, wanted, group)
    penalties: Tensor = _Share.apply(
        work, scale if isinstance(scale, Tensor) else None, *(x.to(dtype) for x in own[1:])
    )
    return penalties


class _Work(NamedTuple):
    points: list[Tensor]
    own: slice
    blocks: list[Block]
    scale: Scale
    total: float
    wanted: bool
    group: ProcessGroup | None


class _Share(torch.autograd.Function):
    """The penalties of own rows, whose gradients are computed beside them, by all that is known."""

    @staticmethod
    def forward(ctx: Any, work: _Work, scale: Tensor | None, *features: Tensor) -> Tensor:
        w, learned = work, scale is not None and scale.requires_grad
        if learned or w.scale == "fit":
            moments = row_moments(w.points, w.blocks)
        if isinstance(w.scale, str):
            # the derivative with respect to the best scale is 0: from here on it is a number
            scales = best_scale(
                *(moments if w.group is None else mean_over_ranks(moments, w.group))
            )
        else:
            number = float(w.scale.detach() if isinstance(w.scale, Tensor) else w.scale)
            exact, device = exact_dtype(w.points[0].device), w.points[0].device
            scales = torch.full((len(features),), number, dtype=exact, device=device)
        sums, ctx.gradients = rows_and_gradients(
            w.points, w.own, w.blocks, scales=scales, total=w.total, wanted=w.wanted
        )
        ctx.scale = scale
        ctx.slopes = 2 * (scales * moments[1] - moments[0]) / w.total if learned else None
        return sums

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivatives()
        (shares,) = grad_outputs
        slope = None if ctx.slopes is None else (ctx.slopes * shares).sum().to(ctx.scale)
        gradients = ctx.gradients or [None] * len(shares)
        pairs = zip(gradients, shares.unbind(), strict=True)
        return None, slope, *(None if g is None else g * share for g, share in pairs)


def refuse_second_derivatives() -> None:
    """Refuse a backward pass that is to be differentiated.

    Raises:
        InputError: If gradients are on.
    """
    if torch.is_grad_enabled():
        raise InputError(
            "the penalty across ranks or with a queue has no second derivatives, because those "
            "by the features of others are not here, got create_graph=True."
        )

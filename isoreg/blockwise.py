"""Value and gradient of the Euclidean penalty from the pairs of equal label alone.

Axes: l = inputs and layers, c = class of a bucket, m = member of a class, d = dimension.

With D_ij = |x_i - x_j| and d_ij = |phi_i - phi_j| the sum over pairs is
S = sum_ij (D_ij - s d_ij)^2, and its gradient is

    dS / dphi_i = 4 sum_j W_ij (phi_i - phi_j),    W_ij = s^2 - s D_ij / d_ij  (0 where d_ij = 0),

that is 4 (diag(W 1) - W) phi: one more matrix product, and no graph through the distances.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from isoreg.distances import exact_dtype
from isoreg.pairs import (
    TooManyNearError,
    add_near,
    are_equal,
    between,
    refuse_rounding,
    take_out,
    within,
)
from isoreg.plan import TILE, Bucket, Plan
from isoreg.precision import full_precision
from isoreg.small import small_batch

_PAIRS_AT_ONCE = 1 << 16

# (1, c, a, b) D and (l, c, a, b) d of these layers, and how often they count -> (l, c, a, b)
Comparison: TypeAlias = Callable[[Tensor, Tensor, slice, int], Tensor]


@torch.no_grad()
def penalties_and_gradients(
    inputs: Tensor,
    features: Sequence[Tensor],
    plan: Plan,
    *,
    scales: Tensor,
    total: float,
    wanted: bool,
) -> tuple[Tensor, list[Tensor]]:
    """Sums of (D_ij - s d_ij)^2 over the pairs of a plan divided by a number, and their gradients.

    Memory beside the results is that of a few blocks of pairs.

    Args:
        inputs: (n, p) points.
        features: L tensors (n, d), of the dtype of the inputs.
        plan: The pairs.
        scales: (L,) factors s.
        total: What the sums are divided by.
        wanted: Whether to compute gradients.

    Returns:
        (L,) penalties, and for each its gradient (n, d), if wanted.
    """
    try:
        refuse_rounding(inputs)
        return _penalties_and_gradients([inputs, *features], plan, scales, total, wanted)
    except TooManyNearError:
        points = [x.double() for x in (inputs, *features)]
        penalties, gradients = _penalties_and_gradients(points, plan, scales, total, wanted)
        return penalties.to(inputs.dtype), [gradient.to(inputs.dtype) for gradient in gradients]


@torch.no_grad()
def scale_moments(inputs: Tensor, features: Sequence[Tensor], plan: Plan) -> Tensor:
    """Sums of D_ij d_ij and of d_ij^2 over the pairs of a plan: what the best scale is made of.

    Args:
        inputs: (n, p) points.
        features: L tensors (n, d), of the dtype of the inputs.
        plan: The pairs.

    Returns:
        (2, L) both sums for each layer.
    """
    points = [inputs, *features]
    sums = inputs.new_zeros(2, len(features), dtype=exact_dtype(inputs.device))
    try:
        refuse_rounding(inputs)
        with full_precision(inputs.device):
            _add_all(points, plan, functools.partial(add_moments, sums), [])
    except TooManyNearError:
        return scale_moments(inputs.double(), [x.double() for x in features], plan)
    return sums


def _penalties_and_gradients(
    points: list[Tensor], plan: Plan, scales: Tensor, total: float, wanted: bool
) -> tuple[Tensor, list[Tensor]]:
    inputs, *features = points
    scales = scales.to(inputs)
    with full_precision(inputs.device):
        if plan.small is not None:
            return small_batch(points, plan.small, scales, total, wanted=wanted)
        sums = inputs.new_zeros(len(features), dtype=exact_dtype(inputs.device))
        # the row behind the last takes what is computed for padding
        gradients = [x.new_empty(len(x) + 1, x.shape[1]) for x in features if wanted]
        _add_all(points, plan, functools.partial(compare_distances, sums, scales, total), gradients)
    if len(plan.alone):  # they have no pair, but what is not finite must not stay unseen
        lost = torch.stack([(x[plan.alone] * 0).sum() for x in points])
        sums += lost[1:] + lost[0]
        for gradient in gradients:
            gradient[plan.alone] = 0
    return (sums / total).to(inputs.dtype), [gradient[:-1] for gradient in gradients]


def _add_all(
    points: list[Tensor], plan: Plan, compare: Comparison, gradients: list[Tensor]
) -> None:
    for bucket in plan.buckets:
        _add_bucket(bucket, points, compare, gradients)
    for members in plan.large:
        _add_large(members, points, compare, gradients)


def _add_bucket(
    bucket: Bucket,
    points: list[Tensor],
    compare: Comparison,
    gradients: list[Tensor],
) -> None:
    """Add the pairs of many small classes, as many layers at once as fit in the cache."""
    targets: Tensor | None = None
    step = max(1, _PAIRS_AT_ONCE // (bucket.rows.numel() * bucket.rows.shape[1]))
    for start in range(0, len(points), step):
        chunk = points[start : start + step]
        members = [_members(x, bucket) for x in chunk]
        distances, near = within(members, chunk, bucket.rows, bucket.mask)
        first = 0
        if targets is None:
            targets, distances, first = distances[:1], distances[1:], 1
        layers = slice(start + first - 1, start + len(chunk) - 1)
        weights = compare(targets, distances, layers, 1)
        if not gradients:
            continue
        for w, x, original, pairs, gradient in zip(
            weights, members[first:], chunk[first:], near[first:], gradients[layers], strict=True
        ):
            strengths = take_out(w, pairs)
            totals = w.sum(2)
            w.neg_().diagonal(dim1=1, dim2=2).copy_(totals)
            pulls = torch.bmm(w, x)
            add_near(pulls, strengths, original, bucket.rows, bucket.rows, pairs)
            gradient.index_copy_(0, bucket.places, pulls.flatten(0, 1))


def _add_large(
    members: Tensor,
    points: list[Tensor],
    compare: Comparison,
    gradients: list[Tensor],
) -> None:
    """Add the pairs of one large class, a tile and its mirror at a time."""
    layers = [x.index_select(0, members)[None] for x in points]
    for x in layers:
        x.sub_(x.mean(1, keepdim=True))
    norms = torch.stack([x.square().sum(2) for x in layers])
    pulls = [torch.zeros_like(x) for x in layers[1:]]
    tiles = [slice(start, start + TILE) for start in range(0, len(members), TILE)]
    for number, a in enumerate(tiles):
        for b in tiles[number:]:
            left, right, mirrored = members[None, a], members[None, b], b is not a
            if mirrored:
                distances, near = between(layers, norms, points, (a, left), (b, right))
            else:
                distances, near = within([x[:, a] for x in layers], points, left)
            times = 2 if mirrored else 1
            weights = compare(distances[:1], distances[1:], slice(None), times)
            if not gradients:
                continue
            for index, (w, pairs) in enumerate(zip(weights, near[1:], strict=True)):
                x, original, pull = layers[1 + index], points[1 + index], pulls[index]
                strengths = take_out(w, pairs)
                _pull(pull[:, a], w, x[:, a], x[:, b])
                add_near(pull[:, a], strengths, original, left, right, pairs)
                if mirrored:
                    turned = None if pairs is None else pairs[:, [0, 2, 1]]
                    _pull(pull[:, b], w.mT, x[:, b], x[:, a])
                    add_near(pull[:, b], strengths, original, right, left, turned)
    for gradient, pull in zip(gradients, pulls, strict=False):  # none, or one for each
        gradient.index_copy_(0, members, pull[0])


def _pull(total: Tensor, w: Tensor, own: Tensor, others: Tensor) -> None:
    """Add sum_j W_ij (own_i - others_j) to each row of the total."""
    total.addcmul_(w.sum(2, keepdim=True), own).baddbmm_(w, others, alpha=-1)


def _members(x: Tensor, bucket: Bucket) -> Tensor:
    """(c, m, d) members of each class, seen from one of them; padding is 0."""
    # Distances do not change, but products of points seen from within their class keep their
    # digits when the points are far from the origin, or a class has collapsed far from the others.
    found = x.index_select(0, bucket.rows.flatten()).view(*bucket.rows.shape, x.shape[1])
    origins = x.index_select(0, bucket.origins.flatten())
    return found.sub_(origins.view(*bucket.origins.shape, x.shape[1]))


def compare_distances(
    sums: Tensor,
    scales: Tensor,
    total: float,
    targets: Tensor,
    distances: Tensor,
    layers: slice,
    times: int,
) -> Tensor:
    """Add the sums of (D - s d)^2 of a block; give the weights of its pairs in the gradient.

    Args:
        sums: (L,) sums so far.
        scales: (L,) factors s.
        total: What gradients are divided by.
        targets: (1, c, a, b) input distances D.
        distances: (l, c, a, b) feature distances d; the weights take their place.
        layers: Which of the L layers these are.
        times: How often each pair counts.

    Returns:
        (l, c, a, b) weights 4 W / total.
    """
    scale = scales[layers, None, None, None]
    gaps = torch.addcmul(targets, distances, scale, value=-1)
    sums[layers].add_(gaps.square().sum((1, 2, 3)), alpha=times)
    equal = are_equal(distances)
    gaps.mul_(scale * (-4 / total))
    return torch.div(gaps, distances, out=distances).masked_fill_(equal, 0)


def add_moments(
    sums: Tensor, targets: Tensor, distances: Tensor, layers: slice, times: int
) -> Tensor:
    """Add the sums of D d and of d^2 of a block; nothing is weighed.

    Args:
        sums: (2, L) sums to add to.
        targets: (1, c, a, b) distances D.
        distances: (l, c, a, b) distances d.
        layers: Which of the L layers these are.
        times: How often these pairs count.

    Returns:
        The distances d.
    """
    distances.masked_fill_(are_equal(distances), 0)
    sums[0, layers].add_((targets * distances).sum((1, 2, 3)), alpha=times)
    sums[1, layers].add_(distances.square().sum((1, 2, 3)), alpha=times)
    return distances

"""The backend of torch that computes classes of similar size together, and large ones by tiles.

It looks at labels and at distances, so it is for devices that do not make it wait.

Axes: l = inputs and layers, c = class or a piece of one, a = row, b = column, d = dimension.

With D_ij = |x_i - x_j| and d_ij = |phi_i - phi_j| the sum over pairs is
S = sum_ij G_ij (D_ij - s d_ij)^2, and its gradient is

    dS / dphi_i = 4 sum_j W_ij (phi_i - phi_j),    W_ij = G_ij (s^2 - s D_ij / d_ij),

with W_ij = 0 where d_ij = 0, that is 4 (diag(W 1) - W) phi: one more matrix product, and no graph
through the distances.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeAlias

import torch
from torch import Tensor

from isoreg._pairs.backends.torch_plan import Block, places_of, plan_pairs
from isoreg._pairs.plan import Call, known_pairs, label_weights
from isoreg._pairs.precision import (
    CANCELLED,
    LostDigitsError,
    full_precision,
    rounds_products,
)
from isoreg.distances import exact_dtype

_PAIRS_AT_ONCE = 1 << 16
"""Pairs of the layers that are computed together."""
# With a larger share of near pairs in a block, float64 is faster: there, few are near.
_NEAR_SHARE = 0.01
_DIRECT_AT_ONCE = 1 << 20
ZERO = {torch.float32: 1e-37, torch.float64: 1e-300}
"""Floor for squared distances, because the root of an exact 0 is six times slower."""

# (1, c, a, b) D and (l, c, a, b) d of these layers, G, and how often they count -> (l, c, a, b)
_Compare: TypeAlias = Callable[[Tensor, Tensor, slice, Tensor | None, int], Tensor]


def refuses(call: Call) -> str | None:
    """What would have to wait for values on an accelerator."""
    device = call.features[0].device.type
    return rounding(call) if device in {"cpu", "mps"} else f"it would wait for values on {device}"


def rounding(call: Call) -> str | None:
    """Where PyTorch is told to round the factors of products, float64 is to be used."""
    first = call.features[0]
    if first.dtype == torch.float32 and rounds_products(first.device):
        return "PyTorch is told to round the factors of products in float32"
    return None


def moments(call: Call) -> Tensor:
    """(2, L) sums of G D d and of G d^2."""
    call = _clean(call)
    features = call.features
    sums = features[0].new_zeros(2, len(features), dtype=exact_dtype(features[0].device))
    with full_precision(sums.device):
        for block in plan_pairs(call).blocks:
            _add_block(block, call, functools.partial(_add_moments, sums), [])
    return sums


def values_and_gradients(
    call: Call, scales: Tensor, total: Tensor | float, *, needs_grad: bool
) -> tuple[Tensor, list[Tensor]]:
    """(L,) sums of G (D - s d)^2 divided by a number, and for each its gradient (r, d)."""
    call = _clean(call)
    own, features = call.own, call.features
    sums = features[0].new_zeros(len(features), dtype=exact_dtype(features[0].device))
    # a row behind the last takes what is computed for padding
    count = own.stop - own.start + 1
    gradients = [x.new_zeros(count, x.shape[1]) for x in features if needs_grad]
    compare = functools.partial(_add_values, sums, scales.to(features[0]), float(total))
    plan = plan_pairs(call)
    with full_precision(sums.device):
        for block in plan.blocks:
            _add_block(block, call, compare, gradients)
    alone = plan.alone
    if len(alone):  # NaN in a sample without pairs must reach the penalty
        lost = [(x[alone] * 0).sum() for x in call.points]
        sums += torch.stack(lost[-len(features) :])
        if call.inputs is not None:
            sums += lost[0]
    return (sums / total).to(features[0].dtype), [x[:-1] for x in gradients]


def _clean(call: Call) -> Call:
    """The call with checked tables, 0 where a pair does not count."""
    if not call.has_tables or "clean" in call.plans:
        return call
    pairs = label_weights(call, call.features[0].dtype)
    targets, weights = known_pairs(call, None if pairs is None else pairs > 0)
    return replace(call, targets=targets, weights=weights, plans={"clean": True})


def _add_block(block: Block, call: Call, compare: _Compare, gradients: list[Tensor]) -> None:
    """Add the pairs of a block, as many layers at once as fit in the cache."""
    points, skip = call.points, 0 if call.inputs is None else 1
    step = len(points)
    if len(block.tiles) == 1:
        width = (block.rows if block.columns is None else block.columns).shape[1]
        step = max(1, _PAIRS_AT_ONCE // (block.rows.numel() * width))
    targets: Tensor | None = None
    for start in range(0, len(points), step):
        chunk = points[start : start + step]
        first = max(0, skip - start)  # of the chunk that is a layer
        layers = slice(start + first - skip, start + len(chunk) - skip)
        left = [_members(x, block, block.rows) for x in chunk]
        right = left
        if block.columns is not None:
            right = [_members(x, block, block.columns) for x in chunk]
        pulls = left[first:] if gradients else []
        if len(block.tiles) > 1 or block.columns is not None:
            pulls = [torch.zeros_like(x) for x in pulls]
        for a, b in block.tiles:
            mirrored = a != b
            rows, columns = block.rows[:, a], _columns(block)[:, b]
            sides = [x[:, a] for x in left], [x[:, b] for x in right]
            distances, near = _distances(sides, chunk, block, rows, columns, mirrored=mirrored)
            shares = _shares(call, block, rows, columns)
            if call.targets is not None:
                targets = _entries(call.targets, call, rows, columns)[None]
                targets = targets if block.mask is None else targets * block.mask
            elif first:
                targets = distances[:1]
            assert targets is not None
            weights = compare(targets, distances[first:], layers, shares, 2 if mirrored else 1)
            for index, pull in enumerate(pulls):
                w, x, pairs = weights[index], chunk[first + index], near[first + index]
                strengths = _take_out(w, pairs)
                one, other = (side[first + index] for side in sides)
                if block.columns is None and not mirrored:
                    totals = w.sum(2)
                    w.neg_().diagonal(dim1=1, dim2=2).copy_(totals)
                    if len(block.tiles) > 1:
                        pull[:, a].baddbmm_(w, one)
                    else:
                        pull = pulls[index] = torch.bmm(w, one)
                else:
                    _pull(pull[:, a], w, one, other)
                    if mirrored:
                        _pull(pull[:, b], w.mT, other, one)
                _add_near(pull[:, a], strengths, x, rows, columns, pairs)
                if mirrored:
                    turned = None if pairs is None else pairs[:, [0, 2, 1]]
                    _add_near(pull[:, b], strengths, x, columns, rows, turned)
        for gradient, pull in zip(gradients[layers], pulls, strict=False):  # none, or one for each
            add = gradient.index_copy_ if call.rows is None else gradient.index_add_
            add(0, places_of(block, call.own), pull.flatten(0, 1))


def _columns(block: Block) -> Tensor:
    return block.rows if block.columns is None else block.columns


def _members(x: Tensor, block: Block, places: Tensor) -> Tensor:
    """(c, m, d) members of each piece, seen from one of its class; its padding is 0."""
    # Distances do not change, but products of points seen from within their class keep their
    # digits when the points are far from the origin, or a class has collapsed far from the others.
    members = x.index_select(0, places.flatten()).view(*places.shape, x.shape[1])
    if len(block.tiles) > 1:
        return members.sub_(members.mean(1, keepdim=True))
    return members.sub_(x.index_select(0, _columns(block)[:, 0])[:, None])


def _shares(call: Call, block: Block, rows: Tensor, columns: Tensor) -> Tensor | None:
    """(c, a, b) how much each pair weighs; None if it is 1 where the mask is."""
    shares = None if call.weights is None else _entries(call.weights, call, rows, columns)
    if call.is_soft:
        assert call.labels is not None
        labels = call.labels.to(call.features[0].dtype)
        soft = torch.bmm(labels[rows], labels[columns].mT)
        shares = soft if shares is None else shares * soft
    return shares if shares is None or block.mask is None else shares * block.mask


def _entries(table: Tensor, call: Call, rows: Tensor, columns: Tensor) -> Tensor:
    found: Tensor = table[(rows - call.own.start)[:, :, None], columns[:, None]]
    return found


def _distances(
    sides: tuple[list[Tensor], list[Tensor]],
    points: list[Tensor],
    block: Block,
    rows: Tensor,
    columns: Tensor,
    *,
    mirrored: bool,
) -> tuple[Tensor, list[Tensor | None]]:
    """(l, c, a, b) distances, 0 where masked; and for each of l the places of near pairs."""
    left, right = sides
    squares = left[0].new_empty(len(left), *rows.shape, columns.shape[1])
    itself = block.columns is None and not mirrored
    for square, one, other in zip(squares.unbind(), left, right, strict=True):
        torch.bmm(one, other.mT, out=square)
    if itself:
        norms = squares.diagonal(dim1=2, dim2=3).clone()  # so that equal points cancel exactly
        sums = norms[..., :, None] + norms[..., None, :]
    else:
        norms, others = (torch.stack([x.square().sum(2) for x in side]) for side in sides)
        sums = norms[..., :, None] + others[..., None, :]
    torch.sub(sums, squares, alpha=2, out=squares)
    if itself:
        squares.diagonal(dim1=2, dim2=3).copy_(norms)  # a point is not a near pair with itself
    elif block.mask is not None:
        torch.where(block.mask > 0, squares, sums, out=squares)
    near = _recompute_near(squares, sums, points, rows, columns)
    distances = squares.clamp_min_(ZERO[squares.dtype]).sqrt_()
    if itself:
        distances.diagonal(dim1=2, dim2=3).zero_()
    return distances if block.mask is None else distances.mul_(block.mask), near


def _recompute_near(
    squares: Tensor, sums: Tensor, points: list[Tensor], left: Tensor, right: Tensor
) -> list[Tensor | None]:
    """Subtract near pairs directly; return their places (class, i, j) for the inputs and layers."""
    # the original points, not the centred ones: those were rounded
    excess = torch.sub(squares, sums, alpha=CANCELLED[squares.dtype], out=sums)
    if squares.numel() == 0 or not excess.min() < 0:
        return [None] * len(points)
    near = excess < 0
    if squares.dtype != exact_dtype(squares.device) and near.sum() > _NEAR_SHARE * near.numel():
        raise LostDigitsError("many pairs are near")
    places: list[Tensor | None] = []
    for square, where, x in zip(squares, near, points, strict=True):
        pairs = where.nonzero()
        places.append(pairs if len(pairs) else None)
        for part in pairs.split(_at_once(x)):
            c, i, j = part.unbind(1)
            square[c, i, j] = (x[left[c, i]] - x[right[c, j]]).square_().sum(-1)
    return places


def _pull(total: Tensor, w: Tensor, own: Tensor, others: Tensor) -> None:
    """Add sum_j W_ij (own_i - others_j) to each row of the total."""
    total.addcmul_(w.sum(2, keepdim=True), own).baddbmm_(w, others, alpha=-1)


def _take_out(w: Tensor, near: Tensor | None) -> Tensor | None:
    """Set the weights of near pairs to 0; return what they were."""
    if near is None:
        return None
    where = near.unbind(1)
    strengths = w[where]
    w[where] = 0
    return strengths


def _add_near(
    total: Tensor,
    strengths: Tensor | None,
    x: Tensor,
    left: Tensor,
    right: Tensor,
    near: Tensor | None,
) -> None:
    """Add W_ij (x_i - x_j) of near pairs; in a product the difference would cancel."""
    if near is None or strengths is None:
        return
    for where, strength in zip(_split(near, x), _split(strengths, x), strict=True):
        c, i, j = where.unbind(1)
        pulls = strength[:, None] * (x[left[c, i]] - x[right[c, j]])
        total.index_put_((c, i), pulls, accumulate=True)


def _split(pairs: Tensor, x: Tensor) -> Iterator[Tensor]:
    return iter(pairs.split(_at_once(x)))


def _at_once(x: Tensor) -> int:
    """How many pairs of points of this width are subtracted at once, to bound the memory."""
    return 1 + _DIRECT_AT_ONCE // max(1, x.shape[-1])


def _add_values(
    sums: Tensor,
    scales: Tensor,
    total: float,
    targets: Tensor,
    distances: Tensor,
    layers: slice,
    shares: Tensor | None,
    times: int,
) -> Tensor:
    """Add G (D - s d)^2 of a block; return 4 W / total, which take the place of the distances."""
    scale = scales[layers, None, None, None]
    gaps = torch.addcmul(targets, distances, scale, value=-1)
    weighed = gaps if shares is None else gaps * shares
    sums[layers].add_((gaps * weighed).sum((1, 2, 3)), alpha=times)
    equal = _are_equal(distances)
    weights = weighed.mul_(scale * (-4 / total))
    return torch.div(weights, distances, out=distances).masked_fill_(equal, 0)


def _add_moments(
    sums: Tensor,
    targets: Tensor,
    distances: Tensor,
    layers: slice,
    shares: Tensor | None,
    times: int,
) -> Tensor:
    """Add G D d and G d^2 of a block; return the distances, of which nothing is made."""
    distances.masked_fill_(_are_equal(distances), 0)
    weighed = distances if shares is None else distances * shares
    sums[0, layers].add_((targets * weighed).sum((1, 2, 3)), alpha=times)
    sums[1, layers].add_((distances * weighed).sum((1, 2, 3)), alpha=times)
    return distances


def _are_equal(distances: Tensor) -> Tensor:
    """Where the distance is that of equal points: the root of `ZERO`."""
    return distances <= math.sqrt(ZERO[distances.dtype])

"""Distances between the points of a block that keep their digits, and what they pull.

Most squared distances come from a product of matrices. Where the points are so near each other
that the product has lost the digits of their difference, they are subtracted directly.

Axes: l = inputs and layers, c = class of a bucket, m = member of a class, d = dimension.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import torch
from torch import Tensor

from isoreg.distances import exact_dtype
from isoreg.precision import CANCELLED, rounds_products

ZERO = {torch.float32: 1e-37, torch.float64: 1e-300}
"""The least square, for zero: the root of an exact 0 takes six times as long as any other."""
# With a larger share of near pairs in a block, float64 is faster: there, few are near.
_NEAR_SHARE = 0.01
_DIRECT_AT_ONCE = 1 << 20

Near: TypeAlias = list[Tensor | None]
"""For the inputs and each layer: (p, 3) places (class, i, j) of near pairs, or None."""


class TooManyNearError(Exception):
    """Products in float32 would lose digits of too many pairs: use float64."""


def refuse_rounding(points: Tensor) -> None:
    """Send float32 points to float64 where PyTorch is told to round the factors of products.

    Args:
        points: Points of the dtype that is to be multiplied in.

    Raises:
        TooManyNearError: If their products would be rounded.
    """
    if points.dtype == torch.float32 and rounds_products(points.device):
        raise TooManyNearError


def within(
    members: list[Tensor], points: list[Tensor], rows: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Near]:
    """Distances within each class of a bucket.

    Args:
        members: For the inputs and each layer the (c, m, d) members, seen from within the class.
        points: The same points as they are in the batch, (n, d) each.
        rows: (c, m) positions of the members in the batch.
        mask: (c, m, m) 0 for the pairs that are left out; None for none.

    Returns:
        (l, c, m, m) distances, 0 where masked; and the near pairs.
    """
    c, m, _ = members[0].shape
    products = members[0].new_empty(len(members), c, m, m)
    for product, x in zip(products, members, strict=True):
        torch.bmm(x, x.mT, out=product)
    norms = products.diagonal(dim1=2, dim2=3).clone()  # so that equal points cancel exactly
    sums = norms[..., :, None] + norms[..., None, :]
    squares = torch.sub(sums, products, alpha=2, out=products)
    squares.diagonal(dim1=2, dim2=3).copy_(norms)  # a point is not a near pair with itself
    near = recompute_near(squares, sums, points, rows, rows)
    distances = squares.clamp_min_(ZERO[squares.dtype]).sqrt_()
    distances.diagonal(dim1=2, dim2=3).zero_()
    return distances if mask is None else distances.mul_(mask), near


def between(
    layers: list[Tensor],
    norms: Tensor,
    points: list[Tensor],
    left: tuple[slice, Tensor],
    right: tuple[slice, Tensor],
) -> tuple[Tensor, Near]:
    """Distances between two tiles of one class.

    Args:
        layers: For the inputs and each layer the (1, m, d) members, seen from within the class.
        norms: (l, 1, m) their squared lengths.
        points: The same points as they are in the batch, (n, d) each.
        left: Which members the left tile holds, and their (1, a) positions in the batch.
        right: The same of the right tile.

    Returns:
        (l, 1, a, b) distances, and the near pairs.
    """
    (a, left_rows), (b, right_rows) = left, right
    sums = norms[:, :, a, None] + norms[:, :, None, b]
    squares = torch.empty_like(sums)
    for square, norm, x in zip(squares, sums, layers, strict=True):
        torch.baddbmm(norm, x[:, a], x[:, b].mT, alpha=-2, out=square)
    near = recompute_near(squares, sums, points, left_rows, right_rows)
    return squares.clamp_min_(ZERO[squares.dtype]).sqrt_(), near


def recompute_near(
    squares: Tensor, sums: Tensor, points: list[Tensor], left: Tensor, right: Tensor
) -> Near:
    """Subtract near pairs directly.

    Args:
        squares: (l, c, a, b) squared distances from products; those of near pairs are replaced.
        sums: (l, c, a, b) |x|^2 + |y|^2 of the pairs; used up.
        points: The points as they are in the batch, (n, d) each.
        left: (c, a) positions in the batch.
        right: (c, b) positions in the batch.

    Returns:
        Where the near pairs are.

    Raises:
        TooManyNearError: If they are so many that float64 is faster.
    """
    # the original points, not the centred ones: those were rounded
    excess = torch.sub(squares, sums, alpha=CANCELLED[squares.dtype], out=sums)
    if squares.numel() == 0 or not excess.min() < 0:
        return [None] * len(points)
    near = excess < 0
    if squares.dtype != exact_dtype(squares.device) and near.sum() > _NEAR_SHARE * near.numel():
        raise TooManyNearError
    places: Near = []
    for square, where, x in zip(squares, near, points, strict=True):
        pairs = where.nonzero()
        places.append(pairs if len(pairs) else None)
        for part in pairs.split(_at_once(x)):
            c, i, j = part.unbind(1)
            square[c, i, j] = (x[left[c, i]] - x[right[c, j]]).square_().sum(-1)
    return places


def are_equal(distances: Tensor) -> Tensor:
    """Where the distance is that of equal points.

    Args:
        distances: Distances, those of equal points the root of `ZERO`.

    Returns:
        Booleans of the same shape.
    """
    return distances <= math.sqrt(ZERO[distances.dtype])


def take_out(w: Tensor, near: Tensor | None) -> Tensor | None:
    """Set the weights of near pairs to 0.

    Args:
        w: (c, a, b) weights of one layer.
        near: Its near pairs.

    Returns:
        What the weights of the near pairs were.
    """
    if near is None:
        return None
    where = near.unbind(1)
    strengths = w[where]
    w[where] = 0
    return strengths


def add_near(
    total: Tensor,
    strengths: Tensor | None,
    x: Tensor,
    left: Tensor,
    right: Tensor,
    near: Tensor | None,
) -> None:
    """Add W_ij (x_i - x_j) of near pairs; in a product the difference would cancel.

    Args:
        total: (c, a, d) what is added to.
        strengths: Weights W of the near pairs.
        x: (n, d) points as they are in the batch.
        left: (c, a) positions in the batch.
        right: (c, b) positions in the batch.
        near: The near pairs.
    """
    if near is None or strengths is None:
        return
    step = _at_once(x)
    for where, strength in zip(near.split(step), strengths.split(step), strict=True):
        c, i, j = where.unbind(1)
        pulls = strength[:, None] * (x[left[c, i]] - x[right[c, j]])
        total.index_put_((c, i), pulls, accumulate=True)


def _at_once(x: Tensor) -> int:
    """How many pairs of points of this width are subtracted at once, to bound the memory."""
    return 1 + _DIRECT_AT_ONCE // max(1, x.shape[-1])

"""The penalty of a batch so small that an operation costs more than its arithmetic.

Axes: l = inputs and layers, b = batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from isoreg.plan import Bucket
from isoreg.precision import CANCELLED


def small_batch(
    points: list[Tensor], bucket: Bucket, scales: Tensor, total: int, *, wanted: bool = True
) -> tuple[Tensor, list[Tensor]] | None:
    """Penalties and gradients as in `isoreg.blockwise`, in as few operations as can be.

    Pairs of different classes are computed as well, and then left out: their squared distances
    are replaced by 1 and their weights by 0.

    Args:
        points: Inputs and L layers, (b, d) each.
        bucket: The whole batch in its order, with a mask.
        scales: (L,) factors s.
        total: What the sums are divided by.
        wanted: Whether to compute gradients.

    Returns:
        (L,) penalties and for each its gradient, if wanted; None if some points are so near each
        other that their distance is not to be had from a product: subtract those directly.
    """
    assert bucket.mask is not None
    pairs_bb, origins = bucket.mask[0], bucket.origins[0]
    others_bb = 1 - pairs_bb
    centred = [torch.sub(x, x.index_select(0, origins)) for x in points]
    products = points[0].new_empty(len(points), *pairs_bb.shape)
    for product, x in zip(products.unbind(), centred, strict=True):
        torch.mm(x, x.mT, out=product)
    norms = products.diagonal(dim1=1, dim2=2)
    sums = (norms[:, :, None] + norms[:, None]).mul_(pairs_bb)
    squares = sums.add(products.mul_(pairs_bb), alpha=-2).add_(others_bb)
    if torch.sub(squares, sums, alpha=CANCELLED[squares.dtype], out=sums).min() <= 0:
        return None
    distances = squares.sqrt_()
    found = distances[1:]
    scale = scales[:, None, None]
    gaps = torch.addcmul(distances[:1], found, scale, value=-1).mul_(pairs_bb)
    penalties = gaps.square().sum((1, 2)).div_(total)
    if not wanted:
        return penalties, []
    weights = gaps.mul_(scale * (4 / total)).div_(found)
    weights.diagonal(dim1=1, dim2=2).copy_(weights.sum(2).neg_())
    gradients = [torch.mm(w, x) for w, x in zip(weights.unbind(), centred[1:], strict=True)]
    return penalties, gradients

"""The penalty of a batch so small that an operation costs more than its arithmetic.

Axes: l = inputs and layers, b = batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from isoreg.plan import Bucket
from isoreg.precision import CANCELLED


def small_batch(
    points: list[Tensor], bucket: Bucket, scales: Tensor, total: float, *, wanted: bool = True
) -> tuple[Tensor, list[Tensor]]:
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
        (L,) penalties and for each its gradient, if wanted.
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
        return _subtracted(points, pairs_bb, scales, total, wanted)
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


def _subtracted(
    points: list[Tensor], pairs_bb: Tensor, scales: Tensor, total: float, wanted: bool
) -> tuple[Tensor, list[Tensor]]:
    """The same where some points are so near each other that products have lost their distance."""
    n = len(pairs_bb)
    i, j = torch.triu_indices(n, n, 1, device=pairs_bb.device)
    distances_of = _by_difference if pairs_bb.device.type == "mps" else _by_pdist
    pairs = 2 * pairs_bb[i, j]
    with torch.enable_grad():
        inputs, *features = (x.detach().requires_grad_(wanted) for x in points)
        distances = torch.stack([distances_of(x, i, j) for x in features])
        gaps = distances_of(inputs.detach(), i, j) - scales[:, None] * distances
        penalties = (pairs * gaps.square()).sum(1) / total
        gradients = torch.autograd.grad(penalties.sum(), features) if wanted else []
    return penalties.detach(), list(gradients)


def _by_pdist(x: Tensor, *_: Tensor) -> Tensor:
    distances: Tensor = torch.pdist(x)
    return distances


def _by_difference(x: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """What Apple's MPS, which has no pdist, can do; it takes more memory."""
    distances: Tensor = torch.linalg.vector_norm(x[i] - x[j], dim=1)
    return distances

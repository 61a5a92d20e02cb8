"""All pairs of a small batch on a processor, in as few operations as possible.

In a small batch, starting an operation costs more than its arithmetic. At 100 samples this file
needs a fifth less time than blocks, which makes the penalty no slower than a plain implementation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from isoreg._pairs.plan import Answer, Call, Total
from isoreg._pairs.precision import CANCELLED, SMALLEST, can_look
from isoreg.masks import weights_between

_SAMPLES, _PRODUCTS = 128, 2e7
"""Above either number, it pays to leave out the pairs that do not count."""


def is_small(call: Call) -> bool:
    """Whether a call is small and has only points and class numbers: no tables, no soft labels."""
    products = call.size * call.size * sum(x.shape[1] for x in call.points)
    plain = not (call.is_soft or call.has_tables or call.plans) and call.rows is None
    return plain and can_look(call.device) and 0 < products < _PRODUCTS and call.size <= _SAMPLES


def gaps_of(targets: Tensor, distances: Tensor, scale: Tensor | float) -> Tensor:
    """D - s d, in one operation."""
    if isinstance(scale, Tensor):
        return torch.addcmul(targets, distances, scale, value=-1)
    return torch.sub(targets, distances, alpha=scale)


def compare(call: Call, scale: Tensor | float, total: Total, *, needs_grad: bool) -> Answer | None:
    """Sums and gradients from points relative to the mean; None if a pair loses digits by that."""
    n, points = call.size, [x - x.mean(0) for x in call.points]
    squares = points[0].new_empty(len(points), n, n)
    for square, x in zip(squares.unbind(), points, strict=True):
        torch.mm(x, x.mT, out=square)
    norms = squares.diagonal(dim1=1, dim2=2)
    sums = norms[:, :, None] + norms[:, None]
    torch.sub(sums, squares, alpha=2, out=squares)
    excess = torch.sub(squares, sums, alpha=CANCELLED[squares.dtype], out=sums)
    excess.diagonal(dim1=1, dim2=2).fill_(1)
    if not excess.min().item() > SMALLEST[squares.dtype]:
        return None
    distances, labels = squares.sqrt_(), call.labels
    weights = None if labels is None else weights_between(labels, labels, squares.dtype)
    scale = scale.to(squares).view(-1, 1, 1) if isinstance(scale, Tensor) else scale
    targets, distances = distances[:1], distances[1:]
    gaps = gaps_of(targets, distances, scale)
    pulls = gaps.clone() if weights is None else gaps * weights
    values = gaps.mul_(pulls).sum((1, 2)) / total
    if not needs_grad:
        return Answer(values, [])
    distances.diagonal(dim1=1, dim2=2).fill_(1)
    pulls = pulls.mul_(scale * (4 / total)).div_(distances)
    pulls.diagonal(dim1=1, dim2=2).sub_(pulls.sum(2))
    pairs = zip(pulls.unbind(), points[1:], strict=True)
    return Answer(values, [torch.mm(w, x) for w, x in pairs])

"""The backend of torch that computes all pairs of the rows at once, and leaves some out.

On a processor it serves batches so small that an operation costs more than its arithmetic. On an
accelerator it serves all: it looks at no value, and no shape depends on one. There it computes in
float64 where the device has it, so that no pair needs to be subtracted directly.

Axes: l = inputs and layers, r = rows, n = columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from isoreg._pairs.backends.torch_blocks import rounding
from isoreg._pairs.plan import Call, known_pairs, label_weights
from isoreg._pairs.precision import CANCELLED, LostDigitsError, full_precision
from isoreg.distances import exact_dtype

_SMALL = 128 * 128
_AT_ONCE = 1 << 24
# A square below this share of |a|^2 + |b|^2 is that of equal points, but for rounding.
_EQUAL = {torch.float32: 1e-5, torch.float64: 1e-13}


def refuses(call: Call) -> str | None:
    """Large batches on a processor are computed by blocks."""
    if not _waits(call):
        return None
    if (call.own.stop - call.own.start) * call.size > _SMALL:
        return "by blocks it is faster"
    return rounding(call)


def moments(call: Call) -> Tensor:
    """(2, L) sums of G D d and of G d^2."""
    exact = exact_dtype(call.features[0].device)
    sums = call.features[0].new_zeros(2, len(call.features), dtype=exact)
    for part in _parts(call):
        targets, distances, weights, *_ = _distances(part)
        weighed = distances * weights
        sums[0] += (weighed * targets).sum((1, 2), dtype=exact)
        sums[1] += (weighed * distances).sum((1, 2), dtype=exact)
    return sums


def values_and_gradients(
    call: Call, scales: Tensor, total: Tensor | float, *, needs_grad: bool
) -> tuple[Tensor, list[Tensor]]:
    """(L,) sums of G (D - s d)^2 divided by a number, and for each its gradient (r, d)."""
    found = [_values(part, scales, total, needs_grad) for part in _parts(call)]
    if len(found) == 1:
        return found[0]
    values = torch.stack([value for value, _ in found]).sum(0)
    return values, [torch.cat(parts) for parts in zip(*(g for _, g in found), strict=True)]


def _values(
    call: Call, scales: Tensor, total: Tensor | float, needs_grad: bool
) -> tuple[Tensor, list[Tensor]]:
    try:
        targets, distances, weights, equal, centred = _distances(call)
    except LostDigitsError:
        if call.rows is not None:
            raise
        return _subtracted(call, scales, total, needs_grad)
    dtype, scale = call.features[0].dtype, scales.to(distances)[:, None, None]
    gaps = torch.addcmul(targets, distances, scale, value=-1)
    pulls = gaps * weights
    values = (gaps.mul_(pulls).sum((1, 2)) / total).to(dtype)
    if not needs_grad:
        return values, []
    if equal is not None:
        pulls, distances = pulls.masked_fill_(equal, 0), distances.masked_fill_(equal, 1)
    pulls = pulls.mul_(scale * (4 / total)).div_(distances)
    # sum_j W_ij (phi_j - phi_i) is one product: nothing else stands on the diagonal
    pulls.diagonal(call.own.start, 1, 2).sub_(pulls.sum(2))
    with full_precision(pulls.device):
        gradients = [torch.mm(w, x).to(dtype) for w, x in zip(pulls.unbind(), centred, strict=True)]
    return values, gradients


def _subtracted(
    call: Call, scales: Tensor, total: Tensor | float, needs_grad: bool
) -> tuple[Tensor, list[Tensor]]:
    """The same from points that are subtracted one by one."""
    i, j = torch.triu_indices(call.size, call.size, 1)
    dtype = call.features[0].dtype
    pairs = 2 * _weights(call, dtype)[0][i, j]
    if call.inputs is not None:
        targets = torch.pdist(call.inputs)
    else:
        assert call.targets is not None
        targets = call.targets[i, j]
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_(needs_grad) for x in call.features]
        distances = torch.stack([torch.pdist(x) for x in leaves])
        gaps = targets - scales.to(dtype)[:, None] * distances
        values = (pairs * gaps.square()).sum(1) / total
        gradients = torch.autograd.grad(values.sum(), leaves) if needs_grad else []
    return values.detach(), list(gradients)


def _distances(call: Call) -> tuple[Tensor, Tensor, Tensor, Tensor | None, list[Tensor]]:
    """Distances of inputs and of layers, weights, which points are equal, and centred features."""
    waits, points, own = _waits(call), call.points, call.own
    dtype = points[0].dtype if waits else exact_dtype(points[0].device)
    weights, origins = _weights(call, dtype)
    pairs = (weights != 0).to(dtype) if call.is_soft or call.weights is not None else weights
    wide = [x.to(dtype) for x in points]
    centred = [torch.sub(x, x.index_select(0, origins)) for x in wide]
    products = centred[0].new_empty(len(points), *weights.shape)
    with full_precision(products.device):
        for product, x in zip(products.unbind(), centred, strict=True):
            torch.mm(x[own], x.mT, out=product)
    if call.rows is None:  # from the products, so that equal points cancel exactly
        norms = products.diagonal(dim1=1, dim2=2)
    else:
        norms = torch.stack([x.square().sum(1) for x in centred])
    sums = (norms[:, own, None] + norms[:, None]).mul_(pairs)
    # pairs that do not count are at distance 1; but what is not finite stays so
    squares = sums.add(products.mul_(pairs), alpha=-2).add_(1 - pairs)
    equal = None
    if not waits:
        equal = squares <= _EQUAL[dtype] * sums
        squares.masked_fill_(equal, 0)
    elif squares.numel() and torch.sub(squares, sums, alpha=CANCELLED[dtype], out=sums).min() <= 0:
        raise LostDigitsError("points of a class are near each other")
    distances = squares.sqrt_()
    if call.inputs is None:
        assert call.targets is not None
        return call.targets.to(dtype), distances, weights, equal, centred
    return distances[0], distances[1:], weights, None if equal is None else equal[1:], centred[1:]


def _weights(call: Call, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """How much each pair weighs, and a member of the same class for each column.

    Returns:
        (r, n) weights, 0 for a sample with itself; and (n,) positions of members, from which
        products of points keep their digits.
    """
    own, first, labels = call.own, call.features[0], call.labels
    weights = label_weights(call, dtype)
    if labels is None or weights is None or call.is_soft or call.size == 0:
        origins = torch.zeros(call.size, dtype=torch.long, device=first.device)
    elif call.rows is None:
        origins = weights.argmax(1)
    else:
        ordered, order = labels.long().sort()
        origins = order[torch.searchsorted(ordered, labels.long())]
    if call.weights is not None:
        given = call.weights.to(dtype)
        weights = given.clone() if weights is None else weights.mul_(given)
    elif weights is None:
        weights = first.new_ones(own.stop - own.start, call.size, dtype=dtype)
    weights.diagonal(own.start).zero_()
    return weights, origins


def _parts(call: Call) -> Iterator[Call]:
    """The same call with clean tables, a few rows at a time, to bound the memory."""
    own, targets, weights = call.own, call.targets, call.weights
    if call.has_tables:
        pairs = label_weights(call, call.features[0].dtype)
        targets, weights = known_pairs(call, None if pairs is None else pairs > 0)
        call = replace(call, targets=targets, weights=weights, plans={})
    step = max(1, _AT_ONCE // max(1, call.size * (len(call.features) + 1)))
    if own.stop - own.start <= step:
        yield call
        return
    for start in range(own.start, own.stop, step):
        rows = slice(start, min(start + step, own.stop))
        part = slice(rows.start - own.start, rows.stop - own.start)
        tables = [None if x is None else x[part] for x in (targets, weights)]
        yield replace(call, rows=rows, targets=tables[0], weights=tables[1], plans={})


def _waits(call: Call) -> bool:
    """Whether values can be looked at without waiting for a device."""
    return call.features[0].device.type == "cpu"

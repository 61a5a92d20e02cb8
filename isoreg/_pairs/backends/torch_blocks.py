"""The backend of torch: blocks of pairs by batched products of matrices, on any device.

On a processor a block holds classes of similar size, or a tile of a large class. On an accelerator
blocks hold all pairs, and labels act as weights, because reading a value would wait for the device.

Axes: l = inputs and layers, c = class or a piece of one, a = row, b = column, d = dimension.

With D_ij = |x_i - x_j| and d_ij = |phi_i - phi_j| the sum over pairs is
S = sum_ij G_ij (D_ij - s d_ij)^2, and its gradient is

    dS / dphi_i = 4 sum_j W_ij (phi_j - phi_i),    W_ij = s G_ij (D_ij - s d_ij) / d_ij,

with W_ij = 0 where d_ij = 0. It takes one more matrix product, and no graph through the distances.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from isoreg._pairs.backends import torch_small
from isoreg._pairs.backends.torch_plan import AT_ONCE, Block, add, plan_blocks, take
from isoreg._pairs.backends.torch_small import gaps_of
from isoreg._pairs.plan import Answer, Call, Scales, Total
from isoreg._pairs.precision import (
    CANCELLED,
    SMALLEST,
    LostDigitsError,
    can_look,
    rounds_products,
)
from isoreg.distances import exact_dtype
from isoreg.masks import weights_between

_PAIRS_AT_ONCE = 1 << 16
"""Pairs, counted once for each layer, that are computed together on a processor."""
_CANCELLED_SHARE = 0.01
"""If a larger share of pairs is cancelled, float64 is faster, because few pairs cancel in it."""
_DIRECT_AT_ONCE = 1 << 20
# On an accelerator, points whose square is below this share of |a|^2 + |b|^2 count as equal.
_EQUAL = {torch.float32: 1e-5, torch.float64: 1e-13}


class Part(NamedTuple):
    """Distances and weights of the pairs of a block, for some of the layers."""

    block: Block
    layers: range
    targets: Tensor  # (1, c, a, b) distances of the inputs
    distances: Tensor  # (l, c, a, b) distances of the layers
    cancelled: Tensor | None  # (l, c, a, b) pairs that lose digits in a product; None: no pair
    weights: Tensor | None  # (c, a, b); None if all pairs weigh 1
    sides: list[tuple[Tensor, Tensor]]  # (c, a, d) rows, (c, b, d) columns, less their origins


def refuses(call: Call) -> str | None:
    """Why this call must be computed in float64 instead; None if it need not be."""
    first = call.features[0]
    if can_look(call.device) and first.dtype == torch.float32 and rounds_products(first.device):
        return "PyTorch is told to round the factors of products in float32"
    return None


def compare(call: Call, scale: Scales, total: Total, *, needs_grad: bool) -> Answer:
    """Sums over the pairs of a call, and gradients."""
    if scale is None:
        return Answer(_moments(call), [])
    if torch_small.is_small(call):
        answer = torch_small.compare(call, scale, total, needs_grad=needs_grad)
        if answer is not None:
            return answer
    features, dtype, wide = call.features, call.features[0].dtype, _wide(call)
    sums = torch.zeros(len(features), dtype=exact_dtype(call.device), device=call.device)
    rows = call.local.stop - call.local.start
    gradients = [x.new_zeros(rows, x.shape[1], dtype=wide) for x in features if needs_grad]
    scales = scale.to(wide).view(-1, 1, 1, 1) if isinstance(scale, Tensor) else scale
    for part in call.plans.pop("parts", None) or _parts(call):
        block, chosen = part.block, slice(part.layers.start, part.layers.stop)
        s = scales[chosen] if isinstance(scales, Tensor) else scales
        gaps = gaps_of(part.targets, part.distances, s)
        pulls = gaps if part.weights is None else gaps * part.weights
        sums[chosen].add_((gaps * pulls).sum((1, 2, 3)), alpha=block.times)
        if needs_grad:
            if part.cancelled is not None:
                part.distances.masked_fill_(part.distances == 0, 1)
            elif block.offset is not None:
                part.distances.diagonal(block.offset, 2, 3).fill_(1)
            pulls = pulls.mul_(s * (4 / total)).div_(part.distances)
            if part.cancelled is not None:
                _pull_cancelled(gradients, pulls, part, call)
            if block.offset is not None:
                pulls.diagonal(block.offset, 2, 3).sub_(pulls.sum(3))
            for pull, layer, sides in zip(pulls.unbind(), part.layers, part.sides, strict=True):
                _pull(gradients[layer], pull, block, sides, call.local.start)
    return Answer((sums / total).to(dtype), [x.to(dtype) for x in gradients])


def _moments(call: Call) -> Tensor:
    """(2, L) sums of G D d and of G d^2."""
    layers, device = len(call.features), call.device
    sums = torch.zeros(2, layers, dtype=exact_dtype(device), device=device)
    parts: Iterable[Part] = _parts(call)
    if (call.local.stop - call.local.start) * call.size * (layers + 1) <= AT_ONCE:
        parts = call.plans["parts"] = list(parts)  # kept for the call that asks for the values next
    for part in parts:
        chosen, d = slice(part.layers.start, part.layers.stop), part.distances
        weighed = d if part.weights is None else d * part.weights
        for index, x in enumerate((part.targets, d)):
            sums[index, chosen].add_((x * weighed).sum((1, 2, 3)), alpha=part.block.times)
    return sums


def _wide(call: Call) -> torch.dtype:
    """The dtype to compute in: float64 where no value may be read to see which digits are lost."""
    return call.features[0].dtype if can_look(call.device) else exact_dtype(call.device)


def _parts(call: Call) -> Iterator[Part]:
    """The blocks of a call, each with as many layers at once as fit in the cache."""
    may_look, wide = can_look(call.device), _wide(call)
    points, skip = [x.to(wide) for x in call.points], 0 if call.inputs is None else 1
    if not may_look and call.labels is not None and not call.is_soft:
        ordered, order = call.labels.sort()
        firsts = order[torch.searchsorted(ordered, call.labels)]  # the first of each sample's class
        points = [x - x[firsts] for x in points]
    tables = call.tables if call.has_tables else (None, None)
    for block in plan_blocks(call):
        targets = None if tables[0] is None else _entries(tables[0], call, block)[None]
        weights = _weights(call, block, tables[1])
        chunks = len(points) * math.prod(block.shape) / _PAIRS_AT_ONCE if may_look else 1
        step = math.ceil(len(points) / max(1, round(chunks)))
        for start in range(0, len(points), step):
            chunk = points[start : start + step]
            sides = [_sides(x, block) for x in chunk]
            distances, cancelled = _distances(sides, chunk, block, may_look=may_look)
            first = max(0, skip - start)  # the first of the chunk that is a layer, not the inputs
            if first:
                targets = distances[:1]
            assert targets is not None
            layers = range(start + first - skip, start + len(chunk) - skip)
            cancelled = None if cancelled is None else cancelled[first:]
            if layers:
                layer = distances[first:]
                yield Part(block, layers, targets, layer, cancelled, weights, sides[first:])


def _entries(table: Tensor, call: Call, block: Block) -> Tensor:
    """(c, a, b) entries of a table of the rows (r, n)."""
    rows, columns, start = block.rows, block.columns, call.local.start
    if isinstance(rows, slice):
        return table[None, rows.start - start : rows.stop - start, columns]
    assert isinstance(columns, Tensor)
    entries: Tensor = table[rows[:, :, None] - start, columns[:, None]]
    return entries


def _weights(call: Call, block: Block, table: Tensor | None) -> Tensor | None:
    """(c, a, b) weights of the pairs; the weight of a sample with itself has no effect."""
    if table is not None:
        entries = _entries(table, call, block).to(_wide(call))
        return entries if block.inside is None else entries * block.inside
    if call.labels is None or block.inside is not None or not isinstance(block.rows, slice):
        return block.inside  # all pairs are within one class
    rows, columns = (take(call.labels, samples) for samples in (block.rows, block.columns))
    return weights_between(rows, columns, _wide(call))


def _sides(x: Tensor, block: Block) -> tuple[Tensor, Tensor]:
    """Rows and columns of a block, relative to a point in their class."""
    # Distances do not change by this, but products keep their digits when the points are far from
    # the origin, or when a class has collapsed far from the others.
    columns = take(x, block.columns)
    if block.origin is None:  # one class: relative to the mean, which is nearer to most points
        origin = columns.mean(1, keepdim=True)
        columns = columns - origin
    else:
        origin = take(x, block.origin)
        columns.sub_(origin)
    if block.offset is None:
        return take(x, block.rows) - origin, columns
    return columns[:, block.offset : block.offset + block.shape[1]], columns


def _distances(
    sides: list[tuple[Tensor, Tensor]], points: list[Tensor], block: Block, *, may_look: bool
) -> tuple[Tensor, Tensor | None]:
    """(l, c, a, b) distances, and which pairs are cancelled because their points almost agree."""
    squares = sides[0][0].new_empty(len(sides), *block.shape)
    for square, (rows, columns) in zip(squares.unbind(), sides, strict=True):
        torch.bmm(rows, columns.mT, out=square)
    if squares.shape[2] == squares.shape[3] and block.offset == 0:
        norms_a = norms_b = squares.diagonal(dim1=2, dim2=3)  # so that equal points cancel exactly
    else:
        norms_a, norms_b = (torch.stack([x[k].square().sum(2) for x in sides]) for k in (0, 1))
    if block.inside is not None:
        # Padding equals the origin. A larger norm makes it look far from all points, so that its
        # pairs are not recomputed. (Where the first row or column of a class is padding, none of
        # the pairs of this class in this block counts.)
        norms_a = norms_a + (1 - block.inside[:, :, 0])
        norms_b = norms_b + (1 - block.inside[:, 0])
    sums = norms_a[..., :, None] + norms_b[..., None, :]
    torch.sub(sums, squares, alpha=2, out=squares)
    if block.offset is not None and norms_a is not norms_b:
        squares.diagonal(block.offset, 2, 3).mul_(0)  # not zero_(), so that NaN stays
    cancelled: Tensor | None
    if may_look:
        cancelled = _recompute_cancelled(squares, sums, points, block)
    else:
        cancelled = squares <= sums.mul_(_EQUAL[squares.dtype])
        squares.masked_fill_(cancelled, 0)
    return squares.sqrt_(), cancelled


def _recompute_cancelled(
    squares: Tensor, sums: Tensor, points: list[Tensor], block: Block
) -> Tensor | None:
    """Recompute pairs whose squares have lost digits, by subtraction; return which they are."""
    excess = torch.sub(squares, sums, alpha=CANCELLED[squares.dtype], out=sums)
    if block.offset is not None:  # a point has distance 0 from itself
        excess.diagonal(block.offset, 2, 3).fill_(1)
    if excess.min().item() > SMALLEST[squares.dtype]:
        return None
    cancelled = excess <= SMALLEST[squares.dtype]
    share = cancelled.sum() / cancelled.numel()
    if share > _CANCELLED_SHARE and squares.dtype != exact_dtype(squares.device):
        raise LostDigitsError("many pairs are so close that products in float32 lose their digits")
    for square, where, x in zip(squares, cancelled, points, strict=True):
        # from the original points, because those relative to an origin were rounded
        for place, rows, columns in _places(where, block, x):
            square[place] = (x[rows] - x[columns]).square_().sum(-1)
    return cancelled


def _places(
    where: Tensor, block: Block, x: Tensor
) -> Iterator[tuple[tuple[Tensor, ...], Tensor, Tensor]]:
    """Marked pairs of a block, a few at a time: indices in it, and positions of their samples."""
    positions = torch.arange(len(x), device="cpu")
    rows, columns = (take(positions, samples) for samples in (block.rows, block.columns))
    for indices in where.nonzero().split(1 + _DIRECT_AT_ONCE // max(1, x.shape[1])):
        c, i, j = place = indices.unbind(1)
        yield place, rows[c, i], columns[c, j]


def _pull_cancelled(gradients: list[Tensor], pulls: Tensor, part: Part, call: Call) -> None:
    """Add cancelled pairs directly to the gradients, without a product, which would lose digits."""
    # on an accelerator the points of such pairs count as equal, and their gradient is 0
    assert part.cancelled is not None
    block, start = part.block, call.local.start
    for pull, layer, where in zip(pulls.unbind(), part.layers, part.cancelled, strict=True):
        gradient, x = gradients[layer], call.features[layer]
        for place, i, j in _places(where, block, x) if can_look(call.device) else ():
            pulled = pull[place][:, None] * (x[j] - x[i])
            gradient.index_add_(0, i - start, pulled)
            if block.times == 2:
                gradient.index_add_(0, j - start, pulled, alpha=-1)
    pulls.masked_fill_(part.cancelled, 0)


def _pull(
    gradient: Tensor, pulls: Tensor, block: Block, sides: tuple[Tensor, Tensor], start: int
) -> None:
    """Add sum_j W_ij (phi_j - phi_i) of a block to the rows of the gradient of a layer."""
    rows, columns = sides
    pulled = torch.bmm(pulls, columns)
    if block.offset is None:  # with an offset, the diagonal of W holds minus the sum of W
        pulled.addcmul_(pulls.sum(2)[..., None], rows, value=-1)
    add(gradient, block.rows, pulled, start)
    if block.times == 2:
        pulled = torch.bmm(pulls.mT, rows).addcmul_(pulls.sum(1)[..., None], columns, value=-1)
        add(gradient, block.columns, pulled, start)

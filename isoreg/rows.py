"""The penalty of some rows of a batch: their pairs with all rows, in closed form.

Axes: c = class or a piece of one, a = own member, m = member, d = dimension.

The own rows are those of this rank; the batch is what all ranks hold, or remember. Value and
gradient are those of `isoreg.blockwise`, with the sum over i left to the own rows:

    S = sum_{i own} sum_j (D_ij - s d_ij)^2,    4 sum_j W_ij (phi_i - phi_j) for each own i.
"""

from __future__ import annotations

import functools
import itertools
from typing import NamedTuple

import torch
from torch import Tensor

from isoreg.blockwise import Comparison, add_moments, compare_distances
from isoreg.distances import exact_dtype
from isoreg.masks import IGNORED
from isoreg.pairs import (
    ZERO,
    Near,
    TooManyNearError,
    add_near,
    recompute_near,
    refuse_rounding,
    take_out,
)
from isoreg.plan import TILE
from isoreg.precision import full_precision

_PADDING = 1.3
_FREE_PADDING = 2048
# Pairs and copied numbers of a block: on a processor they stay in the cache, elsewhere an
# operation costs more than its memory.
_AT_ONCE = {True: (1 << 18, 1 << 19), False: (1 << 21, 1 << 25)}
_SIDE = 128


class Block(NamedTuple):
    """Pieces of classes of similar size.

    Attributes:
        rows: (c, a) positions of own samples in the batch; padding repeats the first.
        columns: (c, m) positions of samples of the same class; padding repeats the first.
        places: (c * a) rows among the own; those of padding are one behind the last.
        mask: (c, a, m) whether a pair is compared: none of a sample with itself, nor padding.
    """

    rows: Tensor
    columns: Tensor
    places: Tensor
    mask: Tensor


def count_pairs(labels: Tensor | None, rows: int, n: int) -> int:
    """Number of ordered pairs i != j of equal label whose i is among the first rows.

    Args:
        labels: (n,) int64, or None for one class.
        rows: How many rows i runs over.
        n: How many samples j runs over.

    Returns:
        The number.

    Example:
        >>> count_pairs(torch.tensor([0, 1, 0, 0]), 2, 4)
        2
    """
    if labels is None:
        return rows * (n - 1)
    _, which, counts = labels.unique(return_inverse=True, return_counts=True)
    others = counts[which[:rows]] - 1
    return int(others[labels[:rows] != IGNORED].sum())


def plan_rows(
    labels: Tensor | None, own: slice, n: int, *, device: torch.device, width: int
) -> list[Block]:
    """Cut the pairs of the own samples with all samples of their class into blocks.

    Args:
        labels: (n,) int64 labels of the whole batch, or None for one class.
        own: The own samples.
        n: Number of samples.
        device: Where the positions are wanted.
        width: Numbers in the widest row, which bounds how many are copied at once.

    Returns:
        Blocks that hold each pair once.

    Example:
        >>> labels = torch.tensor([0, 1, 0, 1, 1, 2])
        >>> blocks = plan_rows(labels, slice(0, 2), 6, device=labels.device, width=1)
        >>> [(tuple(b.rows.shape), tuple(b.columns.shape)) for b in blocks]
        [((2, 1), (2, 3))]
    """
    pairs, numbers = _AT_ONCE[device.type == "cpu"]
    columns = max(_SIDE, numbers // width)
    side = min(TILE, columns)
    pieces = [
        piece
        for mine, members in _classes(labels, own, n)
        for piece in itertools.product(mine.split(side), members.split(side))
    ]
    pieces.sort(key=lambda piece: (len(piece[0]), len(piece[1])))
    return [_block(run, own, device) for run in _similar(pieces, pairs, columns)]


@torch.no_grad()
def rows_and_gradients(
    points: list[Tensor],
    own: slice,
    blocks: list[Block],
    *,
    scales: Tensor,
    total: float,
    wanted: bool,
) -> tuple[Tensor, list[Tensor]]:
    """Sums of (D_ij - s d_ij)^2 over own i and all j divided by a number, and the gradients.

    Args:
        points: Inputs and L layers of the whole batch, (n, d) each, of one dtype.
        own: The own samples.
        blocks: Their pairs.
        scales: (L,) factors s.
        total: What the sums are divided by.
        wanted: Whether to compute gradients.

    Returns:
        (L,) sums, and for each the gradient of the whole batch's sum by the own rows, if wanted.
    """
    try:
        refuse_rounding(points[0])
        return _rows_and_gradients(points, own, blocks, scales, total, wanted)
    except TooManyNearError:
        wide = [x.double() for x in points]
        sums, gradients = _rows_and_gradients(wide, own, blocks, scales, total, wanted)
        dtype = points[0].dtype
        return sums.to(dtype), [gradient.to(dtype) for gradient in gradients]


@torch.no_grad()
def row_moments(points: list[Tensor], blocks: list[Block]) -> Tensor:
    """Sums of D_ij d_ij and of d_ij^2 over own i and all j: what the best scale is made of.

    Args:
        points: Inputs and L layers of the whole batch, (n, d) each, of one dtype.
        blocks: The pairs of the own samples.

    Returns:
        (2, L) both sums for each layer.
    """
    sums = points[0].new_zeros(2, len(points) - 1, dtype=exact_dtype(points[0].device))
    try:
        refuse_rounding(points[0])
        with full_precision(points[0].device):
            for block in blocks:
                _add_block(block, points, functools.partial(add_moments, sums), [])
    except TooManyNearError:
        return row_moments([x.double() for x in points], blocks)
    return sums


def _rows_and_gradients(
    points: list[Tensor],
    own: slice,
    blocks: list[Block],
    scales: Tensor,
    total: float,
    wanted: bool,
) -> tuple[Tensor, list[Tensor]]:
    # what is not finite must be seen also where it has no pair
    lost = torch.stack([x[own].sum() * 0 for x in points]).to(exact_dtype(points[0].device))
    sums = lost[1:] + lost[0]
    # the row behind the last takes what is computed for padding
    count = own.stop - own.start + 1
    gradients = [x.new_zeros(count, x.shape[1]) for x in points[1:] if wanted]
    compare = functools.partial(compare_distances, sums, scales.to(points[0]), total)
    with full_precision(points[0].device):
        for block in blocks:
            _add_block(block, points, compare, gradients)
    dtype = points[0].dtype
    return (sums / total).to(dtype), [gradient[:-1] for gradient in gradients]


def _add_block(
    block: Block,
    points: list[Tensor],
    compare: Comparison,
    gradients: list[Tensor],
) -> None:
    targets: Tensor | None = None
    for index, x in enumerate(points):
        # seen from a member of the class, products keep their digits far from the origin
        origins = x[block.columns[:, :1]]
        left, right = x[block.rows] - origins, x[block.columns] - origins
        distances, near = _distances(left, right, x, block)
        if targets is None:
            targets = distances
            continue
        layer = slice(index - 1, index)
        weights = compare(targets, distances, layer, 1)[0]
        for gradient in gradients[layer]:
            strengths = take_out(weights, near)
            pulls = weights.sum(2, keepdim=True) * left
            pulls.baddbmm_(weights, right, alpha=-1)
            add_near(pulls, strengths, x, block.rows, block.columns, near)
            gradient.index_add_(0, block.places, pulls.flatten(0, 1))


def _distances(
    left: Tensor, right: Tensor, points: Tensor, block: Block
) -> tuple[Tensor, Tensor | None]:
    """(1, c, a, m) distances, 0 where masked; and the pairs that were subtracted directly."""
    sums = left.square().sum(2)[:, :, None] + right.square().sum(2)[:, None]
    squares = torch.baddbmm(sums, left, right.mT, alpha=-2)
    squares = torch.where(block.mask, squares, sums)[None]  # what is masked counts as far apart
    near: Near = recompute_near(squares, sums[None], [points], block.rows, block.columns)
    return squares.clamp_min_(ZERO[squares.dtype]).sqrt_().mul_(block.mask), near[0]


def _classes(labels: Tensor | None, own: slice, n: int) -> list[tuple[Tensor, Tensor]]:
    """The own members and all members of each class in which an own sample has a pair."""
    if labels is None:
        everything = torch.arange(n)
        return [(everything[own], everything)] if n > 1 and own.start < own.stop else []
    ordered, order = labels.sort(stable=True)
    # on an accelerator every small operation would be a launch: only sorting is worth one
    ordered, order = ordered.cpu(), order.cpu()
    values, which, counts = ordered.unique_consecutive(return_inverse=True, return_counts=True)
    is_own = (order >= own.start) & (order < own.stop)
    shares = which[is_own].bincount(minlength=len(counts))
    wanted = (shares > 0) & (counts > 1) & (values != IGNORED)
    kept = wanted[which]
    mine = order[kept & is_own].split(shares[wanted].tolist())
    return list(zip(mine, order[kept].split(counts[wanted].tolist()), strict=True))


def _similar(
    pieces: list[tuple[Tensor, Tensor]], pairs_at_once: int, columns_at_once: int
) -> list[list[tuple[Tensor, Tensor]]]:
    """Cut pieces, sorted by size, into runs that are cheap to pad and small enough to cache."""
    runs: list[list[tuple[Tensor, Tensor]]] = []
    pairs = most = 0
    for mine, members in pieces:
        new = len(mine) * len(members)
        count, widest = len(runs[-1]) + 1 if runs else 1, max(most, len(members))
        padded = count * len(mine) * widest
        cheap = padded <= max(_PADDING * (pairs + new), pairs + new + _FREE_PADDING)
        fits = padded <= pairs_at_once and count * widest <= columns_at_once
        if runs and cheap and fits:
            runs[-1].append((mine, members))
            pairs, most = pairs + new, widest
        else:
            runs.append([(mine, members)])
            pairs, most = new, len(members)
    return runs


def _block(run: list[tuple[Tensor, Tensor]], own: slice, device: torch.device) -> Block:
    rows, columns = (
        torch.nn.utils.rnn.pad_sequence(list(side), batch_first=True, padding_value=-1).to(device)
        for side in zip(*run, strict=True)
    )
    real = (rows >= 0)[:, :, None] & (columns >= 0)[:, None]
    places = torch.where(rows < 0, own.stop, rows) - own.start
    rows, columns = (torch.where(x < 0, x[:, :1], x) for x in (rows, columns))
    return Block(rows, columns, places.flatten(), real & (rows[:, :, None] != columns[:, None]))

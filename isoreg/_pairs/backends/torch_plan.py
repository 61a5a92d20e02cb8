"""Which pairs the backend of torch computes together; c = class or a piece of one."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from isoreg._pairs.plan import Call
from isoreg._pairs.precision import can_look
from isoreg.masks import IGNORED

TILE = 512
"""Classes with more members are cut into tiles of this side, so that temporaries stay in cache."""
_NUMBERS = 1 << 19
"""Tiles of wide points are shorter: they hold this many numbers."""
_PADDING = 1.3
_FREE_PADDING = 2048
_PAIRS = 1 << 18
"""Pairs of a block."""
AT_ONCE = 1 << 24
"""On an accelerator, a tile has as many pairs as make this many distances of inputs and layers."""

# Rows, columns, and how often their pairs count: 0 if the columns are the rows (each order of a
# pair is computed), 2 if a pair stands for both of its orders, 1 if its column is no row.
_Piece: TypeAlias = tuple[Sequence[int], Sequence[int], int]


class Block(NamedTuple):
    """Pieces of classes, of similar size: pairs of some rows with some samples of their class.

    Attributes:
        rows: (c, a) positions in the batch; padding repeats the first of its piece.
        columns: (c, b) positions; the same tensor if they are the rows, else they share none.
        origins: (c, 1) positions of a sample of each class, from which its points are seen; or
            those of each row and each column.
        inside: Of the rows (c, a) and of the columns (c, b): 1, and 0 for padding; None if there
            is none.
        times: How often a pair counts: 2 if it stands for both of its orders, else 1.
    """

    rows: Tensor
    columns: Tensor
    origins: tuple[Tensor, Tensor]
    inside: tuple[Tensor | None, Tensor | None]
    times: int

    @property
    def is_square(self) -> bool:
        """Whether rows are compared with themselves."""
        return self.rows is self.columns

    def rows_from(self, start: int) -> Tensor:
        """(c, a) places among the rows, the first of which stands at the start in the batch."""
        return self.rows - start if start else self.rows


def plan_blocks(call: Call) -> list[Block]:
    """Cut the pairs of the rows with all samples of their class into blocks.

    Pieces of similar size share a block as long as padding them to the largest adds at most 30 %
    to their pairs, or so few pairs that computing them costs less than another round of small
    operations. Each row stands in one square block, also if it pairs with nobody: a row that is
    not finite is seen there. Where labels cannot be looked at, all samples are one class.

    Args:
        call: What is compared.

    Returns:
        The blocks.
    """
    blocks: list[Block] | None = call.plans.get("torch")
    if blocks is None:
        if can_look(call.device):
            side = min(TILE, max(128, _NUMBERS // max(1, *(x.shape[1] for x in call.points))))
        else:
            side = max(1, int((AT_ONCE / (len(call.features) + 1)) ** 0.5))
        pieces = sorted(_pieces(call, side), key=lambda x: (x[2], len(x[0]), len(x[1])))
        runs = _similar(pieces) if can_look(call.device) else ([piece] for piece in pieces)
        origins = _origins(call)
        blocks = [_block(run, call, origins) for run in runs]
        call.plans["torch"] = blocks
    return blocks


def _pieces(call: Call, side: int) -> Iterator[_Piece]:
    for rows, others in _classes(call):
        parts = _cut(rows, side)
        for number, part in enumerate(parts):
            yield part, part, 0
            yield from ((part, other, 2) for other in parts[number + 1 :])
            yield from ((part, other, 1) for rest in others for other in _cut(rest, side))


def _cut(places: Sequence[int], side: int) -> list[Sequence[int]]:
    return [places[start : start + side] for start in range(0, len(places), side)]


def _classes(call: Call) -> Iterator[tuple[Sequence[int], Sequence[Sequence[int]]]]:
    """The rows of each class, and its other samples."""
    local = range(call.local.start, call.local.stop)
    if call.labels is None or call.is_soft or not can_look(call.device):
        yield local, [range(local.start), range(local.stop, call.size)]
        return
    classes: dict[int, list[int]] = {}
    for place, label in enumerate(call.labels.tolist()):
        classes.setdefault(label, []).append(place)
    yield from (([place], []) for place in classes.pop(IGNORED, ()) if place in local)
    for members in classes.values():
        if call.rows is None:
            yield members, []
        else:
            yield [i for i in members if i in local], [[i for i in members if i not in local]]


def _origins(call: Call) -> Tensor | None:
    """(n,) for each sample the first of its class, found without a look at any label."""
    if call.labels is None or call.is_soft or can_look(call.device):
        return None
    ordered, order = call.labels.sort()
    return order[torch.searchsorted(ordered, call.labels)]


def _similar(pieces: list[_Piece]) -> Iterator[list[_Piece]]:
    """Cut pieces, sorted by size, into runs that are cheap to pad and small enough to cache."""
    run: list[_Piece] = []
    pairs = most = 0
    for piece in pieces:
        rows, columns, kind = piece
        pairs, most = pairs + len(rows) * len(columns), max(most, len(columns))
        padded = (len(run) + 1) * len(rows) * most
        cheap = padded <= max(_PADDING * pairs, pairs + _FREE_PADDING) and padded <= _PAIRS
        if run and not (cheap and kind == run[0][2]):
            yield run
            run, pairs, most = [], len(rows) * len(columns), len(columns)
        run.append(piece)
    if run:
        yield run


def _block(run: list[_Piece], call: Call, origins: Tensor | None) -> Block:
    like, kind = call.features[0], run[0][2]
    rows, in_rows = _padded([rows for rows, *_ in run], like)
    first = rows[:, :1]
    if kind:
        columns, in_columns = _padded([columns for _, columns, _ in run], like)
        if in_columns is not None:  # filled with what is at the origin, and is a row
            columns = torch.where(in_columns > 0, columns, first)
    else:
        columns, in_columns = rows, in_rows
    seen = (first, first)
    if origins is not None:
        seen = (origins[rows], origins[columns]) if kind else (origins[rows],) * 2
    return Block(rows, columns, seen, (in_rows, in_columns), max(1, kind))


def _padded(groups: list[Sequence[int]], like: Tensor) -> tuple[Tensor, Tensor | None]:
    """Groups as rows that are filled with their first member, and 1 for what is no filling."""
    device, first, longest = like.device, groups[0], max(map(len, groups))
    if len(groups) == 1 and isinstance(first, range):  # made on the device
        return torch.arange(first.start, first.stop, device=device)[None], None
    filled = [x for group in groups for x in (*group, *[group[0]] * (longest - len(group)))]
    # torch.tensor takes five times as long
    rows = torch.frombuffer(array("q", filled), dtype=torch.int64).view(len(groups), longest)
    if min(map(len, groups)) == longest:
        return rows, None
    inside = rows.ne(rows[:, :1]).to(like.dtype)
    inside[:, 0] = 1
    return rows, inside

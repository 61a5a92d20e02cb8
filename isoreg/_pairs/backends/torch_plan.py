"""Which pairs the torch backend computes together: rows of some classes with their members.

Axes: c = class, m = its members, a = row, b = column.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from isoreg._pairs.plan import Call
from isoreg._pairs.precision import can_look
from isoreg.masks import IGNORED

TILE = 512
"""Classes with more members are cut into tiles of this side, so that temporaries stay in cache."""
_NUMBERS = 1 << 19
"""Tiles of wide points are shorter: a side holds this many numbers, but 128 points at least."""
_PADDING = 1.3
_FREE_PADDING = 2048
AT_ONCE = 1 << 24
"""On an accelerator, a tile has at most this many distances, of inputs and all layers together."""

Samples: TypeAlias = slice | Tensor
"""Some samples of the batch: a slice, or a tensor (c, a) of some samples of each class."""
_Class: TypeAlias = tuple[list[int], int]  # its members, rows first, and how many of them are rows


class Block(NamedTuple):
    """Rows and columns of classes of similar size, padded to one size.

    Attributes:
        rows: (c, a) samples; padding repeats the first of its class.
        columns: (c, b) samples.
        offset: The column at which the rows begin; None: no row is among the columns.
        times: How often a pair counts: 2 if it stands for both of its orders, else 1.
        origin: (c, 1) the sample of each class from which points are measured; None: their mean.
        inside: (c, a, b) 1, but 0 for padding (never the first row of a class); None without any.
    """

    rows: Samples
    columns: Samples
    offset: int | None
    times: int
    origin: Tensor | None
    inside: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """c, a and b."""
        rows, columns = self.rows, self.columns
        if isinstance(rows, Tensor) and isinstance(columns, Tensor):
            return rows.shape[0], rows.shape[1], columns.shape[1]
        assert isinstance(rows, slice)
        assert isinstance(columns, slice)
        return 1, rows.stop - rows.start, columns.stop - columns.start


def take(x: Tensor, samples: Samples) -> Tensor:
    """(c, a, ...) entries of a tensor for some samples."""
    if isinstance(samples, slice):
        return x[None, samples]
    return x.index_select(0, samples.flatten()).view(*samples.shape, *x.shape[1:])


def add(x: Tensor, samples: Samples, terms: Tensor, start: int) -> None:
    """Add (c, a, d) terms to the entries of some samples; entry 0 is that of sample start."""
    if isinstance(samples, slice):
        x[samples.start - start : samples.stop - start].add_(terms[0])
    else:
        x.index_add_(0, (samples - start).flatten(), terms.flatten(0, 1))


def plan_blocks(call: Call) -> list[Block]:
    """Cut the pairs of the rows with all samples of their class into blocks."""
    # A row that pairs with nobody is compared with itself, so that NaN in it reaches the penalty.
    # Where labels cannot be read without waiting, blocks hold all samples, and labels are weights.
    blocks: list[Block] | None = call.plans.get("torch")
    if blocks is None:
        widths = [x.shape[1] for x in call.points]
        if can_look(call.device):
            side = min(TILE, max(128, _NUMBERS // max(1, *widths)))
        else:
            side = max(1, int((AT_ONCE / len(widths)) ** 0.5))
        if call.labels is None or call.is_soft or not can_look(call.device):
            blocks = [Block(*tile, None) for tile in _tiles(call.local, call.size, side)]
        else:
            dtype, runs = call.features[0].dtype, _similar(_classes(call), side)
            blocks = [block for run in runs for block in _padded(run, side, dtype)]
        call.plans["torch"] = blocks
    return blocks


def _padded(run: list[_Class], side: int, dtype: torch.dtype) -> Iterator[Block]:
    """The blocks of classes that are padded to one size."""
    count, size = max(count for _, count in run), len(run[-1][0])
    members = _indices([x for group, _ in run for x in (*group, *group[:1] * (size - len(group)))])
    members = members.view(len(run), size)
    first, rows, inside = members[:, :1], members[:, :count], None
    if len(run[0][0]) < size or min(count for _, count in run) < count:
        place = torch.arange(size, device="cpu")
        in_rows = place[:count] < _indices([count for _, count in run])[:, None]
        in_columns = place < _indices([len(group) for group, _ in run])[:, None]
        rows = torch.where(in_rows, rows, first)
        inside = (in_rows[:, :, None] & in_columns[:, None]).to(dtype)
    for a, b, offset, times in _tiles(slice(0, count), size, side):
        within = None if inside is None else inside[:, a, b]
        yield Block(rows[:, a], members[:, b], offset, times, first, within)


def _tiles(rows: slice, members: int, side: int) -> Iterator[tuple[slice, slice, int | None, int]]:
    """Rows and columns among members, the column of the first row, and how often a pair counts."""
    if rows.start < rows.stop and members <= side:
        yield rows, slice(0, members), rows.start, 1
        return
    outside = [*_cut(0, rows.start, side), *_cut(rows.stop, members, side)]
    for tile in _cut(rows.start, rows.stop, side):
        yield tile, tile, 0, 1
        yield from ((tile, later, None, 2) for later in _cut(tile.stop, rows.stop, side))
        yield from ((tile, columns, None, 1) for columns in outside)


def _cut(start: int, stop: int, side: int) -> list[slice]:
    return [slice(i, min(i + side, stop)) for i in range(start, stop, side)]


def _classes(call: Call) -> list[_Class]:
    """The classes of the rows, from few members to many."""
    assert call.labels is not None
    labels, local = call.labels.tolist(), call.local
    members: dict[int, list[int]] = {}
    for sample in range(local.start, local.stop):
        members.setdefault(labels[sample], []).append(sample)
    classes = [([sample], 1) for sample in members.pop(IGNORED, ())]
    counts = [len(group) for group in members.values()]
    for sample in (*range(local.start), *range(local.stop, call.size)):
        if labels[sample] in members:
            members[labels[sample]].append(sample)
    classes += zip(members.values(), counts, strict=True)
    return sorted(classes, key=lambda x: (len(x[0]), x[1]))


def _similar(classes: list[_Class], side: int) -> Iterator[list[_Class]]:
    """Cut classes, sorted by size, into runs that are cheap to pad and small enough to cache."""
    # Cheap means at most 30 % more pairs, or so few more that another round of small operations
    # would cost more.
    run: list[_Class] = []
    pairs = most = 0
    for members, count in classes:
        pairs, most = pairs + count * len(members), max(most, count)
        padded = (len(run) + 1) * most * len(members)
        cheap = padded <= max(_PADDING * pairs, pairs + _FREE_PADDING) and padded <= side * side
        if run and not cheap:
            yield run
            run, pairs, most = [], count * len(members), count
        run.append((members, count))
    if run:
        yield run


def _indices(numbers: list[int]) -> Tensor:
    # torch.tensor takes five times as long
    return torch.frombuffer(array("q", numbers), dtype=torch.int64)

"""Which pairs the backend of torch computes together; c = class or a piece of one."""

from __future__ import annotations

import itertools
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from isoreg._pairs.plan import Call
from isoreg.masks import IGNORED

TILE = 512
"""Classes with more members are cut into tiles of this side, so that temporaries stay in cache."""
_PADDING = 1.3
_FREE_PADDING = 2048
# Pairs of a block, and numbers that are copied into a block of rows and other samples.
_PAIRS, _NUMBERS = 1 << 18, 1 << 19

_Piece: TypeAlias = tuple[Tensor, Tensor]


class Block(NamedTuple):
    """Pieces of classes of similar size; of a large class all tiles.

    Attributes:
        rows: (c, a) positions in the batch; padding repeats the first of its piece.
        columns: (c, b) positions; None if they are the rows.
        mask: (c, a, b) 1 for the pairs that are compared, else 0; None if all i != j are.
        tiles: Which rows and which columns are compared at once.
    """

    rows: Tensor
    columns: Tensor | None
    mask: Tensor | None
    tiles: list[tuple[slice, slice]]

    def count_pairs(self) -> int:
        """Number of ordered pairs i != j."""
        if self.mask is not None:
            return int(self.mask.sum().item())
        c, a = self.rows.shape
        return c * a * (a - 1)


class Plan(NamedTuple):
    """Every pair of the rows with samples of their class, once.

    Attributes:
        blocks: The pairs.
        alone: (k,) positions of the rows that pair with nobody.
    """

    blocks: list[Block]
    alone: Tensor


def plan_pairs(call: Call) -> Plan:
    """Cut the pairs of the rows with all samples of their class into blocks.

    Classes are sorted by size, and those next to each other share a block as long as padding them
    to the largest adds at most 30 % to their pairs, or so few pairs that computing them costs less
    than another round of small operations.

    Args:
        call: What is compared.

    Returns:
        The plan; its blocks and lone samples hold each row of a square call once.
    """
    found: Plan | None = call.plans.get("torch")
    if found is None:
        pieces, large = [], []
        columns = max(128, _NUMBERS // max(1, *(x.shape[1] for x in call.points)))
        side = min(TILE, columns)
        classes, alone = _classes(call)
        for mine, members in classes:
            if call.rows is not None:
                pieces += list(itertools.product(mine.split(side), members.split(side)))
            elif len(members) > TILE:
                large.append(_large(members))
            else:
                pieces.append((members, members))
        pieces.sort(key=lambda piece: (len(piece[0]), len(piece[1])))
        limit = call.size if call.rows is None else columns
        blocks = [_block(run, call) for run in _similar(pieces, limit)]
        found = Plan(blocks + large, alone)
        call.plans["torch"] = found
    return found


def _classes(call: Call) -> tuple[list[_Piece], Tensor]:
    """The rows and all members of each class in which a row has a pair; and rows without one."""
    own, n, device = call.own, call.size, call.features[0].device
    if call.labels is None or call.is_soft:
        every = torch.arange(n, device=device)
        some = n > 1 and own.start < own.stop
        return ([(every[own], every)], every[:0]) if some else ([], every[own])
    ordered, order = call.labels.long().sort(stable=True)
    values, counts = ordered.unique_consecutive(return_counts=True)
    kept = (counts > 1) & (values != IGNORED)
    groups = [g for g, use in zip(order.split(counts.tolist()), kept.tolist(), strict=True) if use]
    alone = order[~kept.repeat_interleave(counts)]
    if call.rows is None:
        return [(group, group) for group in groups], alone
    mine = [g[(g >= own.start) & (g < own.stop)] for g in [*groups, alone]]
    pairs = zip(mine[:-1], groups, strict=True)
    return [pair for pair in pairs if len(pair[0])], mine[-1]


def _similar(pieces: list[_Piece], limit: int) -> list[list[_Piece]]:
    """Cut pieces, sorted by size, into runs that are cheap to pad and small enough to cache."""
    runs: list[list[_Piece]] = []
    pairs = most = 0
    for mine, members in pieces:
        new = len(mine) * len(members)
        widest, count = max(most, len(members)), len(runs[-1]) + 1 if runs else 1
        padded = count * len(mine) * widest
        cheap = padded <= max(_PADDING * (pairs + new), pairs + new + _FREE_PADDING)
        if runs and cheap and padded <= _PAIRS and count * widest <= limit * _PADDING:
            runs[-1].append((mine, members))
            pairs, most = pairs + new, widest
        else:
            runs.append([(mine, members)])
            pairs, most = new, len(members)
    return runs


def _block(run: list[_Piece], call: Call) -> Block:
    whole = [(slice(None), slice(None))]
    rows, keep_rows = _padded([mine for mine, _ in run])
    if call.rows is None:
        if keep_rows is None:
            return Block(rows, None, None, whole)
        keep = keep_rows[:, :, None] & keep_rows[:, None]
        keep &= ~torch.eye(rows.shape[1], dtype=torch.bool, device=rows.device)
        return Block(rows, None, keep.to(call.features[0].dtype), whole)
    columns, keep_columns = _padded([members for _, members in run])
    keep = rows[:, :, None] != columns[:, None]
    for some, kept in ((keep_rows, 2), (keep_columns, 1)):
        if some is not None:
            keep &= some.unsqueeze(kept)
    return Block(rows, columns, keep.to(call.features[0].dtype), whole)


def _padded(groups: list[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Groups as rows that are filled with their first member, and which are no filling."""
    if len({len(group) for group in groups}) == 1:
        return torch.stack(groups), None
    rows = torch.nn.utils.rnn.pad_sequence(groups, batch_first=True, padding_value=-1)
    keep = rows >= 0
    return torch.where(keep, rows, rows[:, :1]), keep


def _large(members: Tensor) -> Block:
    tiles = [slice(start, start + TILE) for start in range(0, len(members), TILE)]
    pairs = [(a, b) for number, a in enumerate(tiles) for b in tiles[number:]]
    return Block(members[None], None, None, pairs)


def places_of(block: Block, own: slice) -> Tensor:
    """(c * a) where the results of a block's rows belong; those of padding go behind the last."""
    rows = block.rows - own.start
    is_padding = torch.zeros_like(rows, dtype=torch.bool)
    if block.mask is not None:
        is_padding[:, 1:] = rows[:, 1:] == rows[:, :1]
    places: Tensor = rows.masked_fill(is_padding, own.stop - own.start).flatten()
    return places

"""Labels -> blocks of pairs: which rows of a batch are multiplied with which others."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from isoreg.masks import IGNORED

TILE = 512
"""Classes with more members are cut into tiles of this side, so that temporaries stay in cache."""
_MASKED = 128
_PADDING = 1.3
_FREE_PADDING = 2048
_BUCKET_PAIRS = 1 << 18


@dataclass(frozen=True)
class Bucket:
    """Classes of similar size, each compared within itself; c = classes, m = members.

    Attributes:
        rows: (c, m) positions in the batch; padding repeats the first of its class.
        origins: (c, m) or (c, 1) a member of the same class for each row.
        places: (c * m) where results belong; those of padding go to row N, behind the last.
        mask: (c, m, m) 1 for the pairs that are compared, else 0; None if all i != j are.
    """

    rows: Tensor
    origins: Tensor
    places: Tensor
    mask: Tensor | None

    def count_pairs(self) -> int:
        """Number of ordered pairs i != j."""
        c, m = self.rows.shape
        if self.mask is None:
            return c * m * (m - 1)
        return int(self.mask.sum().item())


@dataclass(frozen=True)
class Plan:
    """Every pair of equal label, once.

    Attributes:
        buckets: Small classes, compared many at a time.
        large: Positions of the members of each class that is compared tile by tile.
        alone: Positions of the samples that pair with nobody.
        small: The only bucket, if it holds the whole batch in its order.
    """

    buckets: list[Bucket]
    large: list[Tensor]
    alone: Tensor
    small: Bucket | None = None

    def count_pairs(self) -> int:
        """Number of ordered pairs i != j."""
        in_buckets = sum(bucket.count_pairs() for bucket in self.buckets)
        return in_buckets + sum(len(group) * (len(group) - 1) for group in self.large)


def plan_pairs(labels: Tensor | None, n: int, *, device: torch.device, dtype: torch.dtype) -> Plan:
    """Group a batch by label.

    Classes are sorted by size, and those next to each other share a bucket as long as padding
    them to the largest adds at most 30 % to their pairs, or so few pairs that computing them
    costs less than another round of small operations. A batch so small that sorting it costs more
    than it saves is one bucket with a mask.

    Args:
        labels: (n,) integers, or None for one class that holds everything.
        n: Number of samples.
        device: Where the positions are wanted.
        dtype: Floating dtype of the masks.

    Returns:
        The plan; its buckets, large classes and lone samples hold each position once.

    Example:
        >>> labels = torch.arange(1000) % 300
        >>> plan = plan_pairs(labels, 1000, device=labels.device, dtype=torch.float32)
        >>> [tuple(bucket.rows.shape) for bucket in plan.buckets], plan.count_pairs()
        ([(300, 4)], 2400)
    """
    if labels is not None and 0 < n <= _MASKED:
        return _masked_plan(labels.to(device), dtype)
    groups = _classes(labels, n, device)
    groups.sort(key=len)
    lone = [group for group in groups if len(group) < 2]
    small = [group for group in groups if 2 <= len(group) <= TILE]
    return Plan(
        buckets=[_bucket(part, n, dtype) for part in _similar(small)],
        large=[group for group in groups if len(group) > TILE],
        alone=torch.cat(lone) if lone else torch.empty(0, dtype=torch.long, device=device),
    )


def _masked_plan(labels: Tensor, dtype: torch.dtype) -> Plan:
    rows = torch.arange(len(labels), device=labels.device)
    labels = labels.long()  # in uint8, class 156 equals IGNORED
    equal = labels[:, None] == labels
    firsts = equal.to(dtype).argmax(1)
    pairs = equal.logical_and_(labels != IGNORED).to(dtype).fill_diagonal_(0)
    bucket = Bucket(rows[None], firsts[None], rows, pairs[None])
    return Plan([bucket], [], rows[:0], small=bucket)


def _classes(labels: Tensor | None, n: int, device: torch.device) -> list[Tensor]:
    """Positions of the members of each class; ignored samples are classes of one."""
    if labels is None:
        return [torch.arange(n, device=device)]
    ordered, order = labels.to(device).long().sort(stable=True)
    values, counts = ordered.unique_consecutive(return_counts=True)
    groups = list(order.split(counts.tolist()))
    known = values.tolist()
    if IGNORED in known:
        groups += groups.pop(known.index(IGNORED)).split(1)
    return groups


def _similar(groups: list[Tensor]) -> list[list[Tensor]]:
    """Cut classes, sorted by size, into runs that are cheap to pad and small enough to cache."""
    runs: list[list[Tensor]] = []
    own = 0
    for group in groups:
        pairs = len(group) ** 2
        padded = (len(runs[-1]) + 1) * pairs if runs else 0
        cheap = padded <= max(_PADDING * (own + pairs), own + pairs + _FREE_PADDING)
        if runs and cheap and padded <= _BUCKET_PAIRS:
            runs[-1].append(group)
            own += pairs
        else:
            runs.append([group])
            own = pairs
    return runs


def _bucket(groups: list[Tensor], n: int, dtype: torch.dtype) -> Bucket:
    if len(groups[0]) == len(groups[-1]):
        rows = torch.stack(groups)
        return Bucket(rows, rows[:, :1], rows.flatten(), None)
    rows = torch.nn.utils.rnn.pad_sequence(groups, batch_first=True, padding_value=-1)
    padding = rows < 0
    keep = (~padding)[:, :, None].to(dtype)
    return Bucket(
        rows=torch.where(padding, rows[:, :1], rows),
        origins=rows[:, :1],
        places=rows.masked_fill(padding, n).flatten(),
        mask=keep * keep.mT * (1 - torch.eye(rows.shape[1], dtype=dtype, device=rows.device)),
    )

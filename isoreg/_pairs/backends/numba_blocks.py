"""The backend of numba, on a processor: what the compiled loops of `numba_kernels` need, prepared.

Needs numba (the extra ``fast``): without it this file cannot be imported, and torch serves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy
import torch
from torch import Tensor

from isoreg._pairs.backends import numba_kernels
from isoreg._pairs.plan import Answer, Call, Scales, Total
from isoreg._pairs.precision import SMALLEST, LostDigitsError
from isoreg.masks import IGNORED

READS_PAST = True
kernels: Any = numba_kernels  # numba checks the types of what it compiles
_TILE_NUMBERS = 1 << 17
"""Points of a block are as many as hold this many numbers, so that two blocks stay in the cache."""
_TILES = (32, 256)
_CANCELLED: dict[Any, float] = {numpy.float32: 0.1, numpy.float64: 1e-8}
"""As `isoreg._pairs.precision.CANCELLED`; here pairs that are subtracted directly cost little."""
_PAIRS_AT_ONCE = 1 << 18
_ONE_THREAD = 1 << 26
"""A batch of more multiplications goes to the matrix products of several threads, if there are."""


class Blocks(NamedTuple):
    """Every pair of the rows with samples of equal label, as `numba_kernels` takes them.

    Attributes:
        order: (n,) positions in the batch, those of a class together, its rows first.
        blocks: (k, 4) from and to where in ``order`` both sides of a block reach.
        ends: (k,) how many distances a block and those before it hold.
    """

    order: Any
    blocks: Any
    ends: Any

    def chunks(self) -> Iterator[tuple[Any, int]]:
        """As many blocks at once as have distances that stay in the cache, and how many."""
        begin = done = 0
        while begin < len(self.ends):
            stop = max(begin + 1, int(self.ends.searchsorted(done + _PAIRS_AT_ONCE, "right")))
            begin, part, pairs = stop, self.blocks[begin:stop], int(self.ends[stop - 1]) - done
            done += pairs
            yield part, pairs


def refuses(call: Call) -> str | None:
    """What is not on a processor, what numba may not compile, and what many threads do faster."""
    if not kernels.AVAILABLE:
        return "NUMBA_DISABLE_JIT is set"
    points = call.points
    if points[0].device.type != "cpu":
        return f"it is for processors, and the tensors are on {points[0].device.type}"
    if not all(type(x) is Tensor for x in points):
        return "the tensors are of a class of their own"
    if torch.get_num_threads() > 2:
        work = 3 * plan_blocks(call).ends[-1:].sum() * sum(x.shape[1] for x in points)
        if work > _ONE_THREAD:
            return f"{torch.get_num_threads()} threads multiply a large batch faster"
    return None


def plan_blocks(call: Call) -> Blocks:
    """The blocks of a call."""
    plan: Blocks | None = call.plans.get("numba")
    if plan is None:
        width = max(1, *(x.shape[1] for x in call.points))
        side = min(max(_TILES[0], _TILE_NUMBERS // width), _TILES[1])
        one_class = call.labels is None or call.is_soft
        labels = torch.zeros(call.size, device="cpu") if one_class else call.labels
        assert labels is not None
        numbers, local = labels.to("cpu", torch.long).numpy(), call.local
        plan = Blocks(*kernels.blocks_of(numbers, IGNORED, side, local.start, local.stop))
        call.plans["numba"] = plan
    return plan


def compare(call: Call, scale: Scales, total: Total, *, needs_grad: bool) -> Answer:
    """Sums over the pairs of a call, and gradients."""
    points, local, plan = _points(call), call.local, plan_blocks(call)
    layers, total = points[-len(call.features) :], float(total)
    number = numpy.float64 if call.features[0].dtype == torch.float64 else numpy.float32
    scales = scale.tolist() if isinstance(scale, Tensor) else [scale or 1.0] * len(layers)
    rows = (local.stop - local.start) * needs_grad
    gradients = [numpy.zeros((rows, x.shape[1]), number) for x in call.features]
    sums = numpy.zeros((len(layers), 4))
    limit = number(_CANCELLED[number])
    for block, *known in _targets(call, points[0], plan, limit):
        pairs = plan.order, block, local.start, local.stop, limit, *known
        for x, s, *into in zip(layers, scales, sums, gradients, strict=True):
            kernels.compare(x, pairs, number(s), number(4 * s / total), *into)
    if number is numpy.float32 and _are_too_small(layers, sums, plan):
        raise LostDigitsError("squares of distances are too small")
    if scale is None:
        return Answer(torch.from_numpy(sums[:, 1:3].T), [])
    values = torch.from_numpy((sums[:, 0] / total).astype(number))
    kept = [torch.from_numpy(x) for x in gradients if needs_grad]
    return Answer(values, kept, sums[0, 3].item() if call.has_tables else None)


def _are_too_small(layers: list[Any], sums: Any, plan: Blocks) -> bool:
    """Whether points of some layer differ by so little that squares may be rounded to 0."""
    for points, (*_, square, weight) in zip(layers, sums, strict=True):
        if square < SMALLEST[torch.float32] * weight:
            x = numpy.concatenate(points[::-1]) if isinstance(points, tuple) else points
            for start, _, other, end in plan.blocks:
                if (x[plan.order[other:end]] != x[plan.order[start]]).any():
                    return True
    return False


def _targets(call: Call, inputs: Any, plan: Blocks, limit: Any) -> Iterator[tuple[Any, Any, Any]]:
    """Chunks of blocks, their inputs' distances, and weights."""
    weighed, number = call.has_tables or call.is_soft, type(limit)
    for part, pairs in plan.chunks():
        targets, shares = numpy.empty(pairs, number), numpy.ones(pairs * weighed, number)
        if call.is_soft and call.labels is not None:
            (labels,) = _arrays([call.labels.to(call.features[0].dtype)])
            kernels.input_distances(labels, plan.order, part, number(-1), shares)
        for table, into in ((call.weights, targets[:0]), (call.targets, targets)):
            if table is None:
                continue
            (numbers,) = _arrays([table])
            least, largest, difference = kernels.read_table(
                numbers, plan.order, part, call.local.start, shares, into
            )
            if least < 0 or not largest < float("inf") or difference > 1e-3 * largest:
                _ = call.known  # says which entry it is
        if call.inputs is not None:
            kernels.input_distances(inputs, plan.order, part, limit, targets)
        yield part, targets, shares


def _points(call: Call) -> list[Any]:
    """Inputs, if points, and features; with a queue in pairs, of this batch and before it."""
    own = _arrays(call.points)
    return own if call.past is None else [*zip(own, _arrays(call.past), strict=True)]


def _arrays(points: Sequence[Tensor]) -> list[Any]:
    return [x.contiguous().numpy(force=True) for x in points]

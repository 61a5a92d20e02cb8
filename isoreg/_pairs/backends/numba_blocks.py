"""The numba backend for processors, which prepares what the compiled loops of `numba_kernels` need.

Needs numba (the extra ``fast``): without it this file cannot be imported, and torch is used.
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
"""The points of a side of a tile hold about this many numbers, so that two sides stay in cache."""
_TILES = (32, 256)  # the fewest and the most points of a side
_CANCELLED: dict[Any, float] = {numpy.float32: 0.1, numpy.float64: 1e-8}
"""Like `isoreg._pairs.precision.CANCELLED`; direct subtraction is cheap here, so 0.1 in float32."""
_PAIRS_AT_ONCE = 1 << 18
_ONE_THREAD = 1 << 26
"""With more multiplications, torch's matrix products are faster if there are several threads."""


class Blocks(NamedTuple):
    """All pairs of the rows with samples of equal label, in the form that `numba_kernels` takes.

    Attributes:
        order: (n,) positions in the batch, class by class, in each class its rows first.
        blocks: (k, 4) start and stop in ``order`` of side a of a block, and of its side b.
        ends: (k,) number of distances in a block and in all blocks before it.
    """

    order: Any
    blocks: Any
    ends: Any

    def chunks(self) -> Iterator[tuple[Any, int]]:
        """Runs of blocks whose distances stay in the cache, each with its number of distances."""
        begin = counted = 0
        while begin < len(self.ends):
            stop = max(begin + 1, int(self.ends.searchsorted(counted + _PAIRS_AT_ONCE, "right")))
            begin, run, pairs = stop, self.blocks[begin:stop], int(self.ends[stop - 1]) - counted
            counted += pairs
            yield run, pairs


def refuses(call: Call) -> str | None:
    """Why numba cannot or should not compute this call; None if it can."""
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
    for run, *tables in _targets(call, points[0], plan, limit):
        pairs = plan.order, run, local.start, local.stop, limit, *tables
        for x, s, *into in zip(layers, scales, sums, gradients, strict=True):
            kernels.compare(x, pairs, number(s), number(4 * s / total), *into)
    if number is numpy.float32 and _are_too_small(layers, sums, plan):
        raise LostDigitsError("squares of distances are too small")
    if scale is None:
        return Answer(torch.from_numpy(sums[:, 1:3].T), [])
    values = torch.from_numpy((sums[:, 0] / total).astype(number))
    tensors = [torch.from_numpy(x) for x in gradients if needs_grad]
    return Answer(values, tensors, sums[0, 3].item() if call.has_tables else None)


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
    """Runs of blocks, with the input distances and the weights of their pairs."""
    weighed, number = call.has_tables or call.is_soft, type(limit)
    for run, pairs in plan.chunks():
        targets, shares = numpy.empty(pairs, number), numpy.ones(pairs * weighed, number)
        if call.is_soft and call.labels is not None:
            (labels,) = _arrays([call.labels.to(call.features[0].dtype)])
            kernels.input_distances(labels, plan.order, run, number(-1), shares)
        for table, into in ((call.weights, targets[:0]), (call.targets, targets)):
            if table is None:
                continue
            (numbers,) = _arrays([table])
            least, largest, difference = kernels.read_table(
                numbers, plan.order, run, call.local.start, shares, into
            )
            if least < 0 or not largest < float("inf") or difference > 1e-3 * largest:
                _ = call.tables  # raises the error that names the wrong entry
        if call.inputs is not None:
            kernels.input_distances(inputs, plan.order, run, limit, targets)
        yield run, targets, shares


def _points(call: Call) -> list[Any]:
    """Inputs (if they are points) and features; with a queue, pairs of batch and queue."""
    arrays = _arrays(call.points)
    return arrays if call.past is None else [*zip(arrays, _arrays(call.past), strict=True)]


def _arrays(points: Sequence[Tensor]) -> list[Any]:
    return [x.contiguous().numpy(force=True) for x in points]

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
from isoreg._pairs.plan import Call
from isoreg._pairs.precision import CANCELLED
from isoreg.masks import IGNORED

kernels: Any = numba_kernels  # numba checks the types of what it compiles
_TILE_NUMBERS = 1 << 17
"""Points of a block are as many as hold this many numbers, so that two blocks stay in the cache."""
_TILES = (32, 256)
_DTYPES: dict[torch.dtype, Any] = {torch.float32: numpy.float32, torch.float64: numpy.float64}
_PAIRS_AT_ONCE = 1 << 18
_ONE_THREAD = 1 << 26
"""A batch of more multiplications goes to the matrix products of several threads, if there are."""


class Blocks(NamedTuple):
    """Every pair of the rows with samples of equal label, as `numba_kernels` takes them.

    Attributes:
        order: (n,) positions in the batch, those of a class together, its rows first.
        blocks: (k, 4) from and to where in ``order`` both sides of a block reach.
        pairs: How many distances they hold, of points with themselves included.
    """

    order: Any
    blocks: Any
    pairs: int

    def chunks(self) -> Iterator[tuple[Any, int]]:
        """As many blocks at once as have distances that stay in the cache, and how many."""
        if self.pairs <= _PAIRS_AT_ONCE:
            yield self.blocks, self.pairs
            return
        blocks = self.blocks
        sizes = (blocks[:, 1] - blocks[:, 0]) * (blocks[:, 3] - blocks[:, 2])
        numbers = sizes.cumsum() // _PAIRS_AT_ONCE
        for number in range(int(numbers[-1]) + 1):
            chosen = numbers == number
            yield blocks[chosen], int(sizes[chosen].sum())


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
        work = 3 * plan_blocks(call).pairs * sum(x.shape[1] for x in points)
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
        labels = torch.zeros(call.size) if one_class else call.labels
        assert labels is not None
        numbers, local = labels.to("cpu", torch.long).numpy(), call.local
        plan = Blocks(*kernels.blocks_of(numbers, IGNORED, side, local.start, local.stop))
        call.plans["numba"] = plan
    return plan


def moments(call: Call) -> Tensor:
    """(2, L) sums of G D d and of G d^2, in float64."""
    sums, _ = _compare(call, [1.0] * len(call.features), 1.0, needs_grad=False)
    return torch.tensor(sums, dtype=torch.float64)[:, 1:].T


def values_and_gradients(
    call: Call, scales: Tensor, total: Tensor | float, *, needs_grad: bool
) -> tuple[Tensor, list[Tensor]]:
    """(L,) sums of G (D - s d)^2 divided by a number, and for each its gradient (r, d)."""
    total = float(total)
    sums, gradients = _compare(call, scales.tolist(), total, needs_grad=needs_grad)
    values = numpy.array([stress / total for stress, *_ in sums], _DTYPES[call.features[0].dtype])
    kept = gradients if needs_grad else []
    return torch.from_numpy(values), [torch.from_numpy(x) for x in kept]  # faster than tensor()


def _compare(
    call: Call, scales: list[float], total: float, *, needs_grad: bool
) -> tuple[list[list[float]], list[Any]]:
    """(L, 3) sums of G (D - s d)^2, G D d and G d^2, and gradients divided by a number."""
    layers, local, order = _arrays(call.features), call.local, plan_blocks(call).order
    rows, number = (local.stop - local.start) * needs_grad, layers[0].dtype.type
    gradients = [numpy.zeros((rows, x.shape[1]), x.dtype) for x in layers]
    sums = [[0.0] * 3 for _ in layers]
    for part, cancelled, targets, shares in _targets(call):
        pairs = order, part, local.start, local.stop, cancelled, targets, shares
        for index, (x, scale) in enumerate(zip(layers, scales, strict=True)):
            factors = number(scale), number(4 * scale / total)
            terms = kernels.compare(x, *pairs, *factors, gradients[index])
            sums[index] = [a + b for a, b in zip(sums[index], terms, strict=True)]
    return sums, gradients


def _targets(call: Call) -> Iterator[tuple[Any, Any, Any, Any]]:
    """Chunks of blocks, what is cancelled in their dtype, their inputs' distances, and weights."""
    plan, kind = plan_blocks(call), call.features[0].dtype
    dtype, weighed = _DTYPES[kind], call.has_tables or call.is_soft
    cancelled, inputs = dtype(CANCELLED[kind]), call.inputs
    for part, pairs in plan.chunks():
        targets, shares = numpy.empty(pairs, dtype), numpy.ones(pairs * weighed, dtype)
        if call.is_soft and call.labels is not None:
            (labels,) = _arrays([call.labels.to(kind)])
            kernels.input_distances(labels, plan.order, part, dtype(-1), shares)
        if call.weights is not None:
            weights = numpy.zeros(pairs, dtype)  # a pair is read in one of its two orders
            _read(call, call.weights, part, shares, weights, missing=False)
            shares *= weights
        if call.targets is not None:
            _read(call, call.targets, part, shares, targets, missing=True)
        if inputs is not None:
            kernels.input_distances(*_arrays([inputs]), plan.order, part, cancelled, targets)
        yield part, cancelled, targets, shares


def _read(call: Call, table: Tensor, part: Any, shares: Any, out: Any, *, missing: bool) -> None:
    """Entries of a table, refused if one that counts is not usable."""
    (numbers,), order = _arrays([table]), plan_blocks(call).order
    least, largest, difference = kernels.read_table(
        numbers, order, part, call.local.start, missing, shares, out
    )
    if least < 0 or not largest < float("inf") or difference > 1e-3 * largest:
        _ = call.known  # says which entry it is


def _arrays(points: Sequence[Tensor]) -> list[Any]:
    return [x.contiguous().numpy(force=True) for x in points]

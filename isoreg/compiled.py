"""The fast way on a processor where numba is installed: what `isoreg.kernel` needs, prepared.

Without numba (the extra `fast`), on other devices and wherever else `plan_blocks` returns None
`isoreg.blockwise` computes the same.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from isoreg.masks import IGNORED
from isoreg.precision import CANCELLED

_TILE_NUMBERS = 1 << 17
"""Points of a block are as many as hold this many numbers, so that two blocks stay in the cache."""
_TILES = (32, 256)
_PAIRS_AT_ONCE = 1 << 18
_ONE_THREAD = 1 << 26
"""A batch of more multiplications goes to the matrix products of several threads, if there are."""


@dataclass(frozen=True)
class Blocks:
    """Every pair of equal label once, as `isoreg.kernel` takes them.

    Attributes:
        kernel: The compiled functions.
        order: (n,) positions in the batch, those of a class together.
        blocks: (k, 4) from and to where in ``order`` both sides of a block reach.
        together: How many distances they hold, of points with themselves included.
        labels: (n, classes) probabilities that weigh the pairs; None if each counts once.
    """

    kernel: ModuleType
    order: Any
    blocks: Any
    together: int
    labels: Any = None

    @property
    def sizes(self) -> Any:
        """(k,) how many distances each block holds."""
        blocks = self.blocks
        return (blocks[:, 1] - blocks[:, 0]) * (blocks[:, 3] - blocks[:, 2])

    def count_pairs(self) -> float:
        """Number of ordered pairs i != j, or what they weigh together."""
        if self.labels is not None:
            wide = self.labels.astype("float64")
            return float((wide.sum(0) ** 2).sum() - (wide**2).sum())
        own, sizes = self.blocks[:, 0] == self.blocks[:, 2], self.sizes
        return int(sizes[own].sum() + 2 * sizes[~own].sum()) - len(self.order)

    def chunks(self) -> Iterator[tuple[Any, int]]:
        """As many blocks at once as have distances that stay in the cache, and how many."""
        if self.together <= _PAIRS_AT_ONCE:
            yield self.blocks, self.together
            return
        sizes = self.sizes
        numbers = sizes.cumsum() // _PAIRS_AT_ONCE
        for number in range(int(numbers[-1]) + 1):
            chosen = numbers == number
            yield self.blocks[chosen], int(sizes[chosen].sum())


def plan_blocks(points: Sequence[Tensor], labels: Tensor | None) -> Blocks | None:
    """The blocks of a batch, if the compiled way can and should compute it.

    Args:
        points: Inputs and features, (n, d) each, of one dtype.
        labels: (n,) integers, (n, classes) probabilities, or None for one class of all.

    Returns:
        The blocks; None if numba is missing or switched off (``NUMBA_DISABLE_JIT=1``), if the
        tensors are not plain ones on the processor, while `torch.compile` traces, and for large
        batches where torch may use more than two threads.
    """
    kernel = None if torch.compiler.is_compiling() else load_kernel()
    if kernel is None or not all(type(x) is Tensor and x.device.type == "cpu" for x in points):
        return None
    n, width = len(points[0]), max(1, *(x.shape[1] for x in points))
    side = min(max(_TILES[0], _TILE_NUMBERS // width), _TILES[1])
    soft = labels is not None and labels.is_floating_point()
    known = torch.zeros(n) if labels is None or soft else labels
    numbers = known.to("cpu", torch.long).numpy()
    order, blocks, together = kernel.blocks_of(numbers, IGNORED, side)
    if torch.get_num_threads() > 2 and 3 * together * sum(x.shape[1] for x in points) > _ONE_THREAD:
        return None
    (shares,) = _arrays([labels.to(points[0])]) if soft and labels is not None else (None,)
    return Blocks(kernel, order, blocks, together, shares)


@functools.cache
def load_kernel() -> ModuleType | None:
    """The compiled functions, loaded when first needed: importing numba takes half a second.

    Returns:
        `isoreg.kernel`, or None where it cannot be had.
    """
    try:
        from isoreg import kernel
    except (ImportError, RuntimeError):  # not installed, or no place for what it compiles
        return None
    return kernel if kernel.AVAILABLE else None


def penalties_and_gradients(
    inputs: Tensor,
    features: Sequence[Tensor],
    blocks: Blocks,
    *,
    scales: Tensor,
    total: float,
    wanted: bool,
) -> tuple[Tensor, list[Tensor]]:
    """As `isoreg.blockwise.penalties_and_gradients`.

    Args:
        inputs: (n, p) points.
        features: L tensors (n, d), of the dtype of the inputs.
        blocks: The pairs.
        scales: (L,) factors s.
        total: What the sums are divided by.
        wanted: Whether to compute gradients.

    Returns:
        (L,) penalties, and for each its gradient (n, d), if wanted.
    """
    layers, kernel = _arrays(features), blocks.kernel
    number = layers[0].dtype.type
    n = len(inputs) if wanted else 0
    gradients = [torch.zeros(n, x.shape[1], dtype=x.dtype) for x in features]
    into = [x.numpy() for x in gradients]
    sums, factors = [0.0] * len(layers), scales.tolist()
    for part, near, *distances in _input_distances(inputs, blocks):
        for index, (x, scale, gradient) in enumerate(zip(layers, factors, into, strict=True)):
            strength = number(4 * scale / total)
            s = number(scale)
            sums[index] += kernel.penalty_and_gradient(
                x, blocks.order, part, near, *distances, s, strength, gradient
            )
    penalties = torch.tensor([x / total for x in sums], dtype=inputs.dtype)
    return penalties, gradients if wanted else []


def scale_moments(inputs: Tensor, features: Sequence[Tensor], blocks: Blocks) -> Tensor:
    """As `isoreg.blockwise.scale_moments`.

    Args:
        inputs: (n, p) points.
        features: L tensors (n, d), of the dtype of the inputs.
        blocks: The pairs.

    Returns:
        (2, L) float64 sums of G D d and of G d^2.
    """
    layers = _arrays(features)
    sums = torch.zeros(len(layers), 2, dtype=torch.float64)
    for part, near, *distances in _input_distances(inputs, blocks):
        found = [
            blocks.kernel.scale_moments(x, blocks.order, part, near, *distances) for x in layers
        ]
        sums += torch.tensor(found, dtype=torch.float64)
    return sums.T


def _input_distances(inputs: Tensor, blocks: Blocks) -> Iterator[tuple[Any, Any, Any, Any]]:
    """Chunks of blocks, what is near in their dtype, their inputs' distances, and weights."""
    (x,) = _arrays([inputs])
    near = x.dtype.type(CANCELLED[inputs.dtype])
    shares = x[:0, :0].ravel()
    for part, pairs in blocks.chunks():
        targets = torch.empty(pairs, dtype=inputs.dtype).numpy()
        blocks.kernel.input_distances(x, blocks.order, part, near, targets)
        if blocks.labels is not None:
            shares = targets.copy()
            blocks.kernel.pair_weights(blocks.labels, blocks.order, part, shares)
        yield part, near, targets, shares


def _arrays(points: Sequence[Tensor]) -> list[Any]:
    return [x.contiguous().numpy(force=True) for x in points]

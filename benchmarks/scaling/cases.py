"""What is scaled: batches of 256 samples a rank, and the work that they make."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from isoreg._pairs.backends.torch_plan import Block, plan_pairs
from isoreg._pairs.plan import Call, total_weight

PER_RANK = 256


@dataclass(frozen=True)
class Case:
    """Batches of p input numbers and the dimensions of each layer, in c classes (0: all pairs).

    ``feature_bytes`` is the size of a feature as it is sent: 2 under mixed precision.
    """

    name: str
    p: int
    dims: tuple[int, ...]
    classes: int
    feature_bytes: int = 4

    def sample_bytes(self) -> int:
        """Bytes that a sample sends: input, features and label."""
        return 4 * self.p + self.feature_bytes * sum(self.dims) + 8 * (self.classes > 0)

    def labels(self, n: int) -> Tensor | None:
        """Random labels, the same for every length and so for every rank."""
        if self.classes == 0:
            return None
        return torch.randint(self.classes, (n,), generator=torch.Generator().manual_seed(0))

    def call(self, ranks: int) -> Call:
        """What the first rank computes, of random points."""
        n = PER_RANK * ranks
        inputs, *features = self.rows(n)
        return Call(inputs, features, self.labels(n), rows=slice(0, PER_RANK))

    def plan(self, ranks: int) -> list[Block]:
        """The blocks of the first rank, by torch on a processor."""
        n = PER_RANK * ranks
        points = [torch.empty(n, 1).expand(n, d) for d in (self.p, *self.dims)]
        call = Call(points[0], points[1:], self.labels(n), rows=slice(0, PER_RANK))
        return plan_pairs(call).blocks

    def rows(self, n: int) -> list[Tensor]:
        """Random inputs and features."""
        generator = torch.Generator().manual_seed(1)
        return [torch.randn(n, d, generator=generator) for d in (self.p, *self.dims)]


CASES = {
    case.name: case
    for case in (
        Case("digits", 784, (512,), 10),
        Case("pooled images", 3072, (2048,), 1000),
        Case("four layers", 3072, (256, 512, 1024, 2048), 100),
        Case("all pairs", 784, (512,), 0),
        Case("raw images", 150_528, (2048,), 1000),
    )
}


@dataclass(frozen=True)
class Work:
    """What a rank computes in a step.

    Attributes:
        samples: Samples of all ranks, which are sorted by label.
        launches: Operations on blocks: one for each block and each of inputs and layers.
        copied: Numbers that are copied into blocks.
        compared: Pairs times inputs and layers, padding included.
        multiplied: Floating-point operations of the products.
        own_pairs: Pairs i != j of equal label, without padding.
    """

    samples: int
    launches: int
    copied: int
    compared: int
    multiplied: int
    own_pairs: int


def work(case: Case, ranks: int, *, accelerator: bool = False) -> Work:
    """Count the work of the first rank; an accelerator compares all pairs of its rows at once."""
    n = PER_RANK * ranks
    width, layers = case.p + sum(case.dims), 1 + len(case.dims)
    if accelerator:
        blocks, pairs, copied = 1, PER_RANK * n, n
    else:
        plan = case.plan(ranks)
        blocks, pairs, copied = len(plan), 0, 0
        for block in plan:
            assert block.mask is not None
            assert block.columns is not None
            pairs += block.mask.numel()
            copied += block.rows.numel() + block.columns.numel()
    points = torch.empty(n, 0)
    own = Call(points, [points], case.labels(n), rows=slice(0, PER_RANK))
    return Work(
        samples=n,
        launches=layers * blocks,
        copied=width * copied,
        compared=pairs * layers,
        # two products for the distances of each layer and one, as large, for its gradient
        multiplied=pairs * (2 * case.p + 4 * sum(case.dims)),
        own_pairs=int(total_weight(own)),
    )

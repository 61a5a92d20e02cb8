"""What is scaled: batches of 256 samples a rank, and the work that they make."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.internals import Block, count_pairs, plan_rows

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

    def plan(self, ranks: int, device: str) -> list[Block]:
        """The blocks of the first rank."""
        n, width = PER_RANK * ranks, max(self.p, *self.dims)
        own, labels = slice(0, PER_RANK), self.labels(n)
        return plan_rows(labels, own, n, device=torch.device(device), width=width)

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


def work(case: Case, ranks: int, *, device: str = "cpu") -> Work:
    """Count the work of the first rank; "meta" stands for an accelerator."""
    n = PER_RANK * ranks
    blocks = case.plan(ranks, device)
    width, layers = case.p + sum(case.dims), 1 + len(case.dims)
    pairs = sum(block.mask.numel() for block in blocks)
    return Work(
        samples=n,
        launches=layers * len(blocks),
        copied=width * sum(b.rows.numel() + b.columns.numel() for b in blocks),
        compared=pairs * layers,
        # two products for the distances of each layer and one, as large, for its gradient
        multiplied=pairs * (2 * case.p + 4 * sum(case.dims)),
        own_pairs=count_pairs(case.labels(n), PER_RANK, n),
    )

"""The batches that are compared across ranks, of 256 samples per rank, and their sizes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

PER_RANK = 256


@dataclass(frozen=True)
class Case:
    """Samples of p input numbers and ``dims`` features per layer, in ``classes`` (0: all pairs).

    ``feature_bytes`` is the size of one feature number when it is sent: 2 under mixed precision.
    """

    name: str
    p: int
    dims: tuple[int, ...]
    classes: int
    feature_bytes: int = 4

    def sample_bytes(self) -> int:
        """Bytes that are sent for one sample: input, features and label."""
        return 4 * self.p + self.feature_bytes * sum(self.dims) + 8 * (self.classes > 0)

    def labels(self, n: int) -> Tensor | None:
        """Random labels; the fixed seed gives every rank the same, and longer lists begin alike."""
        if self.classes == 0:
            return None
        return torch.randint(self.classes, (n,), generator=torch.Generator().manual_seed(0))

    def rows(self, n: int) -> list[Tensor]:
        """Random inputs, then the features of each layer, from a fixed seed."""
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

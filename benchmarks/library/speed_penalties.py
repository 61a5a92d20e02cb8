"""The penalty written plainly in torch, with a metric-learning library's distance, and ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.internals import without_numba
from isoreg import isometry_penalty


@dataclass(frozen=True)
class Case:
    """One cell of the grid: n samples of p input and d feature dimensions, c classes, layers.

    The sizes of uneven classes follow Zipf's law. Clustered features form ten tight clusters, which
    do not depend on the classes.
    """

    n: int
    d: int
    c: int
    layers: int
    p: int = 784
    uneven: bool = False
    clustered: bool = False

    def __str__(self) -> str:
        kind = ", uneven classes" * self.uneven + ", clustered" * self.clustered
        return f"N {self.n}, D {self.d}, C {self.c}, L {self.layers}{kind}"

    def data(self, device: str = "cpu") -> tuple[Tensor, list[Tensor], Tensor]:
        """Random inputs, features and labels."""
        torch.manual_seed(0)
        shares = 1 / torch.arange(1, self.c + 1) if self.uneven else torch.ones(self.c)
        labels = torch.multinomial(shares.float(), self.n, replacement=True)
        inputs = torch.rand(self.n, self.p)
        features = [torch.randn(self.n, self.d) for _ in range(self.layers)]
        if self.clustered:
            which = torch.randint(10, (self.n,))
            features = [0.05 * x + torch.randn(10, self.d)[which] for x in features]
        moved = [x.to(device).requires_grad_() for x in features]
        return inputs.to(device), moved, labels.to(device)


Penalty = Callable[[Tensor, Sequence[Tensor], Tensor], Tensor]


Table = Callable[[Tensor], Tensor]


def penalty_of(
    distances: Table, inputs: Tensor, features: Sequence[Tensor], labels: Tensor
) -> Tensor:
    """Full distance matrices, a mask and autograd; the layers share the input distances."""
    mask = (labels[:, None] == labels[None, :]).to(inputs.dtype)
    targets = distances(inputs)
    stresses = [(mask * (targets - distances(x))).square().sum() for x in features]
    return torch.stack(stresses) / len(labels) ** 2


def plain(inputs: Tensor, features: Sequence[Tensor], labels: Tensor) -> Tensor:
    """The penalty as one would first write it, with ``torch.cdist``."""
    return penalty_of(lambda x: torch.cdist(x, x), inputs, features, labels)


def metric_learning(inputs: Tensor, features: Sequence[Tensor], labels: Tensor) -> Tensor:
    """The penalty with the distance of pytorch-metric-learning in place of ``torch.cdist``."""
    from pytorch_metric_learning.distances import LpDistance

    return penalty_of(LpDistance(normalize_embeddings=False), inputs, features, labels)


def isoreg_without_numba(inputs: Tensor, features: Sequence[Tensor], labels: Tensor) -> Tensor:
    """The penalty of this library on its torch backend."""
    with without_numba():
        return isometry_penalty(inputs, features, labels)


PENALTIES: dict[str, Penalty] = {
    "isoreg": isometry_penalty,
    "isoreg without numba": isoreg_without_numba,
    "plain": plain,
    "pytorch-metric-learning": metric_learning,
}


def step(penalty: Penalty, case: Case, device: str = "cpu") -> Callable[[], list[Tensor]]:
    """A function that computes the penalties of a case and their gradients."""
    inputs, features, labels = case.data(device)

    def run() -> list[Tensor]:
        total = penalty(inputs, features, labels).sum()
        return list(torch.autograd.grad(total, features))

    return run

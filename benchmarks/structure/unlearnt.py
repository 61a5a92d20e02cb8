"""What images may be compared with before anything is learnt from them but their statistics."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (torch's own convention)

from isoreg import references

_SEED = 0
_PARTS = 500


def whitened(samples: Tensor) -> references.Reference:
    """Principal components of the pixels, standardised as `references.standardized` does.

    Each is divided by the root of its variance and a tenth of the mean variance, so that those that
    hardly vary, which most components of digits are, are not blown up.
    """
    points = samples.flatten(1)
    _, components = torch.linalg.eigh(torch.cov(points.T))
    return references.standardized(lambda x: x.flatten(1) @ components, samples)


def random_convolutions(
    samples: Tensor, *, size: int, filters: int, grid: int
) -> references.Reference:
    """Convolutions with random filters of mean 0, ReLU, and the mean of each cell, standardised.

    A filter has ``size`` pixels a side, and there are ``grid`` cells in each direction.
    """
    draw = torch.Generator().manual_seed(_SEED)
    weights = torch.randn(filters, samples.shape[1], size, size, generator=draw)
    weights = weights - weights.mean((1, 2, 3), keepdim=True)

    def cells(x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(F.conv2d(x, weights).relu(), grid).flatten(1)

    def seen(x: Tensor) -> Tensor:
        return torch.cat([cells(part) for part in x.split(_PARTS)])

    return references.standardized(seen, samples)

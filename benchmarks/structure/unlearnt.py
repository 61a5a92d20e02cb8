"""What images may be compared with before anything is learnt from them but their statistics."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (torch's own convention)

from isoreg import references

_SEED = 0
_PARTS = 500


def whitened(samples: Tensor) -> references.Reference:
    """Principal components of the pixels, each divided by its standard deviation.

    As in `references.standardized` those that hardly vary are not blown up.

    Args:
        samples: (n, c, h, w) images to measure on.
    """
    points = samples.flatten(1)
    _, components = torch.linalg.eigh(torch.cov(points.T))
    return references.standardized(lambda x: x.flatten(1) @ components, samples)


def random_convolutions(
    samples: Tensor, *, size: int, filters: int, grid: int
) -> references.Reference:
    """`references.patches` with random patterns: how much each is seen in each cell, standardised.

    Args:
        samples: (n, c, h, w) images to measure on.
        size: Side of a pattern, in pixels.
        filters: Number of patterns, normal numbers of mean 0.
        grid: Cells in each direction.
    """
    draw = torch.Generator().manual_seed(_SEED)
    weights = torch.randn(filters, samples.shape[1], size, size, generator=draw)
    weights = weights - weights.mean((1, 2, 3), keepdim=True)

    def cells(x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(F.conv2d(x, weights).relu(), grid).flatten(1)

    def seen(x: Tensor) -> Tensor:
        return torch.cat([cells(part) for part in x.split(_PARTS)])

    return references.standardized(seen, samples)

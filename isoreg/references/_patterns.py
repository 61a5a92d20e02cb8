"""Small patterns of images, learnt by k-means, and where images show them.

Axes: n = images, b = batch, p = patches of an image, d = pixels of a patch, f = patterns.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (torch's own convention)

from isoreg.distances import exact_dtype
from isoreg.errors import InputError

_AT_ONCE = 1 << 25
"""As many images are unfolded together as have patches of this many numbers in all."""
_PATCHES = 100_000
_KMEANS_STEPS = 10


class Patterns(NamedTuple):
    """Centres (f, d) of whitened patches, and the whitening of a patch x: (x - mean) @ white."""

    mean: Tensor
    white: Tensor
    centres: Tensor


def learn_patterns(images: Tensor, size: int, filters: int, seed: int) -> Patterns:
    """Learn patterns from patches of images; see `isoreg.references.patches`.

    Args:
        images: (n, c, h, w).
        size: Side of a patch.
        filters: Number of patterns.
        seed: Seed of the choice of patches and of the first centres.

    Returns:
        The patterns.

    Raises:
        InputError: If there are fewer patches with contrast than patterns.
    """
    generator = torch.Generator().manual_seed(int(seed))
    chosen = _sample_patches(images, size, generator)
    if len(chosen) < filters:
        raise InputError(
            f"images must show {filters} patches with contrast, got {len(chosen)}. Contrast is a "
            "standard deviation above 0.05: give finite images from 0 to 1, more of them, or ask "
            "for fewer filters."
        )
    mean, white = _whitening(chosen)
    return Patterns(mean, white, _kmeans((chosen - mean) @ white, filters, generator))


def pattern_features(images: Tensor, size: int, grid: int, patterns: Patterns) -> Tensor:
    """How much each cell of an image shows each pattern.

    Args:
        images: (b, c, h, w).
        size: Side of a patch.
        grid: Number of cells in each direction.
        patterns: Patterns of images with the same number of channels.

    Returns:
        Activations (b, f * grid * grid).
    """
    height, width = (side - size + 1 for side in images.shape[2:])
    mean, white, centres = (x.to(images) for x in patterns)
    features = []
    with torch.no_grad():
        for part in _parts(images, size, len(centres)):
            points_bpd = (_normalised_patches(part, size) - mean) @ white
            distances_bpf = torch.cdist(points_bpd.flatten(0, 1), centres)
            distances_bpf = distances_bpf.unflatten(0, (len(part), height * width))
            shown_bpf = (distances_bpf.mean(2, keepdim=True) - distances_bpf).clamp_min(0)
            maps = shown_bpf.transpose(1, 2).unflatten(2, (height, width))
            features.append(F.adaptive_avg_pool2d(maps, grid).flatten(1))
    return torch.cat(features)


def _parts(images: Tensor, size: int, filters: int = 0) -> tuple[Tensor, ...]:
    """Parts of the images; patches of a part, and their distances from patterns, fit in memory."""
    channels, *sides = images.shape[1:]
    places = math.prod([side - size + 1 for side in sides])  # torch cannot compile a generator here
    count: int = _AT_ONCE // (places * (channels * size**2 + filters))
    parts: tuple[Tensor, ...] = images.split(max(1, count))
    return parts


def _normalised_patches(images: Tensor, size: int) -> Tensor:
    """(b, p, d) patches less their mean, divided by the root of their variance plus 0.01."""
    patches = F.unfold(images, size).transpose(1, 2)
    centred = patches - patches.mean(2, keepdim=True)
    return centred / (centred.square().mean(2, keepdim=True) + 0.01).sqrt()


def _sample_patches(images: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Up to 100,000 patches with contrast, from random images."""
    places = (images.shape[2] - size + 1) * (images.shape[3] - size + 1)
    order = torch.randperm(len(images), generator=generator, device="cpu")
    order = order[: max(1, 20 * _PATCHES // places)]
    chosen = []
    for part in _parts(images[order.to(images.device)], size):
        patches = _normalised_patches(part, size).flatten(0, 1)
        patches = patches[patches.square().mean(1) > 0.2]  # near 1 for patches with contrast
        share = torch.rand(len(patches), generator=generator, dtype=torch.float32, device="cpu")
        chosen.append(patches[share.to(patches.device) < 2 * _PATCHES / (places * len(order))])
    return torch.cat(chosen)[:_PATCHES]


def _whitening(chosen: Tensor) -> tuple[Tensor, Tensor]:
    """The mean, and the symmetric matrix that removes correlations (ZCA with variances + 0.1)."""
    mean = chosen.mean(0)
    centred = (chosen - mean).to(exact_dtype(chosen.device))
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(chosen))
    white = vectors * (values + 0.1).rsqrt() @ vectors.T
    return mean, white.to(chosen.dtype)


def _kmeans(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Centres (count, d) after some steps of Lloyd's algorithm; empty clusters keep theirs."""
    order = torch.randperm(len(points), generator=generator, device="cpu")[:count]
    centres = points[order.to(points.device)]
    for _ in range(_KMEANS_STEPS):
        nearest = torch.cat([torch.cdist(part, centres).argmin(1) for part in points.split(10_000)])
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        sizes = nearest.bincount(minlength=len(centres))[:, None]
        centres = torch.where(sizes > 0, sums / sizes, centres)
    return centres

"""Curves and surfaces in space on which a representation's geometry can be seen."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from isoreg.errors import InputError, check_integer, error_prefix, is_number

REGIONS = ("cylinders", "bands")


def entangled_rings(n: int, *, noise: float = 0.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two linked circles of radius 1, each through the centre of the other.

    No continuous deformation of space separates the circles, but a classifier has to. Their linking
    number is 1 in absolute value. The points of each ring lie at equal angles.

    Source: the entangled rings of section 3.1 of the paper.

    Args:
        n: Number of points of both rings together; the first has one more if n is odd.
        noise: Standard deviation of normal noise on each coordinate, in radii.
        seed: Seed of the noise.

    Returns:
        Points (n, 3), float32, and labels (n,), 0 for the first ring and 1 for the second.

    Raises:
        InputError: If n is below 2, or the noise or the seed is negative.

    Example:
        >>> points, labels = entangled_rings(400)
        >>> points.shape, labels.bincount().tolist()
        (torch.Size([400, 3]), [200, 200])
    """
    with error_prefix("entangled_rings"):
        _check(n, 2, noise, seed)
    halves = (n + 1) // 2, n // 2
    first, second = (
        torch.arange(half, dtype=torch.float32, device="cpu") * (2 * math.pi / half)
        for half in halves
    )
    zeros, ones = torch.zeros_like(first), torch.ones_like(second)
    points = torch.cat([
        torch.stack([first.cos(), first.sin(), zeros], dim=1),
        torch.stack([1 + second.cos(), 0 * ones, second.sin()], dim=1),
    ])
    labels = torch.cat([zeros.long(), ones.long()])
    return points + _normal(points, noise, seed), labels


def torus(
    n: int = 1600,
    *,
    radius: float = 0.67,
    tube: float = 0.33,
    noise: float = 0.001,
    regions: str = "cylinders",
    seed: int = 0,
) -> tuple[Tensor, list[Tensor]]:
    r"""Points of a torus in a hierarchy of 2, 4 and 8 classes, each within one of the level before.

    .. math::
        ((R + r \cos v) \cos u,\ (R + r \cos v) \sin u,\ r \sin v)

    with both angles uniform, so that points are a little denser on the inside. Cylinders are
    sectors of the angle u around the axis (pieces of the tube, cut across); bands are sectors of
    the angle v around the tube.

    Source: the torus of section 3.3 of the paper, R = .67, r = .33.

    Args:
        n: Number of points.
        radius: R, the distance from the centre to the middle of the tube.
        tube: r, the radius of the tube.
        noise: Standard deviation of normal noise on each coordinate.
        regions: "cylinders" (the paper's text) or "bands".
        seed: Seed of the points and their noise.

    Returns:
        Points (n, 3), float32, and a list of labels (n,) of 2, of 4 and of 8 classes.

    Raises:
        InputError: If n is below 1, the tube is not between 0 and the radius, the noise or the seed
            is negative, or the regions are unknown.

    Example:
        >>> points, (two, four, eight) = torus(1600)
        >>> [level.max().item() + 1 for level in (two, four, eight)]
        [2, 4, 8]
        >>> bool((eight // 2 == four).all())
        True
    """
    with error_prefix("torus"):
        _check(n, 1, noise, seed)
        if not (is_number(tube) and is_number(radius) and 0 < tube < radius < math.inf):
            raise InputError(
                f"tube and radius must be 0 < tube < radius, both finite, got {tube!r} and "
                f"{radius!r}."
            )
        if regions not in REGIONS:
            allowed = " or ".join(map(repr, REGIONS))
            raise InputError(f"regions must be {allowed}, got {regions!r}.")
    generator = torch.Generator().manual_seed(int(seed))
    shares = torch.rand(2, n, generator=generator, dtype=torch.float32, device="cpu")
    around, along = shares * (2 * math.pi)
    radius, tube = float(radius), float(tube)
    distance = radius + tube * along.cos()
    points = torch.stack([distance * around.cos(), distance * around.sin(), tube * along.sin()], 1)
    cut = shares[0] if regions == "cylinders" else shares[1]
    eight = (8 * cut).long()
    return points + _normal(points, noise, (seed + 1) % 2**64), [eight // 4, eight // 2, eight]


def _check(n: int, least: int, noise: float, seed: int) -> None:
    check_integer("n", n, least)
    check_integer("seed", seed, 0, 2**64 - 1)
    if not is_number(noise) or not 0 <= noise < math.inf:
        raise InputError(f"noise must be finite and >= 0, got {noise!r}.")


def _normal(like: Tensor, deviation: float, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(int(seed))
    noise = torch.randn(like.shape, generator=generator, dtype=like.dtype, device="cpu")
    return float(deviation) * noise

"""References for images: images without fine detail, or the small patterns that images show.

Axes: n = samples, b = batch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (torch's own convention)

from isoreg._pairs.precision import full_precision
from isoreg._tables import check_dense
from isoreg.errors import InputError, check_integer, check_positive, error_prefix
from isoreg.references._patterns import Patterns, learn_patterns, pattern_features
from isoreg.references._points import Learnt, Reference


def blurred(sigma: float) -> Reference:
    r"""Images without their fine detail: convolved with a Gaussian of width sigma.

    .. math::
        r(x)_{uv} = \sum_{ab} g(a)\, g(b)\, x_{u+a,\,v+b}, \qquad
        g(a) \propto e^{-a^2 / 2 \sigma^2}

    with zeros outside the image and g cut off at 3 sigma, rounded up to a whole pixel. Strokes
    that are shifted by a pixel come closer to each other than they are in raw pixels. The result
    is computed in the dtype of the images, whatever autocast says.

    Args:
        sigma: Width of the Gaussian, in pixels.

    Returns:
        A callable from images (b, c, h, w) to (b, c, h, w). It ignores further arguments.

    Raises:
        InputError: If sigma is not a positive number. The callable raises it if images have their
            channels last.

    Example:
        >>> image = torch.zeros(1, 1, 5, 5)
        >>> image[0, 0, 2, 2] = 1
        >>> blurred(0.7)(image)[0, 0, 2]
        tensor([0.0055, 0.1170, 0.3247, 0.1170, 0.0055])
    """
    with error_prefix("blurred"):
        check_positive("sigma", sigma)
    reach = math.ceil(3 * sigma)
    steps = torch.arange(-reach, reach + 1, dtype=torch.float64, device="cpu") / sigma
    weights = torch.exp(-steps.square() / 2)
    return Learnt(_blur, weights=weights / weights.sum())


def patches(
    images: Tensor, *, size: int = 7, filters: int = 32, grid: int = 3, seed: int = 0
) -> Reference:
    r"""Which small patterns an image shows, and roughly where: convolutional features, no labels.

    The mean of every patch of ``size`` by ``size`` pixels is subtracted; then the patch is divided
    by the root of its variance plus 0.01, which suits images from 0 to 1, and whitened. k-means of
    such patches gives the ``filters`` patterns c_f. With ``z_f = |patch - c_f|`` a patch shows
    pattern f by

    .. math::
        a_f = \max(0,\ \mathrm{mean}_g\, z_g - z_f)

    and a_f is averaged over each cell of a ``grid`` by ``grid`` division of the image. This takes
    about a millisecond an image: compute it once for the training set rather than in each step
    (see `manifold`). Everything is computed in the dtype of the images, whatever autocast says.

    Source: Coates, Lee and Ng (2011), "An Analysis of Single-Layer Networks in Unsupervised
    Feature Learning".

    Args:
        images: (n, c, h, w) floating points to learn the patterns from; some thousands are enough.
        size: Side of a patch, in pixels.
        filters: Number of patterns.
        grid: Number of cells in each direction.
        seed: Seed of the choice of patches and of the first centres.

    Returns:
        A callable from images (b, c, h, w) to (b, filters * grid * grid). It ignores further
        arguments.

    Raises:
        InputError: If the images are not (n, c, h, w), have their channels last, or do not fit an
            option. The callable raises it for its images too.

    Example:
        >>> images = torch.rand(50, 1, 12, 12, generator=torch.Generator().manual_seed(0))
        >>> patches(images, size=5, filters=8, grid=2)(images[:3]).shape
        torch.Size([3, 32])
    """
    with error_prefix("patches"):
        check_integer("size", size, 2)
        check_integer("grid", grid, 1)
        _check_images(images, least=1)
        _check_room(images, size=size, grid=grid)
        check_integer("filters", filters, 2)
        check_integer("seed", seed, 0, 2**64 - 1)
        size, grid, filters = int(size), int(grid), int(filters)  # torch refuses numpy's integers
        with torch.no_grad(), full_precision(images.device):
            patterns = learn_patterns(images, size, filters, seed)
    return Learnt(_shown, size=size, grid=grid, patterns=patterns)


def _blur(images: Tensor, *, weights: Tensor) -> Tensor:
    with error_prefix("blurred"):
        _check_images(images)
    channels, reach = images.shape[1], len(weights) // 2
    kernel = weights.to(images).expand(channels, 1, 1, -1)
    with full_precision(images.device):
        rows = F.conv2d(images, kernel, padding=(0, reach), groups=channels)
        return F.conv2d(rows, kernel.transpose(2, 3), padding=(reach, 0), groups=channels)


def _shown(images: Tensor, *, size: int, grid: int, patterns: Patterns) -> Tensor:
    with error_prefix("patches"):
        _check_images(images)
        _check_room(images, size=size, grid=grid)
        channels = patterns.mean.numel() // size**2
        if images.shape[1] != channels:
            raise InputError(
                f"images must have {channels} channels like those that patterns were learnt from, "
                f"got {images.shape[1]}."
            )
    with full_precision(images.device):
        return pattern_features(images, size, grid, patterns)


def _check_images(images: Tensor, *, least: int = 0) -> None:
    """Refuse values that are no batch of images; with least=0 it may be empty (a rank's may)."""
    check_dense(images, "images")
    shape = tuple(images.shape)
    few = len(shape) == 4 and (shape[0] < least or 0 in shape[1:])
    if len(shape) != 4 or few or not images.is_floating_point():
        raise InputError(
            f"images must be (b, c, h, w) floating points{' with b >= 1' if least else ''}, got "
            f"{images.dtype} of shape {shape}."
        )
    if shape[3] <= 4 < min(shape[1:3]):
        raise InputError(
            f"images must be (b, c, h, w), got shape {shape}, whose last axis seems to be that of "
            "the channels. Try images.permute(0, 3, 1, 2)."
        )


def _check_room(images: Tensor, *, size: int, grid: int) -> None:
    side = min(images.shape[2:])
    if size > side or grid > side - size + 1:
        raise InputError(
            f"images of {tuple(images.shape[2:])} must hold {grid} by {grid} patches of {size} by "
            f"{size} pixels. Choose a smaller size or grid."
        )

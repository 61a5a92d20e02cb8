"""What features may be compared with in place of raw inputs: callables for ``inputs=``.

Axes: n = samples, b = batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (torch's own convention)

from isoreg.distances import flatten_points
from isoreg.errors import InputError, called
from isoreg.patterns import Patterns, learn_patterns, pattern_features
from isoreg.walks import commute_places, place_among

Reference: TypeAlias = Callable[..., Tensor]
_FLOOR = 0.1


def blurred(sigma: float) -> Reference:
    r"""Images without their fine detail: convolved with a Gaussian of width sigma.

    .. math::
        r(x)_{uv} = \sum_{ab} g(a)\, g(b)\, x_{u+a,\,v+b}, \qquad
        g(a) \propto e^{-a^2 / 2 \sigma^2}

    with zeros outside the image and g cut off at 3 sigma. Strokes that are shifted by a pixel
    come closer to each other than they are in raw pixels.

    Args:
        sigma: Width of the Gaussian, in pixels.

    Returns:
        A callable from images (b, c, h, w) to (b, c, h, w). It ignores further arguments.

    Raises:
        InputError: If sigma is not a positive number.

    Example:
        >>> image = torch.zeros(1, 1, 5, 5)
        >>> image[0, 0, 2, 2] = 1
        >>> blurred(0.7)(image)[0, 0, 2]
        tensor([0.0055, 0.1170, 0.3247, 0.1170, 0.0055])
    """
    with called("blurred"):
        if not (isinstance(sigma, int | float) and math.isfinite(sigma) and sigma > 0):
            raise InputError(f"sigma must be a positive number, got {sigma!r}.")
    reach = math.ceil(3 * sigma)
    weights = torch.exp(-torch.arange(-reach, reach + 1.0).square() / (2 * sigma**2))
    return partial(_blur, weights=weights / weights.sum())


def patches(
    images: Tensor, *, size: int = 7, filters: int = 32, grid: int = 3, seed: int = 0
) -> Reference:
    r"""Which small patterns an image shows, and roughly where: convolutional features, no labels.

    Every patch of ``size`` by ``size`` pixels has its mean taken off, is divided by its standard
    deviation and whitened; k-means of such patches gives the ``filters`` patterns c_f. With
    ``z_f = |patch - c_f|`` a patch shows pattern f by

    .. math::
        a_f = \max(0,\ \mathrm{mean}_g\, z_g - z_f)

    and a_f is averaged over the cells of a ``grid`` by ``grid`` division of the image. Takes about
    a millisecond an image: compute it once for the training set rather than in each step (see
    `manifold`).

    Source: Coates, Lee and Ng (2011), "An Analysis of Single-Layer Networks in Unsupervised
    Feature Learning".

    Args:
        images: (n, c, h, w) floating points to learn the patterns from; some thousands do.
        size: Side of a patch, in pixels.
        filters: Number of patterns.
        grid: Cells in each direction.
        seed: Of the choice of patches and of the first centres.

    Returns:
        A callable from images (b, c, h, w) to (b, filters * grid * grid). It ignores further
        arguments.

    Raises:
        InputError: If the images are not (n, c, h, w), or an option does not fit them.

    Example:
        >>> images = torch.rand(50, 1, 12, 12, generator=torch.Generator().manual_seed(0))
        >>> patches(images, size=5, filters=8, grid=2)(images[:3]).shape
        torch.Size([3, 32])
    """
    with called("patches"):
        _check_images(images, size=size, grid=grid)
        _check_count("filters", filters, at_least=2)
        patterns = learn_patterns(images, size, filters, seed)
    return partial(_shown, size=size, grid=grid, patterns=patterns)


def manifold(
    samples: Tensor,
    *,
    reference: Reference | None = None,
    neighbors: int = 10,
    dimensions: int = 30,
    spread: float = 10.0,
) -> Reference:
    r"""Distances along the data: how long a random walk over near samples takes to get there.

    The walk steps from a sample to one of its nearest neighbours, with weights
    ``w_ij = exp(-d_ij^2 / (s_i s_j))``, s_i the distance of i to its k-th neighbour, made
    symmetric. With D the row sums of w and (l_m, v_m) the largest eigenpairs of
    ``D^{-1/2} w D^{-1/2}`` but the constant one, a sample is placed at

    .. math::
        r(x_i)_m = \frac{v_m(i)}{\sqrt{D_i}\,\sqrt{1 - (1 - \epsilon)\, l_m}}

    so that squared distances are commute times of the walk, as far as its ``dimensions`` slowest
    modes tell. A walk jumps to any sample with the small chance epsilon = 0.001, which keeps
    unconnected parts at a finite distance. A new point lies at the mean of its nearest samples,
    weighted by w. Everything is multiplied so that samples have root mean squared distance
    ``spread``, the scale for which ``beta=0.1`` is made.

    Calling it compares with all samples. For a training set compute it once and look it up::

        table = reference(images)
        for batch in torch.randperm(len(images)).split(100):
            loss = F.cross_entropy(model(images[batch]), labels[batch])
            loss = loss + iso(labels[batch], reference=table[batch])

    Source: Coifman and Lafon (2006), "Diffusion maps"; Qiu and Hancock (2007), "Clustering and
    Embedding Using Commute Times"; the scale s of Zelnik-Manor and Perona (2004). The jump and
    the placing of new points are ours.

    Args:
        samples: (n, ...) floating points without labels; ten thousand cover MNIST. Time and
            memory of the graph grow as n^2 and n.
        reference: What to measure distances between samples in, for example `patches`; None: the
            samples as they are.
        neighbors: Of each sample in the graph, k.
        dimensions: Of the result.
        spread: Root mean squared distance between samples in the result.

    Returns:
        A callable from points (b, ...) to (b, dimensions). It ignores further arguments.

    Raises:
        InputError: If there are too few samples, or an option is out of range.

    Example:
        >>> turn = torch.linspace(0, 6, 60)  # a spiral: its ends are near in the plane
        >>> spiral = torch.stack([turn.cos(), turn.sin()], 1)
        >>> place = manifold(spiral, neighbors=4, dimensions=1)(spiral[[0, 30, 59]])[:, 0]
        >>> bool(place[0] < place[1] < place[2] or place[0] > place[1] > place[2])
        True
    """
    with called("manifold"):
        _check_count("neighbors", neighbors, at_least=1)
        _check_count("dimensions", dimensions, at_least=1)
        if not (math.isfinite(spread) and spread > 0):
            raise InputError(f"spread must be a positive number, got {spread!r}.")
        points = _points(samples, reference)
        least = max(neighbors + 2, 3 * (dimensions + 1))
        if len(points) < least:
            raise InputError(
                f"{neighbors} neighbors and {dimensions} dimensions need at least {least} samples, "
                f"got {len(points)}."
            )
    places, scales = commute_places(points, neighbors, dimensions)
    size = (2 * places.var(0, correction=0).sum()).sqrt().clamp_min(1e-30)
    return partial(
        _placed,
        reference=reference,
        known=points,
        scales=scales,
        places=places * spread / size,
        neighbors=neighbors,
    )


def scaled(reference: Reference | None, samples: Tensor, *, spread: float = 10.0) -> Reference:
    """A reference times a number, so that samples have root mean squared distance ``spread``.

    Isometry compares distances, so their unit decides what ``beta`` means: 10 is the scale of
    MNIST's pixels, for which ``beta=0.1`` is made.

    Args:
        reference: What to multiply; None: the points as they are.
        samples: (n, ...) floating points to measure on, not all equal.
        spread: The root mean squared distance of two samples.

    Returns:
        A callable from points (b, ...) to what the reference gives for them, multiplied.

    Raises:
        InputError: If the samples have no spread or ``spread`` is not positive.

    Example:
        >>> corners = torch.tensor([[0.0, 0.0], [0.0, 3.0], [4.0, 0.0], [4.0, 3.0]])
        >>> scaled(None, corners, spread=10.0)(corners)[3]
        tensor([11.3137,  8.4853])
    """
    with called("scaled"):
        size = float((2 * _variances(samples, reference, spread).sum()).sqrt())
    return partial(_times, reference=reference, factor=spread / size)


def standardized(
    reference: Reference | None, samples: Tensor, *, spread: float = 10.0
) -> Reference:
    r"""A reference whose numbers count about alike: each divided by its standard deviation.

    .. math::
        r'(x)_m = c\, \frac{r(x)_m}{\sqrt{\sigma_m^2 + 0.1\, \overline{\sigma^2}}}

    with sigma_m the standard deviation of number m over the samples, the bar a mean over numbers,
    and c such that samples have root mean squared distance ``spread``. The second term keeps
    numbers that hardly vary from being blown up. Without the division those that vary most decide
    which samples are near, as brightness does in photographs.

    Args:
        reference: What to divide; None: the points as they are.
        samples: (n, ...) floating points to measure on, not all equal.
        spread: The root mean squared distance of two samples.

    Returns:
        A callable from points (b, ...) to what the reference gives for them, (b, m), divided.

    Raises:
        InputError: If the samples have no spread or ``spread`` is not positive.

    Example:
        >>> corners = torch.tensor([[0.0, 0.0], [0.0, 3.0], [4.0, 0.0], [4.0, 3.0]])
        >>> standardized(None, corners, spread=10.0)(corners)[3]
        tensor([10.1361,  9.8620])
    """
    with called("standardized"):
        variances = _variances(samples, reference, spread)
        divisors = variances + _FLOOR * variances.mean()
        factor = spread / (2 * (variances / divisors).sum() * divisors).sqrt()
    return partial(_times, reference=reference, factor=factor)


def _variances(samples: Tensor, reference: Reference | None, spread: float) -> Tensor:
    """Of each number of a reference over samples; some are positive."""
    if not (math.isfinite(spread) and spread > 0):
        raise InputError(f"spread must be a positive number, got {spread!r}.")
    found = _points(samples, reference)
    variances = found.var(0, correction=0)
    if not 0 < variances.sum() < math.inf:
        raise InputError(
            "samples must be finite and differ from each other, "
            f"got {len(found)} whose variance is {float(variances.sum()):g}."
        )
    return variances


def _times(x: Tensor, *_: object, reference: Reference | None, factor: float | Tensor) -> Tensor:
    points = x if reference is None else reference(x)
    return points.flatten(1) * factor.to(points) if isinstance(factor, Tensor) else points * factor


def _blur(images: Tensor, *_: object, weights: Tensor) -> Tensor:
    with called("blurred"):
        if images.ndim != 4:
            raise InputError(f"images must be (b, c, h, w), got {tuple(images.shape)}.")
    channels, reach = images.shape[1], len(weights) // 2
    kernel = weights.to(images).expand(channels, 1, 1, -1)
    rows = F.conv2d(images, kernel, padding=(0, reach), groups=channels)
    return F.conv2d(rows, kernel.transpose(2, 3), padding=(reach, 0), groups=channels)


def _shown(images: Tensor, *_: object, size: int, grid: int, patterns: Patterns) -> Tensor:
    with called("patches"):
        _check_images(images, size=size, grid=grid)
    return pattern_features(images, size, grid, patterns)


def _placed(
    x: Tensor,
    *_: object,
    reference: Reference | None,
    known: Tensor,
    scales: Tensor,
    places: Tensor,
    neighbors: int,
) -> Tensor:
    with torch.no_grad(), called("manifold"):
        points = _points(x, reference)
        dtype = torch.promote_types(points.dtype, known.dtype)
        tables = known.to(points.device), scales.to(points.device), places.to(points.device)
        return place_among(points, *tables, neighbors).to(dtype)


def _points(samples: Tensor, reference: Reference | None) -> Tensor:
    found = samples if reference is None else reference(samples)
    return flatten_points(found, "samples")


def _check_images(images: Tensor, *, size: int, grid: int) -> None:
    _check_count("size", size, at_least=2)
    _check_count("grid", grid, at_least=1)
    if images.ndim != 4 or not images.is_floating_point() or len(images) == 0:
        raise InputError(
            f"images must be (n, c, h, w) floating points with n >= 1, got {images.dtype} of shape "
            f"{tuple(images.shape)}."
        )
    side = min(images.shape[2:])
    if size > side or grid > side - size + 1:
        raise InputError(
            f"images of {tuple(images.shape[2:])} must hold {grid} by {grid} patches of {size} by "
            f"{size} pixels. Choose a smaller size or grid."
        )


def _check_count(name: str, value: int, *, at_least: int) -> None:
    if not isinstance(value, int) or value < at_least:
        raise InputError(f"{name} must be an integer of at least {at_least}, got {value!r}.")

"""References in another unit: multiplied as a whole, or each of their numbers separately."""

from __future__ import annotations

import math

from torch import Tensor

from isoreg.distances import exact_dtype, flatten_points
from isoreg.errors import InputError, check_positive, error_prefix
from isoreg.references._points import Learnt, Reference, as_points, as_reference

_FLOOR = 0.1


def scaled(reference: Reference | None, samples: Tensor, *, spread: float = 10.0) -> Reference:
    """A reference times a number, so that samples have root mean squared distance ``spread``.

    Isometry compares distances, so their unit decides what ``beta`` means: 10 is the scale of
    MNIST's pixels, for which ``beta=0.1`` was chosen.

    Args:
        reference: The reference to multiply, or a network, which runs in eval mode and without
            gradients; None: the points as they are.
        samples: (n, ...) floating points to measure on, not all equal.
        spread: The root mean squared distance of two samples, drawn with replacement.

    Returns:
        A callable from points (b, ...) to what the reference gives for them, multiplied.

    Raises:
        InputError: If the samples have no spread or ``spread`` is not positive.

    Example:
        >>> import torch
        >>> corners = torch.tensor([[0.0, 0.0], [0.0, 3.0], [4.0, 0.0], [4.0, 3.0]])
        >>> scaled(None, corners, spread=10.0)(corners)[3]
        tensor([11.3137,  8.4853])
    """
    with error_prefix("scaled"):
        reference = as_reference(reference)
        size = float((2 * _variances(samples, reference, spread).sum()).sqrt())
    return Learnt(_times, reference=reference, factor=spread / size)


def standardized(
    reference: Reference | None, samples: Tensor, *, spread: float = 10.0
) -> Reference:
    r"""A reference with each number divided by its standard deviation, so that all count alike.

    .. math::
        r'(x)_m = c\, \frac{r(x)_m}{\sqrt{\sigma_m^2 + 0.1\, \overline{\sigma^2}}}

    with sigma_m the standard deviation of number m over the samples, the bar a mean over numbers,
    and c such that samples have root mean squared distance ``spread``. The second term keeps
    numbers that hardly vary from becoming large. Without the division, the numbers that vary most
    decide which samples are near, as brightness does in photographs.

    Args:
        reference: The reference to divide, or a network, which runs in eval mode and without
            gradients; None: the points as they are.
        samples: (n, ...) floating points to measure on, not all equal.
        spread: The root mean squared distance of two samples, drawn with replacement.

    Returns:
        A callable from points (b, ...) to what the reference gives for them, (b, m), divided.

    Raises:
        InputError: If the samples have no spread or ``spread`` is not positive. The callable raises
            it if points are of another size than the samples, or no floating points.

    Example:
        >>> import torch
        >>> corners = torch.tensor([[0.0, 0.0], [0.0, 3.0], [4.0, 0.0], [4.0, 3.0]])
        >>> standardized(None, corners, spread=10.0)(corners)[3]
        tensor([10.1361,  9.8620])
    """
    with error_prefix("standardized"):
        reference = as_reference(reference)
        variances = _variances(samples, reference, spread)
        divisors = variances + _FLOOR * variances.mean()
        factors = spread / (2 * (variances / divisors).sum() * divisors).sqrt()
    return Learnt(_each_times, reference=reference, factors=factors)


def _variances(samples: Tensor, reference: Reference | None, spread: float) -> Tensor:
    """Variances of each number of a reference over samples; at least one is positive."""
    check_positive("spread", spread)
    points = as_points(samples, reference)
    exact = points.to(exact_dtype(points.device))  # small squares would be rounded to 0 in float32
    variances = exact.var(0, correction=0)
    if not 0 < variances.sum() < math.inf:
        raise InputError(
            "samples must be finite and differ from each other, "
            f"got {len(points)} whose variance is {float(variances.sum()):g}."
        )
    return variances


def _times(x: Tensor, *, reference: Reference | None, factor: float) -> Tensor:
    with error_prefix("scaled"):
        values = x if reference is None else reference(x)
        flatten_points(values, "points")  # refuses integers, whose unit is not that of the samples
    return values * factor


def _each_times(x: Tensor, *, reference: Reference | None, factors: Tensor) -> Tensor:
    with error_prefix("standardized"):
        values = x if reference is None else reference(x)
        points = flatten_points(values, "points")
        if points.shape[1] != len(factors):
            raise InputError(
                f"points must be of {len(factors)} numbers like the samples, got {points.shape[1]}."
            )
    # in float32: float16 points may be as small as 1e-7, with factors that float16 cannot hold
    return (points * factors.to(points)).to(values.dtype)

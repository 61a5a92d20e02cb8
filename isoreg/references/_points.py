"""What every reference needs: its type, a set of samples as points, and a check of a count."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor

from isoreg.distances import flatten_points

Reference: TypeAlias = Callable[..., Tensor]


def as_points(samples: Tensor, reference: Reference | None) -> Tensor:
    """Samples, or what a reference makes of them, as (n, d) constants."""
    points = samples if reference is None else reference(samples)
    return flatten_points(points, "samples").detach()

"""What every reference needs: its type, a set of samples as points, and a check of a count."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor

from isoreg.distances import flatten_points
from isoreg.errors import InputError

Reference: TypeAlias = Callable[..., Tensor]


def as_points(samples: Tensor, reference: Reference | None) -> Tensor:
    """Samples, or what a reference makes of them, as (n, d)."""
    return flatten_points(samples if reference is None else reference(samples), "samples")


def check_count(name: str, value: int, *, at_least: int) -> None:
    """Refuses what is no integer or too small."""
    if not isinstance(value, int) or isinstance(value, bool) or value < at_least:
        raise InputError(f"{name} must be an integer of at least {at_least}, got {value!r}.")

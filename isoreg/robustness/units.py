"""From pixels in the user's units to the model's input: mean and std of each channel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from isoreg.errors import InputError

PerChannel: TypeAlias = "float | Sequence[float] | Tensor"


class Normalisation:
    """Subtract the mean of each channel and divide by its std, each of them optional.

    Args:
        mean: A number, or one for each channel; or None.
        std: A number above 0, or one for each channel; or None.

    Raises:
        InputError: If one of them is not finite, or a std is not above 0.

    Example:
        >>> Normalisation(mean=0.5, std=[0.5, 0.25])(torch.ones(1, 2))
        tensor([[1., 2.]])
    """

    def __init__(self, mean: PerChannel | None, std: PerChannel | None) -> None:
        self._mean, self._std = _values("mean", mean), _values("std", std)
        if self._std is not None and not bool((self._std > 0).all()):
            raise InputError(f"std must be above 0, got {self._std.tolist()}.")

    def __call__(self, images: Tensor) -> Tensor:
        """The model's input, from images (n, channels, ...) in the user's units."""
        if self._mean is not None:
            images = images - _broadcast("mean", self._mean, images)
        return images if self._std is None else images / _broadcast("std", self._std, images)


def _values(name: str, given: PerChannel | None) -> Tensor | None:
    if given is None:
        return None
    try:
        values = torch.as_tensor(given, dtype=torch.float64).detach().flatten().cpu()
    except (TypeError, ValueError, RuntimeError):
        values = torch.empty(0)
    if len(values) == 0 or not bool(values.isfinite().all()):
        raise InputError(f"{name} must be a finite number, or one a channel, got {given!r}.")
    return values


def _broadcast(name: str, values: Tensor, images: Tensor) -> Tensor:
    if len(values) not in (1, images.shape[1]):
        raise InputError(
            f"{name} must be one number, or one for each of {images.shape[1]} channels of images "
            f"of shape {tuple(images.shape)}, got {len(values)}."
        )
    return values.to(images).view(1, -1, *[1] * (images.ndim - 2))

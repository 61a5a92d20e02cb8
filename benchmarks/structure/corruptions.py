"""Images made worse, at five strengths; the same images each time."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (torch's own convention)

from isoreg import references

CORRUPTIONS: dict[str, tuple[float, ...]] = {
    "noise": (0.1, 0.2, 0.3, 0.4, 0.5),
    "blur": (0.5, 1.0, 1.5, 2.0, 2.5),
    "translation": (1, 2, 3, 4, 5),
    "rotation": (10, 20, 30, 40, 50),
}
"""Standard deviation of the noise; width of the blur and way of the move in pixels; degrees."""
STRENGTHS = 5
_BLOCK = 7


def corrupted(images: Tensor, kind: str, strength: int) -> Tensor:
    """Images (n, 1, h, w) with one of `CORRUPTIONS`, strength 0 to 4."""
    amount = CORRUPTIONS[kind][strength]
    generator = torch.Generator().manual_seed(strength)
    if kind == "noise":
        noise = torch.randn(images.shape, generator=generator)
        return (images + amount * noise).clamp(0, 1)
    if kind == "blur":
        blurred: Tensor = references.blurred(amount)(images)
        return blurred
    signs = 2.0 * torch.randint(2, (2, len(images)), generator=generator) - 1
    if kind == "translation":
        return _moved(images, torch.zeros(len(images)), 2 * amount * signs / images.shape[-1])
    return _moved(images, math.radians(amount) * signs[0], torch.zeros_like(signs))


def blocks_shuffled(images: Tensor, *, seed: int) -> Tensor:
    """Images (n, 1, h, w) whose blocks of 7 by 7 pixels change places: strokes, but no digits."""
    generator = torch.Generator().manual_seed(seed)
    blocks = F.unfold(images, _BLOCK, stride=_BLOCK)
    order = torch.rand(len(images), 1, blocks.shape[2], generator=generator).argsort(2)
    mixed = blocks.gather(2, order.expand_as(blocks))
    return F.fold(mixed, images.shape[2:], _BLOCK, stride=_BLOCK)


def _moved(images: Tensor, angles: Tensor, shifts: Tensor) -> Tensor:
    """Images turned by angles (n), in radians, and moved by shifts (2, n), in half sides."""
    first = torch.stack([angles.cos(), -angles.sin(), shifts[0]], 1)
    second = torch.stack([angles.sin(), angles.cos(), shifts[1]], 1)
    matrices = torch.stack([first, second], 1)
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)

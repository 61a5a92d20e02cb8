"""Corrupted images as in CIFAR-10-C: four kinds at five strengths."""

from __future__ import annotations

import io
from collections.abc import Callable

import torch
from torch import Tensor

STRENGTHS: dict[str, tuple[float, ...]] = {
    "noise": (0.04, 0.06, 0.08, 0.09, 0.10),
    "blur": (0.4, 0.6, 0.7, 0.8, 1.0),
    "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
    "JPEG": (80, 65, 58, 50, 40),
}
"""Standard deviation of the noise, for pixels from 0 to 1; that of the blur in pixels; share of the
contrast that is left; JPEG quality. Strengths are those of Hendrycks and Dietterich (2019),
"Benchmarking Neural Network Robustness to Common Corruptions and Perturbations", for 32 pixels."""


def corrupted(images: Tensor, kind: str, strength: float) -> Tensor:
    """Corrupt bytes (n, 3, h, w) by one of `STRENGTHS`; noise is the same in each call."""
    from torchvision.transforms.v2 import functional

    if kind == "noise":
        generator = torch.Generator().manual_seed(0)
        noise = 255 * strength * torch.randn(images.shape, generator=generator)
        return (images + noise).round().clamp(0, 255).byte()
    change: dict[str, Callable[[Tensor], Tensor]] = {
        "blur": lambda x: functional.gaussian_blur(x, [7, 7], [strength, strength]),
        "contrast": lambda x: functional.adjust_contrast(x, strength),
    }
    if kind in change:
        return change[kind](images)
    return torch.stack([_jpeg(image, int(strength)) for image in images])


def _jpeg(image: Tensor, quality: int) -> Tensor:
    from PIL import Image
    from torchvision.transforms.v2 import functional

    Image.fromarray(image.permute(1, 2, 0).numpy()).save(
        file := io.BytesIO(), "JPEG", quality=quality
    )
    pixels: Tensor = functional.pil_to_tensor(Image.open(file))
    return pixels

"""How exact a product of matrices is: without autocast and TF32, and for points far apart."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch

CANCELLED = {torch.float32: 1e-2, torch.float64: 1e-8}
"""Below this share of |a|^2 + |b|^2, the expansion of |a - b|^2 has lost digits that matter."""
SMALLEST = {torch.float32: 1e-30, torch.float64: 1e-290}
"""Below this, a squared distance or some of the terms of its sum may have been rounded to 0."""


def full_precision(device: torch.device) -> Any:
    """A context that keeps this thread's autocast out of the products on a device."""
    if not torch.is_autocast_enabled(device.type):
        return nullcontext()  # a context of autocast costs 10 microseconds
    return torch.autocast(device.type, enabled=False)


def rounds_products(device: torch.device) -> bool:
    """Whether PyTorch is told to round the factors of float32 products to TF32 or bfloat16."""
    # The settings are those of the process, so they are read and never changed: another thread may
    # rely on them. Where this is true, products are computed in float64.
    backend: Any = {"cuda": torch.backends.cuda, "cpu": torch.backends.mkldnn}.get(device.type)
    return backend is not None and backend.matmul.fp32_precision not in {"ieee", "none"}


def can_look(device: torch.device) -> bool:
    """Whether values can be read without waiting for an accelerator."""
    return device.type == "cpu"


class LostDigitsError(Exception):
    """Products in this dtype lose digits of too many pairs."""

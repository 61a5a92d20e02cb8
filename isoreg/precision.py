"""How exact a product of matrices is: without autocast and TF32, and for points far apart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

CANCELLED = {torch.float32: 1e-2, torch.float64: 1e-8}
"""Below this share of |a|^2 + |b|^2, the expansion of |a - b|^2 has lost digits that matter."""


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Keep autocast, TF32 and bf16 out of the matrix products of a block of code.

    Args:
        device: Where the block computes.

    Yields:
        Nothing.
    """
    with torch.autocast(device.type, enabled=False):
        backends: list[Any] = [torch.backends.cuda, torch.backends.mkldnn]
        matmuls: list[Any] = [getattr(backend, "matmul", None) for backend in backends]
        before = [(m, m.fp32_precision) for m in matmuls if hasattr(m, "fp32_precision")]
        legacy = None if before else torch.get_float32_matmul_precision()
        try:
            for matmul, _ in before:
                matmul.fp32_precision = "ieee"
            if legacy is not None:
                torch.set_float32_matmul_precision("highest")
            yield
        finally:
            for matmul, precision in before:
                matmul.fp32_precision = precision
            if legacy is not None:
                torch.set_float32_matmul_precision(legacy)

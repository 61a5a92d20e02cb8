"""Results that are computed once and then read from a file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

Kept = TypeVar("Kept")


def computed_once(path: Path, compute: Callable[[], Kept]) -> Kept:
    """Read tensors, or tuples of them, from a file; if it is missing, compute and write them."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        torch.save(compute(), part)
        part.replace(path)
    found: Kept = torch.load(path, weights_only=True)
    return found

"""Tensors that are computed once and kept in a file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

Kept = TypeVar("Kept")


def computed_once(path: Path, compute: Callable[[], Kept]) -> Kept:
    """Tensors, alone or in tuples, from a file; it is computed and written if it does not exist."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        torch.save(compute(), part)
        part.replace(path)
    found: Kept = torch.load(path, weights_only=True)
    return found

"""Results that are computed once and then read from a file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

Value = TypeVar("Value")


def computed_once(path: Path, compute: Callable[[], Value]) -> Value:
    """Read tensors, or tuples of them, from a file; if it is missing, compute and write them."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.part")
        torch.save(compute(), temporary)
        temporary.replace(path)
    value: Value = torch.load(path, weights_only=True)
    return value

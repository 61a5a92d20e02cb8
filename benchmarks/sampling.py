"""Evenly spread samples, since files are sorted by class and MNIST's test images by difficulty."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from isoreg.datasets import mnist


def even_rows(length: int, count: int | None, *, both_ends: bool = False) -> Tensor:
    """Indices of ``count`` evenly spread rows; all rows if ``count`` is None or too large.

    The first row always belongs to the sample; with ``both_ends`` the last one does too.
    """
    count = length if count is None else min(count, length)
    if both_ends:
        return torch.linspace(0, length - 1, count).round().long()
    return torch.arange(count) * length // max(1, count)


def evenly(x: Tensor, count: int | None) -> Tensor:
    """The ``count`` evenly spread rows of a tensor; all rows if ``count`` is None or too large."""
    return x[even_rows(len(x), count)]


def mnist_part(
    part: str, data_dir: Path | None, count: int | None = None, device: str = "cpu"
) -> tuple[Tensor, Tensor]:
    """An even MNIST sample: "fit" (first 50,000), "validation" (10,000), "train" (both), "test"."""
    images, labels = mnist("test" if part == "test" else "train", data_dir)
    rows = {"fit": slice(-10_000), "validation": slice(-10_000, None)}.get(part, slice(None))
    return even_split(images[rows], labels[rows], count, device)


def even_split(
    images: Tensor, labels: Tensor, count: int | None, device: str = "cpu"
) -> tuple[Tensor, Tensor]:
    """The same evenly spread rows of images and labels, on a device."""
    rows = even_rows(len(images), count)
    return images[rows].to(device), labels[rows].to(device)

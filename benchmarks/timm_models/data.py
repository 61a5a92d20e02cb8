"""The splits, and the training images of each epoch: the same for every method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks import photographs
from benchmarks.sampling import even_rows

Split = tuple[Tensor, Tensor]
_KEPT_EPOCHS = 4


@dataclass(frozen=True)
class Splits:
    """Images as bytes (n, 3, size, size) and labels (n)."""

    train: Split
    validation: Split
    test: Split


def load(
    data_dir: Path | None, cache: Path, *, size: int, validation_images: int, test_images: int
) -> Splits:
    """Training images in random order, validation images from their end, and test images."""
    images, labels = photographs.read("train", data_dir, cache, size=size)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    train, validation = order[:-validation_images], order[-validation_images:]
    test = evenly(photographs.read("test", data_dir, cache, size=size), test_images)
    return Splits((images[train], labels[train]), (images[validation], labels[validation]), test)


def evenly(split: Split, count: int) -> Split:
    """``count`` samples, spread evenly over all because files come class by class."""
    rows = even_rows(len(split[0]), count, both_ends=True)
    return split[0][rows], split[1][rows]


class Epochs:
    """Training images as timm augments them, in the order of an epoch.

    They depend only on the seed and the epoch, so that methods are compared on the same images.
    The latest few epochs are kept in memory.
    """

    def __init__(self, split: Split, workers: int = 0) -> None:
        self._split, self._workers = split, workers
        self._kept = lru_cache(maxsize=_KEPT_EPOCHS)(self._augmented)

    def __call__(self, count: int, *, seed: int, epoch: int) -> Split:
        """Augmented and shuffled bytes of the first ``count`` training images, and labels."""
        return self._kept(self.count(count), seed, epoch)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self._split[1].max()) + 1

    def count(self, requested: int) -> int:
        """The number of images that can be had: ``requested``, or all there are."""
        return min(requested, len(self._split[0]))

    def _augmented(self, count: int, seed: int, epoch: int) -> Split:
        from timm.data import create_transform
        from timm.utils import random_seed

        random_seed(1000 * seed + epoch)
        images, labels = (values[:count] for values in self._split)
        options = {"scale": (0.6, 1.0), "color_jitter": 0.0, "interpolation": "bilinear"}
        size = images.shape[-1]
        transform = create_transform(size, is_training=True, normalize=False, **options)
        order = torch.randperm(count)
        dataset = _Augmented(images[order], transform)
        loader = DataLoader(dataset, batch_size=500, num_workers=self._workers)
        return torch.cat(list(loader)), labels[order]


class _Augmented(Dataset[Tensor]):
    def __init__(self, images: Tensor, transform: Callable[[object], Tensor]) -> None:
        self._images, self._transform = images, transform

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Tensor:
        from PIL import Image

        return self._transform(Image.fromarray(self._images[index].permute(1, 2, 0).numpy()))

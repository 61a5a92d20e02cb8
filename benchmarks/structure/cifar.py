"""Coarse to fine on photographs: animals or vehicles of CIFAR-10 (JPEG) to its ten classes."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import photographs
from benchmarks.cache import computed_once
from benchmarks.results import Results, Run
from benchmarks.structure.data import Data, Split
from benchmarks.structure.evaluation import fine_figures, pixels_of
from benchmarks.structure.experiment import (
    chosen_strengths,
    measure,
    measure_shortly,
    progress_over,
)
from benchmarks.structure.methods import METHODS, Method, isometry, regression
from benchmarks.structure.settings import Settings
from isoreg import references

TASKS = {"animal or vehicle": [[2, 3, 4, 5, 6, 7], [0, 1, 8, 9]]}
_CHANNELS = (32, 64, 128, 256)
FILTERS = 100
GRID = 2


_BETAS = (0.1, 0.3, 1.0)
_SMALLER = (0.03, 0.1, 0.3)

CIFAR_METHODS: dict[str, Method] = {
    "cross-entropy": Method(METHODS["cross-entropy"].build, (0.0,)),
    "isometry, patches": Method(isometry(), _BETAS, reference="patches"),
    "control: patches, shuffled": Method(isometry(shuffled=True), _SMALLER, reference="patches"),
    "isometry, pixels": Method(isometry(), _SMALLER),
    "patches predicted by a head": Method(regression, _BETAS, reference="patches"),
    "control: constant distance": Method(METHODS["control: constant distance"].build, _SMALLER),
}
UNTRAINED = ("raw pixels", "patches")
SLACK = 0.01
"""Of the coarse accuracy, in the choice of a strength: 1,000 validation images tell no less."""


def cifar_settings(quick: bool) -> Settings:
    """Few enough images and epochs for one core."""
    settings = replace(
        Settings(),
        train_images=10_000,
        known=5_000,
        epochs=16,
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
    """Choose the strength of every method on validation images, then measure."""
    settings = cifar_settings(quick)
    results = Results(out, asdict(settings))
    task = next(iter(TASKS))
    names = list(CIFAR_METHODS)[: 2 if quick else None]
    keys: list[dict[str, Any]] = [
        {"method": name, "strength": strength}
        for name in names
        for strength in CIFAR_METHODS[name].strengths[: 1 if quick else None]
    ]
    keys += [{"task": "without labels", "method": name, "seed": 0} for name in UNTRAINED]
    keys += [
        {"task": task, "method": name, "seed": seed} for seed in range(seeds) for name in names
    ]
    todo = [key for key in keys if not results.has(key)]
    if not todo:
        return results
    data = load(settings, data_dir, out.parent / "cache", 8 if quick else FILTERS)
    for key in progress_over(todo):
        results.add(key, _figures(key, data, settings, results.runs))
    return results


def _figures(key: dict[str, Any], data: Data, settings: Settings, runs: list[Run]) -> Run:
    name = key["method"]
    if "strength" in key:
        short = replace(settings, epochs=max(1, settings.epochs // 2))
        return measure_shortly(
            CIFAR_METHODS[name], key["strength"], data.unseen(), short, network=small_resnet
        )
    if key["task"] == "without labels":
        filters = data.references["patches"].shape[1] // GRID**2
        embed = pixels_of if name == "raw pixels" else learn_patches(data.train.x, filters)
        return fine_figures(embed, data, settings, seed=0)
    strength = chosen_strengths(tries(runs), SLACK)[name]
    method = CIFAR_METHODS[name]
    found = measure(method, strength, data, key["seed"], settings, network=small_resnet)
    return {"strength": strength, **found}


def tries(runs: list[Run]) -> list[Run]:
    """Those on validation images."""
    return [run for run in runs if "strength" in run["key"]]


def learn_patches(images: Tensor, filters: int) -> references.Reference:
    """Patterns of 6 by 6 pixels, in which quarter of the photograph they are; all count alike."""
    samples = images[:2_000]
    learnt = references.patches(samples, size=6, filters=filters, grid=GRID)
    return references.standardized(learnt, samples)


def load(settings: Settings, data_dir: Path | None, cache: Path, filters: int = FILTERS) -> Data:
    """An even sample of the training photographs, 2,000 others for validation, test ones."""
    train_images, train_labels = photographs.read("train", data_dir, cache)
    test_images, test_labels = photographs.read("test", data_dir, cache)
    order = torch.randperm(len(train_images), generator=torch.Generator().manual_seed(0))
    chosen, held = order[: settings.train_images], order[-min(2_000, len(order) // 2) :]
    every = max(1, len(test_images) // settings.test_images)

    def split(images: Tensor, labels: Tensor, rows: Tensor | slice) -> Split:
        return Split(images[rows].float() / 255, labels[rows])

    train = split(train_images, train_labels, chosen)
    table = cache / f"cifar-patches-alike-{len(train.x)}-{filters}.pt"
    tables = {
        "pixels": references.scaled(None, train.x[:1_000])(train.x),
        "patches": computed_once(table, lambda: learn_patches(train.x, filters)(train.x)),
    }
    return Data(
        train=train,
        validation=split(train_images, train_labels, held),
        test=split(test_images, test_labels, slice(0, None, every)),
        groups=next(iter(TASKS.values())),
        references=tables,
    )

"""Coarse to fine on photographs: animals or vehicles of CIFAR-10 (JPEG) to its ten classes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import photographs
from benchmarks.results import Results, Run
from benchmarks.structure.data import Data, Split
from benchmarks.structure.evaluation import Embed, fine_figures, pixels_of
from benchmarks.structure.experiment import (
    chosen_strengths,
    measure,
    measure_shortly,
    progress_over,
    tries,
)
from benchmarks.structure.methods import METHODS, Method, compared_with, isometry, regression
from benchmarks.structure.settings import Settings
from benchmarks.structure.unlabelled import BOTH, CHANNELS, LEARNT, Effort, learn, resnet_body
from isoreg import references

TASKS = {"animal or vehicle": [[2, 3, 4, 5, 6, 7], [0, 1, 8, 9]]}
_BETAS = (0.1, 0.3, 1.0)
_SMALLER = (0.03, 0.1, 0.3)
_WIDER = {
    "strengths": (*_BETAS, 3.0),
    "of_control": (*_SMALLER, 1.0),
    "of_head": (*_SMALLER, 1.0),
}

CIFAR_METHODS: dict[str, Method] = {
    "cross-entropy": Method(METHODS["cross-entropy"].build, (0.0,)),
    "isometry, patches": Method(isometry(), _BETAS, reference="patches"),
    "control: patches, shuffled": Method(isometry(shuffled=True), _SMALLER, reference="patches"),
    "isometry, pixels": Method(isometry(), _SMALLER),
    "patches predicted by a head": Method(regression, _BETAS, reference="patches"),
    "control: constant distance": Method(METHODS["control: constant distance"].build, _SMALLER),
    **compared_with(BOTH, name="both", **_WIDER),
    **compared_with(LEARNT, name=LEARNT, **_WIDER),
    "supervised contrastive": replace(
        METHODS["supervised contrastive"], strengths=(0.02, 0.1, 0.5, 2.0)
    ),
    "Jacobian": replace(METHODS["Jacobian"], strengths=(0.001, 0.01, 0.1, 1.0)),
    "label smoothing": replace(METHODS["label smoothing"], strengths=(0.03, 0.1, 0.3, 0.6)),
    "dropout": replace(METHODS["dropout"], strengths=(0.1, 0.3, 0.5, 0.7)),
}
STEM, BEFORE = "0.maxpool", "0.layer3"
"""Of `small_resnet`: the end of its stem, and the block before the last one."""

# on validation images alone
ALSO_TRIED: dict[str, Method] = {
    **{
        f"isometry, {name}": Method(isometry(), _BETAS, reference=name)
        for name in ("blurred pixels", "whitened pixels", "random convolutions")
    },
    # its distances are long, about 50
    "isometry, the stem": Method(isometry(inputs=STEM, scale="fit"), (0.003, 0.03, 0.3)),
    "isometry, the layer before": Method(isometry(inputs=BEFORE, scale="fit"), _SMALLER),
    "all pairs, both": Method(isometry(pairs="all"), (1.0, 3.0), reference=BOTH),
    "isometry, manifold of both": Method(isometry(), (0.3, 1.0), reference=f"manifold of {BOTH}"),
    "isometry, both and manifold": Method(
        isometry(), (1.0, 3.0), reference=f"{BOTH} and their manifold"
    ),
}
RAW = "raw pixels"
UNTRAINED = (
    *(RAW, "patches", LEARNT, BOTH, f"manifold of {BOTH}"),
    *("blurred pixels", "whitened pixels", "random convolutions"),
)
SLACK = 0.01
"""Of the coarse accuracy, in the choice of a strength: 1,000 images tell no smaller difference."""


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
    """The body of a small resnet, and a linear classifier."""
    del like, settings
    return nn.Sequential(resnet_body(dropout), nn.Linear(CHANNELS[-1], outputs))


def run(*, seeds: int, data_dir: Path | None, out: Path, quick: bool) -> Results:
    """Choose the strength of every method on validation images, then measure."""
    settings = cifar_settings(quick)
    results = Results(out, asdict(settings))
    task = next(iter(TASKS))
    few = 2 if quick else None
    names = list(CIFAR_METHODS)[:few]
    tried = {name: CIFAR_METHODS[name] for name in names} | ({} if quick else ALSO_TRIED)
    keys: list[dict[str, Any]] = [
        {"method": name, "strength": strength}
        for name, method in tried.items()
        for strength in method.strengths[: 1 if quick else None]
    ]
    keys += [{"task": "without labels", "method": name, "seed": 0} for name in UNTRAINED[:few]]
    keys += [
        {"task": task, "method": name, "seed": seed} for seed in range(seeds) for name in names
    ]
    todo = [key for key in keys if not results.has(key)]
    if not todo:
        return results
    effort = Effort(filters=8, epochs=1) if quick else Effort()
    wanted = {_reference_of(key["method"]) for key in todo}
    data, learnt = load(settings, data_dir, out.parent / "cache", effort, wanted)
    for key in progress_over(todo):
        if key.get("task") == "without labels":
            embed = _embedding(key["method"], learnt)
            results.add(key, fine_figures(embed, data, settings, seed=0))
        else:
            results.add(key, _figures(key, data, settings, results.runs))
    return results


def _embedding(name: str, learnt: dict[str, references.Reference]) -> Embed:
    if name == RAW:
        return pixels_of
    reference = learnt[name]
    return lambda x: reference(x).flatten(1)


def _reference_of(name: str) -> str:
    """What a method compares with, or what an untrained embedding is."""
    methods = CIFAR_METHODS | ALSO_TRIED
    return methods[name].reference if name in methods else name.replace(RAW, "pixels")


def _figures(key: dict[str, Any], data: Data, settings: Settings, runs: list[Run]) -> Run:
    name = key["method"]
    method = (CIFAR_METHODS | ALSO_TRIED)[name]
    if "strength" in key:
        short = replace(settings, epochs=max(1, settings.epochs // 2))
        return measure_shortly(method, key["strength"], data.unseen(), short, network=small_resnet)
    strength = chosen_strengths(tries(runs), slack=SLACK)[name]
    found = measure(method, strength, data, key["seed"], settings, network=small_resnet)
    return {"strength": strength, **found}


def load(
    settings: Settings, data_dir: Path | None, cache: Path, effort: Effort, wanted: Iterable[str]
) -> tuple[Data, dict[str, references.Reference]]:
    """An even sample of the training photographs, 2,000 others for validation, test ones.

    And the references that are wanted, learnt from the training photographs.
    """
    train_images, train_labels = photographs.read("train", data_dir, cache)
    test_images, test_labels = photographs.read("test", data_dir, cache)
    order = torch.randperm(len(train_images), generator=torch.Generator().manual_seed(0))
    chosen, held = order[: settings.train_images], order[-min(2_000, len(order) // 2) :]
    every = max(1, len(test_images) // settings.test_images)

    def split(images: Tensor, labels: Tensor, rows: Tensor | slice) -> Split:
        return Split(images[rows].float() / 255, labels[rows])

    train = split(train_images, train_labels, chosen)
    learnt = learn(train.x, cache, effort, wanted)
    data = Data(
        train=train,
        validation=split(train_images, train_labels, held),
        test=split(test_images, test_labels, slice(0, None, every)),
        groups=next(iter(TASKS.values())),
        references={name: reference(train.x) for name, reference in learnt.items()},
    )
    return data, learnt

"""Train and attack every network of the experiment, saving each as it comes."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.mnist.evaluation import evaluate
from benchmarks.mnist.settings import Settings
from benchmarks.mnist.training import train
from benchmarks.progress import progress_bar
from benchmarks.results import Results
from isoreg.datasets import mnist


def run(
    settings: Settings, *, seeds: int, data_dir: Path | None, device: str, out: Path
) -> Results:
    """Run what is not yet in the file ``out``, seed by seed."""
    results = Results(out, asdict(settings))
    todo = [(seed, beta) for seed in range(seeds) for beta in settings.betas]
    todo = [(seed, beta) for seed, beta in todo if not results.has({"seed": seed, "beta": beta})]
    if not todo:
        return results
    train_set = _load("train", settings.train_images, settings, data_dir, device)
    test_set = _load("test", settings.test_images, settings, data_dir, device)
    figures_each = 2 + 5 + 3 * len(settings.eps)
    with progress_bar() as progress:
        bar = progress.add_task("", total=len(todo) * (1 + figures_each))
        for seed, beta in todo:
            name = f"seed {seed}, beta {beta:g}: "
            progress.update(bar, description=name + "training")
            begin = time.perf_counter()
            model = train(*train_set, beta=beta, seed=seed, settings=settings)
            figures: dict[str, object] = {"training seconds": time.perf_counter() - begin}
            progress.advance(bar)
            for figure, value in evaluate(model, *test_set, beta=beta, settings=settings):
                figures[figure] = value
                progress.update(bar, advance=1, description=name + figure)
            results.add({"seed": seed, "beta": beta}, figures)
    return results


def _load(
    split: str, count: int, settings: Settings, data_dir: Path | None, device: str
) -> tuple[Tensor, Tensor]:
    """An even sample of a split: MNIST's test images are not in random order of difficulty."""
    images, labels = mnist(split, data_dir)
    dtype = getattr(torch, settings.of_convention.dtype)
    sample = slice(None, None, len(images) // count)
    return images[sample][:count].to(device, dtype), labels[sample][:count].to(device)

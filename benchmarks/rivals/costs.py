"""What a step of training costs: time as a ratio to cross-entropy, and memory."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch

from benchmarks.costs import memory, times
from benchmarks.methods import Recipe, attach
from benchmarks.networks import mlp
from benchmarks.results import Figures
from benchmarks.training import adam, take_step


def costs(recipe: Recipe, *, device: str, seconds: float, **options: Any) -> Figures:
    """Seconds of a step, their ratio to cross-entropy's, and the bytes by which memory peaks.

    ``options`` go to `training_step`. Memory is the peak of ten steps, above what the process needs
    for data, model and library.
    """
    durations = times(training_step, recipe, device=device, seconds=seconds, **options)
    return {
        "seconds": durations["method"],
        "ratio": durations["method"] / durations["plain"],
        "memory": memory(training_step, recipe, steps=10, device=device, **options),
    }


def training_step(
    recipe: Recipe,
    stack: ExitStack,
    *,
    width: int,
    batch_size: int,
    rate: float,
    device: str = "cpu",
) -> Callable[[], float]:
    """A function that takes a step as at the end of the ramp; the stack ends the method."""
    torch.manual_seed(0)
    images, labels = torch.rand(batch_size, 1, 28, 28), torch.arange(batch_size) % 10
    images, labels = images.to(device), labels.to(device)
    model = mlp(width=width).to(device)
    objective = stack.enter_context(attach(model, recipe))
    optimizers = adam([*model.parameters(), *objective.parameters], rate)

    def step() -> float:
        loss = objective(images, labels)
        take_step(loss, optimizers)
        objective.after_step()
        return loss.item()

    return step

"""What a step of training costs, as ratios to a plain step."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch

from benchmarks.costs import memory, times
from benchmarks.methods import Recipe, attach
from benchmarks.timm_models.networks import network
from benchmarks.timm_models.training import step_on

_STEPS = 3


def costs(
    name: str, recipe: Recipe, *, device: str, seconds: float, measure_memory: bool, **shape: Any
) -> dict[str, float]:
    """Seconds of a plain step; time and memory of the recipe's as ratios to it, taken in turn.

    ``shape`` goes to `training_step`. Memory is the peak of three steps above data and model.
    """
    shape |= {"name": name, "device": device}
    measured = times(training_step, recipe, seconds=seconds, **shape)
    figures = {"plain seconds": measured["plain"], "time": measured["method"] / measured["plain"]}
    if measure_memory:
        plain, ours = (memory(training_step, r, steps=_STEPS, **shape) for r in ({}, recipe))
        if plain and ours:
            figures["memory"] = ours / plain
    return figures


def training_step(
    recipe: Recipe,
    stack: ExitStack,
    *,
    name: str,
    size: int,
    batch: int,
    narrow: bool,
    device: str,
) -> Callable[[], None]:
    """A function that trains a new network by a step on one batch; the stack ends the method."""
    from timm.optim import create_optimizer_v2

    model = network(name, classes=10, size=size, narrow=narrow, seed=0).to(device).train()
    x = torch.rand(batch, 3, size, size, device=device)
    y = torch.randint(10, (batch,), device=device)
    objective = stack.enter_context(attach(model, recipe))
    optimizer = create_optimizer_v2(model.net, opt="adamw", lr=1e-3)

    def run() -> None:
        step_on(objective, optimizer, x, y, progress=1.0)

    return run

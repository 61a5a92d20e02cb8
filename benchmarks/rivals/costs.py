"""What a step of training costs: time as a ratio to cross-entropy, and memory."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Protocol

import torch
from torch import Tensor

from benchmarks.methods import Recipe, attach
from benchmarks.networks import mlp
from benchmarks.results import Figures
from benchmarks.timing import interleaved, peak_memory
from benchmarks.training import adam, take_step


class Timed(Protocol):
    """What the settings must say."""

    @property
    def width(self) -> int: ...  # noqa: D102
    @property
    def batch_size(self) -> int: ...  # noqa: D102
    @property
    def learning_rate(self) -> float: ...  # noqa: D102
    @property
    def timing_seconds(self) -> float: ...  # noqa: D102


def costs(recipe: Recipe, train_set: tuple[Tensor, Tensor], settings: Timed) -> Figures:
    """Seconds of a step, their ratio to cross-entropy's, and the bytes by which memory peaks.

    Steps of both are taken in turn; memory is that of ten steps in a fresh process, above what the
    process needs for data, model and library, and given on Linux alone. numba is kept out of it:
    where it is installed, the isometry penalty loads some 125 MB of it, once.
    """
    images, labels = (values[: settings.batch_size] for values in train_set)
    with ExitStack() as stack:
        steps = {
            name: training_step(each, images, labels, stack, settings)
            for name, each in (("plain", {}), ("method", recipe))
        }
        seconds = interleaved(steps, device=str(images.device), seconds=settings.timing_seconds)
    linux = sys.platform == "linux" and images.device.type == "cpu"
    return {
        "seconds": seconds["method"],
        "ratio": seconds["method"] / seconds["plain"],
        "memory": peak_memory(memory_program(recipe, settings)) if linux else None,
    }


def training_step(
    recipe: Recipe, images: Tensor, labels: Tensor, stack: ExitStack, settings: Timed
) -> Callable[[], float]:
    """One step of training as a function, at the end of the ramp; the stack ends the method."""
    torch.manual_seed(0)
    model = mlp(width=settings.width).to(images.device)
    objective = stack.enter_context(attach(model, recipe))
    optimizers = adam([*model.parameters(), *objective.parameters], settings.learning_rate)

    def step() -> float:
        loss = objective(images, labels)
        take_step(loss, optimizers)
        objective.after_step()
        return loss.item()

    return step


def memory_program(recipe: Recipe, settings: Timed) -> str:
    """What `peak_memory` runs: ten steps of training."""
    return (
        "import json, sys, torch\n"
        "sys.modules['numba'] = None\n"  # its libraries, loaded once, are no part of training
        "from contextlib import ExitStack\n"
        "from benchmarks.rivals.costs import training_step\n"
        "from benchmarks.rivals.study import Settings\n"
        f"settings = Settings(width={settings.width})\n"
        "torch.set_num_threads(1)\n"
        f"images = torch.rand({settings.batch_size}, 1, 28, 28)\n"
        "labels = torch.arange(len(images)) % 10\n"
        f"recipe = json.loads({json.dumps(json.dumps(recipe))})\n"
        "stack = ExitStack()\n"
        "step = training_step(recipe, images, labels, stack, settings)\n"
        "def measured():\n"
        "    for _ in range(10):\n"
        "        step()\n"
        "    stack.close()\n"  # torch aborts if parametrizations end with the interpreter
    )

"""What a step of training costs: time as a ratio to cross-entropy, and memory."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from benchmarks.mnist.settings import CONVENTIONS
from benchmarks.mnist.training import mlp
from benchmarks.objectives import attach
from benchmarks.objectives.methods import Recipe
from benchmarks.rivals.settings import Settings
from benchmarks.timing import interleaved, peak_memory


def costs(
    recipes: Mapping[str, Recipe], train_set: tuple[Tensor, Tensor], settings: Settings
) -> dict[str, Any]:
    """Seconds of a step, their ratio to cross-entropy's, and the bytes by which memory peaks.

    Steps of all methods are taken in turn; memory is that of ten steps in a fresh process, above
    what the process needs for data, model and library, and given on Linux alone. numba is kept out
    of it: where it is installed, the isometry penalty loads some 125 MB of it, once.
    """
    images, labels = (values[: settings.batch_size] for values in train_set)
    with ExitStack() as stack:
        steps = {
            name: training_step(recipe, images, labels, settings, stack)
            for name, recipe in recipes.items()
        }
        seconds = interleaved(steps, device=str(images.device), seconds=settings.timing_seconds)
    base = seconds["cross-entropy"]
    linux = sys.platform == "linux" and images.device.type == "cpu"
    memory = None
    if linux:
        programs = {name: memory_program(recipe, settings) for name, recipe in recipes.items()}
        memory = {name: peak_memory(program) for name, program in programs.items()}
    ratio = {name: value / base for name, value in seconds.items()}
    return {"seconds": seconds, "ratio": ratio, "memory": memory}


def training_step(
    recipe: Recipe, images: Tensor, labels: Tensor, settings: Settings, stack: ExitStack
) -> Callable[[], float]:
    """One step of training as a function, at the end of the ramp; the stack ends the method."""
    torch.manual_seed(0)
    model = mlp(settings.width, CONVENTIONS["text"]).to(images.device)
    objective = stack.enter_context(attach(model, recipe))
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)

    def step() -> float:
        loss = objective(images, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        objective.after_step()
        return loss.item()

    return step


def memory_program(recipe: Recipe, settings: Settings) -> str:
    """What `peak_memory` runs: ten steps of training."""
    return (
        "import json, sys, torch\n"
        "sys.modules['numba'] = None\n"  # its libraries, loaded once, are no part of training
        "from contextlib import ExitStack\n"
        "from benchmarks.rivals.costs import training_step\n"
        "from benchmarks.rivals.settings import Settings\n"
        f"settings = Settings(width={settings.width})\n"
        "torch.set_num_threads(1)\n"
        f"images = torch.rand({settings.batch_size}, 1, 28, 28)\n"
        "labels = torch.arange(len(images)) % 10\n"
        f"recipe = json.loads({json.dumps(json.dumps(recipe))})\n"
        "stack = ExitStack()\n"
        "step = training_step(recipe, images, labels, settings, stack)\n"
        "def measured():\n"
        "    for _ in range(10):\n"
        "        step()\n"
        "    stack.close()\n"  # torch aborts if parametrizations end with the interpreter
    )

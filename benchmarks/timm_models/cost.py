"""What a step of training costs: ratios to a plain one, and the penalty's own share."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from benchmarks.library.speed_steps import Step, measure_step
from benchmarks.methods import Recipe, attach
from benchmarks.timing import interleaved, peak_memory
from benchmarks.timm_models.networks import network, stages
from benchmarks.timm_models.training import step_on

_STEPS = 3


@dataclass(frozen=True)
class StageStep(Step):
    """A step through a model of timm whose stages are compared."""

    narrow: bool = True

    def names(self) -> list[str]:
        """The stages."""
        return stages(self.model())

    def model(self) -> nn.Sequential:
        """The network."""
        return network(self.network, classes=10, size=self.pixels, narrow=self.narrow, seed=0)


def costs(
    name: str,
    recipe: Recipe,
    *,
    size: int,
    batch: int,
    narrow: bool,
    device: str,
    seconds: float,
    measure_memory: bool,
) -> dict[str, Any]:
    """Ratios of whole steps to plain ones, taken in turn.

    Memory is the peak of three steps in a fresh process above what it needs for data and model: on
    a processor Linux tells it, on a GPU torch does.
    """
    arguments: dict[str, Any] = {"size": size, "batch": batch, "narrow": narrow, "device": device}
    recipes: dict[str, Recipe] = {"plain": {}, "method": recipe}
    with ExitStack() as stack:
        steps = {
            each: training_step(name, of_each, stack, **arguments)
            for each, of_each in recipes.items()
        }
        times = interleaved(steps, device=device, seconds=seconds)
    found = {"plain seconds": times["plain"], "time": times["method"] / times["plain"]}
    if measure_memory and (device != "cpu" or sys.platform == "linux"):
        plain, ours = (_memory(name, of_each, arguments) for of_each in recipes.values())
        found["memory"] = ours / plain
    return found


def shares(
    name: str, *, size: int, batch: int, narrow: bool, device: str, seconds: float
) -> dict[str, Any]:
    """The penalty on all stages, alone, as a share of a plain step: flattened and pooled."""
    layers = len(stages(network(name, classes=10, size=size, narrow=narrow, seed=0)))
    found: dict[str, Any] = {"layers": layers}
    for pool in ("flatten", "mean"):
        step = StageStep(name, size, batch, layers, pool, narrow)
        measured: dict[str, Any] = measure_step(step, device, seconds)
        found["milliseconds"] = measured["milliseconds"]["step"]
        found[pool] = measured["share"]["isoreg"]
    return found


def training_step(
    name: str,
    recipe: Recipe,
    stack: ExitStack,
    *,
    size: int,
    batch: int,
    narrow: bool,
    device: str,
) -> Callable[[], None]:
    """A function that trains a network of its own on one batch; the stack ends the method."""
    from timm.optim import create_optimizer_v2

    model = network(name, classes=10, size=size, narrow=narrow, seed=0).to(device).train()
    x = torch.rand(batch, 3, size, size, device=device)
    y = torch.randint(10, (batch,), device=device)
    objective = stack.enter_context(attach(model, recipe))
    optimizer = create_optimizer_v2(model.net, opt="adamw", lr=1e-3)

    def run() -> None:
        step_on(objective, optimizer, x, y, progress=1.0)

    return run


def _memory(name: str, recipe: Recipe, arguments: dict[str, Any]) -> int:
    """Bytes by which the peak grows."""
    if arguments["device"].startswith("cuda"):
        with ExitStack() as stack:
            step = training_step(name, recipe, stack, **arguments)
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            for _ in range(_STEPS):
                step()
            return torch.cuda.max_memory_allocated() - before
    given = json.dumps(json.dumps([name, recipe, arguments]))
    return peak_memory(
        "import json, sys, torch\n"
        "sys.modules['numba'] = None\n"  # its libraries, loaded once, are no part of training
        "from contextlib import ExitStack\n"
        "from benchmarks.timm_models.cost import training_step\n"
        "torch.set_num_threads(1)\n"
        f"name, recipe, arguments = json.loads({given})\n"
        "stack = ExitStack()\n"
        "step = training_step(name, recipe, stack, **arguments)\n"
        "def measured():\n"
        f"    for _ in range({_STEPS}):\n"
        "        step()\n"
    )

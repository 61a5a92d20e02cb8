"""Time and memory of a training step, beside a step on cross-entropy alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch

from benchmarks.methods import Recipe
from benchmarks.timing import interleaved, peak_memory

Make = Callable[..., Callable[[], object]]
"""Called with a recipe, a stack whose end detaches the method, a device and options.

It returns a function that takes one training step."""


def times(
    make: Make, recipe: Recipe, *, device: str, seconds: float, **options: Any
) -> dict[str, float]:
    """Median seconds of two interleaved steps: cross-entropy alone ("plain"), and "method"."""
    with ExitStack() as stack:
        recipes = {"plain": {}, "method": recipe}
        steps = {n: make(r, stack, device=device, **options) for n, r in recipes.items()}
        return interleaved(steps, device=device, seconds=seconds)


def memory(
    make: Make, recipe: Recipe, *, steps: int, device: str = "cpu", **options: Any
) -> int | None:
    """Bytes by which peak memory grows in so many steps; None where it cannot be measured.

    On a GPU, torch counts it. On a processor, Linux reports the peak of a fresh process, which runs
    without numba: numba loads some 125 MB once, and that is not a cost of a training step.
    """
    options["device"] = device
    if device.startswith("cuda"):
        with ExitStack() as stack:
            step = make(recipe, stack, **options)
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            for _ in range(steps):
                step()
            return torch.cuda.max_memory_allocated() - before
    if device != "cpu" or sys.platform != "linux":
        return None
    arguments = json.dumps(json.dumps([recipe, options]))
    return peak_memory(
        "import json, sys, torch\n"
        "sys.modules['numba'] = None\n"
        "from contextlib import ExitStack\n"
        f"from {make.__module__} import {make.__name__} as make\n"
        "torch.set_num_threads(1)\n"
        f"recipe, options = json.loads({arguments})\n"
        "stack = ExitStack()\n"
        "step = make(recipe, stack, **options)\n"
        "def measured():\n"
        f"    for _ in range({steps}):\n"
        "        step()\n"
        "    stack.close()\n"  # torch aborts if parametrizations end with the interpreter
    )

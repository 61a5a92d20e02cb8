"""Thin adapters to trainers: `lightning.IsometryCallback` and `transformers.IsometryTrainer`.

A loop of your own, and one with Accelerate, need none: there the two lines are two lines.

With Accelerate, attach to the model before ``accelerator.prepare`` (so that compiling and wrapping
come later) and write ``accelerator.backward(F.cross_entropy(model(x), y) + iso(y))``: it divides
for gradient accumulation and scales for float16 itself.
``accelerator.register_for_checkpointing(iso)`` puts the average of ``beta="auto"`` into its
checkpoints, of the first process only: of several, save each one's ``iso.state_dict()``.
"""

import importlib
from types import ModuleType

_ADAPTERS = ("lightning", "loading", "transformers")


def __getattr__(name: str) -> ModuleType:
    """Adapters are imported when they are asked for, each with its library."""
    if name in _ADAPTERS:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

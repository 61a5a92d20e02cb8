"""Thin adapters to trainers: `lightning.IsometryCallback` and `transformers.IsometryTrainer`.

A training loop of your own needs no adapter, also with Accelerate: it takes two lines there.

With Accelerate, attach to the model before ``accelerator.prepare`` (so that compiling and wrapping
come later) and write ``accelerator.backward(F.cross_entropy(model(x), y) + iso(y))``: Accelerate
divides for gradient accumulation and scales for float16 itself.
``accelerator.register_for_checkpointing(iso)`` puts the average of ``beta="auto"`` into its
checkpoints, but only that of the first process; of the others, save ``iso.state_dict()`` yourself.
"""

import importlib
from types import ModuleType

_ADAPTERS = ("lightning", "loading", "transformers")


def __getattr__(name: str) -> ModuleType:
    """Import an adapter, and with it its library, when it is first used."""
    if name in _ADAPTERS:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

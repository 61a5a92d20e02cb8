"""All that the benchmarks take from isoreg beside its public names, in one place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from isoreg import compiled
from isoreg.distributed import gather_rows
from isoreg.layers import Layer, find_layers
from isoreg.local import first_order_margin_loss
from isoreg.pooling import resolve_pool, tensors_in
from isoreg.recorder import Recorder
from isoreg.robustness.attacks import PRESETS
from isoreg.robustness.pgd import pgd
from isoreg.rows import Block, plan_rows, rows_and_gradients

__all__ = [
    "PRESETS",
    "Block",
    "Layer",
    "find_layers",
    "first_order_margin_loss",
    "gather_rows",
    "last_features",
    "pgd",
    "plan_rows",
    "resolve_pool",
    "rows_and_gradients",
    "tensors_in",
    "without_numba",
]


def last_features(model: nn.Module) -> Recorder:
    """A recorder of what enters the classifier."""
    return Recorder(model, find_layers(model, None), resolve_pool("flatten"))


@contextmanager
def without_numba() -> Iterator[None]:
    """As if numba were not installed."""
    load = compiled.load_kernel
    compiled.load_kernel = lambda: None  # type: ignore[assignment]
    try:
        yield
    finally:
        compiled.load_kernel = load

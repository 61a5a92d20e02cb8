"""The one place where the benchmarks import from isoreg what is not public."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from isoreg._attach.classifier import choose_layers
from isoreg._attach.layers import Layer
from isoreg._attach.pooling import resolve_pool, tensors_in
from isoreg._attach.recorder import Recorder
from isoreg._pairs import engine
from isoreg._pairs.plan import Call
from isoreg._ranks.exchange import gather_rows
from isoreg.robustness.attacks import PRESETS
from isoreg.robustness.local import first_order_margin_loss
from isoreg.robustness.pgd import pgd

__all__ = [
    "PRESETS",
    "Layer",
    "choose_layers",
    "compute_rows",
    "first_order_margin_loss",
    "gather_rows",
    "last_features",
    "pgd",
    "resolve_pool",
    "tensors_in",
    "without_numba",
]


def last_features(model: nn.Module) -> Recorder:
    """A recorder of the features that enter the classifier."""
    return Recorder(model, choose_layers(model, None), resolve_pool("flatten"))


@torch.no_grad()
def compute_rows(points: list[Tensor], labels: Tensor | None, rows: int) -> None:
    """Compute value and gradients for the pairs of the first ``rows`` samples with the whole batch.

    ``points`` holds the inputs, then the features of each layer.
    """
    inputs, *features = points
    call = Call(inputs, features, labels, rows=slice(0, rows))
    ones = torch.ones(len(features), dtype=torch.float64)
    engine.compare(call, ones, float(rows * len(inputs)), needs_grad=True)


@contextmanager
def without_numba() -> Iterator[None]:
    """Select the torch backend within the block, as if numba were not installed."""
    before = os.environ.get("ISOREG_BACKEND")
    os.environ["ISOREG_BACKEND"] = "torch"
    try:
        yield
    finally:
        del os.environ["ISOREG_BACKEND"]
        if before is not None:
            os.environ["ISOREG_BACKEND"] = before

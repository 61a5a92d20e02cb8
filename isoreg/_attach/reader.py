"""Turns what a watched layer gives into features in the record of a pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from isoreg._attach.layers import Axes
from isoreg._attach.pooling import Entering, FirstTensor, features_entering, first_tensor, pooled
from isoreg._attach.record import Record
from isoreg._compiled import between_graphs
from isoreg.errors import IsoregError, LayerError, RecordError


class Reader:
    """Reads the features of watched layers into records.

    Args:
        model: The model, whose modules tell which axis holds channels.
        pool: Maps what a layer gives to (b, d) features, or to None if there is no tensor.

    Attributes:
        watch: Unless it is None, it is called with a layer's name, the tensor that it gave and
            the clone of it that the features are made of.
        watch_compiled: Whether ``watch`` is called in compiled passes too, where it breaks graphs.
    """

    def __init__(self, model: nn.Module, pool: Callable[[Any], Tensor | None]) -> None:
        self.watch: Callable[[str, Tensor, Tensor], None] | None = None
        self.watch_compiled = False
        self._pool = pool
        self._axes = Axes(model)

    def read(self, record: Record, name: str, value: Any) -> None:
        """Add the features of one use of a layer to a record, or the reason why it has none."""
        use = record.next_use(name)
        try:
            record.features[use] = self._features(value, use, record)
        except IsoregError as error:  # raised by `Recorder.take`: the user's forward pass goes on
            record.failure = type(error), f"layer {name!r}: {error.message}"

    def _features(self, value: Any, use: str, record: Record) -> Tensor:
        if not torch.is_grad_enabled():
            raise RecordError(
                "it ran without gradients inside a forward pass with gradients, so its penalty "
                "would do nothing. If it is checkpointed, use use_reentrant=False; what is meant "
                "to have none goes inside `with iso.paused():`."
            )
        value = self._pool_input(value, record)
        is_tensor = isinstance(value, Tensor)
        if is_tensor:
            value = self._copied(value, use, record)
        elif self._usable_watch() is not None:
            record.unwatched.append(use)
        features = pooled(self._pool, value)
        if not isinstance(features, Tensor):
            raise LayerError(
                f"it gave {type(value).__name__}, which holds no tensor. "
                "Choose a layer whose output is a tensor, or pick one with pool=."
            )
        return features if is_tensor else features.clone()

    def _pool_input(self, value: Any, record: Record) -> Any:
        """Return what is pooled: the tensor of features, or for a callable all that it may use."""
        entering = isinstance(value, Entering)
        if not isinstance(self._pool, FirstTensor):
            if not entering:
                return value
            return value.args[0] if value.args else value.kwargs
        tensor = features_entering(value) if entering else first_tensor(value)
        if tensor is None:
            return value
        record.check_axes(tensor)
        # in a compiled pass, this check would make a new graph for each size
        if self._pool.name != "flatten" and not torch.compiler.is_compiling():
            self._axes.refuse_other(tensor, self._pool.name)
        return tensor

    def _copied(self, value: Tensor, use: str, record: Record) -> Tensor:
        """Return a clone, because a following layer may change the tensor in place."""
        copy, watch = value.clone(), self._usable_watch()
        if not torch.compiler.is_compiling():
            record.note_graph(use, value)
            if watch is not None:
                watch(use, value, copy)
        elif watch is not None:
            _watch_uncompiled(watch, use, value, copy)
        return copy

    def _usable_watch(self) -> Callable[[str, Tensor, Tensor], None] | None:
        """Return ``watch`` if this pass may call it."""
        # A compiled pass that may not call it must not read it: each change of what it reads would
        # compile the model once more, and ``watch`` changes after the first step.
        if torch.compiler.is_compiling() and not self.watch_compiled:
            return None
        return self.watch


_watch_uncompiled = between_graphs(
    lambda watch, *args: watch(*args),
    "beta='auto' reads gradients in backward, which one graph of the whole step does not show: "
    "compile the model alone, or give beta a number",
)

"""Hooks: record the features of a forward pass, read them once, pause, remove."""

from __future__ import annotations

import contextlib
import dataclasses
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from isoreg.errors import LayerError, RecordError
from isoreg.layers import Layer, tensors_in


@dataclasses.dataclass
class Record:
    """What one forward pass left behind.

    Attributes:
        reference: What the features are compared with; None if it was never seen.
        reference_version: Its in-place counter when it was seen, to notice an overwrite.
        failure: Why some layer's features could not be recorded.
        features: (b, d) features by layer name, in the order of the forward pass. A layer that
            ran more than once has ``name``, ``name:2``, ``name:3``, ...
    """

    reference: Tensor | None = None
    features: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    reference_version: int = 0
    failure: LayerError | None = None

    def add(self, name: str, features: Tensor) -> None:
        """Keep the features of one use of a layer.

        Args:
            name: The layer's name.
            features: (b, d) features.
        """
        uses = sum(key == name or key.startswith(f"{name}:") for key in self.features)
        self.features[f"{name}:{uses + 1}" if uses else name] = features


class Recorder:
    """Records chosen layers of a model during its forward passes.

    It records when the model is in training mode, gradients are on and it is not paused; any other
    forward pass leaves the last record alone. Nothing of the model is kept alive by the recorder,
    nothing of the recorder by the model: dropping it removes the hooks.

    Args:
        model: The model to watch.
        layers: Where to record.
        pool: Maps a layer's tensor to (b, d) features.
        inputs: What to compare with: None (the first tensor that the model is called with), a
            layer (its output, detached), or a callable on the call's arguments.

    Example:
        >>> from isoreg.layers import find_layers, pool_flatten
        >>> model = nn.Sequential(nn.Linear(3, 2), nn.Tanh())
        >>> recorder = Recorder(model, find_layers(model, "1"), pool_flatten)
        >>> _ = model(torch.ones(5, 3))
        >>> recorder.take().features["1"].shape
        torch.Size([5, 2])
        >>> recorder.remove()
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[Layer],
        pool: Callable[[Tensor], Tensor],
        inputs: Layer | Callable[..., Tensor] | None = None,
    ) -> None:
        self._names = [layer.name for layer in layers]
        self._pool = pool
        self._inputs = inputs
        self._pauses = 0
        self._running: Record | None = None
        self._finished: Record | None = None
        self._why_missing = "the model was not called since the recorder was attached"
        handles = [
            model.register_forward_pre_hook(_Hook(self._begin), with_kwargs=True),
            model.register_forward_hook(_Hook(self._end), always_call=True),
            *[self._watch(layer, layer.name) for layer in layers],
        ]
        if isinstance(inputs, Layer):
            handles.append(self._watch(inputs, None))
        self._finalizer = weakref.finalize(self, _remove_all, handles)

    def take(self) -> Record:
        """Return the record of the last forward pass and forget it.

        Returns:
            The record; every layer is in it.

        Raises:
            RecordError: If there is none, a layer did not run, or the inputs were overwritten.
        """
        record, self._finished = self._finished, None
        if record is None:
            raise RecordError(
                f"no forward pass is recorded: {self._why_missing}. "
                "Call the model in training mode with gradients on, then the penalty, once each."
            )
        self._why_missing = "the last record was already used, and a record is read only once"
        if record.failure is not None:
            raise record.failure
        missing = [name for name in self._names if name not in record.features]
        if missing:
            raise RecordError(
                f"layer {missing[0]!r} did not run in the recorded forward pass. "
                "Choose layers that every training step uses."
            )
        if record.reference is None:
            raise RecordError(
                "the forward pass had no tensor to compare the features with. "
                "Say what to compare with: inputs=lambda *args, **kwargs: ..."
            )
        if _version(record.reference) != record.reference_version:
            raise RecordError(
                "the model changed its inputs in place, so their distances are lost. "
                "Pass inputs=lambda x, *rest: x.clone()."
            )
        return record

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave forward passes inside the block unrecorded, and the last record as it is.

        Yields:
            Nothing.
        """
        self._pauses += 1
        try:
            yield
        finally:
            self._pauses -= 1

    def remove(self) -> None:
        """Take all hooks off the model and drop what is recorded. May be called again."""
        self._finalizer()
        self._running = self._finished = None
        self._why_missing = "the recorder is detached from the model"

    def _begin(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self._running = None
        skipped = (
            "recording was paused during the last forward pass"
            if self._pauses
            else "the last forward pass ran in eval mode"
            if not module.training
            else "the last forward pass ran without gradients"
            if not torch.is_grad_enabled()
            else ""
        )
        if skipped:
            self._why_missing = skipped
            return
        self._running = Record()
        if callable(self._inputs):
            self._compare_with(self._inputs(*args, **kwargs))
        elif self._inputs is None:
            self._compare_with(next(tensors_in((args, kwargs)), None))

    def _end(self, module: nn.Module, args: Any, output: Any) -> None:
        if output is None:  # the forward pass raised
            self._why_missing = "the last forward pass failed"
        elif self._running is not None:
            self._finished = self._running
        self._running = None

    def _watch(self, layer: Layer, name: str | None) -> RemovableHandle:
        """Hook a layer; what it gives is recorded under a name, or as the reference for None."""
        if layer.at_input:
            hook = _Hook(self._entered, name)
            return layer.module.register_forward_pre_hook(hook, with_kwargs=True)
        return layer.module.register_forward_hook(_Hook(self._returned, name))

    def _entered(self, name: str | None, module: nn.Module, args: Any, kwargs: Any) -> None:
        self._see(name, (args, kwargs))

    def _returned(self, name: str | None, module: nn.Module, args: Any, output: Any) -> None:
        self._see(name, output)

    def _see(self, name: str | None, value: Any) -> None:
        if self._running is None:
            return
        tensor = next(tensors_in(value), None)
        if name is None:
            self._compare_with(None if tensor is None else tensor.detach().clone())
            return
        try:
            self._running.add(name, self._features(name, value, tensor))
        except LayerError as error:  # raised by take(): the user's forward pass goes on
            self._running.failure = error

    def _features(self, name: str, value: Any, tensor: Tensor | None) -> Tensor:
        if tensor is None:
            raise LayerError(
                f"layer {name!r} gave {type(value).__name__}, which holds no tensor. "
                "Choose a layer whose output is a tensor."
            )
        features = self._pool(tensor)
        shared = features is tensor or features._base is not None
        return features.clone() if shared else features  # a following layer may work in place

    def _compare_with(self, reference: Tensor | None) -> None:
        if self._running is not None and reference is not None:
            self._running.reference = reference
            self._running.reference_version = _version(reference)


class _Hook:
    """Calls a recorder's method without keeping the recorder alive.

    A deep copy or a pickle of the model must neither write into this record nor need isoreg to
    load, so what is copied in the place of this object is a callable of the standard library
    that accepts anything and does nothing.
    """

    def __init__(self, method: Callable[..., None], *args: Any) -> None:
        self._method = weakref.WeakMethod(method)
        self._args = args

    def __call__(self, *args: Any) -> None:
        method = self._method()
        if method is not None:
            method(*self._args, *args)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return getattr, (contextlib.nullcontext(), "__exit__")


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _remove_all(handles: Sequence[RemovableHandle]) -> None:
    for handle in handles:
        handle.remove()

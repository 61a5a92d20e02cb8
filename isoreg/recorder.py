"""Hooks: record the features of a forward pass, read them once, pause, remove."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from isoreg.errors import IsoregError, LayerError, RecordError
from isoreg.layers import Layer
from isoreg.pooling import FirstTensor, tensors_in

_NEVER = "the model was not called since the recorder was attached"
_IN_ORDER = "Call the model in training mode with gradients on, then the penalty, once each."
_COMPILED = (
    "If it is compiled, attach before its first call: torch.compile ignores hooks that come later, "
    "also on a second model of the same class; torch._dynamo.reset() forgets earlier calls."
)


@dataclasses.dataclass
class Record:
    """What one forward pass left behind.

    Attributes:
        reference: What the features are compared with; None if it was never seen.
        unwatched: Layers whose gradient could not be watched, though it was wanted.
        failure: Kind and text of the error that `Recorder.take` is to raise. (The error itself
            would keep the features alive through its traceback.)
        features: (b, d) features by layer name, in the order of the forward pass. A layer that
            ran more than once has ``name``, ``name:2``, ``name:3``, ...
    """

    reference: Tensor | None = None
    features: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    unwatched: list[str] = dataclasses.field(default_factory=list)
    failure: tuple[type[IsoregError], str] | None = None

    def next_name(self, name: str) -> str:
        """What the next use of a layer is called.

        Args:
            name: The layer's name.

        Returns:
            The name itself for the first use, then ``name:2``, ...
        """
        uses = sum(key == name or key.startswith(f"{name}:") for key in self.features)
        return f"{name}:{uses + 1}" if uses else name


@dataclasses.dataclass
class _State:
    """What a thread's forward passes left: threads share a model, not their records."""

    running: Record | None = None
    finished: Record | None = None
    why_missing: str = _NEVER


class Recorder:
    """Records chosen layers of a model during its forward passes.

    It records when the model is in training mode, gradients are on and it is not paused; any other
    forward pass leaves the last record alone. Nothing of the model is kept alive by the recorder,
    nothing of the recorder by the model: dropping it removes the hooks.

    Args:
        model: The model to watch.
        layers: Where to record.
        pool: Maps what a layer returns to (b, d) features, or to None if there is no tensor.
        inputs: What to compare with: None (the first tensor that the model is called with,
            detached), a layer (its output, detached), or a callable on the call's arguments.

    Attributes:
        watch: Unless it is None, it is called with a layer's name, the tensor that it returned and
            the clone of it that the record is made of.

    Example:
        >>> from isoreg.layers import find_layers
        >>> from isoreg.pooling import resolve_pool
        >>> model = nn.Sequential(nn.Linear(3, 2), nn.Tanh())
        >>> recorder = Recorder(model, find_layers(model, "1"), resolve_pool("flatten"))
        >>> _ = model(torch.ones(5, 3))
        >>> recorder.take().features["1"].shape
        torch.Size([5, 2])
        >>> recorder.remove()
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[Layer],
        pool: Callable[[Any], Tensor | None],
        inputs: Layer | Callable[..., Tensor] | None = None,
    ) -> None:
        self.watch: Callable[[str, Tensor, Tensor], None] | None = None
        self._names = [layer.name for layer in layers]
        self._pool = pool
        self._inputs = inputs
        self._pauses = 0
        self._model = weakref.ref(model)
        self._states: dict[int, _State] = {}
        begin, end = _Hook(self._begin), _Hook(self._end)
        begin.handle = model.register_forward_pre_hook(begin, with_kwargs=True)
        end.handle = model.register_forward_hook(end, always_call=True)
        hooks = [begin, end, *[self._watch(layer, layer.name) for layer in layers]]
        if isinstance(inputs, Layer):
            hooks.append(self._watch(inputs, None))
        handles = [hook.handle for hook in hooks]
        self._finalizer = weakref.finalize(self, _remove_all, handles)

    def take(self) -> Record:
        """Return the record of the last forward pass and forget it.

        Returns:
            The record; every layer is in it.

        Raises:
            RecordError: If there is none, or a layer did not run or ran without gradients.
        """
        state = self._state()
        record, state.finished = state.finished, None
        if record is None:
            advice = f"{_IN_ORDER} {_COMPILED}" if state.why_missing == _NEVER else _IN_ORDER
            raise RecordError(f"no forward pass is recorded: {state.why_missing}. {advice}")
        state.why_missing = "the last record was already used, and a record is read only once"
        if record.failure is not None:
            kind, message = record.failure
            raise kind(message)
        missing = [name for name in self._names if name not in record.features]
        if missing:
            raise RecordError(
                f"layer {missing[0]!r} did not run in the recorded forward pass. "
                f"Choose layers that every training step uses. {_COMPILED}"
            )
        if record.reference is None:
            if isinstance(self._inputs, Layer):
                raise RecordError(
                    f"layer {self._inputs.name!r}, named as inputs, gave no tensor or did not run "
                    "in the recorded forward pass."
                )
            raise RecordError(
                "there is no tensor to compare the features with: the model was called without "
                "one, or inputs= returned none. Give inputs=lambda *args, **kwargs: <a tensor>."
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
        self._states.clear()
        self._state().why_missing = "the recorder is detached from the model"

    def _state(self) -> _State:
        """The state of this thread."""
        # by number, because torch.compile loses what a hook writes to a threading.local
        return self._states.setdefault(threading.get_ident(), _State())

    def _begin(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        state = self._state()
        state.running = None
        skipped = (
            "the last forward pass ran in a copy of the model. nn.DataParallel makes such copies: "
            "use DistributedDataParallel"
            if module is not self._model()
            else "recording was paused during the last forward pass"
            if self._pauses
            else "the last forward pass ran in eval mode"
            if not module.training
            else "the last forward pass ran without gradients"
            if not torch.is_grad_enabled()
            else ""
        )
        if skipped:
            state.why_missing = skipped
            return
        state.finished = None
        reference: object = None
        if callable(self._inputs):
            reference = self._inputs(*args, **kwargs)  # may use layers of the model: not recorded
        elif self._inputs is None:
            # an attack's or a margin loss's images need a gradient, the distances between them none
            first = next(tensors_in((args, kwargs)), None)
            reference = None if first is None else first.detach()
        state.running = Record()
        self._compare_with(reference)

    def _end(self, module: nn.Module, args: Any, output: Any) -> None:
        if output is None:  # the forward pass raised
            self._state().why_missing = "the last forward pass failed, or returned None"
        elif self._state().running is not None:
            self._state().finished = self._state().running
        self._state().running = None

    def _watch(self, layer: Layer, name: str | None) -> _Hook:
        """Hook a layer; what it gives is recorded under a name, or as the reference for None."""
        if layer.at_input:
            hook = _Hook(self._entered, name)
            hook.handle = layer.module.register_forward_pre_hook(hook, with_kwargs=True)
        else:
            hook = _Hook(self._returned, name)
            hook.handle = layer.module.register_forward_hook(hook)
        return hook

    def _entered(self, name: str | None, module: nn.Module, args: Any, kwargs: Any) -> None:
        self._see(name, args[0] if args else kwargs)

    def _returned(self, name: str | None, module: nn.Module, args: Any, output: Any) -> None:
        self._see(name, output)

    def _see(self, name: str | None, value: Any) -> None:
        running = self._state().running
        if running is None:
            return
        if name is None:
            tensor = next(tensors_in(value), None)
            self._compare_with(None if tensor is None else tensor.detach())
            return
        try:
            use = running.next_name(name)
            running.features[use] = self._features(value, use, running)
        except IsoregError as error:  # raised by take(): the user's forward pass goes on
            running.failure = type(error), f"layer {name!r}: {error.message}"

    def _features(self, value: Any, use: str, running: Record) -> Tensor:
        if not torch.is_grad_enabled():
            raise RecordError(
                "it ran without gradients inside a forward pass with gradients, so its penalty "
                "would do nothing. If it is checkpointed, use use_reentrant=False."
            )
        if isinstance(self._pool, FirstTensor):
            value = next(tensors_in(value), value)
        if isinstance(value, Tensor):
            copy = value.clone()  # a following layer may work in place on it
            if self.watch is not None:
                self.watch(use, value, copy)
            value = copy
        elif self.watch is not None:
            running.unwatched.append(use)
        features = self._pool(value)
        if not isinstance(features, Tensor):
            raise LayerError(
                f"it gave {type(value).__name__}, which holds no tensor. "
                "Choose a layer whose output is a tensor, or pick one with pool=."
            )
        return features if isinstance(value, Tensor) else features.clone()

    def _compare_with(self, reference: object) -> None:
        running = self._state().running
        if running is not None and isinstance(reference, Tensor):
            running.reference = reference.clone()  # the model may work in place on it


class _Hook:
    """Calls a recorder's method without keeping the recorder alive.

    A deep copy or a pickle of the model must neither write into this record nor need isoreg to
    load, so what is copied in the place of this object is a callable of the standard library
    that accepts anything and does nothing. It holds the handle, which reserves its number when
    it is loaded: torch numbers hooks from 0 in every process, and a new hook would take the
    place and the flags of the loaded one.
    """

    def __init__(self, method: Callable[..., None], *args: Any) -> None:
        self._method = weakref.WeakMethod(method)
        self._args = args
        self.handle: RemovableHandle | None = None

    def __call__(self, *args: Any) -> None:
        method = self._method()
        if method is not None:
            method(*self._args, *args)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return getattr, (contextlib.nullcontext(self.handle), "__exit__")


def _remove_all(handles: Sequence[RemovableHandle | None]) -> None:
    for handle in handles:
        if handle is not None:
            handle.remove()

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

from isoreg._attach.classifier import ClassifierSearch, is_tracing
from isoreg._attach.layers import Layer, module_at
from isoreg._attach.pooling import FirstTensor, tensors_in
from isoreg._attach.reference import Source, naming_the_source
from isoreg._attach.samples import Call, parameter_names, read_call
from isoreg.errors import IsoregError, LayerError, RecordError

_NEVER = "the model was not called since the recorder was attached"
_IN_ORDER = "Call the model in training mode with gradients on, then the penalty, once each."
_COMPILED = (
    "If it is compiled, attach before its first call: torch.compile ignores hooks that come later, "
    "also on a second model of the same class; torch._dynamo.reset() forgets earlier calls."
)
_TWO_PASSES = (
    "the model ran more than once since the penalty was last read, so it is not known which batch "
    "the labels belong to. Read the penalty after each pass, or run the passes without a penalty "
    "in eval mode or inside `with iso.paused():`."
)
_ITSELF = (
    "the model called itself inside its forward pass, so it is not known which of the calls is the "
    "batch. Attach to the module inside it that sees the batch once."
)
_FULL_GRAPH = (
    "the classifier is found in the first forward pass, which must not be compiled as one graph: "
    "call the model once before compiling it, or name the layer with layers="
)
_ONE_GRAPH_AUTO = (
    "beta='auto' reads gradients in backward, which one graph of the whole step does not show: "
    "compile the model alone, or give beta a number"
)
_TRACED = 0  # the state of compiled passes, in which torch.compile cannot ask for the thread


class _Pulse:
    """Lives as long as the graph of a forward pass, and knows whether backward went through it."""

    __slots__ = ("__weakref__", "spent")

    def __init__(self) -> None:
        self.spent = False

    def __call__(self, gradients: tuple[Tensor, ...]) -> None:
        self.spent = True


@dataclasses.dataclass
class Record:
    """What one forward pass left behind.

    Attributes:
        call: What may hold the samples; None if the reference is something else.
        references: What the features are compared with, for each time that it was made.
        features: (b, d) features by layer name, in the order of the forward pass. A layer that
            ran more than once has ``name``, ``name:2``, ``name:3``, ...
        uses: For each of them its number, from 1.
        nodes: For each of them the node of the graph that made it.
        unwatched: Layers whose gradient could not be watched, though it was wanted.
        failure: Kind and text of the error that `Recorder.take` is to raise. (The error itself
            would keep the features alive through its traceback.)
        pulse: Whether the pass still waits for its backward pass; None if that cannot be told.
        earlier: The same of passes that came before it and were not read.
    """

    call: Call | None = None
    references: list[Tensor] = dataclasses.field(default_factory=list)
    features: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    uses: dict[str, int] = dataclasses.field(default_factory=dict)
    nodes: dict[str, Any] = dataclasses.field(default_factory=dict)
    unwatched: list[str] = dataclasses.field(default_factory=list)
    failure: tuple[type[IsoregError], str] | None = None
    pulse: weakref.ref[_Pulse] | None = None
    earlier: list[weakref.ref[_Pulse]] = dataclasses.field(default_factory=list)
    replaced: bool = False

    def next_use(self, name: str) -> str:
        """Count a use of a layer.

        Args:
            name: The layer's name.

        Returns:
            The name itself for the first use, then ``name:2``, ...
        """
        number, use = 1, name
        while use in self.uses:
            number += 1
            use = f"{name}:{number}"
        self.uses[use] = number
        return use

    @property
    def follows_unread(self) -> bool:
        """Whether an earlier pass was not read, and still waits for its backward pass."""
        pulses = [pulse() for pulse in self.earlier]
        return self.replaced or any(p is not None and not p.spent for p in pulses)


@dataclasses.dataclass
class _State:
    """What a thread's forward passes left: threads share a model, not their records."""

    running: Record | None = None
    finished: Record | None = None
    why_missing: str = _NEVER
    pauses: int = 0
    begun: int = 0


class Recorder:
    """Records chosen layers of a model during its forward passes.

    It records when the model is in training mode, gradients are on and it is not paused; any other
    forward pass leaves the last record alone. Nothing of the model is kept alive by the recorder,
    nothing of the recorder by the model: dropping it removes the hooks.

    Args:
        model: The model to watch.
        layers: Where to record; none: what enters the classifier, which the first pass shows.
        pool: Maps what a layer returns to (b, d) features, or to None if there is no tensor.
        source: What to compare with: None (the tensor of the call that holds the samples,
            detached), a layer (its output, detached), or a callable on the call's arguments.

    Attributes:
        layers: Where it records; empty until a classifier is found.
        watch: Unless it is None, it is called with a layer's name, the tensor that it returned and
            the clone of it that the record is made of.
        watch_compiled: Whether ``watch`` is worth a break in a compiled graph.

    Example:
        >>> from isoreg._attach.layers import find_layers
        >>> from isoreg._attach.pooling import resolve_pool
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
        source: Source = None,
    ) -> None:
        self.watch: Callable[[str, Tensor, Tensor], None] | None = None
        self.watch_compiled = False
        self.layers = list(layers)
        self._pool = pool
        self._source = source
        self._model = weakref.ref(model)
        self._parameters = parameter_names(model)
        self._states: dict[int, _State] = {_TRACED: _State()}
        self._search = None if layers else ClassifierSearch(model)
        begin = _Hook(self, model, Recorder._begin)
        begin.handle = model.register_forward_pre_hook(begin, with_kwargs=True)
        end = _Hook(self, model, Recorder._end)
        end.handle = model.register_forward_hook(end, always_call=True, with_kwargs=True)
        self._handles: list[RemovableHandle] = [begin.handle, end.handle]
        self._finalizer = weakref.finalize(self, _remove_all, self._handles)
        self._places = [
            _Place(layer, layer.name, self._watch(layer, layer.name)) for layer in layers
        ]
        if isinstance(source, Layer):
            self._places.append(_Place(source, None, self._watch(source, None)))
        self._searching: list[RemovableHandle] = []
        if self._search is not None:
            for module in model.modules():
                hook = _Hook(self, module, Recorder._searched)
                hook.handle = module.register_forward_hook(hook, with_kwargs=True)
                self._searching.append(hook.handle)
        self._handles += self._searching

    @property
    def model(self) -> nn.Module | None:
        """The model, while it lives."""
        return self._model()

    def take(self) -> Record:
        """Return the record of the last forward pass and forget it.

        Returns:
            The record; every layer is in it.

        Raises:
            RecordError: If there is none, a layer did not run or ran without gradients, or it is
                not certain which pass is meant.
        """
        states = [self._states[_TRACED]]
        if not torch.compiler.is_compiling():
            states.append(self._state())
        records = [state.finished for state in states if state.finished is not None]
        why_missing = states[-1].why_missing
        if why_missing == _NEVER:
            why_missing = states[0].why_missing
        for state in states:
            if state.finished is not None:
                state.why_missing = "the last record was already used, and one is read only once"
            state.finished, state.begun = None, 0
        if not records:
            advice = f"{_IN_ORDER} {_COMPILED}" if why_missing == _NEVER else _IN_ORDER
            raise RecordError(f"no forward pass is recorded: {why_missing}. {advice}")
        record = records[-1]
        if record.failure is not None:
            kind, message = record.failure
            raise kind(message)
        if len(records) > 1 or record.follows_unread:
            raise RecordError(_TWO_PASSES)
        for layer in self.layers:
            if layer.name not in record.features:
                raise RecordError(
                    f"layer {layer.name!r} did not run in the recorded forward pass. "
                    f"Choose layers that every training step uses. {_COMPILED}"
                )
        return record

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave this thread's forward passes inside the block unrecorded, and the record as it is.

        Yields:
            Nothing.
        """
        states = [self._state(), self._states[_TRACED]]
        for state in states:
            state.pauses += 1
        try:
            yield
        finally:
            for state in states:
                state.pauses -= 1

    def remove(self) -> None:
        """Take all hooks off the model and drop what is recorded. May be called again."""
        self._finalizer()
        _remove_all(self._handles)
        self._search = None
        self._states.clear()
        self._states[_TRACED] = _State()
        self._state().why_missing = "the recorder is detached from the model"

    def _state(self) -> _State:
        """The state of this thread, or of compiled passes."""
        if torch.compiler.is_compiling():
            return self._states[_TRACED]
        number = threading.get_ident()
        if number not in self._states:
            self._states[number] = _State()
        return self._states[number]

    def _running(self) -> _State | None:
        """The state whose forward pass is recorded now."""
        state = self._state()
        if state.running is None:
            # a part of a compiled pass that runs uncompiled, or a compiled part of another pass
            states = list(self._states.values())
            others = states if torch.compiler.is_compiling() else [self._states[_TRACED]]
            running = [other for other in others if other.running is not None]
            state = running[0] if len(running) == 1 else state
        return None if state.running is None or state.pauses else state

    def _begin(self, module: nn.Module, args: Any, kwargs: Any = None) -> None:
        state = self._state()
        skipped = (
            "recording was paused during the last forward pass"
            if state.pauses
            else "the last forward pass ran in eval mode"
            if not module.training
            else "the last forward pass ran without gradients"
            if not torch.is_grad_enabled()
            else "the last forward pass was only traced or exported"
            if is_tracing()
            else ""
        )
        if skipped:
            state.why_missing = skipped
            if not state.pauses:
                state.running, state.begun = None, 0
            return
        if self._search is not None:
            _clear_search(self._search)
        self._follow()
        record = self._follow_up(state)
        state.running = state.finished = None
        if self._source is None:
            record.call = read_call(args, kwargs or {}, self._parameters)
        elif not isinstance(self._source, Layer):
            self._ask(record, args, kwargs or {})
        state.begun += 1
        state.running = record

    def _follow_up(self, state: _State) -> Record:
        """A new record, which knows of the unread one that it replaces."""
        last, record = state.finished, Record()
        if last is None or last.failure is not None:
            return record
        if torch.compiler.is_compiling():
            record.replaced = True
        else:
            pulses = [*last.earlier, *([] if last.pulse is None else [last.pulse])]
            record.earlier = [pulse for pulse in pulses if pulse() is not None]
            record.replaced = last.replaced
        return record

    def _ask(self, record: Record, args: Any, kwargs: Any) -> None:
        """Ask a teacher or a callable; both may use layers of the model, which are not recorded."""
        assert callable(self._source)
        with self.paused(), naming_the_source(self._source):
            answer = self._source(*args, **kwargs)
        if isinstance(answer, Tensor):
            record.references.append(answer.clone())  # the model may work in place on it

    def _end(self, module: nn.Module, args: Any, *rest: Any) -> None:
        kwargs, output = rest if len(rest) == 2 else ({}, *rest)
        state = self._state()
        if state.pauses:
            return
        record, state.running = state.running, None
        if output is None:  # the forward pass raised
            state.why_missing = "the last forward pass failed, or returned None"
            state.begun = max(0, state.begun - 1)
        elif record is not None:
            state.begun -= 1
            state.finished = record
            if self._search is not None:
                _call_uncompiled(self._find_classifier, record, args, kwargs, output)
        elif state.begun > 0:
            state.begun -= 1
            state.finished = Record(failure=(RecordError, _ITSELF))

    def _find_classifier(self, record: Record, args: Any, kwargs: Any, output: Any) -> None:
        assert self._search is not None
        try:
            layer, value = self._search.finish(args, kwargs, output)
            self._search.clear()
        except LayerError as error:
            record.failure = LayerError, error.message
            return
        _remove_all(self._searching)
        self._search = None
        self.layers = [layer]
        self._places.append(_Place(layer, layer.name, self._watch(layer, layer.name)))
        self._record(record, layer.name, value)

    def _searched(self, module: nn.Module, args: Any, *rest: Any) -> None:
        kwargs, output = rest if len(rest) == 2 else ({}, *rest)
        if self._search is not None and self._running() is not None:
            _call_uncompiled(self._search.saw, module, args, kwargs, output)

    def _follow(self) -> None:
        """Move hooks to the modules that took the places of those that were chosen."""
        model = self._model()
        assert model is not None
        for place in self._places:
            module = module_at(model, place.layer.name)
            if module is None or module is place.layer.module:
                continue
            if torch.compiler.is_compiling():
                raise RecordError(
                    f"layer {place.layer.name!r} was replaced after attaching. Call the model once "
                    "uncompiled, and its place is watched."
                )
            place.handle.remove()
            place.layer = dataclasses.replace(place.layer, module=module)
            place.handle = self._watch(place.layer, place.name)

    def _watch(self, layer: Layer, name: str | None) -> RemovableHandle:
        """Hook a layer; what it gives is recorded under a name, or as the reference for None."""
        if layer.at_input:
            hook = _Hook(self, layer.module, Recorder._entered, name)
            hook.handle = layer.module.register_forward_pre_hook(hook, with_kwargs=True)
        else:
            hook = _Hook(self, layer.module, Recorder._returned, name)
            hook.handle = layer.module.register_forward_hook(hook)
        self._handles.append(hook.handle)
        return hook.handle

    def _entered(self, name: str | None, module: nn.Module, args: Any, kwargs: Any = None) -> None:
        self._see(name, args[0] if args else kwargs)

    def _returned(self, name: str | None, module: nn.Module, args: Any, output: Any) -> None:
        self._see(name, output)

    def _see(self, name: str | None, value: Any) -> None:
        state = self._running()
        if state is None or state.running is None:
            return
        if name is not None:
            self._record(state.running, name, value)
            return
        tensor = next(tensors_in(value), None)
        if tensor is not None:
            state.running.references.append(tensor.detach().clone())

    def _record(self, record: Record, name: str, value: Any) -> None:
        use = record.next_use(name)
        try:
            record.features[use] = self._features(value, use, record)
        except IsoregError as error:  # raised by take(): the user's forward pass goes on
            record.failure = type(error), f"layer {name!r}: {error.message}"

    def _features(self, value: Any, use: str, record: Record) -> Tensor:
        if not torch.is_grad_enabled():
            raise RecordError(
                "it ran without gradients inside a forward pass with gradients, so its penalty "
                "would do nothing. If it is checkpointed, use use_reentrant=False."
            )
        if isinstance(self._pool, FirstTensor):
            value = next(tensors_in(value), value)
        if isinstance(value, Tensor):
            copy = value.clone()  # a following layer may work in place on it
            if torch.compiler.is_compiling():
                if self.watch is not None and self.watch_compiled:
                    _watch_uncompiled(self.watch, use, value, copy)
            else:
                self._note_graph(record, use, value)
                if self.watch is not None:
                    self.watch(use, value, copy)
            value = copy
        elif self.watch is not None:
            record.unwatched.append(use)
        features = self._pool(value)
        if not isinstance(features, Tensor):
            raise LayerError(
                f"it gave {type(value).__name__}, which holds no tensor. "
                "Choose a layer whose output is a tensor, or pick one with pool=."
            )
        return features if isinstance(value, Tensor) else features.clone()

    def _note_graph(self, record: Record, use: str, value: Tensor) -> None:
        node = value.grad_fn
        if node is None or torch._C._are_functorch_transforms_active():
            return
        record.nodes[use] = node
        if record.pulse is None:
            pulse = _Pulse()
            record.pulse = weakref.ref(pulse)
            node.register_prehook(pulse)


@dataclasses.dataclass
class _Place:
    """A watched layer, what its features are called, and its hook."""

    layer: Layer
    name: str | None
    handle: RemovableHandle


def _call_uncompiled(function: Callable[..., None], *args: Any) -> None:
    function(*args)


def _watch_uncompiled(watch: Callable[..., None], *args: Any) -> None:
    watch(*args)


def _clear_search(search: ClassifierSearch) -> None:
    search.clear()


for _function, _reason in (
    (_call_uncompiled, _FULL_GRAPH),
    (_clear_search, _FULL_GRAPH),
    (_watch_uncompiled, _ONE_GRAPH_AUTO),
):
    # what torch.compiler.disable sets, which would import the compiler for everybody
    vars(_function).update(_torchdynamo_disable=True, _torchdynamo_disable_msg=_reason)


class _CannotScriptError(LayerError, AttributeError):
    """What `torch.jit.script` is told when it asks a hook for its name."""


class _Hook:
    """Calls a function of a recorder without keeping the recorder alive.

    It acts only for the module that it was registered on: what copies a module with its hooks, as
    replicas and quantisation do, must not write into this record.

    A deep copy or a pickle of the model must neither write into this record nor need isoreg to
    load, so what is copied in the place of this object is a callable of the standard library
    that accepts anything and does nothing. It holds the handle, which reserves its number when
    it is loaded: torch numbers hooks from 0 in every process, and a new hook would take the
    place and the flags of the loaded one.
    """

    def __init__(
        self, recorder: Recorder, module: nn.Module, function: Callable[..., None], *args: Any
    ) -> None:
        self._recorder = weakref.ref(recorder)
        self._module = weakref.ref(module)
        self._function = function
        self._args = args
        self.handle: RemovableHandle | None = None

    def __call__(self, module: nn.Module, *args: Any) -> None:
        recorder = self._recorder()
        if recorder is None:
            return
        if self._module() is module:
            self._function(recorder, *self._args, module, *args)
        elif getattr(module, "_is_replica", False):
            recorder._state().why_missing = (
                "the last forward pass ran in a copy of the model. nn.DataParallel makes such "
                "copies: use DistributedDataParallel"
            )

    @property
    def __name__(self) -> str:
        raise _CannotScriptError(
            "torch.jit.script compiles hooks as well, and IsometryRegularizer's are Python. Script "
            "the model before attaching or after detach(); torch.jit.trace and torch.export work."
        )

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return getattr, (contextlib.nullcontext(self.handle), "__exit__")


def _remove_all(handles: Sequence[RemovableHandle]) -> None:
    for handle in handles:
        handle.remove()

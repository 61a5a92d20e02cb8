"""Hooks: record the features of a forward pass, read them once, pause, remove."""

from __future__ import annotations

import dataclasses
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from isoreg._attach.classifier import ClassifierSearch, is_tracing, known_classifier
from isoreg._attach.hook import Hook, remove_all
from isoreg._attach.layers import Axes, Layer, is_time_major, module_at
from isoreg._attach.pooling import (
    Entering,
    FirstTensor,
    features_entering,
    first_tensor,
    pooled,
    tensors_in,
)
from isoreg._attach.record import Record, new_record
from isoreg._attach.reference import Source, naming_the_source
from isoreg._attach.samples import parameter_names, read_call
from isoreg._attach.states import NEVER, State, States
from isoreg._attach.trial import copies, trial_pass
from isoreg._compiled import between_graphs, break_graph, was_used
from isoreg.errors import IsoregError, LayerError, RecordError

_IN_ORDER = "Call the model in training mode with gradients on, then the penalty, once each."
_PARTS = (
    "A call of its parts, or of model.forward, runs no hook of the model: call the model itself, "
    "or attach to the part that is called."
)
_COMPILED = (
    "If it is compiled, attach before its first call: torch.compile ignores hooks that come later, "
    "also on a second model of the same class; torch._dynamo.reset() forgets earlier calls. "
    "Blocks compiled one by one share what was compiled for the first of them: "
    "torch._dynamo.config.skip_nnmodule_hook_guards = False tells them apart."
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


class Recorder:
    """Records chosen layers of a model during its forward passes.

    It records when the model is in training mode, gradients are on and it is not paused; any other
    forward pass leaves the last record alone, unless the backward pass of that one is done. Of the
    model only the watched layers are kept alive by the recorder, until it is removed, and nothing
    of the recorder by the model: dropping it removes the hooks.

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

    _looking: ClassVar[dict[int, Recorder]] = {}
    """Whose pass before a compiled one runs now, by thread: it is none of the others'."""

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
        self._time_major, self._axes = any(map(is_time_major, model.modules())), Axes(model)
        self._states = States()
        self._seeks, self._finding = not layers, threading.Lock()
        self._searched: weakref.WeakSet[nn.Module] | None = None
        self._unfound: tuple[type[IsoregError], str] | None = None
        begin, end = (Hook(self, model, of) for of in (Recorder._begin, Recorder._end))
        self._handles: list[RemovableHandle] = [
            begin.register(model.register_forward_pre_hook, with_kwargs=True),
            end.register(model.register_forward_hook, always_call=True, with_kwargs=True),
        ]
        self._finalizer = weakref.finalize(self, remove_all, self._handles)
        self._places = [
            _Place(layer, layer.name, self._watch(layer, layer.name)) for layer in layers
        ]
        if isinstance(source, Layer):
            self._places.append(_Place(source, None, self._watch(source, None)))
        self._searching: list[RemovableHandle] = []
        if self._seeks:
            self._seek(model)

    @property
    def model(self) -> nn.Module | None:
        """The model, while it lives."""
        return self._model()

    def take(self) -> Record:
        """The record of the last forward pass, with every layer in it, which is then forgotten."""
        states = self._states.readable
        records = [state.finished for state in states if state.finished is not None]
        why_missing = states[-1].why_missing
        if why_missing == NEVER:
            why_missing = states[0].why_missing
        for state in states:
            if state.finished is not None:
                state.why_missing = "the last record was already used, and one is read only once"
            state.finished, state.begun = None, 0
        if not records:
            advice = f"{_IN_ORDER} {_PARTS}{_if_used()}" if why_missing == NEVER else _IN_ORDER
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
                    f"Choose layers that every training step uses.{_if_used()}"
                )
        if not torch.compiler.is_compiling():
            # what a transform that has ended, as torch.func.jvp, left wrapped has no gradient
            alive = torch._C._functorch.unwrap_if_dead
            record.features = {name: alive(x) for name, x in record.features.items()}
            record.references = [alive(x) for x in record.references]
        return record

    def paused(self) -> AbstractContextManager[None]:
        """Leave this thread's passes inside the block unrecorded, and the record as it is."""
        return self._states.paused()

    def remove(self) -> None:
        """Take all hooks off the model and drop what is recorded. May be called again."""
        self._finalizer()
        self._seeks = False
        self._places.clear()
        self.layers = [dataclasses.replace(layer, module=nn.Module()) for layer in self.layers]
        self._states.clear("the recorder is detached from the model")

    def ran_in_a_copy(self) -> None:
        """Say so in the next error; called by hooks."""
        self._states.current.why_missing = (
            "the last forward pass ran in a copy of the model. nn.DataParallel makes such "
            "copies: use DistributedDataParallel"
        )

    def _begin(self, module: nn.Module, args: Any, kwargs: Any = None) -> None:
        if not torch.compiler.is_compiling() and not self._finalizer.alive:
            return  # another hook has just detached this one
        state = self._states.current
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
                if not torch.compiler.is_compiling() and state.finished and state.finished.is_spent:
                    state.finished = None  # of a step that is over: this pass may be meant
                state.running, state.search, state.begun = None, None, 0
            return
        self._follow(module)
        looks = self._seeks and _is_compiled(module)
        if looks:
            _look_uncompiled(self, module, args, kwargs or {})
        record = new_record(state.finished)
        record.failure = self._unfound if looks and self._seeks else None
        record.time_major = self._time_major
        state.running = state.finished = None
        if self._seeks and not looks:
            state.search = ClassifierSearch(module)
        if self._source is None:
            record.call = read_call(args, kwargs or {}, self._parameters)
        elif not isinstance(self._source, Layer):
            self._ask(record, args, kwargs or {})
        # said if no end comes: torch calls no hook after an interruption
        state.why_missing = "the last forward pass failed, or returned None"
        state.begun += 1
        state.running = record

    def _look(self, model: nn.Module, args: Any, kwargs: Any) -> None:
        """Find the classifier of a pass that is to be compiled, by another one before it."""
        state, watch = self._states.current, self.watch
        state.running, self.watch = Record(), None
        Recorder._looking[threading.get_ident()] = self
        state.search = search = ClassifierSearch(model)
        try:
            output = trial_pass(model, args, kwargs)
            self._find_classifier(search, state.running, args, kwargs, output)
            self._unfound = state.running.failure
        except Exception as error:
            reason = (
                f"a pass that looks for the classifier before the compiled one failed ({error})"
            )
            self._unfound = LayerError, f"{reason}. Name the layer with layers=."
        finally:
            state.running, self.watch = None, watch
            Recorder._looking.pop(threading.get_ident(), None)
            self._end_search(state)

    def _ask(self, record: Record, args: Any, kwargs: Any) -> None:
        """Ask a teacher or a callable; both may use layers of the model, which are not recorded."""
        assert callable(self._source)
        with self.paused(), naming_the_source(self._source):
            # copies, since what works in place on them would change what the model sees
            answer = self._source(*copies(list(args)), **copies(kwargs))
        if isinstance(answer, Tensor):
            record.references.append(answer.clone())  # the model may work in place on it

    def _end(self, module: nn.Module, args: Any, *rest: Any) -> None:
        # torch leaves out the keywords if another hook has just detached this one
        kwargs, output = rest if len(rest) == 2 else ({}, *rest)
        state = self._states.current
        if state.pauses:
            return
        record, state.running = state.running, None
        search = None if torch.compiler.is_compiling() else state.search
        if output is None:  # the forward pass raised
            state.begun = max(0, state.begun - 1)
        elif record is not None:
            state.begun -= 1
            state.finished = record
            if search is not None:
                self._find_classifier(search, record, args, kwargs, output)
        elif state.begun > 0:
            state.begun -= 1
            state.finished = Record(failure=(RecordError, _ITSELF))
        if search is not None:
            self._end_search(state)

    def _seek(self, model: nn.Module) -> None:
        """Let the next pass show the classifier."""
        remove_all(self._searching)
        self._seeks, self._searched = True, weakref.WeakSet(model.modules())
        inner = [*model.modules()][1:]
        searched = [m for m in inner if not isinstance(m, torch.jit.ScriptModule)]
        self._searching = [
            Hook(self, module, Recorder._search, function).register(register, with_kwargs=True)
            for module in searched
            for function, register in (
                (ClassifierSearch.sees, module.register_forward_pre_hook),
                (ClassifierSearch.saw, module.register_forward_hook),
            )
        ]
        self._handles += self._searching

    def _end_search(self, state: State) -> None:
        """Take the hooks off with which passes searched, once the last of them has ended."""
        state.search = None
        if not self._seeks and not self._states.are_searching:
            remove_all(self._searching)

    def _find_classifier(
        self, search: ClassifierSearch, record: Record, args: Any, kwargs: Any, output: Any
    ) -> None:
        try:
            layer, entering = search.finish(args, kwargs, output)
        except LayerError as error:
            record.failure = LayerError, error.message
            return
        with self._finding:
            if self._seeks:  # else the pass of another thread, which ran meanwhile, has found it
                self._seeks, self.layers = False, [layer]
                self._places.append(_Place(layer, layer.name, self._watch(layer, layer.name)))
        for value in entering:
            self._record(record, layer.name, value)

    def _search(self, look: Callable[..., None], module: nn.Module, *passed: Any) -> None:
        state = None if torch.compiler.is_compiling() else self._running()
        if state is not None and state.search is not None:
            look(state.search, module, *passed)

    def _follow(self, model: nn.Module) -> None:
        """Keep hooks last, on modules that moved, and on what took the place of those that left."""
        left, grown = [], self._has_grown(model)
        if grown and self._seeks:
            self._seek(model)
        for place in self._places:
            at_name = module_at(model, place.layer.name)
            if at_name is not place.layer.module or (grown and place.layer.at_input):
                left.append(place)
            elif not torch.compiler.is_compiling():
                _move_last(place.handle)
        if not left:
            return
        if torch.compiler.is_compiling():
            raise RecordError(
                f"layer {left[0].layer.name!r} was replaced after attaching. Call the model once "
                "uncompiled, and its place is watched."
            )
        names = {module: name for name, module in model.named_modules()}
        moved = {id(place): _moved(place.layer, names, model) for place in left}
        for place in left:
            layer = moved[id(place)]
            if place.layer.at_input and (layer is None or grown):  # another classifier, perhaps
                layer, self._searched = known_classifier(model), None
                if layer is None:
                    place.handle.remove()
                    self._places.remove(place)
                    self._seek(model)
                    continue
            module = module_at(model, place.layer.name) if layer is None else layer.module
            if module is None:
                continue  # it left, and nothing took its place: that it does not run is said later
            layer = layer or place.layer
            place.handle.remove()
            watched = [moved.get(id(p)) or p.layer for p in self._places if p is not place]
            if place.name and any(module is other.module for other in watched):
                # it is one module with another layer now, and each module is watched once
                self._places.remove(place)
                continue
            self._time_major = self._time_major or any(map(is_time_major, module.modules()))
            place.layer = dataclasses.replace(layer, module=module)
            place.name = place.name and layer.name
            place.handle = self._watch(place.layer, place.name)
        self.layers = [place.layer for place in self._places if place.name is not None]

    def _has_grown(self, model: nn.Module) -> bool:
        """Whether modules came to it after those that were searched for the classifier."""
        if torch.compiler.is_compiling() or self._searched is None:
            return False
        return any(module not in self._searched for module in model.modules())

    def _watch(self, layer: Layer, name: str | None) -> RemovableHandle:
        """Hook a layer; what it gives is recorded under a name, or as the reference for None."""
        module = layer.module
        if layer.at_input:
            hook = Hook(self, module, Recorder._entered, name)
            handle = hook.register(module.register_forward_pre_hook, with_kwargs=True)
        else:
            hook = Hook(self, module, Recorder._returned, name)
            handle = hook.register(module.register_forward_hook)
        self._handles.append(handle)
        return handle

    def _entered(self, name: str | None, module: nn.Module, args: Any, kwargs: Any = None) -> None:
        self._see(name, Entering(args, kwargs or {}))

    def _returned(self, name: str | None, module: nn.Module, args: Any, output: Any) -> None:
        self._see(name, output)

    def _running(self) -> State | None:
        """The state of the pass that runs now, unless another recorder looks at its modules."""
        if not torch.compiler.is_compiling():
            looking = Recorder._looking.get(threading.get_ident(), self)
            return self._states.recording if looking is self else None
        return self._states.recording

    def _see(self, name: str | None, value: Any) -> None:
        state = self._running()
        record = None if state is None else state.running
        if state is None or record is None:
            return
        if name is not None:
            if state.search is None:  # else all uses are recorded at its end
                self._record(record, name, value)
            return
        tensor = next(tensors_in(value), None)
        if tensor is not None:
            record.references.append(tensor.detach().clone())
            record.sources.append(None if torch.compiler.is_compiling() else tensor.grad_fn)

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
                "would do nothing. If it is checkpointed, use use_reentrant=False; what is meant "
                "to have none goes inside `with iso.paused():`."
            )
        entering = isinstance(value, Entering)
        if isinstance(self._pool, FirstTensor):
            tensor = features_entering(value) if entering else first_tensor(value)
            if tensor is not None:
                value = tensor
                record.check_axes(value)
                # compiled, it would make a graph for each size
                if self._pool.name != "flatten" and not torch.compiler.is_compiling():
                    self._axes.refuse_other(value, self._pool.name)
        elif entering:
            value = value.args[0] if value.args else value.kwargs
        if isinstance(value, Tensor):
            copy = value.clone()  # a following layer may work in place on it
            if torch.compiler.is_compiling():
                if self.watch is not None and self.watch_compiled:
                    _watch_uncompiled(self.watch, use, value, copy)
            else:
                record.note_graph(use, value)
                if self.watch is not None:
                    self.watch(use, value, copy)
            value = copy
        elif self.watch is not None:
            record.unwatched.append(use)
        features = pooled(self._pool, value)
        if not isinstance(features, Tensor):
            raise LayerError(
                f"it gave {type(value).__name__}, which holds no tensor. "
                "Choose a layer whose output is a tensor, or pick one with pool=."
            )
        return features if isinstance(value, Tensor) else features.clone()


@dataclasses.dataclass
class _Place:
    """A watched layer, what its features are called, and its hook."""

    layer: Layer
    name: str | None
    handle: RemovableHandle


def _if_used() -> str:
    return f" {_COMPILED}" if was_used() else ""


def _is_compiled(model: nn.Module) -> bool:
    """Whether a pass, or a part of it, runs compiled, where a search sees no modules."""
    if torch.compiler.is_compiling():
        return True
    return any("_orig_mod" in m._modules or m._compiled_call_impl for m in model.modules())


def _moved(layer: Layer, names: Mapping[nn.Module, str], model: nn.Module) -> Layer | None:
    """A layer under the name that its module has now, unless that left, or is inside another."""
    name, around = names.get(layer.module), module_at(model, layer.name)
    inside = around is not None and any(inner is layer.module for inner in around.modules())
    if name is None or inside:
        return None  # what wraps it, as an adapter does, stands for it
    return dataclasses.replace(layer, name=name)


def _move_last(handle: RemovableHandle) -> None:
    """Let a hook see what all others made of a layer's output, also those that came later."""
    hooks = handle.hooks_dict_ref()  # None where the module is gone
    if hooks and handle.id in hooks:
        hooks.move_to_end(handle.id)


def _watch_uncompiled(watch: Callable[..., None], *args: Any) -> None:
    watch(*args)


_look_uncompiled = between_graphs(Recorder._look, _FULL_GRAPH)
break_graph(_watch_uncompiled, _ONE_GRAPH_AUTO)

"""Records the features of forward passes with hooks; each record is read once."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from isoreg._attach.classifier import ClassifierSearch, is_tracing
from isoreg._attach.hook import Hook, remove_all
from isoreg._attach.layers import Layer
from isoreg._attach.places import Places
from isoreg._attach.pooling import Entering, tensors_in
from isoreg._attach.reader import Reader
from isoreg._attach.record import Record, new_record
from isoreg._attach.reference import Source, naming_the_source
from isoreg._attach.samples import parameter_names, read_call
from isoreg._attach.seeking import Seeking
from isoreg._attach.states import NEVER, State, States
from isoreg._attach.trial import copies, trial_pass
from isoreg._compiled import ATTACH_FIRST, between_graphs, was_used
from isoreg.errors import LayerError, RecordError

_IN_ORDER = "Call the model in training mode with gradients on, then the penalty, once each."
_PARTS = (
    "A call of its parts, or of model.forward, runs no hook of the model: call the model itself, "
    "or attach to the part that is called."
)
_COMPILED = (
    f"{ATTACH_FIRST} Blocks compiled one by one share what was compiled for the first of them: "
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


class Recorder:
    """Records chosen layers of a model during its forward passes.

    A pass is recorded if the model is in training mode, gradients are on and recording is not
    paused. Any other pass leaves the last record alone; but an unpaused one drops it if its
    backward pass is done. The recorder keeps only the watched layers of the model alive, until it
    is removed. The model does not keep the recorder alive: dropping the recorder removes the hooks.

    Args:
        model: The model to watch.
        layers: The layers to record; if empty, the classifier's input, which the first pass shows.
        pool: Maps what a layer returns to (b, d) features, or to None if there is no tensor.
        source: What to compare with: None (the tensor of the call that holds the samples,
            detached), a layer (its output, detached), or a callable on the call's arguments.

    Attributes:
        reader: Reads the features of what layers give.

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

    _trials: ClassVar[dict[int, Recorder]] = {}
    """For each thread, the recorder that runs a trial pass now; other recorders ignore the pass."""

    _depths: ClassVar[dict[int, int]] = {}
    """For each thread, how many references are being made now, each inside the one before: what
    runs for a reference is no part of the passes that began before it, whoever records them."""

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[Layer],
        pool: Callable[[Any], Tensor | None],
        source: Source = None,
    ) -> None:
        self.reader = Reader(model, pool)
        self._source = source
        self._model = weakref.ref(model)
        self._parameters = parameter_names(model)
        self._states = States()
        begin, end = (Hook(self, model, function) for function in (Recorder._begin, Recorder._end))
        self._handles: list[RemovableHandle] = [
            begin.register(model.register_forward_pre_hook, with_kwargs=True),
            end.register(model.register_forward_hook, always_call=True, with_kwargs=True),
        ]
        self._finalizer = weakref.finalize(self, remove_all, self._handles)
        self._places, self._seeking = Places(model), Seeking(self._handles)
        for layer in layers:
            self._places.add(layer, layer.name, self._watch)
        if isinstance(source, Layer):
            self._places.add(source, None, self._watch)
        if not layers:
            self._seeking.begin(model, self._search_hook)

    @property
    def model(self) -> nn.Module | None:
        """The model, or None if it is gone."""
        return self._model()

    @property
    def layers(self) -> list[Layer]:
        """The layers that are recorded; empty until a classifier is found."""
        return self._places.layers

    def take(self) -> Record:
        """Return the record of the last forward pass, with every layer in it, and forget it."""
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
                    f"{_remedy(layer)}{_if_used()}"
                )
        if not torch.compiler.is_compiling():
            # a tensor that an ended transform, such as torch.func.jvp, left wrapped has no gradient
            unwrap = torch._C._functorch.unwrap_if_dead
            record.features = {name: unwrap(x) for name, x in record.features.items()}
            record.references = [unwrap(x) for x in record.references]
        return record

    def paused(self) -> AbstractContextManager[None]:
        """Record no pass of this thread inside the block, and keep the last record."""
        return self._states.paused()

    def remove(self) -> None:
        """Take all hooks off the model and drop what is recorded. May be called again."""
        self._finalizer()
        self._seeking.is_on = False
        self._places.clear()
        self._states.clear("the recorder is detached from the model")

    def ran_in_a_copy(self) -> None:
        """Let the next error say that a copy of the model ran. Hooks call this."""
        self._states.current.why_missing = (
            "the last forward pass ran in a copy of the model. nn.DataParallel makes such "
            "copies: use DistributedDataParallel"
        )

    def _begin(self, module: nn.Module, args: Any, kwargs: Any = None) -> None:
        if not torch.compiler.is_compiling() and not self._finalizer.alive:
            return  # another hook of this pass has just detached this recorder
        state = self._states.current
        if _began_outside(state):
            return
        why_skipped = _why_skipped(module, state)
        if why_skipped:
            state.why_missing = why_skipped
            if not state.pauses:
                if not torch.compiler.is_compiling() and state.finished and state.finished.is_spent:
                    state.finished = None  # that step is over: the penalty may mean this pass
                state.running, state.search, state.begun = None, None, 0
            return
        self._follow(module)
        needs_trial = self._seeking.is_on and _is_compiled(module)
        if needs_trial:
            _run_trial_uncompiled(self, module, args, kwargs or {})
        record = new_record(state.finished)
        record.depth = _depth()
        record.failure = self._seeking.failure if needs_trial and self._seeking.is_on else None
        record.time_major = self._places.time_major
        state.running = state.finished = None
        if self._seeking.is_on and not needs_trial:
            state.search = ClassifierSearch(module)
        if self._source is None:
            record.call = read_call(args, kwargs or {}, self._parameters)
        elif not isinstance(self._source, Layer):
            self._call_source(record, args, kwargs or {})
        # This text is shown if the pass never ends: torch calls no hook after an interruption.
        state.why_missing = "the last forward pass failed, or returned None"
        state.begun += 1
        state.running = record

    def _run_trial(self, model: nn.Module, args: Any, kwargs: Any) -> None:
        """Find the classifier by an uncompiled trial pass before a compiled one."""
        state, watch = self._states.current, self.reader.watch
        state.running, self.reader.watch = Record(depth=_depth()), None
        Recorder._trials[threading.get_ident()] = self
        state.search = search = ClassifierSearch(model)
        try:
            output = trial_pass(model, args, kwargs)
            self._find_classifier(search, state.running, args, kwargs, output)
            self._seeking.failure = state.running.failure
        except Exception as error:
            reason = (
                f"a pass that looks for the classifier before the compiled one failed ({error})"
            )
            self._seeking.failure = LayerError, f"{reason}. Name the layer with layers=."
        finally:
            state.running, self.reader.watch = None, watch
            Recorder._trials.pop(threading.get_ident(), None)
            self._end_search(state)

    def _call_source(self, record: Record, args: Any, kwargs: Any) -> None:
        """Call a teacher or a callable. Layers of the model that it uses are not recorded."""
        assert callable(self._source)
        with self.paused(), _making_a_reference(), naming_the_source(self._source):
            # copies, because changing the arguments in place would change what the model sees
            answer = self._source(*copies(list(args)), **copies(kwargs))
        if isinstance(answer, Tensor):
            record.references.append(answer.clone())  # the model may change it in place

    def _end(self, module: nn.Module, args: Any, *rest: Any) -> None:
        # torch leaves out the keywords if another hook has just detached this recorder
        kwargs, output = rest if len(rest) == 2 else ({}, *rest)
        state = self._states.current
        if state.pauses or _began_outside(state):
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

    def _end_search(self, state: State) -> None:
        """End a pass's search, and remove the hooks of the search once no other pass uses them."""
        state.search = None
        if not self._states.are_searching:
            self._seeking.tidy()

    def _find_classifier(
        self, search: ClassifierSearch, record: Record, args: Any, kwargs: Any, output: Any
    ) -> None:
        try:
            layer, entering = search.finish(args, kwargs, output)
        except LayerError as error:
            record.failure = LayerError, error.message
            return
        with self._seeking.lock:
            # a pass of another thread may have ended the search in the meantime
            if self._seeking.is_on:
                self._seeking.is_on = False
                self._places.add(layer, layer.name, self._watch)
        for value in entering:
            self.reader.read(record, layer.name, value)

    def _search_hook(self, module: nn.Module, note: Callable[..., None]) -> Hook:
        return Hook(self, module, Recorder._search, note)

    def _search(self, note: Callable[..., None], module: nn.Module, *passed: Any) -> None:
        state = None if torch.compiler.is_compiling() else self._running()
        if state is not None and state.search is not None:
            note(state.search, module, *passed)

    def _follow(self, model: nn.Module) -> None:
        """Move the hooks to the modules that the model has now."""
        grown = self._seeking.has_grown(model)
        is_lost = self._places.follow(model, self._watch, grown=grown)
        if is_lost or (grown and self._seeking.is_on):
            self._seeking.begin(model, self._search_hook)

    def _watch(self, layer: Layer, name: str | None) -> RemovableHandle:
        """Hook a layer. What it gives is recorded under the name; with None it is the reference."""
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
        self._record_value(name, Entering(args, kwargs or {}))

    def _returned(self, name: str | None, module: nn.Module, args: Any, output: Any) -> None:
        self._record_value(name, output)

    def _running(self) -> State | None:
        """The state of the pass that runs now; None in another recorder's trial or reference."""
        if not torch.compiler.is_compiling():
            recorder = Recorder._trials.get(threading.get_ident(), self)
            if recorder is not self:
                return None
        state = self._states.recording
        return None if state is None or _began_outside(state) else state

    def _record_value(self, name: str | None, value: Any) -> None:
        state = self._running()
        record = None if state is None else state.running
        if state is None or record is None:
            return
        if name is not None:
            if state.search is None:  # in a search, all uses are recorded at its end
                self.reader.read(record, name, value)
            return
        tensor = next(tensors_in(value), None)
        if tensor is not None:
            record.references.append(tensor.detach().clone())
            record.sources.append(None if torch.compiler.is_compiling() else tensor.grad_fn)


def _depth() -> int:
    return 0 if torch.compiler.is_compiling() else Recorder._depths.get(threading.get_ident(), 0)


def _began_outside(state: State) -> bool:
    """Whether a reference is being made that began after the pass that runs."""
    return state.running is not None and state.running.depth < _depth()


@contextlib.contextmanager
def _making_a_reference() -> Iterator[None]:
    if torch.compiler.is_compiling():
        yield
        return
    thread, depth = threading.get_ident(), _depth()
    Recorder._depths[thread] = depth + 1
    try:
        yield
    finally:
        Recorder._depths[thread] = depth
        if not depth:
            del Recorder._depths[thread]


def _why_skipped(model: nn.Module, state: State) -> str:
    """Return why the pass that begins now is not recorded; empty if it is."""
    if state.pauses:
        return "recording was paused during the last forward pass"
    if not model.training:
        return "the last forward pass ran in eval mode"
    if not torch.is_grad_enabled():
        return "the last forward pass ran without gradients"
    return "the last forward pass was only traced or exported" if is_tracing() else ""


def _remedy(layer: Layer) -> str:
    """Return advice for the error that a layer did not run."""
    if isinstance(layer.module, nn.Sequential) and len(layer.module):
        last = [*layer.module._modules][-1]
        return (
            "Its modules may have run one by one, as checkpointing calls them: then name the last, "
            f"'{layer.name}.{last}'. Else choose layers that every training step uses."
        )
    return "Choose layers that every training step uses."


def _if_used() -> str:
    return f" {_COMPILED}" if was_used() else ""


def _is_compiled(model: nn.Module) -> bool:
    """Whether a pass runs compiled, at least in part: no module is seen to run there."""
    if torch.compiler.is_compiling():
        return True
    return any("_orig_mod" in m._modules or m._compiled_call_impl for m in model.modules())


_run_trial_uncompiled = between_graphs(Recorder._run_trial, _FULL_GRAPH)

"""Finds the default features, which enter the classifier; an uncertain classifier is refused.

The classifier is the module whose result the model returns. A timm model names it; in a chain of
modules it is the last one with weights. In any other model the first recorded forward pass shows
it: the graph of the returned tensor is followed back to the first modules with weights.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from isoreg._attach.layers import Layer, Layers, find_layers, wrapped
from isoreg._attach.pooling import Entering, tensors_in
from isoreg._compiled import ATTACH_FIRST, was_used
from isoreg._graph import nodes_before
from isoreg.errors import LayerError

_UNSEEN = "not all of the model's modules were seen to run. "
_IF_COMPILED = f"{ATTACH_FIRST} Or name a layer with layers=."
_IF_HIDDEN = (
    "A call of module.forward runs no hook, and layers that are no submodules have none. Call "
    "modules themselves, or hold them as attributes."
)
# Autograd nodes that compute products with weights or prototypes, or distances from prototypes.
_PRODUCTS = frozenset([
    *("Mm", "Addmm", "SparseAddmm", "Bmm", "Baddbmm", "Mv", "Addmv", "Dot", "Linear"),
    *("Convolution", "Trilinear", "Cdist", "EuclideanDist"),
])
_BROADCASTS = frozenset(["Mul", "Add", "Sub", "Div", "Expand"])


def choose_layers(model: nn.Module, layers: Layers) -> list[Layer]:
    """Return the chosen layers, or the classifier; an empty list if a pass has to show it.

    Example:
        >>> [layer.name for layer in choose_layers(nn.Sequential(nn.Linear(4, 3)), None)]
        ['0']
    """
    if layers is not None:
        return find_layers(model, layers)
    classifier = known_classifier(model)
    return [] if classifier is None else [classifier]


def known_classifier(model: nn.Module) -> Layer | None:
    """Return the classifier of a model if it is known before the model runs.

    Returns:
        The module that timm's ``pretrained_cfg`` names (the first, if it names several), or the
        last module with weights in a chain of modules; None for any other model.

    Example:
        >>> known_classifier(nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))).name
        '2'
    """
    if not list(model.children()) and not _has_weights(model):
        raise LayerError(
            f"{type(model).__name__} holds no modules whose outputs could be features. "
            "Build it of modules, such as nn.Linear, and name one with layers=."
        )
    name, module = "", model
    while True:
        declared = _declared(module)
        if declared is not None:
            path = f"{name}.{declared}" if name else declared
            return Layer(path, model.get_submodule(path), at_input=True)
        weighted = [(key, child) for key, child in module.named_children() if _has_weights(child)]
        if not isinstance(module, nn.Sequential) or not weighted:
            break
        key, module = weighted[-1]
        name = f"{name}.{key}" if name else key
    if type(module) is not nn.Linear:
        return None
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    least = min(m.out_features for m in linear)
    if module.out_features == linear[0].in_features and least < module.out_features:
        return None  # autoencoders have this form too: the first pass decides
    return Layer(name, module, at_input=True)


def check_classifier(model: nn.Module, layers: Iterable[Layer]) -> None:
    """Refuse a default layer that is no longer the classifier, as modules were added after it."""
    if torch.compiler.is_compiling():
        return
    for layer in layers:
        present = known_classifier(model) if layer.at_input else None
        if present is not None and present.name != layer.name:
            raise LayerError(
                f"what enters {layer.name!r} was recorded, because it was the classifier when this "
                f"was attached, and now {present.name!r} is. Attach once the model is complete, or "
                "name the layer with layers=."
            )


def _declared(module: nn.Module) -> str | None:
    """Return the first classifier that timm's ``pretrained_cfg`` names, or None."""
    config = vars(module).get("pretrained_cfg") or getattr(type(module), "pretrained_cfg", None)
    named = config.get("classifier") if isinstance(config, Mapping) else None
    names = {name for name, _ in module.named_modules()}
    declared = [named] if isinstance(named, str) else list(named or [])
    return next((name for name in declared if name in names), None)


@dataclasses.dataclass
class _Run:
    """One tensor that a module with weights returned, and what that call got."""

    name: str
    module: nn.Module
    entering: Entering
    versions: dict[int, int]
    width: int
    axes: int
    node: Any


class ClassifierSearch:
    """Watches all modules during one forward pass, and then tells which one is the classifier."""

    def __init__(self, model: nn.Module) -> None:
        self._names = {id(module): name for name, module in model.named_modules()}
        self._kind = type(model).__name__
        # the module inside a wrapper is the model itself, so it is never the model's classifier
        self._wrapped = {self._names[id(module)] for module in wrapped(model)}
        self._runs: list[_Run] = []
        self._weighted: set[int] = set()
        self._blind: set[nn.Module] = set()  # modules that ran without gradients
        self._begun: dict[int, tuple[Entering, dict[int, int]]] = {}

    def _applies_weights(self, module: nn.Module) -> bool:
        """Whether a module applies weights of its own, or holds modules that were seen to do so."""
        applies = (
            any(id(child) in self._weighted for child in module.modules())
            or any(_is_matrix(x) for x in module.parameters(recurse=False))
            or nn.utils.parametrize.is_parametrized(module)
        )
        if applies:
            self._weighted.add(id(module))
        return applies

    def note_input(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Note the versions of what enters a module, before the module can change it in place."""
        entering = Entering(args, kwargs)
        # the tensors are kept alive, so that no other tensor can get the same id
        self._begun[id(module)] = entering, {id(x): _version(x) for x in _floating(entering)}

    def note_call(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """Note one call of a module: what it was called with, and what it returned."""
        _, versions = self._begun.pop(id(module), (None, {}))
        entering = Entering(args, kwargs)
        if next(tensors_in(entering), None) is None or not self._applies_weights(module):
            return
        if not torch.is_grad_enabled():
            self._blind.add(module)
        name = self._names[id(module)]
        if name in self._wrapped:
            return
        for x in tensors_in(output):
            if x.grad_fn is not None and not x.is_nested and x.ndim > 0:
                width = x.numel() // max(1, len(x))
                run = _Run(name, module, entering, versions, width, x.ndim, x.grad_fn)
                self._runs.append(run)

    def finish(self, args: Any, kwargs: Any, output: Any) -> tuple[Layer, list[Entering]]:
        """Return the classifier, as shown by the model's output, and the input of each call."""
        returned = _returned(output)
        if not self._runs:
            raise LayerError(_UNSEEN + (_IF_COMPILED if was_used() else _IF_HIDDEN))
        if not returned:
            self._refuse("returned no tensor with a gradient")
        shapes = [tuple(x.shape) for x in returned if x.ndim > 2]
        if shapes:
            self._refuse(f"returned shape {shapes[0]}, which is not one vector a sample")
        runs: dict[Any, _Run] = {}
        for run in self._runs:
            runs.setdefault(run.node, run)  # keeps the innermost module with this result
        sources: dict[str, _Run] = {}
        for x in returned:
            for run in self._sources(x.grad_fn, runs):
                sources.setdefault(run.name, run)
        if len(sources) != 1:
            names = ", ".join(map(repr, sources)) or "none of its modules"
            self._refuse(f"returned what was made by {names}")
        (run,) = sources.values()
        self._check_classifies(run, args, kwargs, returned)
        if run.module in self._blind:
            raise LayerError(
                f"layer {run.name!r} ran both without gradients and with them in one forward pass, "
                "so it is not known which use is meant. What is meant to have none goes inside "
                "`with iso.paused():`."
            )
        calls = {id(call.entering): call for call in self._runs if call.module is run.module}
        for call in calls.values():
            before = call.versions
            if any(before.get(id(x), _version(x)) != _version(x) for x in _floating(call.entering)):
                self._refuse(f"changed in place what had entered {run.name!r}")
        layer = Layer(run.name, run.module, at_input=True)
        return layer, [call.entering for call in calls.values()]

    def _sources(self, result: Any, runs: Mapping[Any, _Run]) -> Iterator[_Run]:
        """Yield the modules with weights that come first on the way back from a result."""
        for node in nodes_before(result, runs):
            if node in runs:
                yield runs[node]
                continue
            if "CompiledFunction" in node.name():
                raise LayerError(_UNSEEN + _IF_COMPILED)
            weight = getattr(node, "variable", None)
            if (isinstance(weight, nn.Parameter) and weight.ndim > 1) or _is_product(node, result):
                self._refuse("returned what weights of its own were applied to, or prototypes")

    def _check_classifies(self, run: _Run, args: Any, kwargs: Any, returned: list[Tensor]) -> None:
        if "decoder" in run.name:
            self._refuse(f"returned what its decoder made, {run.name!r}")
        if run.axes > 2 and returned[0].ndim == 0:
            self._refuse(f"returned a loss, and {run.name!r} gave more than one vector a sample")
        inputs, entering = list(tensors_in((args, kwargs))), list(_floating(run.entering))
        if entering and all(any(x is y for y in inputs) for x in entering):
            self._refuse(f"returned what {run.name!r} made of the model's own input")
        inside = [
            m for m in run.module.modules() if m is not run.module and id(m) in self._weighted
        ]
        if len(inside) > 1 and (run.axes > 2 or all(x.grad_fn is None for x in entering)):
            self._refuse(f"returned what several layers of {run.name!r} made")
        batches = [x for x in inputs if not x.is_nested and x.ndim > 1]
        widths = {x.numel() // max(1, len(x)) for x in batches}
        narrowest = min(result.width for result in self._runs)
        if run.width in widths and narrowest < run.width:
            self._refuse(f"returned as many numbers a sample as it takes, {run.width}")

    def _refuse(self, reason: str) -> NoReturn:
        narrowest = min(self._runs, key=lambda run: run.width)
        names = list(dict.fromkeys(run.name for run in self._runs))[-5:]
        raise LayerError(
            f"{self._kind} {reason}, so its penultimate features are unknown. Name them with "
            f"layers=, for example one of {', '.join(map(repr, names))}, or for an autoencoder the "
            f"narrowest, {narrowest.name!r} ({narrowest.width} numbers a sample)."
        )


def _returned(output: Any) -> list[Tensor]:
    """Return the tensors in which the search starts: the output's logits if it names them.

    Logits without a gradient show nothing: a training step returns them detached beside its loss.
    """
    logits = (
        output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    )
    shows = isinstance(logits, Tensor) and logits.grad_fn is not None
    found = tensors_in(logits if shows else output)
    return [x for x in found if x.grad_fn is not None and not x.is_nested]


def _is_product(node: Any, result: Any) -> bool:
    """Whether a node computes products or distances, or broadcasts their terms for a later sum."""
    kind = node.name().partition("Backward")[0]
    if kind not in _BROADCASTS:
        return kind in _PRODUCTS
    size = _size(node)
    return size > _size(result) and size > max(_size(before) for before, _ in node.next_functions)


def _size(node: Any) -> int:
    """Return the size of the largest tensor that a node made, or 0 for None."""
    return 0 if node is None else max(math.prod(tensor.shape) for tensor in node._input_metadata)


def _floating(entering: Entering) -> Iterator[Tensor]:
    return (x for x in tensors_in(entering) if x.is_floating_point())


def _version(x: Tensor) -> int:
    """Return how often a tensor was changed in place, or 0 if torch does not count it."""
    return 0 if x.is_inference() else x._version


def _has_weights(module: nn.Module) -> bool:
    """Whether a module has weight matrices, not only factors and biases as normalisation does."""
    return any(_is_matrix(parameter) for _, parameter in module.named_parameters())


def _is_matrix(parameter: nn.Parameter) -> bool:
    return isinstance(parameter, nn.parameter.UninitializedParameter) or parameter.ndim > 1


def is_tracing() -> bool:
    """Whether a forward pass is only traced, exported or scripted, so that it trains nothing."""
    # The flag is read because torch 2.9 compiles torch.compiler.is_exporting() to True everywhere.
    exporting = getattr(torch.compiler, "_is_exporting_flag", None)
    if exporting is None:
        exporting = torch.compiler.is_exporting()
    return torch._C._get_tracing_state() is not None or exporting

"""Finds modules of a model by names, globs, types and predicates, and the axes of their outputs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from isoreg.errors import InputError, LayerError, is_number

Selector: TypeAlias = str | nn.Module | type[nn.Module] | Callable[[str, nn.Module], bool]
Layers: TypeAlias = Selector | Iterable[Selector] | Mapping[str, float] | None


_WIDTHS = ("in_features", "embedding_dim", "embed_dim", "hidden_size", "input_size")


@dataclasses.dataclass(frozen=True)
class Layer:
    """A place in a model where features are recorded.

    Attributes:
        name: Dotted name of the module in the model.
        module: The module itself.
        weight: Factor of its penalty.
        at_input: Whether what enters the module is recorded, instead of what it returns.

    Example:
        >>> find_layers(nn.Sequential(nn.Linear(3, 2)), "0")[0].name
        '0'
    """

    name: str
    module: nn.Module
    weight: float = 1.0
    at_input: bool = False


def find_layers(model: nn.Module, layers: Layers) -> list[Layer]:
    """Choose layers of a model, as `isoreg.IsometryRegularizer` says.

    A wildcard matches within one dotted part, and in a mapping a full name has precedence over a
    glob. Names from before compiling or `DistributedDataParallel` are understood as well.

    Returns:
        The layers, each module once: in the order of the choices, and for each in model order.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2), nn.Tanh())
        >>> [layer.name for layer in find_layers(model, nn.Tanh)]
        ['1', '3']
    """
    modules = {name: module for name, module in model.named_modules(remove_duplicate=False) if name}
    plain = _unwrapped_names(model, modules)
    if isinstance(layers, Mapping):
        weighted = [(selector, _checked_weight(selector, w)) for selector, w in layers.items()]
        full = {*plain, *modules}
        weighted.sort(key=lambda pair: pair[0] not in full)
    elif isinstance(layers, str | nn.Module) or not isinstance(layers, Iterable):
        weighted = [(layers, 1.0)]
    else:
        weighted = [(selector, 1.0) for selector in layers]
    if not weighted:
        raise LayerError(f"layers must name at least one layer, got {layers!r}.")
    chosen: dict[int, Layer] = {}
    for selector, weight in weighted:
        for name in _matches(modules, plain, selector, model):
            layer = chosen.setdefault(id(modules[name]), Layer(name, modules[name], weight))
            is_named = isinstance(selector, str) and name in (selector, plain.get(selector))
            if layer.weight != weight and is_named:
                raise InputError(
                    f"layers {layer.name!r} and {selector!r} are one module, so they must have one "
                    f"weight, got {layer.weight:g} and {weight:g}."
                )
    for layer in chosen.values():
        if isinstance(layer.module, torch.jit.ScriptModule):
            raise LayerError(
                f"layer {layer.name!r} is of torch.jit.script and takes no hooks. Name the module "
                "around it, or attach before it is scripted."
            )
    return list(chosen.values())


def refuse_time_major(
    model: nn.Module,
    layers: Iterable[Layer],
    remedy: str = "pool its output yourself: pool=lambda output: ...",
) -> None:
    """Refuse layers whose first axis is time, which would be taken for samples.

    The layer, a module around it, or the last module of a chain shows this by its torch class.

    Example:
        >>> model = nn.Sequential(nn.GRU(3, 2, batch_first=True))
        >>> refuse_time_major(model, find_layers(model, "0"))
    """
    for layer in layers:
        parts = layer.name.split(".")
        around = [module_at(model, ".".join(parts[:end])) for end in range(1, len(parts))]
        module: nn.Module | None = layer.module
        while type(module) is nn.Sequential and len(module):
            module = module[-1]
        if any(map(is_time_major, [*around, module])):
            raise LayerError(
                f"layer {layer.name!r} has batch_first=False, so its first axis is time, not the "
                f"samples. Build it with batch_first=True, or {remedy}"
            )


def is_time_major(module: nn.Module | None) -> bool:
    """Return whether torch's own class of a module takes sequences with time as the first axis.

    Example:
        >>> is_time_major(nn.GRU(3, 2)), is_time_major(nn.GRU(3, 2, batch_first=True))
        (True, False)
    """
    kinds = nn.TransformerEncoder | nn.TransformerDecoder
    inner = module.layers[0] if isinstance(module, kinds) and len(module.layers) else module
    attention = getattr(inner, "self_attn", inner)
    return isinstance(attention, nn.RNNBase | nn.MultiheadAttention) and not attention.batch_first


class Axes:
    """Which axis of a layer's output holds channels, as far as a model's modules tell.

    Example:
        >>> import torch
        >>> axes = Axes(nn.Sequential(nn.Conv1d(2, 5, 3), nn.Linear(14, 3)))
        >>> axes.channels(torch.ones(4, 5, 16))
        'first'
    """

    def __init__(self, model: nn.Module) -> None:
        self._first: dict[int, set[int]] = {3: set(), 4: set(), 5: set()}  # by x.ndim
        self._last: set[int] = set()
        for module in model.modules():
            if isinstance(module, _ConvNd):
                axes = len(module.kernel_size) + 2
                self._first[axes] |= {module.in_channels, module.out_channels}
            else:
                counts = {vars(module).get("num_features"), vars(module).get("num_channels")}
                for axes in (4, 5):  # not 3: BatchNorm and GroupNorm may act on vectors
                    self._first[axes] |= {count for count in counts if isinstance(count, int)}
                sizes = map(vars(module).get, _WIDTHS)
                self._last |= {size for size in sizes if isinstance(size, int)}
                if isinstance(module, nn.RNNBase) and module.bidirectional:
                    self._last.add(2 * module.hidden_size)
                if isinstance(module, nn.LayerNorm):
                    self._last.add(module.normalized_shape[-1])

    def channels(self, x: Tensor) -> str:
        """Return "first" (after the samples) or "last"; "" if the modules show neither or both."""
        if x.ndim not in self._first:
            return ""
        first = x.shape[1] in self._first[x.ndim] or (x.ndim > 3 and x.shape[1] in self._last)
        last = x.shape[-1] in self._last and x.shape[-1] > 1
        return "" if first == last else "first" if first else "last"

    def refuse_other(self, x: Tensor, pool: str) -> None:
        """Refuse a pooling that takes channels on another axis than the model's modules show."""
        expected = "first" if pool == "mean" and x.ndim > 3 else "last"
        shown = self.channels(x)
        if shown and shown != expected:
            axis, dims = (1, range(2, x.ndim)) if shown == "first" else (-1, range(1, x.ndim - 1))
            raise LayerError(
                f"pool={pool!r} takes channels to come {expected}, and those of shape "
                f"{tuple(x.shape)} seem to come {shown}: layers of the model have {x.shape[axis]} "
                f"of them. Say what to average: pool=lambda output: output.mean({tuple(dims)})."
            )


def module_at(model: nn.Module, name: str) -> nn.Module | None:
    """Return the module that stands under a dotted name now, or None; empty names the model.

    Example:
        >>> module_at(nn.Sequential(nn.Tanh()), "0")
        Tanh()
    """
    module: nn.Module | None = model
    for part in name.split(".") if name else ():
        module = None if module is None else module._modules.get(part)
    return module


def wrapped(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the modules inside the wrappers of a model, from the outermost wrapper inwards.

    Yields:
        Each module that is compiled or in `DistributedDataParallel`.

    Example:
        >>> list(wrapped(nn.Linear(2, 2)))
        []
    """
    while True:
        inner = _inner_name(model)
        if inner not in model._modules:
            return
        model = model.get_submodule(inner)
        yield model


def _inner_name(wrapper: nn.Module) -> str:
    return "module" if isinstance(wrapper, nn.parallel.DistributedDataParallel) else "_orig_mod"


def _unwrapped_names(model: nn.Module, modules: Mapping[str, nn.Module]) -> dict[str, str]:
    """Map the names that modules had before anything was wrapped to their present names."""
    plain = {"": ""}
    old_names = {"": ""}
    for name in modules:
        around, _, part = name.rpartition(".")
        hidden = part == _inner_name(modules.get(around, model))
        old_names[name] = old_names[around] if hidden else f"{old_names[around]}.{part}".lstrip(".")
        plain.setdefault(old_names[name], name)
    return {old: name for old, name in plain.items() if old}


def _matches(
    modules: Mapping[str, nn.Module], plain: Mapping[str, str], selector: Selector, model: nn.Module
) -> list[str]:
    """Return the names of the modules that one choice selects, at least one."""
    if isinstance(selector, str):
        matched = _stages(plain, model) if selector == "stages" else []
        if not matched and selector in modules:
            matched = [selector]
        matched = matched or [plain[name] for name in _glob(plain, selector)]
        matched = matched or _glob(modules, selector)
        if not matched:
            close = get_close_matches(selector, plain, cutoff=0.5) or list(plain)[-3:]
            raise LayerError(
                f"no layer is called {selector!r}. Close matches: {', '.join(map(repr, close))}. "
                "All names: [name for name, _ in model.named_modules()]."
            )
        return matched
    if isinstance(selector, nn.Module):
        matched = [name for name, module in modules.items() if module is selector]
    elif isinstance(selector, type):
        matched = [name for name, module in modules.items() if isinstance(module, selector)]
    elif callable(selector):
        matched = [name for name, module in modules.items() if selector(name, module)]
    else:
        raise LayerError(
            "layers must be names, modules, module types or predicates, "
            f"got {type(selector).__name__}."
        )
    if not matched:
        name = type(selector).__name__ if isinstance(selector, nn.Module) else repr(selector)
        raise LayerError(f"no layer of the model matches {name}.")
    return matched


def _stages(plain: Mapping[str, str], model: nn.Module) -> list[str]:
    """Return the modules whose outputs are the stages of a timm model; empty if it names none."""
    info = getattr([model, *wrapped(model)][-1], "feature_info", None)
    entries = info if isinstance(info, list) else getattr(info, "info", [])
    names = [entry["module"] for entry in entries]
    missing = [name for name in names if name not in plain]
    if missing:
        close = dict.fromkeys(n for name in missing for n in get_close_matches(name, plain))
        raise LayerError(
            f"feature_info names stages that are no modules, got {', '.join(map(repr, missing))}. "
            "Name the layers instead, for example "
            f"{', '.join(map(repr, close or list(plain)[:5]))}."
        )
    return [plain[name] for name in names]


def _glob(names: Iterable[str], pattern: str) -> list[str]:
    parts = pattern.split(".")
    return [
        name
        for name in names
        if len(split := name.split(".")) == len(parts) and all(map(fnmatchcase, split, parts))
    ]


def _checked_weight(name: str, weight: float) -> float:
    if not is_number(weight) or not (math.isfinite(weight) and weight >= 0):
        raise InputError(f"the weight of layer {name!r} must be finite and >= 0, got {weight!r}.")
    return float(weight)

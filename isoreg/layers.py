"""Names, globs, types and predicates -> modules of a model; its default representation."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import TypeAlias

from torch import nn

from isoreg.errors import InputError, LayerError

Selector: TypeAlias = str | nn.Module | type[nn.Module] | Callable[[str, nn.Module], bool]
Layers: TypeAlias = Selector | Iterable[Selector] | Mapping[str, float] | None


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


def find_layers(model: nn.Module, layers: Layers = None) -> list[Layer]:
    """Choose layers of a model.

    Args:
        model: The model to search.
        layers: None: what enters the classifier, see `classifier_input`. A dotted name, or a glob
            whose wildcards stand within one dotted part (``"blocks.*.mlp"``). ``"stages"``: the
            stages of a timm model, from its ``feature_info``. A module of the model. A module
            type: all its instances. A predicate on (name, module). A sequence of such. A mapping
            from names or globs to weights, in which a full name goes before a glob.

    Returns:
        The layers, each module once, in the order of the choices and of the model within one.

    Raises:
        LayerError: If a choice matches nothing.
        InputError: If a weight is negative or not finite.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2), nn.Tanh())
        >>> [layer.name for layer in find_layers(model, nn.Tanh)]
        ['1', '3']
        >>> [(layer.name, layer.at_input) for layer in find_layers(model)]
        [('2', True)]
    """
    if layers is None:
        return [classifier_input(model)]
    modules = {name: module for name, module in model.named_modules(remove_duplicate=False) if name}
    if isinstance(layers, Mapping):
        weighted = [(selector, _checked_weight(selector, w)) for selector, w in layers.items()]
        weighted.sort(key=lambda pair: pair[0] not in modules)
    elif isinstance(layers, str | nn.Module) or not isinstance(layers, Iterable):
        weighted = [(layers, 1.0)]
    else:
        weighted = [(selector, 1.0) for selector in layers]
    if not weighted:
        raise LayerError(f"layers must name at least one layer, got {layers!r}.")
    found: dict[int, Layer] = {}
    for selector, weight in weighted:
        for name in _matches(modules, selector, model):
            found.setdefault(id(modules[name]), Layer(name, modules[name], weight))
    return list(found.values())


def classifier_input(model: nn.Module) -> Layer:
    """Find the default representation: what enters the classifier, the penultimate features.

    The classifier is the module that timm's ``pretrained_cfg`` names, of the model itself or of
    the timm model in it that holds the last `nn.Linear`; else it is the last `nn.Linear`.

    Args:
        model: The model to search.

    Returns:
        The classifier, marked to be recorded at its input.

    Raises:
        LayerError: If the model has no `nn.Linear`.

    Example:
        >>> classifier_input(nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))).name
        '2'
    """
    modules = dict(model.named_modules())
    linear = [name for name, module in modules.items() if isinstance(module, nn.Linear)]
    # the model itself, else the timm model that holds the last nn.Linear
    holders = [
        "",
        *(name for name in modules if linear and f"{linear[-1]}.".startswith(f"{name}.")),
    ]
    for holder in holders:
        config = getattr(modules[holder], "pretrained_cfg", None)
        named = config.get("classifier") if isinstance(config, Mapping) else None
        for part in [named] if isinstance(named, str) else list(named or []):
            name = f"{holder}.{part}" if holder else part
            if name in modules:
                return Layer(name, modules[name], at_input=True)
    if linear:
        return Layer(linear[-1], modules[linear[-1]], at_input=True)
    candidates = [name for name, module in modules.items() if name and not list(module.children())]
    if not candidates:
        raise LayerError(
            f"{type(model).__name__} holds no modules whose outputs could be features. "
            "Build it of modules, such as nn.Linear, and name one with layers=."
        )
    raise LayerError(
        f"{type(model).__name__} has no nn.Linear, so its penultimate features are unknown. "
        f"Name them with layers=, for example one of {', '.join(map(repr, candidates[-5:]))}."
    )


def _matches(modules: Mapping[str, nn.Module], selector: Selector, model: nn.Module) -> list[str]:
    """Names of the modules that one choice selects; never empty."""
    if isinstance(selector, str):
        matched = [selector] if selector in modules else _glob(modules, selector)
        if selector == "stages" and not matched:
            matched = _stages(modules, model)
        if not matched:
            near = get_close_matches(selector, modules, n=3, cutoff=0.5) or list(modules)[-3:]
            raise LayerError(
                f"no layer is called {selector!r}. Close matches: {', '.join(map(repr, near))}. "
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
        raise LayerError(f"no layer of the model matches {selector!r}.")
    return matched


def _stages(modules: Mapping[str, nn.Module], model: nn.Module) -> list[str]:
    """Modules of a timm model whose outputs are its stages."""
    info = getattr(model, "feature_info", None)
    entries = info if isinstance(info, list) else getattr(info, "info", [])
    names = [entry["module"] for entry in entries]
    return [name for name in names if name in modules]


def _glob(modules: Mapping[str, nn.Module], pattern: str) -> list[str]:
    parts = pattern.split(".")
    return [
        name
        for name in modules
        if len(split := name.split(".")) == len(parts) and all(map(fnmatchcase, split, parts))
    ]


def _checked_weight(name: str, weight: float) -> float:
    if not isinstance(weight, int | float) or not (math.isfinite(weight) and weight >= 0):
        raise InputError(f"the weight of layer {name!r} must be finite and >= 0, got {weight!r}.")
    return float(weight)

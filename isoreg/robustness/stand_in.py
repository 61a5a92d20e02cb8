"""Twins in floating point of quantised models, whose own arithmetic has no gradient to climb."""

from __future__ import annotations

import copy

import torch
from torch import nn

from isoreg.errors import InputError

_QUANTISED = "torch.ao.nn.quantized"


def stand_in_for(model: nn.Module) -> nn.Module | None:
    """The model in floating point, if some of its layers compute with integers.

    Of torch's own quantised layers, the linear ones of dynamic int8 have such a twin: it has the
    weights as they are after rounding, and does not round its input.

    Returns:
        A model that shares the parameters of all other layers; None if no layer is quantised.

    Raises:
        InputError: If the model has quantised layers of another kind.
    """
    quantised = {name: m for name, m in model.named_modules() if _is_quantised(m)}
    if not quantised:
        return None
    linear = {name: layer for name, layer in quantised.items() if _is_dynamic_linear(layer)}
    prefixes = tuple(f"{name}." for name in linear)
    unsupported = [
        name for name in quantised if name not in linear and not f"{name}.".startswith(prefixes)
    ]
    if unsupported:
        kinds = sorted({type(quantised[name]).__name__ for name in unsupported})
        raise InputError(
            "a quantised model must have no other quantised layers than dynamic linear ones, got "
            f"{', '.join(kinds)} (first of them {unsupported[0]!r}). They have no gradient: "
            "evaluate the model before quantisation, or train it with fake quantisation and "
            "evaluate that."
        )
    twins = {id(layer): _in_floats(layer) for layer in linear.values()}
    shared = {id(p): p for p in model.parameters()}
    return copy.deepcopy(model, {**shared, **twins})


def _is_quantised(layer: nn.Module) -> bool:
    return type(layer).__module__.startswith(_QUANTISED)


def _is_dynamic_linear(layer: nn.Module) -> bool:
    kind = type(layer)
    return kind.__name__ == "Linear" and kind.__module__.startswith(f"{_QUANTISED}.dynamic")


def _in_floats(layer: nn.Module) -> nn.Linear:
    weight, bias = layer.weight().dequantize(), layer.bias()  # type: ignore[operator]
    twin = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    with torch.no_grad():
        twin.weight.copy_(weight)
        if bias is not None:
            twin.bias.copy_(bias)
    return twin

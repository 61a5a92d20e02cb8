"""The layers of an MLP, and the refusal of every model that may compute something else."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from inspect import getattr_static
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules import module as every_module
from torch.nn.utils.parametrize import is_parametrized

from isoreg.errors import InputError

ACTIVATIONS: dict[type[nn.Module], Callable[[Tensor], Tensor]] = {
    nn.ReLU: torch.relu,
    nn.Tanh: torch.tanh,
    nn.Sigmoid: torch.sigmoid,
}
_PASSIVE = (nn.Identity, nn.Dropout)
# The methods that a call of a layer goes through, besides the reading of its parameters.
_CALL = ("__call__", "_call_impl", "_wrapped_call_impl", "__getattr__", "__getattribute__")
_FORWARD = ("forward", *_CALL)
_GLOBAL_HOOKS = ("_global_forward_pre_hooks", "_global_forward_hooks")
_INSTEAD = "Leave it out: the report is then an upper bound alone."


@dataclass(frozen=True)
class Affine:
    """A linear layer: weight (out, in) and bias (out)."""

    weight: Tensor
    bias: Tensor


Layer: TypeAlias = Affine | type[nn.Module]


def layers_of(model: nn.Module) -> list[Layer]:
    """Linear layers and activations of an MLP, in their order.

    Returns:
        The layers, in float64.

    Raises:
        InputError: If it is anything else than a Sequential of `Flatten`, `Linear`, `ReLU`,
            `Tanh`, `Sigmoid`, `Dropout` and `Identity`, or if a weight is a subclass of tensor or
            differs from one reading to the next.

    Example:
        >>> [type(layer).__name__ for layer in layers_of(nn.Sequential(nn.Linear(2, 3)))]
        ['Affine']
    """
    layers: list[Layer] = []
    for module in _leaves(model):
        if _is_linear(module):
            layers.append(_affine(module))
        elif type(module) in ACTIVATIONS:
            layers.append(type(module))
        elif type(module) not in _PASSIVE and (layers or type(module) is not nn.Flatten):
            raise InputError(
                "certified=True bounds MLPs alone, a Sequential of Flatten, Linear, ReLU, Tanh, "
                f"Sigmoid, Dropout and Identity, got {type(module).__name__}. {_INSTEAD}"
            )
    return layers


def check_certifiable(model: nn.Module, norm: str) -> None:
    """Refuse a model or norm that cannot be bounded, before anything is attacked.

    Raises:
        InputError: If the model is no MLP, a hook, say, may change what its layers compute, it
            computes in half precision, or the norm is not L-inf.
    """
    for parameter in model.parameters():
        kind, got = parameter.device.type, ""
        if torch.is_autocast_enabled(kind):
            got = f"torch.autocast with {torch.get_autocast_dtype(kind)}. Call it outside"
        elif parameter.dtype not in (torch.float32, torch.float64):
            got = str(parameter.dtype)
        if got:
            raise InputError(
                "certified=True bounds models in float32 or float64, whose rounding is negligible, "
                f"got {got}."
            )
    if norm != "Linf":
        raise InputError(f"certified=True bounds L-inf balls alone, got norm={norm!r}.")
    layers_of(model)
    for name, module in model.named_modules():
        changes = _changes(module)
        if changes:
            where = f"{type(module).__name__} {name!r}" if name else "the model"
            raise InputError(
                f"certified=True bounds what the layers compute, got {changes} at {where}, which "
                f"may change that. Remove it, or leave certified out."
            )


def _is_linear(module: nn.Module) -> bool:
    """Whether a call of the module multiplies by its weight and adds its bias, as Linear does."""
    return isinstance(module, nn.Linear) and all(
        getattr_static(type(module), name) is getattr_static(nn.Linear, name) for name in _FORWARD
    )


def _affine(module: nn.Module) -> Affine:
    values: list[Any] = [module.weight, module.weight, module.bias]
    weight, again, bias = values
    kinds = {type(x) for x in values if x is not None}
    if not kinds <= {Tensor, nn.Parameter}:  # a subclass may multiply in its own way
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise InputError(f"certified=True bounds plain tensors as weights, got {names}. {_INSTEAD}")
    if not torch.equal(weight, again):
        raise InputError(
            "certified=True bounds what the layers compute, got a parametrization that gives other "
            f"weights each time. {_INSTEAD}"
        )
    wide = weight.double()
    no_bias = wide.new_zeros(len(wide))
    return Affine(wide, no_bias if bias is None else bias.double())


def _leaves(module: nn.Module) -> list[nn.Module]:
    if type(module) is nn.Sequential:
        return [leaf for child in module for leaf in _leaves(child)]
    return [module]


def _changes(module: nn.Module) -> str:
    """What may make a module compute something else than its class says; "" if nothing."""
    hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
    if not all(map(_is_silent, hooks)):
        return "a hook"
    if any(getattr(every_module, name) for name in _GLOBAL_HOOKS):
        return "a hook on all modules (torch.nn.modules.module.register_module_forward_hook)"
    if module._compiled_call_impl is not None:
        return "a call that compile() replaced"
    replaced = [name for name in vars(module) if callable(getattr(type(module), name, None))]
    if replaced:
        return f"a method {replaced[0]!r} that was replaced"
    owned = [name for name in ("weight", "bias") if hasattr(type(module), name)]
    if isinstance(module, nn.Linear) and not all(is_parametrized(module, name) for name in owned):
        return f"a property {owned[0]!r}"
    return ""


def _is_silent(hook: object) -> bool:
    """Whether a hook is our recorder's, or its placeholder in a copy: both return None."""
    in_a_copy = isinstance(getattr(hook, "__self__", None), nullcontext)
    return in_a_copy or type(hook).__module__ == "isoreg._attach.hook"

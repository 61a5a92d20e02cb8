"""Gradients through functions that round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class StraightThrough(TorchFunctionMode):
    """Let gradients pass rounding unchanged, so that a quantised model can be attacked.

    Values are those of the rounding function to the bit, also if it works in place. A division that
    rounds has the gradient of the exact division. A remainder or a fractional part has gradient 0
    by the number that it is taken from.

    Source: the backward pass differentiable approximation of Athalye, Carlini and Wagner (2018),
    "Obfuscated Gradients Give a False Sense of Security", with the identity.

    Attributes:
        used: Whether anything with a gradient was rounded.

    Example:
        >>> x = torch.tensor([0.4], requires_grad=True)
        >>> with StraightThrough():
        ...     x.round().sum().backward()
        >>> x.grad
        tensor([1.])
    """

    def __init__(self) -> None:
        super().__init__()
        self.used = False

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call a function of torch; give those that round the gradient of the identity."""
        kwargs = dict(kwargs or {})
        smooth_of = _SMOOTH.get(func) or _SMOOTH_IN_PLACE.get(func)
        if smooth_of is None or (func in _DIVISIONS and kwargs.get("rounding_mode") is None):
            return func(*args, **kwargs)
        x, *options = args or (kwargs.pop("input"),)
        other = options[0] if options else kwargs.get("other")
        if not (torch.is_grad_enabled() and (_has_gradient(x) or _has_gradient(other))):
            return func(x, *options, **kwargs)
        detached = {name: _detached(value) for name, value in kwargs.items()}
        rounded = func(_detached(x), *map(_detached, options), **detached)
        self.used = True
        smooth = smooth_of(x, other, rounded)
        return smooth if func in _SMOOTH else x.copy_(smooth)


# contexts that gradients are computed in, one after another
Contexts: TypeAlias = Sequence[Callable[[], AbstractContextManager[object]]]


class _Identity(torch.autograd.Function):
    """Return the second argument, and pass the gradient to the first."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rounded: Tensor) -> Tensor:  # noqa: ARG004 (torch's signature)
        return rounded

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: ARG004
        return gradient, None


def _has_gradient(x: object) -> bool:
    return isinstance(x, Tensor) and x.requires_grad


def _detached(x: Any) -> Any:
    return x.detach().clone() if isinstance(x, Tensor) else x


def guided(rounded: Tensor, smooth: Tensor) -> Tensor:
    """The numbers of ``rounded``, with the gradient of ``smooth``."""
    result: Tensor = _Identity.apply(smooth.expand_as(rounded).to(rounded.dtype), rounded)
    return result


def _rounding(x: Tensor, _: object, rounded: Tensor) -> Tensor:
    return guided(rounded, x)


def _quotient(x: Any, other: Any, rounded: Tensor) -> Tensor:
    return guided(rounded, x / other)


def _remainder(x: Any, other: Any, rounded: Tensor) -> Tensor:
    """The remainder x - other * quotient; straight through the quotient, its gradient by x is 0."""
    quotient = ((_detached(x) - rounded) / _detached(other)).round()
    return guided(rounded, x - other * guided(quotient, x / other))


def _fraction(x: Tensor, _: object, rounded: Tensor) -> Tensor:
    return guided(rounded, x - x)


_Smooth = Callable[[Any, Any, Tensor], Tensor]


def _reversed(smooth: _Smooth) -> _Smooth:
    return lambda x, other, rounded: smooth(other, x, rounded)


def _by_function(names: dict[str, _Smooth]) -> dict[Any, _Smooth]:
    places = [(owner, name) for owner in (torch, Tensor) for name in names]
    return {getattr(owner, name): names[name] for owner, name in places if hasattr(owner, name)}


_NAMES: dict[str, _Smooth] = {
    **dict.fromkeys(("round", "floor", "ceil", "trunc", "fix"), _rounding),
    **dict.fromkeys(("sign", "sgn", "heaviside"), _rounding),
    **dict.fromkeys(("div", "divide", "floor_divide"), _quotient),
    **dict.fromkeys(("remainder", "fmod"), _remainder),
    "frac": _fraction,
}
_OPERATORS = {
    "__floordiv__": _quotient,
    "__rfloordiv__": _reversed(_quotient),
    "__mod__": _remainder,
    "__rmod__": _reversed(_remainder),
}
_IN_PLACE = {f"{name}_": smooth for name, smooth in _NAMES.items()}
_IN_PLACE |= {"__ifloordiv__": _quotient, "__imod__": _remainder}
_SMOOTH = _by_function(_NAMES | _OPERATORS) | {torch.special.round: _rounding}
_SMOOTH_IN_PLACE = _by_function(_IN_PLACE)
_DIVISIONS = _by_function(dict.fromkeys(("div", "div_", "divide", "divide_"), _quotient))

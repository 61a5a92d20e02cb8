"""Gradients through functions that round."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class StraightThrough(TorchFunctionMode):
    """Let gradients pass rounding unchanged, so that a quantised model can be attacked.

    Values are those of the rounding function to the bit, also where it works in place.

    Source: the backward pass differentiable approximation of Athalye, Carlini and Wagner (2018),
    "Obfuscated Gradients Give a False Sense of Security", with the identity.

    Example:
        >>> x = torch.tensor([0.4], requires_grad=True)
        >>> with StraightThrough():
        ...     x.round().sum().backward()
        >>> x.grad
        tensor([1.])
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call a function of torch; give those that round the gradient of the identity."""
        kwargs = dict(kwargs or {})
        if func not in _ROUNDING and func not in _IN_PLACE:
            return func(*args, **kwargs)
        x, *options = args or (kwargs.pop("input"),)
        if not (isinstance(x, Tensor) and x.requires_grad and torch.is_grad_enabled()):
            return func(x, *options, **kwargs)
        rounded = func(x.detach().clone(), *options, **kwargs)
        smooth = _Identity.apply(x, rounded)
        return smooth if func in _ROUNDING else x.copy_(smooth)


class _Identity(torch.autograd.Function):
    """The second argument, with the first one's gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rounded: Tensor) -> Tensor:  # noqa: ARG004 (torch's signature)
        return rounded

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: ARG004
        return gradient, None


_NAMES = ("round", "floor", "ceil", "trunc", "fix", "sign", "sgn")
_ROUNDING = {getattr(owner, name) for owner in (torch, Tensor) for name in _NAMES}
_ROUNDING |= {torch.special.round}
_IN_PLACE = {
    getattr(owner, f"{name}_")
    for owner in (torch, Tensor)
    for name in _NAMES
    if hasattr(owner, f"{name}_")
}

"""The model as attacks see it: pixels from 0 to 1 in, logits out, nothing else touched."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from isoreg.errors import InputError


class PixelClassifier(nn.Module):
    """Images with pixels from 0 to 1 to logits: moved to the model's bounds and normalised.

    Args:
        model: Images to logits.
        bounds: Smallest and largest pixel that the model's user has.
        mean: Of each channel, in those units, or None.
        std: Of each channel, or None.

    Example:
        >>> doubled = PixelClassifier(nn.Identity(), bounds=(0, 2), mean=None, std=None)
        >>> doubled(torch.tensor([[0.5, 1.0]]))
        tensor([[1., 2.]])
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        bounds: tuple[float, float],
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
    ) -> None:
        super().__init__()
        self.model = model
        self.low, self.high = bounds
        self.mean = None if mean is None else torch.tensor(list(mean))
        self.std = None if std is None else torch.tensor(list(std))

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (n, classes).

        Args:
            pixels: (n, ...) from 0 to 1.

        Returns:
            Logits.

        Raises:
            InputError: If the model returns anything else.
        """
        x = self.in_units(pixels)
        shape = (1, -1) + (1,) * (x.ndim - 2)
        if self.mean is not None:
            x = x - self.mean.to(x).view(shape)
        if self.std is not None:
            x = x / self.std.to(x).view(shape)
        logits = self.model(x)
        if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] < 2:
            found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise InputError(
                f"the model must return logits of shape (n, classes), got {found}. Wrap it in a "
                "module that returns them alone."
            )
        return logits

    def in_units(self, pixels: Tensor) -> Tensor:
        """The images as the user has them, before normalisation.

        Args:
            pixels: (n, ...) from 0 to 1.

        Returns:
            (n, ...) within the bounds.
        """
        return self.low + pixels * (self.high - self.low)


@contextmanager
def left_as_it_was(model: nn.Module) -> Iterator[None]:
    """Evaluate in eval mode; afterwards modes, gradients and random numbers are what they were.

    Args:
        model: The user's model.

    Yields:
        Nothing.
    """
    modes = [(module, module.training) for module in model.modules()]
    gradients = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices), torch.enable_grad():
        try:
            model.eval()
            for parameter, _, _ in gradients:
                parameter.requires_grad_(False)
            yield
        finally:
            for module, training in modes:
                module.training = training
            for parameter, required, gradient in gradients:
                parameter.requires_grad_(required)
                parameter.grad = gradient


class StraightThrough(TorchFunctionMode):
    """Let gradients pass rounding unchanged, so that a quantised model can be attacked.

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
        found = func(*args, **(kwargs or {}))
        if func in _ROUNDING and args[0].requires_grad:
            return args[0] + (found - args[0]).detach()
        return found


_ROUNDING = {
    getattr(owner, name)
    for owner in (torch, Tensor)
    for name in ("round", "floor", "ceil", "trunc", "sign")
}

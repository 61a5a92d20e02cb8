"""A training step that is not a module's forward, with the penalty added to its loss."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from isoreg.errors import error_prefix
from isoreg.regularizer import IsometryRegularizer

_STEP = "training_step"


class Step(nn.Module):
    """A method of a module as a module with the same submodules, so that its batch is the input.

    It is in training mode, whatever the module is in: a step trains also what is in eval mode.

    Args:
        module: The module.
        method: Its method.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(3, 2))
        >>> step = Step(net, lambda batch: net(batch[0]).sum())
        >>> step((torch.ones(4, 3), None)).shape, [name for name, _ in step.named_modules()]
        (torch.Size([]), ['', '0'])
    """

    def __init__(self, module: nn.Module, method: Callable[..., Any]) -> None:
        super().__init__()
        self._modules = module._modules
        self.method = method
        self.forward = method  # whose signature says what the batch is called


class Wrapper:
    """A module's training step with the penalty added to its loss, and the way back.

    Several may stand around each other; they may be taken off in any order.

    Args:
        name: The name shown in errors.
        step: Takes a batch; returns a loss, a mapping with "loss", or None to skip the batch.
        iso: The regularizer.
        labels: Finds the labels in the batch.
        log: Called with the penalties and beta by name.
        named: Finds the reference or the distances in the batch, as keywords of the regularizer.
    """

    def __init__(
        self,
        name: str,
        step: Step,
        iso: IsometryRegularizer,
        labels: Callable[[Any], Tensor | None],
        log: Callable[[dict[str, Tensor]], object],
        named: Callable[[Any], dict[str, Tensor]],
    ) -> None:
        functools.update_wrapper(self, step.method)
        self._name, self._step, self._iso, self._log = name, step, iso, log
        self._labels, self._named = labels, named
        self._before: dict[str, Any] | None = None

    def __call__(self, batch: Any, *args: Any, **kwargs: Any) -> Any:
        """The step's result; without the penalty once this wrapper is taken off."""
        if self._before is None:
            return self._step.method(batch, *args, **kwargs)
        with error_prefix(self._name):
            labels, given = self._labels(batch), self._named(batch)
        output = self._step(batch, *args, **kwargs)
        if output is None:
            return None
        with error_prefix(self._name):
            penalty = self._iso(labels, **given)
        self._log(self._iso.log_tensors())
        if isinstance(output, Mapping):
            return {**output, "loss": output["loss"] + penalty}
        return output + penalty

    def put_on(self, module: nn.Module) -> None:
        """Stand in the module's ``__dict__`` in front of its step."""
        found = vars(module)
        self._before = {key: value for key, value in found.items() if key == _STEP}
        found[_STEP] = self

    def take_off(self, module: nn.Module) -> None:
        """Put back what stood there, as soon as no other wrapper stands in front."""
        self._given_back, self._before = self._before or {}, None
        found = vars(module)
        while isinstance(front := found.get(_STEP), Wrapper) and front._before is None:
            del found[_STEP]
            found.update(front._given_back)

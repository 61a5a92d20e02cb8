"""A training step that is not a module's forward, with the penalty added to its loss."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from isoreg.errors import called
from isoreg.regularizer import IsometryRegularizer


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
        self._method = method
        self.forward = method  # whose signature says what the batch is called


def penalised(
    name: str,
    step: Step,
    iso: IsometryRegularizer,
    labels: Callable[[Any], Tensor | None],
    log: Callable[[dict[str, Tensor]], object],
    named: Callable[[Any], dict[str, Tensor]],
) -> Callable[..., Any]:
    """The step with the penalty added to its loss.

    Args:
        name: Who speaks in errors.
        step: Takes a batch; returns a loss, a mapping with "loss", or None to skip the batch.
        iso: The regularizer.
        labels: Finds the labels in the batch.
        log: Called with the penalties and beta by name.
        named: Finds the reference or the distances in the batch, as keywords of the regularizer.

    Returns:
        A function as the step's method.
    """

    @functools.wraps(step._method)
    def run(batch: Any, *args: Any, **kwargs: Any) -> Any:
        with called(name):
            found, given = labels(batch), named(batch)
        output = step(batch, *args, **kwargs)
        if output is None:
            return None
        with called(name):
            penalty = iso(found, **given)
        log(iso.log_tensors())
        if isinstance(output, Mapping):
            return {**output, "loss": output["loss"] + penalty}
        return output + penalty

    return run

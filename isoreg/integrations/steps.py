"""A training step that is not a module's forward, with the penalty added to its loss."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from isoreg._compiled import as_written
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


class Term(NamedTuple):
    """What one adapter adds to the loss of a step.

    Attributes:
        name: The name shown in errors.
        iso: The regularizer.
        labels: Finds the labels in the batch.
        named: Finds the reference or the distances in the batch, as keywords of the regularizer.
    """

    name: str
    iso: IsometryRegularizer
    labels: Callable[[Any], Tensor | None]
    named: Callable[[Any], dict[str, Tensor]]

    def find(self, batch: Any) -> tuple[Tensor | None, dict[str, Tensor]]:
        """The labels of a batch, and what else the regularizer is called with."""
        with error_prefix(self.name):
            return self.labels(batch), self.named(batch)

    def penalty(self, labels: Tensor | None, given: dict[str, Tensor]) -> Tensor:
        """What is added to the loss."""
        with error_prefix(self.name):
            return self.iso(labels, **given)


class Wrapper:
    """A module's training step with penalties added to its loss, and the way back.

    All adapters of a module share one, so that each of them sees the step as the module has it,
    whatever their order. Wrappers of others may stand around it, and go before or after it.

    A deep copy or a pickle of the module holds the step alone in its place, and needs no isoreg to
    load.

    Args:
        step: Takes a batch; returns a loss, a mapping with "loss", or None to skip the batch.
        log: Called with the penalties and betas by name.
        is_training: Says whether a step is one of training; a validation may call it as well.
    """

    def __init__(
        self,
        step: Step,
        log: Callable[[dict[str, Tensor]], object],
        is_training: Callable[[], bool],
    ) -> None:
        functools.update_wrapper(self, step.method)
        self.step = step
        self._log, self._is_training = log, is_training
        self._terms: list[Term] = []
        self._before: dict[str, Any] = {}

    @classmethod
    def of(
        cls,
        module: nn.Module,
        log: Callable[[dict[str, Tensor]], object],
        is_training: Callable[[], bool],
    ) -> Wrapper:
        """The one that stands in front of a module's step, or one that may be put there."""
        front = vars(module).get(_STEP)
        method: Any = getattr(module, _STEP)
        return front if isinstance(front, cls) else cls(Step(module, method), log, is_training)

    def __call__(self, batch: Any, *args: Any, **kwargs: Any) -> Any:
        """The step's result, with the penalties of the terms that there are now."""
        if not self._terms or not self._is_training() or not torch.is_grad_enabled():
            return self.step.method(batch, *args, **kwargs)
        terms = [(term, term.find(batch)) for term in self._terms]
        # a compiled step hides its classifier, and another pass would log and count a batch twice
        known = all(term.iso.layers for term in self._terms)
        with contextlib.nullcontext() if known else as_written():
            output = self.step(batch, *args, **kwargs)
        is_mapping = isinstance(output, Mapping)
        loss = output.get("loss") if is_mapping else output
        if not isinstance(loss, Tensor):  # None skips the batch; of the rest the trainer tells
            return output
        for term, found in terms:
            loss = loss + term.penalty(*found)
        self._log(_logged([term.iso for term, _ in terms]))
        return {**output, "loss": loss} if is_mapping else loss

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(self.step.method, memo)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return getattr, (contextlib.nullcontext(self.step.method), "enter_result")

    def add(self, term: Term, module: nn.Module) -> None:
        """Add a penalty; the first one puts this into the module's ``__dict__`` before its step."""
        found = vars(module)
        if found.get(_STEP) is not self:
            self._before = {key: value for key, value in found.items() if key == _STEP}
            found[_STEP] = self
        self._terms.append(term)

    def remove(self, term: Term, module: nn.Module) -> None:
        """Leave a penalty out; where it was the last one, put back what stood there."""
        self._terms = [other for other in self._terms if other is not term]
        found = vars(module)
        while isinstance(front := found.get(_STEP), Wrapper) and not front._terms:
            del found[_STEP]
            found.update(front._before)


def _logged(isos: Sequence[IsometryRegularizer]) -> dict[str, Tensor]:
    """What one regularizer logs; of several the sum, and each one's own by its layers."""
    if len(isos) == 1:
        return isos[0].log_tensors()
    found: dict[str, Tensor] = {}
    for number, iso in enumerate(isos, start=1):
        values = iso.log_tensors()
        penalty, beta = values.pop("isometry/penalty"), values.pop("isometry/beta")
        found["isometry/penalty"] = found.get("isometry/penalty", 0) + penalty
        values |= {f"isometry/beta/{layer}": beta for layer in iso.layers}
        end = "" if found.keys().isdisjoint(values) else f" ({number})"  # of a layer of two
        found |= {name + end: value for name, value in values.items()}
    return found

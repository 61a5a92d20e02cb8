"""Adds the penalty to the loss of a training step that is not a module's forward."""

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


class TrainingStep(nn.Module):
    """A module whose forward is a method of another module, so that the batch is its input.

    It has the submodules of that module, but is always in training mode, because a training step
    trains modules in eval mode too.

    Args:
        module: The module.
        method: Its method.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(3, 2))
        >>> step = TrainingStep(net, lambda batch: net(batch[0]).sum())
        >>> step((torch.ones(4, 3), None)).shape, [name for name, _ in step.named_modules()]
        (torch.Size([]), ['', '0'])
    """

    def __init__(self, module: nn.Module, method: Callable[..., Any]) -> None:
        super().__init__()
        self._modules = module._modules
        self.method = method
        self.forward = method  # its signature names the batch


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

    def penalty(self, labels: Tensor | None, keywords: dict[str, Tensor]) -> Tensor:
        """Return what is added to the loss."""
        with error_prefix(self.name):
            return self.iso(labels, **keywords)


class Wrapper:
    """Adds penalties to the loss of a module's training step, and can be removed again.

    All adapters of a module share one wrapper, so that each of them sees the module's own step,
    whatever their order. Other libraries may wrap it, and remove theirs before or after it.

    A deep copy or a pickle of the module holds the bare step in place of the wrapper, and needs no
    isoreg to load.

    Args:
        step: Takes a batch; returns a loss, a mapping with "loss", or None to skip the batch.
        log: A function that is called with the penalties and betas by name.
        is_training: Says whether a step is one of training; a validation may call it as well.
    """

    def __init__(
        self,
        step: TrainingStep,
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
        """Return the wrapper in front of a module's step, or a new one that may be put there."""
        front = vars(module).get(_STEP)
        if isinstance(front, cls):
            return front
        return cls(TrainingStep(module, getattr(module, _STEP)), log, is_training)

    def __call__(self, batch: Any, *args: Any, **kwargs: Any) -> Any:
        """Run the step and add the penalties of all present terms to its loss."""
        if not self._terms or not self._is_training() or not torch.is_grad_enabled():
            return self.step.method(batch, *args, **kwargs)
        terms = [(term, term.find(batch)) for term in self._terms]
        # The step runs uncompiled until the classifiers are known: a compiled step hides them, and
        # a trial pass would log and count a batch twice.
        are_known = all(term.iso.layers for term in self._terms)
        with contextlib.nullcontext() if are_known else as_written():
            output = self.step(batch, *args, **kwargs)
        is_mapping = isinstance(output, Mapping)
        loss = output.get("loss") if is_mapping else output
        if not isinstance(loss, Tensor):  # None skips the batch; the trainer reports all else
            return output
        for term, arguments in terms:
            loss = loss + term.penalty(*arguments)
        self._log(_logged([term.iso for term, _ in terms]))
        return {**output, "loss": loss} if is_mapping else loss

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(self.step.method, memo)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return getattr, (contextlib.nullcontext(self.step.method), "enter_result")

    def add(self, term: Term, module: nn.Module) -> None:
        """Add a penalty; the first one puts this wrapper into the module's ``__dict__``."""
        attributes = vars(module)
        if attributes.get(_STEP) is not self:
            self._before = {key: value for key, value in attributes.items() if key == _STEP}
            attributes[_STEP] = self
        self._terms.append(term)

    def remove(self, term: Term, module: nn.Module) -> None:
        """Remove a penalty; after the last one, put back what was in the wrapper's place."""
        self._terms = [other for other in self._terms if other is not term]
        attributes = vars(module)
        while isinstance(front := attributes.get(_STEP), Wrapper) and not front._terms:
            del attributes[_STEP]
            attributes.update(front._before)


def _logged(isos: Sequence[IsometryRegularizer]) -> dict[str, Tensor]:
    """Return what one regularizer logs; of several, their sum and each one's values by layer."""
    if len(isos) == 1:
        return isos[0].log_tensors()
    tensors: dict[str, Tensor] = {}
    for number, iso in enumerate(isos, start=1):
        values = iso.log_tensors()
        penalty, beta = values.pop("isometry/penalty"), values.pop("isometry/beta")
        tensors["isometry/penalty"] = tensors.get("isometry/penalty", 0) + penalty
        values |= {f"isometry/beta/{layer}": beta for layer in iso.layers}
        suffix = "" if tensors.keys().isdisjoint(values) else f" ({number})"  # of a shared layer
        tensors |= {name + suffix: value for name, value in values.items()}
    return tensors

"""One training step, and the parts that methods contribute to its loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own convention)

Options = Mapping[str, Any]
Recipe = Mapping[str, Options]


class Step:
    """A batch, as the parts of an objective see it.

    ``progress`` is the share of training that is done. With ``track_input`` the images require
    gradients. Features are compared with ``reference``, or with the images if it is None.
    """

    def __init__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        progress: float,
        track_input: bool,
        reference: Tensor | None = None,
    ) -> None:
        self.model = model
        self.images = images.detach().requires_grad_() if track_input else images
        self.labels = labels
        self.progress = progress
        self.reference = images if reference is None else reference

    @cached_property
    def logits(self) -> Tensor:
        """Logits of the clean images; the model runs once, when they are first used."""
        logits: Tensor = self.model(self.images)
        return logits

    def radius(self, eps: float) -> float:
        """The attack radius, which grows linearly from 0 to eps in the first half of training."""
        return min(eps, eps * 2 * self.progress)


Value = Callable[[Step], Tensor]


@dataclass(frozen=True)
class Part:
    """The contribution of one method to training.

    Attributes:
        criterion: Loss in place of cross-entropy.
        term: Loss that is added to the criterion.
        before: Called before the first forward pass of a step.
        track_input: Whether a term needs gradients with respect to the images.
        after_step: Called after each step of the optimizer.
        finish: Called at the end of training; it leaves a plain model.
        parameters: Parameters that the optimizer trains beside those of the model.
    """

    criterion: Value | None = None
    term: Value | None = None
    before: Callable[[Step], None] | None = None
    track_input: bool = False
    after_step: Callable[[], None] | None = None
    finish: Callable[[], None] | None = None
    parameters: tuple[nn.Parameter, ...] = ()


class Objective:
    """The sum of the losses of a recipe's parts, and their work after each optimizer step.

    Raises:
        ValueError: If two parts replace cross-entropy.
    """

    def __init__(self, model: nn.Module, parts: Sequence[Part]) -> None:
        criteria = [part.criterion for part in parts if part.criterion]
        if len(criteria) > 1:
            raise ValueError("one method of a recipe may replace cross-entropy, got two or more")
        self._model, self._parts = model, parts
        self._criterion = criteria[0] if criteria else _cross_entropy
        self._track_input = any(part.track_input for part in parts)
        self.parameters = [parameter for part in parts for parameter in part.parameters]

    def __call__(
        self, images: Tensor, labels: Tensor, progress: float = 1.0, reference: Tensor | None = None
    ) -> Tensor:
        """The loss of a batch; ``progress`` is the share of training that is done."""
        step = Step(self._model, images, labels, progress, self._track_input, reference)
        for part in self._parts:
            if part.before:
                part.before(step)
        loss = self._criterion(step)
        for part in self._parts:
            if part.term:
                loss = loss + part.term(step)
        return loss

    def after_step(self) -> None:
        """Call ``after_step`` of the parts that have one, to project parameters for example."""
        for part in self._parts:
            if part.after_step:
                part.after_step()


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Put the model in eval mode within the block; afterwards each module has its old mode."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training


def _cross_entropy(step: Step) -> Tensor:
    return F.cross_entropy(step.logits, step.labels)

"""What an attack is given, and what it gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from isoreg.robustness.classifier import PixelClassifier

# adversarial images, clean images, labels -> scalar, in the units of the user's images
TrainingLoss: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Task:
    """One attack on one batch.

    Attributes:
        classifier: Pixels from 0 to 1 to logits.
        images: (n, ...) pixels from 0 to 1.
        labels: (n).
        eps: Radius of the ball, in those pixels.
        norm: "Linf" or "L2".
        seed: Seed of the attack.
        transfer: Another classifier, for the attack by transfer.
        student: A network that was taught this classifier's answers.
        training_loss: What the model was trained on, for the paper's attack.
    """

    classifier: PixelClassifier
    images: Tensor
    labels: Tensor
    eps: float
    norm: str
    seed: int
    transfer: PixelClassifier | None = None
    student: Callable[[Tensor], Tensor] | None = None
    training_loss: TrainingLoss | None = None


Attack: TypeAlias = Callable[[Task], tuple[Tensor, list[int]]]


def evenly(values: Tensor, count: int) -> Tensor:
    """At most ``count`` rows, evenly from all of them, because images are often sorted by class.

    Args:
        values: (n, ...).
        count: The most rows to take, at least 1.

    Returns:
        (min(n, count), ...) rows in their order.

    Example:
        >>> import torch
        >>> evenly(torch.arange(10), 4)
        tensor([0, 2, 5, 7])
    """
    n = len(values)
    if n <= count:
        return values
    return values[torch.arange(count, device=values.device) * n // count]

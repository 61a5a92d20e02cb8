"""Gradient descent: batches, optimizers, schedules and the loop of all studies but timm's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat

import torch
from torch import Tensor, nn

Optimizers = Sequence[torch.optim.Optimizer]


@dataclass(frozen=True)
class Batches:
    """Batches of sample indices in random order, epoch by epoch.

    ``whole`` leaves out a last batch that is not full. ``generator`` draws the random orders.
    """

    samples: int
    size: int
    epochs: int
    whole: bool = False
    generator: torch.Generator | None = None

    def __len__(self) -> int:
        return self.epochs * self._per_epoch

    def __iter__(self) -> Iterator[Tensor]:
        for _ in range(self.epochs):
            order = torch.randperm(self.samples, generator=self.generator)
            yield from order.split(self.size)[: self._per_epoch]

    @property
    def _per_epoch(self) -> int:
        rounding = math.floor if self.whole else math.ceil
        return rounding(self.samples / self.size)


def descend(
    loss: Callable[[Tensor, float], Tensor],
    optimizers: Optimizers,
    batches: Batches | Iterable[Tensor],
    *,
    steps: int | None = None,
    rate: Callable[[float], float] | None = None,
    after: Callable[[], None] | None = None,
) -> None:
    """Take one step with all optimizers for each batch, and call ``after`` after each step.

    ``loss`` is called with the batch's rows and the share of training that is done, ``rate`` with
    that share alone. ``steps`` is the number of batches, needed if ``batches`` is no `Batches`.
    """
    steps = len(batches) if isinstance(batches, Batches) else steps or 1
    for number, rows in enumerate(batches):
        progress = number / steps
        if rate:
            set_rate(optimizers, rate(progress))
        take_step(loss(rows, progress), optimizers)
        if after:
            after()


def descend_whole(
    loss: Callable[[], Tensor],
    optimizers: Optimizers,
    steps: int,
    *,
    rate: Callable[[float], float] | None = None,
    after: Callable[[], None] | None = None,
) -> None:
    """Take ``steps`` steps on all samples at once."""
    every = repeat(torch.empty(0), steps)
    descend(lambda *_: loss(), optimizers, every, steps=steps, rate=rate, after=after)


def take_step(loss: Tensor, optimizers: Optimizers) -> None:
    """Compute gradients of the optimizers' parameters only, then take one step."""
    parameters = [p for o in optimizers for group in o.param_groups for p in group["params"]]
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss.backward(inputs=[p for p in parameters if p.requires_grad])
    for optimizer in optimizers:
        optimizer.step()


def adam(model: nn.Module | Iterable[nn.Parameter], rate: float = 1e-3) -> Optimizers:
    """Adam for all parameters."""
    parameters = model.parameters() if isinstance(model, nn.Module) else model
    return [torch.optim.Adam(parameters, lr=rate)]


def fused_adam(model: nn.Module) -> Optimizers:
    """Adam for all parameters, fused into one operation per step."""
    return [torch.optim.Adam(model.parameters(), fused=True)]


def muon(model: nn.Module) -> Optimizers:
    """Muon for all weight matrices but the last, the classifier's; Adam for all other parameters.

    Muon makes all singular values of a step about equal. Its steps are scaled to the size of
    Adam's, so that one learning rate serves both.

    Source: Jordan et al. (2024), "Muon: An optimizer for hidden layers in neural networks"; the
    scale from Liu et al. (2025), "Muon is Scalable for LLM Training".
    """
    matrices = [parameter for parameter in model.parameters() if parameter.ndim == 2][:-1]
    matrix_ids = set(map(id, matrices))
    remaining = [parameter for parameter in model.parameters() if id(parameter) not in matrix_ids]
    return [
        torch.optim.Muon(matrices, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
        torch.optim.Adam(remaining, fused=True),
    ]


OPTIMIZERS: Mapping[str, Callable[[nn.Module], Optimizers]] = {"adam": fused_adam, "muon": muon}


def set_rate(optimizers: Optimizers, rate: float) -> None:
    """Set one learning rate for all optimizers."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate


def cosine(highest: float, warmup: float = 0.0) -> Callable[[float], float]:
    """A rate that rises linearly during the share ``warmup``, then falls to 0 along a cosine."""

    def rate(progress: float) -> float:
        if progress < warmup:
            return highest * progress / warmup
        rest = (progress - warmup) / (1 - warmup)
        return highest * (1 + math.cos(math.pi * rest)) / 2

    return rate

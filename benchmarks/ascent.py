"""Gradient ascent in a ball around clean images, and the losses that it raises."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own convention)

Loss = Callable[[Tensor], Tensor]


def climb(loss: Loss, clean: Tensor, **how: Any) -> Tensor:
    """The last point of `ascent`; the keyword arguments are those of `ascent`."""
    *_, last = ascent(loss, clean, **how)
    return last


def ascent(
    loss: Loss,
    clean: Tensor,
    *,
    eps: float,
    step: float,
    steps: int,
    start: Tensor | None = None,
    norm: str = "Linf",
) -> Iterator[Tensor]:
    """Yield the start and then each point of gradient ascent in the ball around clean images.

    Pixels lie between 0 and 1. In Linf a step follows the signs of the gradient, in L2 its
    direction. A single step with ``step=eps`` is FGSM.
    """
    point = into_ball(clean if start is None else start, clean, eps, norm)
    yield point
    for _ in range(steps):
        at = point.detach().requires_grad_()
        (g,) = torch.autograd.grad(loss(at), at)
        move = g.sign() if norm == "Linf" else F.normalize(g.flatten(1), dim=1).view_as(g)
        point = into_ball(point + step * move, clean, eps, norm).detach()
        yield point


def into_ball(at: Tensor, clean: Tensor, eps: float, norm: str = "Linf") -> Tensor:
    """Project a point into the ball around the clean images, then clip it to pixels from 0 to 1."""
    if norm == "Linf":
        change = (at - clean).clamp(-eps, eps)
    else:
        change = torch.renorm((at - clean).flatten(1), 2, 0, eps).view_as(clean)
    return (clean + change).clamp(0, 1)


def random_start(clean: Tensor, eps: float) -> Tensor:
    """A point that is drawn uniformly from the L-inf ball; it is not clipped to the pixel range."""
    return clean + torch.empty_like(clean).uniform_(-eps, eps)


def cross_entropy(model: nn.Module, labels: Tensor) -> Loss:
    """Cross-entropy is summed over images, so that batch size does not scale a gradient."""
    return lambda x: F.cross_entropy(model(x), labels, reduction="sum")


def margin(model: nn.Module, labels: Tensor) -> Loss:
    """Largest other logit minus the label's logit, summed; an image above 0 is misclassified."""

    def loss(x: Tensor) -> Tensor:
        logits = model(x)
        others = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
        total: Tensor = (others - logits.gather(1, labels[:, None])[:, 0]).sum()
        return total

    return loss

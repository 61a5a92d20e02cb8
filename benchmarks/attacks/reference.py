"""What the attacks are held against: plain PGD in a few lines, and the optimum of linear models."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own convention)


def plain_pgd(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: str, steps: int = 100
) -> Tensor:
    """Which images survive ascent on cross-entropy and on the margin, from two starts each."""
    survive: Tensor = model(x).argmax(1) == y
    for loss in (cross_entropy, margin):
        for start in (x, x + eps * (2 * torch.rand_like(x) - 1) / _size(x[:1], norm)):
            at = into_ball(start, x, eps, norm)
            for _ in range(steps):
                at = at.detach().requires_grad_()
                (g,) = torch.autograd.grad(loss(model(at), y), at)
                step = g.sign() if norm == "Linf" else F.normalize(g.flatten(1), dim=1).view_as(g)
                at = into_ball(at + 2.5 * eps / steps * step, x, eps, norm)
                survive = survive & (model(at).argmax(1) == y)
    return survive


def into_ball(at: Tensor, x: Tensor, eps: float, norm: str) -> Tensor:
    """The nearest point in the ball, then in the range of pixels."""
    if norm == "Linf":
        change = (at - x).clamp(-eps, eps)
    else:
        change = torch.renorm((at - x).flatten(1), 2, 0, eps).view_as(x)
    return (x + change).clamp(0, 1)


def exact_linear(linear: nn.Linear, x: Tensor, y: Tensor, *, eps: float, norm: str) -> Tensor:
    """Which images of a linear model survive every change in the ball, away from black and white.

    The margin to each other class must exceed eps times the dual norm of the weights' difference.
    """
    weight = linear.weight.detach()
    dual = (weight[y][:, None] - weight[None]).norm(p=1 if norm == "Linf" else 2, dim=2)
    logits = linear(x.flatten(1)).detach()
    gaps = logits.gather(1, y[:, None]) - logits
    own = F.one_hot(y, logits.shape[1]).bool()
    survives: Tensor = ((gaps > eps * dual) | own).all(1)
    return survives


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Summed over images, so that the batch does not scale a gradient."""
    return F.cross_entropy(logits, y, reduction="sum")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Largest other logit minus that of the label, summed."""
    others = logits.scatter(1, y[:, None], -torch.inf).amax(1)
    return (others - logits.gather(1, y[:, None])[:, 0]).sum()


def _size(x: Tensor, norm: str) -> float:
    return 1.0 if norm == "Linf" else float(x.numel()) ** 0.5

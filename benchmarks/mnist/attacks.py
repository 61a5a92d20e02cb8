"""The paper's attacks on the combined loss, and PGD on the margin.

torchattacks has FGSM and PGD on cross-entropy. It has no attack on a loss of one's own, and no
PGD on the margin, so these are here.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from isoreg import isometry_penalty
from isoreg.distances import pairwise_distances

Loss = Callable[[Tensor], Tensor]


def combined_loss(
    model: nn.Sequential, images: Tensor, labels: Tensor, *, beta: float, scale: float
) -> Loss:
    """The loss that the paper's attack climbs: that of the training, isometry term included.

    As in the released code, the input distances are those of the clean batch.
    """
    clean = pairwise_distances(images)

    def loss(x: Tensor) -> Tensor:
        features = model[:-1](x)
        value = F.cross_entropy(model[-1](features), labels)
        if beta > 0:
            penalty = isometry_penalty(None, features, labels, scale=scale, input_distances=clean)
            value = value + beta * penalty
        return value

    return loss


def margin_loss(model: nn.Module, labels: Tensor) -> Loss:
    """Largest wrong logit minus the right one; above 0 the image is misclassified."""

    def loss(x: Tensor) -> Tensor:
        logits = model(x)
        right = logits.gather(1, labels[:, None])
        wrong = logits.scatter(1, labels[:, None], -torch.inf).amax(1, keepdim=True)
        total: Tensor = (wrong - right).sum()
        return total

    return loss


def ascend(
    loss: Loss,
    images: Tensor,
    *,
    ball: float,
    step: float,
    steps: int,
    start: Tensor | None = None,
    leave_clean: bool = True,
) -> Tensor:
    """Signed gradient ascent in the L-inf ball around images with pixels from 0 to 1.

    ``steps=1`` with ``step=ball`` is FGSM. With ``leave_clean=False`` each gradient is taken at
    the clean images, as the released code does: the result is FGSM of size min(steps * step, ball).
    """
    adversarial = images if start is None else start
    for _ in range(steps):
        at = (adversarial if leave_clean else images).detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(at), at)
        adversarial = adversarial + step * gradient.sign()
        adversarial = images + (adversarial - images).clamp(-ball, ball)
        adversarial = adversarial.clamp(0, 1)
    return adversarial.detach()


def random_start(images: Tensor, ball: float) -> Tensor:
    """A uniform point of the ball, within the pixel range."""
    return (images + torch.empty_like(images).uniform_(-ball, ball)).clamp(0, 1)

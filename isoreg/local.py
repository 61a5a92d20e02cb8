"""Terms that act at the attack's scale: the first-order margin. Axes: n = images."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own convention)
from torch.nn.attention import SDPBackend, sdpa_kernel

from isoreg.errors import InputError, called

# the norm that bounds the attack: the order of its dual
DUAL_ORDERS: dict[str, float] = {"Linf": 1.0, "L2": 2.0}


def first_order_margin_loss(
    model: nn.Module, images: Tensor, labels: Tensor, *, eps: float, norm: str = "Linf"
) -> Tensor:
    r"""Cross-entropy after the worst that a linear model could suffer within the ball.

    .. math::
        \text{CE}(z + \epsilon \|\nabla_x (z_r - z_y)\|_*\, e_r,\ y)

    with z the logits, r the largest of the other classes and :math:`\|\cdot\|_*` the dual norm (L1
    for L-inf, L2 for L2). This linearises the inner problem of FGSM adversarial training: it needs
    no adversarial image, one forward pass and one double backward, and is exact for linear models
    of two classes.

    With batch normalisation in training mode the logits of one image depend on the others, and the
    gradient is that of the sum of all margins; statistics are updated once. Dropout draws one mask
    for the loss and its gradient. Attention takes torch's plain way, since its fused ones cannot be
    differentiated twice.

    Source: first-order robust optimisation, as in Simon-Gabriel et al. (2019), "First-Order
    Adversarial Vulnerability of Neural Networks and Input Dimension", on the margin.

    Args:
        model: Images to logits (n, classes), called once.
        images: (n, ...) what the model takes.
        labels: (n,) integers.
        eps: Radius in the units of the images that the model takes (divide by its std if they are
            normalised); 0 gives cross-entropy.
        norm: "Linf" or "L2".

    Returns:
        The mean over images.

    Raises:
        InputError: If the labels are soft, the norm unknown, or eps negative.

    Example:
        >>> model = nn.Linear(3, 2)
        >>> x, y = torch.rand(5, 3), torch.tensor([0, 1, 0, 1, 0])
        >>> robust = first_order_margin_loss(model, x, y, eps=0.1)
        >>> bool(robust > F.cross_entropy(model(x), y))
        True
    """
    with called("first_order_margin_loss"):
        _check_options(eps, norm)
        if labels.is_floating_point() or labels.shape != (len(images),):
            raise InputError(
                f"labels must be {len(images)} integers, got {labels.dtype} of shape "
                f"{tuple(labels.shape)}. Soft labels, as of Mixup, have no margin; use "
                "cross-entropy on such batches."
            )
    if eps == 0 or len(images) == 0:
        return F.cross_entropy(_float32_or_better(model(images)), labels)
    wanted = torch.is_grad_enabled()
    with torch.enable_grad():
        x = images.detach().requires_grad_()
        # fused attention has no second derivative
        with sdpa_kernel(SDPBackend.MATH) if wanted else nullcontext():
            logits = _float32_or_better(model(x))
        own = labels[:, None]
        rival = logits.detach().scatter(1, own, -torch.inf).argmax(1, keepdim=True)
        margins = logits.gather(1, rival) - logits.gather(1, own)
        (gradient,) = torch.autograd.grad(margins.sum(), x, create_graph=wanted)
        gains = _dual_norm(_float32_or_better(gradient).flatten(1), norm)
        loss = F.cross_entropy(logits.scatter_add(1, rival, eps * gains[:, None]), labels)
    return loss if wanted else loss.detach()


class RobustLoss:
    r"""Two lines for robustness at a radius: this in place of the criterion.

    The first-order margin loss (`first_order_margin_loss`) with a radius that grows linearly from
    0 over the first ``warmup_steps`` training calls, since a large one from the start can keep a
    network from learning at all. It linearises the inner problem of FGSM adversarial training, runs
    the model itself, and makes no adversarial image. It says nothing about attacks beyond eps:
    measure with `isoreg.robustness.evaluate`.

    Args:
        model: Images to logits (n, classes).
        eps: Radius in the units of the images that the model takes.
        norm: "Linf" or "L2".
        warmup_steps: Training calls until the radius is eps.

    Raises:
        InputError: If an argument is unusable.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> criterion = RobustLoss(model, eps=0.1, warmup_steps=100)
        >>> criterion(torch.rand(6, 1, 4, 4), torch.arange(6) % 3).backward()
        >>> criterion.steps
        1
    """

    def __init__(
        self, model: nn.Module, *, eps: float, norm: str = "Linf", warmup_steps: int = 0
    ) -> None:
        with called("RobustLoss"):
            _check_options(eps, norm)
            if warmup_steps < 0:
                raise InputError(f"warmup_steps must be at least 0, got {warmup_steps}.")
        self.model = model
        self.eps = eps
        self.norm = norm
        self.warmup_steps = warmup_steps
        self.steps = 0

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """The loss at the present radius; a training call (training mode, gradients) is counted."""
        with called("RobustLoss"):
            eps = self.eps
            if self.steps < self.warmup_steps:
                eps *= self.steps / self.warmup_steps
            loss = first_order_margin_loss(self.model, images, labels, eps=eps, norm=self.norm)
        if self.model.training and torch.is_grad_enabled():
            self.steps += 1
        return loss

    def state_dict(self) -> dict[str, Any]:
        """How far the warm-up is, for a checkpoint."""
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the checkpoint was.

        Args:
            state: What `state_dict` returned.
        """
        self.steps = int(state["steps"])


def _check_options(eps: float, norm: str) -> None:
    if not (math.isfinite(eps) and eps >= 0):
        raise InputError(f"eps must be finite and >= 0, got {eps}.")
    if norm not in DUAL_ORDERS:
        raise InputError(f"norm must be {' or '.join(map(repr, DUAL_ORDERS))}, got {norm!r}.")


def _float32_or_better(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _dual_norm(gradient: Tensor, norm: str) -> Tensor:
    if norm == "Linf":
        return gradient.abs().sum(1)
    # the root of an exact 0 would give the gradient NaN
    squares = gradient.square().sum(1)
    return torch.where(squares > 0, squares.clamp_min(1e-30).sqrt(), 0.0 * squares)

"""Penalties on the gradient with respect to the input; k is the number of classes."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own convention)

from benchmarks.internals import first_order_margin_loss
from benchmarks.methods.registry import grid, method
from benchmarks.methods.step import Part, Step

_rival = partial(method, family="input gradients")
RADII = grid("eps", 0.1, 0.15, 0.2, 0.3)


@_rival("jacobian", title="Jacobian norm", grid=grid("weight", 0.03, 0.1, 0.3, 1.0, 3.0, 10.0))
def jacobian(model: nn.Module, *, weight: float) -> Part:
    """Half the squared Frobenius norm of the logits' Jacobian, estimated by one random projection.

    The estimate is k |v J|^2 with v uniform on the unit sphere of the k logits.

    Source: Hoffman, Roberts and Yaida (2019), "Robust Learning with Jacobian Regularization".
    """
    del model

    def term(step: Step) -> Tensor:
        logits = step.logits
        v = F.normalize(torch.randn_like(logits), dim=1)
        (gradient,) = torch.autograd.grad((v * logits).sum(), step.images, create_graph=True)
        squares = gradient.flatten(1).square().sum(1)
        return weight / 2 * logits.shape[1] * squares.mean()

    return Part(term=term, track_input=True)


@_rival("input-gradient", title="input gradient", grid=grid("weight", 0.1, 1.0, 10.0, 100.0))
def input_gradient(model: nn.Module, *, weight: float) -> Part:
    """The squared norm of the gradient of each image's cross-entropy, averaged over images.

    Source: Drucker and LeCun (1992), "Improving Generalization Performance Using Double
    Backpropagation"; Ross and Doshi-Velez (2018).
    """
    del model

    def term(step: Step) -> Tensor:
        total = F.cross_entropy(step.logits, step.labels, reduction="sum")
        (gradient,) = torch.autograd.grad(total, step.images, create_graph=True)
        return weight * gradient.flatten(1).square().sum(1).mean()

    return Part(term=term, track_input=True)


@_rival("first-order-margin", title="RobustLoss", grid=RADII)
def first_order_margin(model: nn.Module, *, eps: float) -> Part:
    """The loss of `isoreg.RobustLoss`, with a radius that grows in the first half of training."""

    def criterion(step: Step) -> Tensor:
        return first_order_margin_loss(model, step.images, step.labels, eps=step.radius(eps))

    return Part(criterion=criterion)

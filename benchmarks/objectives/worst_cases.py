"""Terms at each image's linearised worst case. Axes: n = images."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own convention)

from benchmarks.objectives.controls import last_features
from benchmarks.objectives.step import Part, Step, in_eval_mode


def worst_case_pairs(
    model: nn.Module,
    *,
    weight: float,
    eps: float,
    factor: float = 0.0,
    ramp: float = 0.5,
    random: bool = False,
) -> Part:
    r"""Each image and its linearised worst case, held at a distance from each other.

    .. math::
        \frac{w}{N} \sum_i (|\phi(x_i') - \phi(x_i)| - c\, |x_i' - x_i|)^2, \qquad
        x' = x + r\, \text{sign}(\nabla_x (z_k - z_y))

    with phi what enters the classifier, z the logits, y the label, k the largest of the other
    classes, r the radius, which grows to eps along the ramp, and Euclidean lengths. The worst case
    is not clipped to pixels. It costs a forward pass and a gradient more, and the pass of x'
    through the loss.

    Args:
        model: Images to logits.
        weight: Weight w.
        eps: Radius r at the end of the ramp.
        factor: Factor c: 0 pulls both points together, 1 wants an isometry.
        ramp: Share of training after which the radius is eps.
        random: The control: random signs in place of the gradient's.

    Returns:
        The term.
    """
    recorder = last_features(model)

    def term(step: Step) -> Tensor:
        (clean,) = recorder.take().features.values()
        images = step.images.detach()
        moves = _signs(model, images, step.labels, random) * step.radius(eps, ramp)
        model(images + moves)
        (moved,) = recorder.take().features.values()
        squares = (moved - clean).square().sum(1)
        # the root of an exact 0 would give the gradient NaN
        gaps = squares.clamp_min(1e-12).sqrt() - factor * moves.flatten(1).norm(dim=1)
        found: Tensor = weight * gaps.square().mean()
        return found

    return Part(term=term, finish=recorder.remove)


def second_linearisation(
    model: nn.Module, *, eps: float, share: float, ramp: float = 0.5, random: bool = False
) -> Part:
    r"""The first-order margin with slopes at two points: the image and its linearised worst case.

    .. math::
        \text{CE}(z + r\, ((1 - s) |g(x)|_1 + s\, |g(x')|_1)\, e_k,\ y), \qquad
        x' = x + r\, \text{sign}(g(x))

    with g the gradient of the margin z_k - z_y for the k that is largest of the other classes at x.
    A share s of 0 is `isoreg.RobustLoss`. Each gradient is differentiated again: one double
    backward and one forward pass more.

    Args:
        model: Images to logits.
        eps: Radius r at the end of the ramp.
        share: Share s of the slope at the worst case.
        ramp: Share of training after which the radius is eps.
        random: The control: x' lies in random signs from x.

    Returns:
        The criterion.
    """

    def criterion(step: Step) -> Tensor:
        radius = step.radius(eps, ramp)
        x = step.images.detach().requires_grad_()
        logits = model(x)
        rival = _rival(logits, step.labels)
        slope = _slope(logits, step.labels, rival, x, create_graph=True)
        signs = _random_signs(x) if random else slope.detach().sign()
        moved = (x.detach() + radius * signs).requires_grad_()
        slope_there = _slope(model(moved), step.labels, rival, moved, create_graph=True)
        gains = radius * ((1 - share) * _length(slope) + share * _length(slope_there))
        return F.cross_entropy(logits.scatter_add(1, rival, gains[:, None]), step.labels)

    return Part(criterion=criterion)


def _signs(model: nn.Module, images: Tensor, labels: Tensor, random: bool) -> Tensor:
    """The signs of the margin's gradient in eval mode, or random ones."""
    if random:
        return _random_signs(images)
    x = images.detach().requires_grad_()
    with in_eval_mode(model):
        logits = model(x)
    return _slope(logits, labels, _rival(logits, labels), x, create_graph=False).sign()


def _random_signs(like: Tensor) -> Tensor:
    return torch.randint(0, 2, like.shape, device=like.device).to(like.dtype) * 2 - 1


def _rival(logits: Tensor, labels: Tensor) -> Tensor:
    """(n, 1): the largest of the other classes."""
    return logits.detach().scatter(1, labels[:, None], -torch.inf).argmax(1, keepdim=True)


def _slope(
    logits: Tensor, labels: Tensor, rival: Tensor, x: Tensor, *, create_graph: bool
) -> Tensor:
    margins = logits.gather(1, rival) - logits.gather(1, labels[:, None])
    (gradient,) = torch.autograd.grad(margins.sum(), x, create_graph=create_graph)
    return gradient


def _length(slope: Tensor) -> Tensor:
    return slope.flatten(1).abs().sum(1)

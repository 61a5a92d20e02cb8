"""Training on L-inf adversarial images. The attacks run in eval mode."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own convention)

from benchmarks.ascent import climb, cross_entropy, random_start
from benchmarks.methods.gradients import RADII
from benchmarks.methods.registry import grid, method
from benchmarks.methods.step import Part, Step, in_eval_mode

_rival = partial(method, family="adversarial images")


@_rival("fgsm", title="FGSM training", grid=RADII)
def fgsm(model: nn.Module, *, eps: float) -> Part:
    """Cross-entropy after one signed step of 1.25 eps from a random point of the ball.

    Source: Wong, Rice and Kolter (2020), "Fast is Better than Free"; here the radius grows.
    """
    return _adversarial(model, eps=eps, steps=1, relative_step=1.25)


@_rival("pgd", title="PGD-7 training", grid=RADII)
def pgd(model: nn.Module, *, eps: float) -> Part:
    """Cross-entropy after seven signed steps of 2.5 eps / 7 from a random point of the ball.

    Source: Madry et al. (2018), "Towards Deep Learning Models Resistant to Adversarial Attacks".
    """
    return _adversarial(model, eps=eps, steps=7, relative_step=2.5 / 7)


@_rival(
    "trades",
    title="TRADES",
    grid=(*grid("eps", 0.1, 0.2, beta=6.0), *grid("eps", 0.1, 0.2, 0.3, beta=1.0)),
)
def trades(model: nn.Module, *, eps: float, beta: float = 6.0) -> Part:
    """Cross-entropy plus beta times KL(clean output, worst output that the attack finds).

    Source: Zhang et al. (2019), "Theoretically Principled Trade-off between Robustness and
    Accuracy", algorithm 1; here with five steps of eps / 2 and a growing radius.
    """

    def criterion(step: Step) -> Tensor:
        clean = step.images.detach()
        with in_eval_mode(model):
            with torch.no_grad():
                target = model(clean).softmax(1)
            radius = step.radius(eps)
            start = clean + 1e-3 * torch.randn_like(clean)
            how = {"eps": radius, "step": 2.5 * radius / 5, "steps": 5}
            adversarial = climb(lambda x: _divergence(model(x), target), clean, start=start, **how)
        distance = _divergence(model(adversarial), step.logits.softmax(1))
        return F.cross_entropy(step.logits, step.labels) + beta * distance / len(clean)

    return Part(criterion=criterion)


def _adversarial(model: nn.Module, *, eps: float, steps: int, relative_step: float) -> Part:
    def criterion(step: Step) -> Tensor:
        clean, labels = step.images.detach(), step.labels
        radius = step.radius(eps)
        start = random_start(clean, radius)
        how = {"eps": radius, "step": relative_step * radius, "steps": steps}
        with in_eval_mode(model):
            adversarial = climb(cross_entropy(model, labels), clean, start=start, **how)
        return F.cross_entropy(model(adversarial), labels)

    return Part(criterion=criterion)


def _divergence(logits: Tensor, target: Tensor) -> Tensor:
    return F.kl_div(logits.log_softmax(1), target, reduction="sum")

"""All attacks of the experiment on one trained network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torchattacks
from torch import Tensor, nn

from benchmarks.mnist.attacks import ascend, combined_loss, margin_loss, random_start
from benchmarks.mnist.settings import Settings
from isoreg.diagnostics import distortion

Attack = Callable[[Tensor, Tensor], Tensor]
_STANDARD_BATCH = 1000
_DISTORTION_IMAGES = 1000


def evaluate(
    model: nn.Sequential, images: Tensor, labels: Tensor, *, beta: float, settings: Settings
) -> Iterator[tuple[str, Any]]:
    """Yield one figure after another: its name and its value, accuracies from 0 to 1."""

    def accuracy(attack: Attack, batch_size: int) -> float:
        return _share(_survivors(model, attack, images, labels, batch_size))

    clean = _survivors(model, lambda x, _: x, images, labels, _STANDARD_BATCH)
    yield "clean", _share(clean)
    yield "distortion", _distortion(model, images, labels)
    for name, attack_of_size in _paper_attacks(model, beta, settings).items():
        batch_size = _STANDARD_BATCH if name.endswith("standard") else settings.batch_size
        curve = [accuracy(attack_of_size(size), batch_size) for size in settings.attack_sizes]
        yield name, curve
    for eps in settings.eps:
        survivors = clean
        for name, attack in _strong_attacks(model, eps, settings).items():
            mask = _survivors(model, attack, images, labels, _STANDARD_BATCH)
            survivors = survivors & mask
            yield f"{name} at {eps}", _share(mask)
        yield f"worst case at {eps}", _share(survivors)


def _paper_attacks(
    model: nn.Sequential, beta: float, settings: Settings
) -> dict[str, Callable[[float], Attack]]:
    """Attacks by name, each a function of the size that the paper varies."""
    ball, steps, scale = settings.paper_ball, settings.paper_steps, settings.of_convention.scale

    def climb(**how: Any) -> Attack:
        return lambda x, y: ascend(combined_loss(model, x, y, beta=beta, scale=scale), x, **how)

    return {
        "fgsm, combined loss": lambda s: climb(ball=s, step=s, steps=1),
        "fgsm, standard": lambda s: torchattacks.FGSM(model, eps=s),
        "pgd, combined loss": lambda s: climb(ball=ball, step=s, steps=steps),
        "pgd, combined loss, clean gradient": lambda s: climb(
            ball=ball, step=s, steps=steps, leave_clean=False
        ),
        "pgd, standard": lambda s: torchattacks.PGD(
            model, eps=ball, alpha=s, steps=steps, random_start=False
        ),
    }


def _strong_attacks(model: nn.Sequential, eps: float, settings: Settings) -> dict[str, Attack]:
    step, steps = settings.step_size(eps), settings.steps

    def margin(x: Tensor, y: Tensor) -> Tensor:
        start = random_start(x, eps)
        return ascend(margin_loss(model, y), x, ball=eps, step=step, steps=steps, start=start)

    return {
        "pgd on cross-entropy": torchattacks.PGD(model, eps=eps, alpha=step, steps=steps),
        "pgd on the margin": margin,
    }


def _survivors(
    model: nn.Module, attack: Attack, images: Tensor, labels: Tensor, batch_size: int
) -> Tensor:
    """Which images are still classified rightly after the attack."""
    correct = []
    for x, y in zip(images.split(batch_size), labels.split(batch_size), strict=True):
        adversarial = attack(x, y)
        with torch.no_grad():
            correct.append(model(adversarial).argmax(1) == y)
    return torch.cat(correct)


def _distortion(model: nn.Sequential, images: Tensor, labels: Tensor) -> dict[str, float]:
    """Within-class distortion of the last hidden layer on an even sample of the images."""
    sample = slice(None, None, max(1, len(images) // _DISTORTION_IMAGES))
    with torch.no_grad():
        found = distortion(images[sample], model[:-1](images[sample]), labels[sample])
    return {"correlation": found.correlation, "stress": found.stress, "scale": found.scale}


def _share(mask: Tensor) -> float:
    return mask.double().mean().item()

"""A small network that learns the model's own answers, to be attacked in its place.

Source: Papernot et al. (2017), "Practical Black-Box Attacks against Machine Learning", with
adversarial images of the student among the images that the model is asked about.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own convention)

from isoreg.robustness.pgd import Classifier, cross_entropy, pgd, project
from isoreg.robustness.task import evenly

_ROUNDS = 4
_STEPS = 100
_BATCH = 128
_WIDTH = 256
_LARGE_SIDE = 16
MOST_IMAGES = 1000
_POINTS = 300
_WIDER = 1.5


def taught(classifier: Classifier, images: Tensor, *, eps: float, norm: str) -> nn.Module:
    """A student of the model's answers at the images and in the balls around them.

    Each round asks the model about a random point of each ball and about the student's own
    adversarial image there, and trains on all answers so far. That makes 9 questions an image (more
    for fewer than 300 images) and 500 steps on batches of 128. Only the answered classes are
    learned, not the logits, which gradient masking distorts.

    Args:
        classifier: Pixels to logits; it is asked, and no gradient of it is taken.
        images: (n, ...) from 0 to 1; at most 1,000 of them are used, evenly from all.
        eps: The largest radius of the evaluation; the balls here are 1.5 times as large.
        norm: "Linf" or "L2".

    Returns:
        Pixels to logits.
    """
    images = evenly(images, MOST_IMAGES)
    at_once = min(_BATCH, len(images))
    images = images.repeat(-(-_POINTS // len(images)), *[1] * (images.ndim - 1))
    eps = _WIDER * eps
    classes = _answers(classifier, images, at_once)
    student = _network(images, int(classifier(images[:2]).shape[1]))
    optimizer = torch.optim.Adam(student.parameters())
    x, answers = images, classes
    _learn(student, optimizer, x, answers)
    for _ in range(_ROUNDS):
        noisy = project(
            images + eps * (2 * torch.rand_like(images) - 1) * _scale(images, norm),
            *(images, eps, norm),
        )
        worst, _ = pgd(student, images, classes, eps=eps, norm=norm, loss=cross_entropy, steps=10)
        queries = torch.cat([noisy, worst])
        x = torch.cat([x, queries])
        answers = torch.cat([answers, _answers(classifier, queries, at_once)])
        _learn(student, optimizer, x, answers)
    return student.requires_grad_(False)


def _scale(images: Tensor, norm: str) -> float:
    """The factor that gives uniform noise from -1 to 1 a length of about 1 in the norm."""
    return 1.0 if norm == "Linf" else (3 / images[0].numel()) ** 0.5


@torch.no_grad()
def _answers(classifier: Classifier, images: Tensor, at_once: int) -> Tensor:
    return torch.cat([classifier(x).argmax(1) for x in images.split(at_once)])


def _learn(
    student: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, answers: Tensor
) -> None:
    for _ in range(_STEPS):
        batch = torch.randint(len(x), (_BATCH,), device=x.device)
        optimizer.zero_grad()
        F.cross_entropy(student(x[batch]), answers[batch]).backward()
        optimizer.step()


def _network(images: Tensor, classes: int) -> nn.Module:
    """Three dense layers, after two convolutions if images are at least 16 by 16 pixels."""
    body: list[nn.Module] = []
    size = images[0].numel()
    if images.ndim == 4 and min(images.shape[2:]) >= _LARGE_SIDE:
        body = [nn.Conv2d(images.shape[1], 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1)]
        body += [nn.ReLU(), nn.AdaptiveAvgPool2d(8)]
        size = 64 * 8 * 8
    body += [nn.Flatten(), nn.Linear(size, _WIDTH), nn.ReLU(), nn.Linear(_WIDTH, _WIDTH)]
    student = nn.Sequential(*body, nn.ReLU(), nn.Linear(_WIDTH, classes))
    return student.to(images)

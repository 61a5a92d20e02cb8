"""Corruptions without an adversary, scaled to the radius of the attacks, as a yardstick."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (torch's own convention)

from isoreg.robustness.pgd import project
from isoreg.robustness.task import Task


def corruption(task: Task) -> tuple[Tensor, list[int]]:
    """Each image under one of five corruptions at random, stretched to the radius.

    They are Gaussian noise, more or less brightness, more or less contrast, blur (only if images
    are (n, c, h, w) with h and w of at least 3), and pixels turned black or white. The change is
    scaled to length eps, to compare with an attack of that length. It is one draw, not the worst of
    several.

    Returns:
        Images within the ball, and no history.
    """
    x = task.images
    kinds: list[Callable[[Tensor], Tensor]] = [torch.randn_like, _brightness, _contrast, _pixels]
    if x.ndim == 4 and min(x.shape[2:]) > 2:
        kinds.append(_blur)
    which = torch.randint(len(kinds), (len(x),), device=x.device)
    changes = torch.stack([kind(x) for kind in kinds])[which, torch.arange(len(x), device=x.device)]
    order = float("inf") if task.norm == "Linf" else 2
    lengths = torch.linalg.vector_norm(changes.flatten(1), order, dim=1)
    scaled = task.eps * changes / lengths.view(-1, *[1] * (x.ndim - 1))
    # Without a change this is 0 / 0, and `project` takes NaN for no change.
    return project(x + scaled, x, task.eps, task.norm), []


def _brightness(x: Tensor) -> Tensor:
    return _image_signs(x).expand_as(x)


def _contrast(x: Tensor) -> Tensor:
    means = x.flatten(1).mean(1).view(-1, *[1] * (x.ndim - 1))
    return _image_signs(x) * (x - means)


def _pixels(x: Tensor) -> Tensor:
    is_hit = torch.rand_like(x) < 0.1
    return torch.where(is_hit, (torch.rand_like(x) < 0.5).to(x) - x, 0.0)


def _blur(x: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(x, [1] * 4, mode="replicate"), 3, stride=1) - x


def _image_signs(x: Tensor) -> Tensor:
    return torch.randint(0, 2, (len(x), *[1] * (x.ndim - 1)), device=x.device) * 2 - 1

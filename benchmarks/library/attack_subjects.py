"""Small models on which attacks are compared; some break assumptions that attacks make."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own convention)

from benchmarks.networks import mlp
from benchmarks.training import adam, descend_whole
from isoreg.datasets import digits


@dataclass(frozen=True)
class Subject:
    """A model with the images that it is attacked on, all of which it classifies correctly.

    ``eps`` maps each norm to a radius at which some images survive and some do not. ``linear`` is
    the layer of a linear model, for which the optimum is known.
    """

    model: nn.Module
    images: Tensor
    labels: Tensor
    eps: dict[str, float]
    linear: nn.Linear | None = None


def linear(classes: int, images: int) -> Subject:
    """A random linear model on pixels between 0.4 and 0.6; its own predictions are the labels."""
    torch.manual_seed(0)
    layer = nn.Linear(64, classes)
    x = 0.4 + 0.2 * torch.rand(images, 1, 8, 8)
    with torch.no_grad():
        layer.bias.sub_(layer(x.flatten(1)).mean(0))
        labels = layer(x.flatten(1)).argmax(1)
    eps = {"Linf": 0.005, "L2": 0.03}
    return Subject(nn.Sequential(nn.Flatten(), layer).eval(), x, labels, eps, layer)


def trained(
    images: int,
    *,
    relabel: Callable[[Tensor], Tensor] = lambda y: y,
    shift: float = 0.0,
    vectors: bool = False,
) -> Subject:
    """An MLP trained on the bundled digits, in which many pixels are black or white."""
    torch.manual_seed(0)
    known, answers = digits("train")
    answers = relabel(answers)
    model = mlp(64, int(answers.max()) + 1, width=64, depth=1, activation=nn.ReLU)
    descend_whole(lambda: F.cross_entropy(model(known), answers), adam(model, 3e-3), 150)
    model.eval().requires_grad_(False)
    last = model[-1]
    assert isinstance(last, nn.Linear)
    last.bias.add_(shift)
    x, y = digits("test")
    right = model(x).argmax(1) == relabel(y)
    x, y = x[right][:images], relabel(y)[right][:images]
    return Subject(model, x.flatten(1) if vectors else x, y, {"Linf": 0.08, "L2": 0.4})


SUBJECTS: dict[str, Callable[[int], Subject]] = {
    "linear, 2 classes": lambda n: linear(2, n),
    "linear, 4 classes": lambda n: linear(4, n),
    "digits": trained,
    "digits, logits shifted by -100": lambda n: trained(n, shift=-100.0),
    "digits, 3 classes": lambda n: trained(n, relabel=lambda y: y % 3),
    "digits as vectors": lambda n: trained(n, vectors=True),
}

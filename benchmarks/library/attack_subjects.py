"""Small models on which attacks are compared, each with what an attack may take for granted."""

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
    """A model with the images that it is attacked on, all of them classified rightly.

    Attributes:
        model: Images to logits.
        images: (n, ...) pixels from 0 to 1.
        labels: (n).
        eps: Radius by norm, at which some images survive and some do not.
        linear: Its linear layer, if the optimum is known.
    """

    model: nn.Module
    images: Tensor
    labels: Tensor
    eps: dict[str, float]
    linear: nn.Linear | None = None


def linear(classes: int, images: int) -> Subject:
    """A random linear model on pixels between .4 and .6."""
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
    """An MLP trained on the bundled digits, many of whose pixels are black or white."""
    torch.manual_seed(0)
    x, y = digits("train")
    classes = int(relabel(y).max()) + 1
    y = relabel(y)
    model = mlp(64, classes, width=64, depth=1, activation=nn.ReLU)
    descend_whole(lambda: F.cross_entropy(model(x), y), adam(model, 3e-3), 150)
    x, y = digits("test")
    y = relabel(y)
    with torch.no_grad():
        last = model[-1]
        assert isinstance(last, nn.Linear)
        last.bias.add_(shift)
        right = model(x).argmax(1) == y
    x, y = x[right][:images], y[right][:images]
    return Subject(
        model.eval().requires_grad_(False),
        x.flatten(1) if vectors else x,
        y,
        {"Linf": 0.08, "L2": 0.4},
    )


SUBJECTS: dict[str, Callable[[int], Subject]] = {
    "linear, 2 classes": lambda n: linear(2, n),
    "linear, 4 classes": lambda n: linear(4, n),
    "digits": trained,
    "digits, logits shifted by -100": lambda n: trained(n, shift=-100.0),
    "digits, 3 classes": lambda n: trained(n, relabel=lambda y: y % 3),
    "digits as vectors": lambda n: trained(n, vectors=True),
}

"""Networks that several studies share; the classifier is always the last module."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def mlp(
    inputs: int = 28 * 28,
    outputs: int = 10,
    *,
    width: int = 100,
    depth: int = 4,
    activation: type[nn.Module] = nn.Tanh,
) -> nn.Sequential:
    """An MLP on flattened inputs with ``depth`` hidden layers; the defaults are the paper's."""
    layers: list[nn.Module] = [nn.Flatten()]
    for index in range(depth):
        layers += [nn.Linear(width if index else inputs, width), activation()]
    return nn.Sequential(*layers, nn.Linear(width if depth else inputs, outputs))


@torch.no_grad()
def in_parts(model: nn.Module, x: Tensor) -> Tensor:
    """The model's outputs as (n, d), computed in parts of 1,000 samples."""
    return torch.cat([model(part).flatten(1) for part in x.split(1000)])


def features_in(model: nn.Sequential, x: Tensor) -> Tensor:
    """The features (n, d) that enter the classifier."""
    return in_parts(model[:-1], x)


def accuracy_of(model: nn.Module, x: Tensor, labels: Tensor) -> float:
    """Share of samples that the model classifies correctly."""
    right = in_parts(model, x).argmax(1) == labels
    return right.double().mean().item()

"""The network of the digits and its training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own convention)

from benchmarks.structure.data import Data
from benchmarks.structure.methods import Batch, Method
from benchmarks.structure.settings import Settings

_CODE = 32


def mlp(like: Tensor, outputs: int, settings: Settings, dropout: float = 0.0) -> nn.Sequential:
    """An MLP on flattened inputs of the shape of ``like``; its last module is the classifier."""
    layers: list[nn.Module] = [nn.Flatten()]
    inputs = like.numel()
    for index in range(settings.depth):
        layers.append(nn.Linear(inputs if index == 0 else settings.width, settings.width))
        layers.append(getattr(nn, settings.activation)())
        if dropout:
            layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers, nn.Linear(settings.width, outputs))


Network = Callable[[Tensor, int, Settings, float], nn.Sequential]
"""One input, number of outputs, settings and dropout to a network with the classifier last."""


def train(
    data: Data,
    method: Method,
    *,
    strength: float,
    seed: int,
    settings: Settings,
    network: Network = mlp,
) -> nn.Sequential:
    """Train on the coarse labels; the seed fixes initial weights and order of the batches."""
    torch.manual_seed(seed)
    x, labels = data.train.x, data.coarse(data.train.fine)
    reference = data.references[method.reference]
    dropout = strength if method.dropout else 0.0
    model = network(x[0], len(data.groups), settings, dropout)
    with method.build(model, strength, reference[0].numel()) as objective:
        parameters = [*model.parameters(), *objective.parameters]
        optimizer = torch.optim.Adam(parameters, lr=settings.learning_rate)
        for _ in range(settings.epochs):
            for rows in torch.randperm(len(x)).split(settings.batch_size):
                shown = augmented(x[rows], settings)
                loss = objective.loss(Batch(shown, labels[rows], reference[rows]))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return model.eval()


def augmented(x: Tensor, settings: Settings) -> Tensor:
    """A batch moved by the same random number of pixels in each direction, and half mirrored."""
    if settings.shift:
        most = settings.shift
        down, right = torch.randint(-most, most + 1, (2,)).tolist()
        x = x.roll((down, right), (2, 3))
    if settings.flip:
        x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x, x.flip(3))
    return x


def autoencoder(data: Data, *, seed: int, settings: Settings) -> nn.Sequential:
    """The encoder of an autoencoder with a code of 32 units, trained without labels.

    Its units are ReLUs: ten layers of tanh do not get past the mean image in a few epochs.
    """
    torch.manual_seed(seed)
    settings = replace(settings, activation="ReLU")
    x = data.train.x.flatten(1)
    encoder = mlp(x[0], _CODE, settings)
    decoder = mlp(torch.empty(_CODE), x.shape[1], settings)
    both = nn.Sequential(encoder, decoder)
    optimizer = torch.optim.Adam(both.parameters(), lr=settings.learning_rate)
    for _ in range(settings.epochs):
        for rows in torch.randperm(len(x)).split(settings.batch_size):
            loss = F.binary_cross_entropy_with_logits(both(x[rows]), x[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return encoder.eval()


@torch.no_grad()
def run_in_parts(model: nn.Module, x: Tensor) -> Tensor:
    """The model's outputs, computed in parts."""
    return torch.cat([model(part).flatten(1) for part in x.split(1000)])

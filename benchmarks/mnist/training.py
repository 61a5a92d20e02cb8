"""The paper's MLP and its training, with the regulariser attached in two lines."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own convention)

from benchmarks.mnist.settings import Convention, Settings
from isoreg import IsometryRegularizer


def mlp(width: int, convention: Convention) -> nn.Sequential:
    """The tanh MLP on flattened images; its last module is the classifier."""
    layers: list[nn.Module] = [nn.Flatten()]
    for index in range(convention.hidden_layers):
        linear = nn.Linear(28 * 28 if index == 0 else width, width)
        if convention.orthogonal and index > 0:
            nn.init.orthogonal_(linear.weight)
        layers += [linear, nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(width, 10)).to(getattr(torch, convention.dtype))


def train(
    images: Tensor, labels: Tensor, *, beta: float, seed: int, settings: Settings
) -> nn.Sequential:
    """Train one network; the seed fixes its initial weights and the order of the batches."""
    torch.manual_seed(seed)
    model = mlp(settings.width, settings.of_convention).to(images.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
    with IsometryRegularizer(model, beta=beta, scale=settings.of_convention.scale) as iso:
        for _ in range(settings.epochs):
            for batch in torch.randperm(len(images)).split(settings.batch_size):
                x, y = images[batch], labels[batch]
                loss = F.cross_entropy(model(x), y)
                if beta > 0:
                    loss = loss + iso(y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return model.eval()

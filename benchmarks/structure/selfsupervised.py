"""A reference learnt without labels: a network that recognises two views of one photograph."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own convention)

from benchmarks.training import Batches, descend

_TEMPERATURE = 0.2
_RATE = 3e-3
_CODE = 128
_AREA = (0.2, 1.0)


def contrastive(
    images: Tensor,
    body: nn.Module,
    width: int,
    *,
    epochs: int,
    seed: int,
    batch_size: int = 250,
) -> nn.Module:
    """Train a network to tell the two views of a photograph from all others of a batch.

    Source: Chen et al. (2020), "A Simple Framework for Contrastive Learning of Visual
    Representations".

    Args:
        images: (n, 3, h, w) pixels from 0 to 1, each shown twice an epoch.
        body: Network that gives features (b, width); it is trained in place.
        width: Number of features.
        epochs: Number of passes through the images.
        seed: Seed of the projection, the views and the order.
        batch_size: Number of photographs in a batch, at most all there are.

    Returns:
        The body in eval mode.
    """
    torch.manual_seed(seed)
    batch_size = min(batch_size, len(images))
    projection = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, _CODE))
    network = nn.Sequential(body, projection)
    optimizer = torch.optim.AdamW(network.parameters(), lr=_RATE, weight_decay=1e-4)
    batches = Batches(len(images), batch_size, epochs, whole=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, len(batches), pct_start=0.1)
    network.train()
    descend(
        lambda rows, _: pairing_loss(network(torch.cat([view(images[rows]), view(images[rows])]))),
        [optimizer],
        batches,
        after=schedule.step,
    )
    return body.eval()


def pairing_loss(codes: Tensor) -> Tensor:
    """Cross-entropy of finding each code's partner among all others; logits are cosines / 0.2.

    In codes (2 b, d) rows i and i + b are partners. pytorch-metric-learning is not used, because
    its pairs take memory that grows as b^3.
    """
    points = F.normalize(codes)
    similar = (points @ points.T / _TEMPERATURE).fill_diagonal_(-torch.inf)
    partners = torch.arange(len(codes), device=codes.device).roll(len(codes) // 2)
    return F.cross_entropy(similar, partners)


def view(images: Tensor) -> Tensor:
    """A random part of each photograph (pixels from 0 to 1), maybe mirrored, in changed colours."""
    return recoloured(cropped(images))


def cropped(images: Tensor) -> Tensor:
    """Crop each photograph to 20-100 % of its area, stretched by up to 4/3; half are mirrored."""
    n = len(images)
    area = torch.empty(n).uniform_(*_AREA)
    stretch = torch.empty(n).uniform_(-1, 1).mul_(math.log(4 / 3) / 2).exp()
    # half the sides of the part, in units of half the sides of the photograph
    wide, high = (area.sqrt() * stretch).clamp_max(1), (area.sqrt() / stretch).clamp_max(1)
    x, y = (1 - wide) * torch.empty(n).uniform_(-1, 1), (1 - high) * torch.empty(n).uniform_(-1, 1)
    wide = torch.where(torch.rand(n) < 0.5, wide, -wide)
    none = torch.zeros(n)
    turn = torch.stack([wide, none, x, none, high, y], 1).view(n, 2, 3)
    places = F.affine_grid(turn.to(images), list(images.shape), align_corners=False)
    return F.grid_sample(images, places, padding_mode="reflection", align_corners=False)


def recoloured(images: Tensor) -> Tensor:
    """Scale brightness, contrast and colour by 0.6 to 1.4 in 80 % of images; 20 % become grey."""
    n = len(images)
    factors = torch.empty(3, n, 1, 1, 1).uniform_(0.6, 1.4).to(images)
    factors = torch.where(torch.rand(n, 1, 1, 1) < 0.8, factors, 1.0)
    bright, contrast, colour = factors
    colour = torch.where(torch.rand(n, 1, 1, 1) < 0.2, 0.0, colour)
    grey = images.mean(1, keepdim=True)
    mean = grey.mean((2, 3), keepdim=True)
    contrasted = mean + contrast * (grey - mean + colour * (images - grey))
    new: Tensor = (bright * contrasted).clamp(0, 1)
    return new

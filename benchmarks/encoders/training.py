"""Four ways to train an encoder, at equal numbers of objects that pass through the network."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks import networks
from benchmarks.cache import computed_once
from benchmarks.encoders.data import Objects
from benchmarks.training import Batches, descend
from isoreg import isometry_penalty

_ROUNDS = 60


@dataclass(frozen=True)
class Batch:
    """What a loss is computed from. Axes: b = batch, k = dimensions.

    Attributes:
        points: (b, k) outputs of the network.
        objects: All objects, with their distances.
        rows: (b,) indices of the objects in the batch.
        disturbed: (b, ...) their inputs with noise; None: there was no noise.
        places: (b, k) coordinates by multidimensional scaling; NaN where an object has none.
        progress: Share of training that is done.
    """

    points: Tensor
    objects: Objects
    rows: Tensor
    disturbed: Tensor | None
    places: Tensor
    progress: float

    def distances(self) -> Tensor:
        """(b, b) distances of all pairs of the batch."""
        if self.disturbed is None:
            return self.objects.distances(self.rows, self.rows)
        assert self.objects.between is not None
        return self.objects.between(self.disturbed)

    def distances_in_twos(self) -> Tensor:
        """(b // 2,) distances from each object of the first half to its partner in the second."""
        half = len(self.rows) // 2
        if self.disturbed is None:
            table = self.objects.distances(self.rows[:half], self.rows[half : 2 * half])
            return table.diagonal()
        assert self.objects.between is not None
        first, second = self.disturbed[:half, None], self.disturbed[half : 2 * half, None]
        return torch.cat([*map(self.objects.between, first, second)]).flatten()


def all_pairs(batch: Batch) -> Tensor:
    """The isometry penalty on all pairs of the batch."""
    distances = batch.distances()
    return isometry_penalty(None, batch.points, input_distances=distances, reduction="pairs")


def random_pairs(batch: Batch) -> Tensor:
    """The loss of a Siamese network: it compares each object of the batch with one partner."""
    half = len(batch.points) // 2
    first, second = batch.points[:half], batch.points[half : 2 * half]
    # the root of an exact 0 would give the gradient NaN
    lengths = (first - second).square().sum(1).clamp_min(1e-12).sqrt()
    return (lengths - batch.distances_in_twos()).square().mean()


def regression(batch: Batch) -> Tensor:
    """Mean squared distance from coordinates by multidimensional scaling, where there are any."""
    known = ~batch.places.isnan().any(1)
    gaps = (batch.points - batch.places)[known].square().sum(1)
    return gaps.sum() / known.sum().clamp_min(1)


def annealed(batch: Batch) -> Tensor:
    """The loss of all pairs plus that of the regression, whose weight falls from 1 to 0."""
    return all_pairs(batch) + (1 - batch.progress) * regression(batch)


LOSSES: dict[str, Callable[[Batch], Tensor]] = {
    "all pairs (isometry)": all_pairs,
    "random pairs": random_pairs,
    "regression on MDS": regression,
    "both, annealed": annealed,
}


class Spelling(nn.Module):
    """Two convolutions along a word, then one hidden layer."""

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv1d(27, 64, 3, padding=1), nn.ReLU()),
            *(nn.Conv1d(64, 64, 3, padding=1), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(12 * 64, 256), nn.ReLU()),
            nn.Linear(256, dimensions),
        )

    def forward(self, letters: Tensor) -> Tensor:
        """Map (b, 12, 27) letters to (b, dimensions) points."""
        points: Tensor = self.layers(letters.transpose(1, 2))
        return points


def network_for(x: Tensor, dimensions: int) -> nn.Module:
    """A convolutional network for words, an MLP of two layers of 256 ReLU for flat inputs."""
    if x.ndim == 3:
        return Spelling(dimensions)
    return networks.mlp(x.shape[1], dimensions, width=256, depth=2, activation=nn.ReLU)


def optimizers(model: nn.Module, name: str) -> list[torch.optim.Optimizer]:
    """Adam for all parameters, or Muon for the matrices and AdamW for the rest."""
    if name == "adam":
        return [torch.optim.Adam(model.parameters())]
    matrices = [p for p in model.parameters() if p.ndim == 2]
    rest = [p for p in model.parameters() if p.ndim != 2]
    muon = torch.optim.Muon(matrices, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    return [muon, torch.optim.AdamW(rest, weight_decay=0.01)]


def train(
    objects: Objects,
    loss: Callable[[Batch], Tensor],
    places: Tensor,
    *,
    passes: int,
    size: int,
    optimizer: str,
    rate: float,
    seed: int,
    every: bool = False,
    noise: float = 0.0,
    tick: Callable[[], None] | None = None,
) -> nn.Module:
    """Train an encoder.

    Args:
        objects: The objects; their training part is used.
        loss: One of `LOSSES`.
        places: (n, k) coordinates of the training objects.
        passes: Number of objects that pass through the network, each counted every time.
        size: Batch size.
        optimizer: "adam" or "muon".
        rate: The largest learning rate; it rises for a tenth of training and falls to 0.
        seed: Seed of the initial weights and of the batches.
        every: Whether objects without coordinates are trained on too.
        noise: Strength of noise on the objects, whose distances are then computed in each step.
        tick: Called after each step.
    """
    torch.manual_seed(seed)
    chosen = torch.cat([objects.train, objects.more]) if every else objects.train
    targets = torch.full((len(chosen), places.shape[1]), math.nan)
    targets[: len(places)] = places
    model = network_for(objects.x, places.shape[1])
    epochs = math.ceil(passes / (len(chosen) // size * size))
    batches = Batches(len(chosen), size, epochs, whole=True)

    def value(rows: Tensor, progress: float) -> Tensor:
        indices = chosen[rows]
        x, disturbed = objects.x[indices], None
        if noise and objects.disturb is not None:
            x = disturbed = objects.disturb(x, noise)
        return loss(Batch(model(x), objects, indices, disturbed, targets[rows], progress))

    def cycle(progress: float) -> float:
        return rate * min(1, 10 * progress + 0.01) * (1 + math.cos(math.pi * progress)) / 2

    descend(value, optimizers(model, optimizer), batches, rate=cycle, after=tick)
    return model.eval()


def scaled(distances: Tensor, dimensions: int) -> Tensor:
    """(n, k) coordinates by metric multidimensional scaling: SMACOF from the classical solution."""
    from scipy.sparse.linalg import eigsh

    squares = distances.double().square()
    centred = squares - squares.mean(0) - squares.mean(1, keepdim=True) + squares.mean()
    start = torch.rand(len(squares), generator=torch.Generator().manual_seed(0)).double().numpy()
    values, vectors = eigsh(-0.5 * centred.numpy(), min(dimensions, len(squares) - 1), v0=start)
    points = torch.from_numpy(vectors * values.clip(0) ** 0.5).float()
    points = nn.functional.pad(points, (0, dimensions - points.shape[1]))
    for _ in range(_ROUNDS):
        ratios = distances / torch.cdist(points, points).clamp_min(1e-9)
        ratios.fill_diagonal_(0)
        points = (ratios.sum(1, keepdim=True) * points - ratios @ points) / len(points)
    return points


def coordinates(objects: Objects, dimensions: int, path: Path) -> Tensor:
    """Coordinates of the training objects, computed once and kept at ``path``."""
    rows = objects.train
    return computed_once(path, lambda: scaled(objects.distances(rows, rows), dimensions))

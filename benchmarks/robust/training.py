"""The two networks, and training by a recipe on a schedule."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.objectives import attach
from benchmarks.objectives.methods import Recipe
from benchmarks.robust.optimizers import OPTIMIZERS, set_rate
from isoreg.datasets import mnist

# name: activation, width of each of the four hidden layers
NETWORKS: dict[str, tuple[type[nn.Module], int]] = {
    "relu": (nn.ReLU, 200),
    "tanh": (nn.Tanh, 100),
}
TITLES = {"relu": "ReLU MLP 4 x 200", "tanh": "the paper's tanh MLP 4 x 100"}
VALIDATION = 10_000


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: the rate rises linearly at first, then falls along a cosine to 0.

    Attributes:
        epochs: Passes through the training images.
        batch_size: Images a step.
        learning_rate: The highest.
        warmup: Share of the steps before the highest rate.
        optimizer: A name of `benchmarks.robust.optimizers.OPTIMIZERS`.
    """

    epochs: int
    batch_size: int = 250
    learning_rate: float = 6e-3
    warmup: float = 0.05
    optimizer: str = "adam"

    def rate(self, progress: float) -> float:
        """The learning rate when this share of training is done."""
        if progress < self.warmup:
            return self.learning_rate * progress / self.warmup
        rest = (progress - self.warmup) / (1 - self.warmup)
        return self.learning_rate * (1 + math.cos(math.pi * rest)) / 2


def network(name: str) -> nn.Sequential:
    """A network of `NETWORKS` on flattened images."""
    activation, width = NETWORKS[name]
    layers: list[nn.Module] = [nn.Flatten()]
    for index in range(4):
        layers += [nn.Linear(28 * 28 if index == 0 else width, width), activation()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def train(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    recipe: Recipe,
    schedule: Schedule,
) -> float:
    """Train in place; the caller sets the seed.

    Returns:
        Seconds of the processor, of this process.
    """
    begin = time.process_time()
    steps = len(images) // schedule.batch_size
    model.train()
    with attach(model, recipe) as objective:
        parameters = list(model.parameters())
        optimizers = OPTIMIZERS[schedule.optimizer](model)
        for epoch in range(schedule.epochs):
            order = torch.randperm(len(images)).split(schedule.batch_size)[:steps]
            for step, batch in enumerate(order):
                progress = (epoch * steps + step) / (schedule.epochs * steps)
                set_rate(optimizers, schedule.rate(progress))
                chosen = batch.to(images.device)
                loss = objective(images[chosen], labels[chosen], progress=progress)
                model.zero_grad()
                loss.backward(inputs=parameters)  # the images need no gradient of the loss
                for optimizer in optimizers:
                    optimizer.step()
                objective.after_step()
    model.eval()
    return time.process_time() - begin


def load(
    split: str, data_dir: Path | None, device: str, count: int | None = None
) -> tuple[Tensor, Tensor]:
    """MNIST: "fit" (the first 50,000), "validation" (10,000), "train" (both) or "test".

    Args:
        split: Which images.
        data_dir: Folder with MNIST/raw, or None.
        device: A torch device.
        count: So many, sampled evenly over all: those of the test split are not in random order
            of difficulty.

    Returns:
        Images and labels.
    """
    images, labels = mnist("test" if split == "test" else "train", data_dir)
    if split == "fit":
        images, labels = images[:-VALIDATION], labels[:-VALIDATION]
    elif split == "validation":
        images, labels = images[-VALIDATION:], labels[-VALIDATION:]
    if count is not None:
        sample = slice(None, None, len(images) // count)
        images, labels = images[sample][:count], labels[sample][:count]
    return images.to(device), labels.to(device)

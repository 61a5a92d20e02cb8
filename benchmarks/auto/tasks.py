"""The two tasks: coarse labels to train on, and the fine ones that training never sees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks import photographs
from isoreg.datasets import mnist
from isoreg.masks import partition

VALIDATION = 10_000
_ANIMALS = [2, 3, 4, 5, 6, 7]
_VEHICLES = [0, 1, 8, 9]


@dataclass(frozen=True)
class Task:
    """Images of three splits with fine labels, a coarse question, and a network for it.

    Attributes:
        splits: Images and fine labels by "train", "validation" and "test".
        coarse: Fine labels to coarse ones.
        network: Makes the network; its last module is the classifier.
        layers: Where the penalty acts.
        epochs: Of training.
    """

    splits: dict[str, tuple[Tensor, Tensor]]
    coarse: Callable[[Tensor], Tensor]
    network: Callable[[], nn.Sequential]
    layers: list[str]
    epochs: int


def load(name: str, images: int, folder: Path | None) -> Task:
    """A task with at most so many training images.

    The validation images are taken from the end of a fixed shuffle of the training split.
    """
    read = mnist if name == "mnist" else _cifar10
    x, y = read("train", folder)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, validation = order[:-VALIDATION][:images], order[-VALIDATION:]
    splits = {
        "train": (x[train], y[train]),
        "validation": (x[validation], y[validation]),
        "test": read("test", folder),
    }
    if name == "mnist":
        return Task(splits, lambda y: y % 2, mlp, ["2", "4", "6", "8"], epochs=5)
    groups = [_ANIMALS, _VEHICLES]
    return Task(splits, lambda y: partition(y, groups), convolutional, ["11"], epochs=4)


def mlp() -> nn.Sequential:
    """The paper's: four hidden layers of 100 tanh units."""
    layers: list[nn.Module] = [nn.Flatten()]
    for index in range(4):
        layers += [nn.Linear(100 if index else 28 * 28, 100), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(100, 2))


def convolutional() -> nn.Sequential:
    """Three strided stages and a hidden layer of 128."""
    layers: list[nn.Module] = []
    for before, after in ((3, 24), (24, 48), (48, 96)):
        convolution = nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(after), nn.ReLU()]
    layers += [nn.Flatten(), nn.Linear(96 * 16, 128), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(128, 2))


def _cifar10(split: str, folder: Path | None) -> tuple[Tensor, Tensor]:
    images, labels = photographs.read(split, folder)
    return images.float() / 255, labels

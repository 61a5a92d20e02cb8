"""Whether ``beta="auto"`` finds what a search for beta finds, on two data sets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own convention)

from benchmarks import photographs
from benchmarks.images import SHUFFLED, Uses, everything, rows
from benchmarks.networks import accuracy_of, convolutional, features_in, mlp
from benchmarks.probes import examples_of_each
from benchmarks.results import Figures, Found, Key
from benchmarks.sampling import evenly
from benchmarks.study import Lab, Study
from benchmarks.tables import Column, count, grouped, page, table, with_keys
from benchmarks.training import Batches, adam, descend
from isoreg import AutoBeta, IsometryRegularizer
from isoreg.datasets import mnist
from isoreg.diagnostics import distortion
from isoreg.masks import partition

VALIDATION = 10_000
DEFAULT = "auto 0.1"
TOLERANCE = 0.01
"""What a weight may cost in accuracy on the labels that are trained on, to be chosen."""
NAMES = {"mnist": "MNIST, even or odd", "cifar10": "CIFAR-10 (JPEG), animal or vehicle"}
_ANIMALS_AND_VEHICLES = [[2, 3, 4, 5, 6, 7], [0, 1, 8, 9]]

Runs = dict[str, list[Figures]]


@dataclass(frozen=True)
class Settings:
    """Adam at 1e-3, batches of 100. A share is that of `AutoBeta`; 0.1 is its default."""

    tasks: tuple[str, ...] = ("mnist", "cifar10")
    betas: tuple[float, ...] = (0.0, 0.003, 0.01, 0.03, 0.1, 0.3)
    shares: tuple[float, ...] = (0.03, 0.1, 0.3)
    train_images: tuple[int, ...] = (50_000, 10_000)
    batch_size: int = 100
    learning_rate: float = 1e-3
    draws: int = 20

    def images(self, task: str) -> int:
        """Training images of a task."""
        return self.train_images[self.tasks.index(task)]


def settings(quick: bool) -> Settings:
    """All of it, or what takes less than a minute."""
    if not quick:
        return Settings()
    return replace(
        Settings(), tasks=("mnist",), betas=(0.0, 0.1), shares=(0.1,), train_images=(2000,), draws=2
    )


def keys(lab: Lab[Settings]) -> Iterator[Key]:
    """Task by task, seed by seed: numbers, then shares."""
    weights = [f"{beta:g}" for beta in lab.settings.betas]
    weights += [f"auto {share:g}" for share in lab.settings.shares]
    for task in lab.settings.tasks:
        for seed in range(lab.seeds):
            for weight in weights:
                yield {"task": task, "beta": weight, "seed": seed}


def determines(key: Key, settings: Settings) -> dict[str, Any]:
    """What is common to all weights."""
    found = asdict(settings)
    kept = {name: found[name] for name in ("batch_size", "learning_rate", "draws")}
    known = key["task"] in settings.tasks
    return {**kept, "train_images": settings.images(key["task"]) if known else None}


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
        return Task(splits, lambda y: y % 2, lambda: mlp(outputs=2), ["2", "4", "6", "8"], epochs=5)
    return Task(
        splits, lambda y: partition(y, _ANIMALS_AND_VEHICLES), convolutional, ["11"], epochs=4
    )


def _cifar10(split: str, folder: Path | None) -> tuple[Tensor, Tensor]:
    images, labels = photographs.read(split, folder)
    return images.float() / 255, labels


def measure(key: Key, lab: Lab[Settings]) -> Figures:
    """Train with a number or with "auto", and measure what the features know."""
    name, settings = key["task"], lab.settings
    task = lab.once(name, lambda: load(name, settings.images(name), lab.data_dir))
    torch.manual_seed(key["seed"])
    kind, _, share = key["beta"].partition(" ")
    beta = AutoBeta(float(share)) if kind == "auto" else float(kind)
    model = task.network()
    images, labels = task.splits["train"]
    coarse = task.coarse(labels)
    betas: list[float] = []
    with IsometryRegularizer(model, task.layers, beta=beta) as iso:

        def loss(rows: Tensor, _: float) -> Tensor:
            value = F.cross_entropy(model(images[rows]), coarse[rows])
            return value + iso(coarse[rows]) if beta != 0 else value

        descend(
            loss,
            adam(model, settings.learning_rate),
            Batches(len(images), settings.batch_size, task.epochs),
            after=lambda: betas.append(iso.beta),
        )
    model.eval()
    known = features_in(model, images), labels
    return {
        "betas": [mean(part) for part in _parts(betas, 5)],
        **{
            split: _figures(model, task, split, known, settings.draws)
            for split in ("validation", "test")
        },
    }


def _figures(
    model: nn.Sequential, task: Task, split: str, known: tuple[Tensor, Tensor], draws: int
) -> dict[str, float]:
    images, labels = task.splits[split]
    coarse, features = task.coarse(labels), features_in(model, images)
    found = distortion(*(evenly(values, 1000) for values in (images, features, coarse)))
    return {
        "coarse": accuracy_of(model, images, coarse),
        "few-shot": mean(_few_shot(known, (features, labels), seed) for seed in range(draws)),
        "correlation": found.correlation,
        "stress": found.stress,
    }


def _few_shot(known: tuple[Tensor, Tensor], asked: tuple[Tensor, Tensor], seed: int) -> float:
    """Accuracy on the fine labels of a linear probe that saw ten examples of each."""
    features, labels = known
    chosen = examples_of_each(labels, 10, seed=seed)
    probe = LogisticRegression(max_iter=2000).fit(features[chosen], labels[chosen])
    return float(probe.score(*asked))


def _parts(values: list[float], count: int) -> list[list[float]]:
    step = max(1, -(-len(values) // count))
    return [values[i : i + step] for i in range(0, len(values), step)]


def tables(found: Found) -> str:
    """For each task the validation figures of all weights, and the test figures of a few."""
    parts = [
        '# A weight chosen by hand, and beta="auto"',
        "Networks learn a coarse question; afterwards a linear probe on their features sees ten "
        "examples of each of ten classes, which training never named (mean over "
        f"{found['settings']['draws']} draws). Pearson's r: distances within a coarse class. "
        "'auto s' keeps the penalty's gradient at the share s of the loss's; 0.1 is the default. "
        "Mean ± standard deviation over seeds.",
    ]
    for task in dict.fromkeys(run["key"]["task"] for run in found["runs"]):
        runs: Runs = grouped(with_keys(found, task=task), "beta")
        chosen = choose(runs, [weight for weight in runs if not weight.startswith("auto")])
        shown = dict.fromkeys(weight for weight in ("0", chosen, DEFAULT) if weight in runs)
        tested = {f"{w} (chosen)" if w == chosen else w: runs[w] for w in shown}
        parts += [
            f"## {NAMES[task]}",
            f"{count(len(next(iter(runs.values()))), 'seed')}. On validation images:",
            table("beta", runs, _columns("validation")),
            f"On test images. The number was chosen on validation images: the best on ten classes "
            f"of those within {100 * TOLERANCE:g} point of the best coarse accuracy.",
            table("beta", tested, _columns("test")),
        ]
    return page(*parts)


def _columns(split: str) -> list[Column]:
    return [
        Column("coarse, %", f"{split}/coarse"),
        Column("ten classes, %", f"{split}/few-shot"),
        Column("Pearson's r", f"{split}/correlation", 2),
        Column("stress", f"{split}/stress", 2),
        Column("beta, first to last", text=_course),
    ]


def _course(runs: Any) -> str:
    first, last = (mean(figures["betas"][index] for figures in runs) for index in (0, -1))
    return f"{first:.2g} to {last:.2g}"


def choose(runs: Runs, weights: list[str]) -> str:
    """The weight with the best mean few-shot accuracy on validation images at little cost."""

    def average(weight: str, figure: str) -> float:
        return float(mean(figures["validation"][figure] for figures in runs[weight]))

    best = max(average(weight, "coarse") for weight in weights)
    cheap = [weight for weight in weights if average(weight, "coarse") >= best - TOLERANCE]
    return max(cheap, key=lambda weight: average(weight, "few-shot"))


STUDY = Study(
    "auto",
    settings,
    keys,
    measure,
    tables,
    shows='beta="auto" against a search',
    time="a quarter of an hour on one core",
    data="MNIST, CIFAR-10",
    seeds=3,
    determines=determines,
    uses=Uses(
        (rows("MNIST train", 0, 50_000, shuffled=True), SHUFFLED[0, 10_000]),
        (rows("MNIST train", 50_000, 60_000, shuffled=True), SHUFFLED[40_000, 50_000]),
        (everything("MNIST test"), everything("CIFAR-10 test")),
    ),
    without_raw="they stand in structure-digits, under a probe whose penalty was chosen",
    without_control="the probe's penalty is not chosen and the pixels are missing, so nothing "
    "follows from the ten classes",
)

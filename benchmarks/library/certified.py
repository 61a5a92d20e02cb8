"""A proven lower and a measured upper bound on the robust accuracy of small MLPs on MNIST."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812 (torch's own convention)

from benchmarks.images import Uses, rows
from benchmarks.networks import accuracy_of, mlp
from benchmarks.results import Figures, Found, Key
from benchmarks.sampling import even_split
from benchmarks.study import Lab, Study, quickly
from benchmarks.tables import Column, count, grouped, page, seeds_of, table
from benchmarks.training import Batches, adam, descend
from isoreg import RobustLoss
from isoreg.datasets import mnist
from isoreg.robustness import evaluate

METHODS = {"cross-entropy": 0.0, "RobustLoss, eps 0.1": 0.1}


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment."""

    width: int = 100
    depth: int = 2
    train_images: int = 10_000
    epochs: int = 4
    batch_size: int = 100
    test_images: int = 2_000
    attacked: int = 200
    eps: tuple[float, ...] = (0.01, 0.02, 0.05, 0.1)


def keys(lab: Lab[Settings]) -> Iterator[Key]:
    """Seed by seed."""
    for seed in range(lab.seeds):
        for method in METHODS:
            yield {"seed": seed, "method": method}


def determines(key: Key, settings: Settings) -> dict[str, Any]:
    """All settings, and the radius that training uses."""
    return {**asdict(settings), "radius": METHODS[key["method"]]}


def measure(key: Key, lab: Lab[Settings]) -> Figures:
    """Train one network, attack it and compute a certified bound."""
    chosen, radius = lab.settings, METHODS[key["method"]]
    images, labels = lab.once(
        "train", lambda: even_split(*mnist("train", lab.data_dir), chosen.train_images)
    )
    test = lab.once("test", lambda: even_split(*mnist("test", lab.data_dir), chosen.test_images))
    torch.manual_seed(key["seed"])
    model = mlp(width=chosen.width, depth=chosen.depth, activation=torch.nn.ReLU)
    batches = Batches(len(images), chosen.batch_size, chosen.epochs)
    robust = RobustLoss(model, eps=radius, warmup_steps=len(batches) // 2)

    def loss(chosen_rows: torch.Tensor, _: float) -> torch.Tensor:
        x, y = images[chosen_rows], labels[chosen_rows]
        return robust(x, y) if radius else F.cross_entropy(model(x), y)

    descend(loss, adam(model), batches)
    model.eval()
    report = evaluate(
        *(model, *even_split(*test, chosen.attacked)),
        eps=chosen.eps,
        attacks=("pgd-ce", "pgd-margin"),
        certified=True,
        progress=False,
    )
    return {
        "clean": accuracy_of(model, *test),
        "lower": [report.lower_bound[eps] for eps in chosen.eps],
        "upper": [report.worst_case[eps] for eps in chosen.eps],
        "warnings": report.warnings,
    }


def tables(results: Found) -> str:
    """A table with the lower and the upper bound beside each other."""
    chosen = results["settings"]
    columns = [
        Column(f"eps {eps:g}, {text}", lambda run, b=bound, at=index: run[b][at])  # type: ignore[misc]
        for index, eps in enumerate(chosen["eps"])
        for bound, text in (("lower", "at least"), ("upper", "at most"))
    ]
    return page(
        "# Between which two numbers the robust accuracy lies",
        f"MNIST, ReLU MLPs with {chosen['depth']} hidden layers of {chosen['width']} units, "
        f"{chosen['train_images']:,} training images, {count(chosen['epochs'], 'epoch')}, "
        f"{count(seeds_of(results), 'seed')}; in %, mean ± standard deviation over seeds.",
        "## Robust accuracy",
        f"L-inf, {chosen['attacked']} test images. At least: proven by linear relaxation. At most: "
        "what PGD of 40 steps on cross-entropy (one start) and on the margin (two starts) leave. "
        f"Clean accuracy is of {chosen['test_images']:,} test images.",
        table("training", grouped(results["runs"], "method"), [Column("clean", "clean"), *columns]),
    )


STUDY = Study(
    "certified",
    quickly(Settings(), train_images=500, test_images=100, attacked=20, eps=(0.01, 0.1)),
    keys,
    measure,
    tables,
    shows="between which two numbers the robust accuracy of MLPs lies",
    time="a minute on one core",
    data="MNIST",
    seeds=3,
    determines=determines,
    uses=Uses(
        (rows("MNIST train", 0, 60_000, step=6),), (), (rows("MNIST test", 0, 10_000, step=5),)
    ),
    without_control="no claim of a gain is made: each network has its own two bounds",
)

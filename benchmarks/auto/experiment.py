"""Train with numbers and with "auto", and measure what the features know."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own convention)

from benchmarks.auto.tasks import Task, load
from benchmarks.progress import progress_bar
from benchmarks.results import Results
from isoreg import AutoBeta, IsometryRegularizer
from isoreg.diagnostics import distortion


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

    def quick(self) -> Settings:
        """A version that takes less than a minute; its figures mean nothing."""
        return replace(
            self, tasks=("mnist",), betas=(0.0, 0.1), shares=(0.1,), train_images=(2000,), draws=2
        )


def run(settings: Settings, *, seeds: int, data_dir: Path | None, out: Path) -> Results:
    """Run what is not yet in the file ``out``, seed by seed."""
    results = Results(out, asdict(settings))
    weights = [f"{beta:g}" for beta in settings.betas]
    weights += [f"auto {share:g}" for share in settings.shares]
    keys: list[dict[str, Any]] = [
        {"task": task, "beta": weight, "seed": seed}
        for task in settings.tasks
        for seed in range(seeds)
        for weight in weights
    ]
    todo = [key for key in keys if not results.has(key)]
    tasks: dict[str, Task] = {}
    with progress_bar() as progress:
        bar = progress.add_task("", total=len(todo))
        for key in todo:
            name = key["task"]
            progress.update(bar, description=f"{name}, seed {key['seed']}, beta {key['beta']}")
            if name not in tasks:
                images = settings.train_images[settings.tasks.index(name)]
                tasks[name] = load(name, images, data_dir)
            results.add(key, _measure(tasks[name], key, settings))
            progress.advance(bar)
    return results


def _measure(task: Task, key: dict[str, Any], settings: Settings) -> dict[str, Any]:
    torch.manual_seed(key["seed"])
    kind, _, share = key["beta"].partition(" ")
    beta = AutoBeta(float(share)) if kind == "auto" else float(kind)
    model = task.network()
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
    images, labels = task.splits["train"]
    coarse = task.coarse(labels)
    betas: list[float] = []
    with IsometryRegularizer(model, task.layers, beta=beta) as iso:
        for _ in range(task.epochs):
            for batch in torch.randperm(len(images)).split(settings.batch_size):
                loss = F.cross_entropy(model(images[batch]), coarse[batch])
                if beta != 0:
                    loss = loss + iso(coarse[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                betas.append(iso.beta)
    model.eval()
    parts = [mean(part) for part in _parts(betas, 5)]
    known = _features(model, images), labels
    measured = {
        split: _figures(model, task, split, known, settings.draws)
        for split in ("validation", "test")
    }
    return {"betas": parts, **measured}


def _figures(
    model: nn.Sequential, task: Task, split: str, known: tuple[Tensor, Tensor], draws: int
) -> dict[str, float]:
    images, labels = task.splits[split]
    coarse, features = task.coarse(labels), _features(model, images)
    with torch.no_grad():
        right = model[-1](features).argmax(1) == coarse
    sample = torch.arange(0, len(images), max(1, len(images) // 1000))
    found = distortion(images[sample], features[sample], coarse[sample])
    return {
        "coarse": right.float().mean().item(),
        "few-shot": mean(_few_shot(known, (features, labels), seed) for seed in range(draws)),
        "correlation": found.correlation,
        "stress": found.stress,
    }


def _few_shot(known: tuple[Tensor, Tensor], asked: tuple[Tensor, Tensor], seed: int) -> float:
    """Accuracy on the fine labels of a linear probe that saw ten examples of each."""
    features, labels = known
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    chosen = torch.cat([order[labels[order] == label][:10] for label in range(10)])
    probe = LogisticRegression(max_iter=2000).fit(features[chosen], labels[chosen])
    return float(probe.score(*asked))


@torch.no_grad()
def _features(model: nn.Sequential, images: Tensor) -> Tensor:
    return torch.cat([model[:-1](part) for part in images.split(1000)])


def _parts(values: list[float], count: int) -> list[list[float]]:
    step = max(1, -(-len(values) // count))
    return [values[i : i + step] for i in range(0, len(values), step)]

"""Train stacked locally isometric layers on the torus and measure every level."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR

from benchmarks.geometry import embedding, geometry
from benchmarks.progress import progress_bar
from benchmarks.results import Results
from isoreg import datasets
from isoreg.lil import StackedLIL

CLASSES = (2, 4, 8)
_NEW = 1000  # the seed of points that were not trained on


@dataclass(frozen=True)
class Variant:
    """What differs from the paper's text and from the settings."""

    beta: float = 100.0
    regions: str = "cylinders"
    gradients: str = "own"
    reference: str = "inputs"
    heads: str = "shared"
    width: int = 20


# the first is trained from every seed, the others from the first; the first two are drawn
DRAWN = 2
VARIANTS = {
    "isometry, beta 100 (text)": Variant(),
    "cross-entropy": Variant(beta=0.0),
    "beta 10 (released code)": Variant(beta=10.0),
    "bands in place of cylinders": Variant(regions="bands"),
    "gradients reach everything": Variant(gradients="full"),
    "each level against the LIL before": Variant(reference="preceding"),
    "a head for each level": Variant(heads="own"),
    "100 units a layer": Variant(width=100),
}


@dataclass(frozen=True)
class Settings:
    """The paper's data. Epochs and learning rate, which falls as a cosine, are not in its text."""

    epochs: int = 3000
    points: int = 1600
    learning_rate: float = 0.01


def run(settings: Settings, *, seeds: int, quick: bool, out: Path) -> Results:
    """Run what is not yet in the file ``out``."""
    results = Results(out, asdict(settings))
    first, *others = list(VARIANTS)[: DRAWN if quick else None]
    keys = [(seed, first) for seed in range(seeds)] + [(0, name) for name in others]
    todo = [key for key in keys if not results.has(_key(*key))]
    with progress_bar() as progress:
        bar = progress.add_task("", total=len(todo) * settings.epochs)
        for seed, name in todo:
            progress.update(bar, description=f"seed {seed}, {name}")
            figures = _measure(seed, name, settings, lambda: progress.advance(bar))
            results.add(_key(seed, name), figures)
    return results


def _key(seed: int, name: str) -> dict[str, Any]:
    return {"seed": seed, "variant": name}


def _measure(
    seed: int, name: str, settings: Settings, advance: Callable[[], None]
) -> dict[str, object]:
    variant = VARIANTS[name]
    x, levels = datasets.torus(settings.points, regions=variant.regions)
    model = _trained(seed, variant, settings, x, levels, advance)
    drawn = seed == 0 and name in list(VARIANTS)[:DRAWN]
    new_x, new_levels = datasets.torus(settings.points, regions=variant.regions, seed=_NEW)
    figures: dict[str, object] = {"variant": asdict(variant)}
    with torch.no_grad():
        outputs = zip(CLASSES, model(x), model.features(x), levels, strict=True)
        new_logits = model(new_x)
    for level, (classes, logits, features, y) in enumerate(outputs):
        found = geometry(x, features, y)
        figures[f"{classes} classes"] = {
            "accuracy": _accuracy(logits, y),
            "accuracy on new points": _accuracy(new_logits[level], new_levels[level]),
            "distortion": found["distortion"],
            "all pairs": geometry(x, features, None)["distortion"],
            **({"pairs": found["pairs"], "embedding": embedding(features, 0)} if drawn else {}),
        }
    return figures


def _trained(
    seed: int,
    variant: Variant,
    settings: Settings,
    x: Tensor,
    levels: Sequence[Tensor],
    advance: Callable[[], None],
) -> StackedLIL:
    torch.manual_seed(seed)
    model = StackedLIL(
        3,
        CLASSES,
        width=variant.width,
        gradients=variant.gradients,
        heads=variant.heads,
        reference=variant.reference,
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
    schedule = CosineAnnealingLR(optimizer, settings.epochs)
    for _ in range(settings.epochs):
        loss = model.loss(x, levels, beta=variant.beta)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        advance()
    return model


def _accuracy(logits: Tensor, y: Tensor) -> float:
    return (logits.argmax(1) == y).float().mean().item()

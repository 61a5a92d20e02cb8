"""Train stacked locally isometric layers on the torus and measure every level."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.geometry import embedding, geometry
from benchmarks.progress import progress_bar
from benchmarks.results import Results
from isoreg import datasets
from isoreg.lil import StackedLIL

CLASSES = (2, 4, 8)


@dataclass(frozen=True)
class Variant:
    """What differs from the paper's text; ``epochs`` multiplies those of the settings."""

    beta: float = 100.0
    regions: str = "cylinders"
    gradients: str = "own"
    reference: str = "inputs"
    heads: str = "shared"
    width: int = 20
    epochs: int = 1


# the first two are drawn
VARIANTS = {
    "isometry, beta 100 (text)": Variant(),
    "cross-entropy": Variant(beta=0.0),
    "beta 10 (released code)": Variant(beta=10.0),
    "bands in place of cylinders": Variant(regions="bands"),
    "gradients reach the LIL before": Variant(gradients="preceding"),
    "gradients reach everything": Variant(gradients="full"),
    "each level against the LIL before": Variant(reference="preceding"),
    "a head for each level": Variant(heads="own"),
    "100 units a layer": Variant(width=100),
    "five times as long": Variant(epochs=5),
}


@dataclass(frozen=True)
class Settings:
    """The paper's data; epochs and learning rate are not in its text."""

    epochs: int = 1200
    points: int = 1600
    learning_rate: float = 1e-3


def run(settings: Settings, *, seeds: int, quick: bool, out: Path) -> Results:
    """Run what is not yet in the file ``out``."""
    results = Results(out, asdict(settings))
    names = list(VARIANTS)[: 2 if quick else None]
    keys = [(seed, name) for seed in range(seeds) for name in names]
    todo = [key for key in keys if not results.has(_key(*key))]
    with progress_bar() as progress:
        total = sum(settings.epochs * VARIANTS[name].epochs for _, name in todo)
        bar = progress.add_task("", total=total)
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
    for _ in range(settings.epochs * variant.epochs):
        loss = model.loss(x, levels, beta=variant.beta)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        advance()
    figures: dict[str, object] = {"variant": asdict(variant)}
    drawn = seed == 0 and name in list(VARIANTS)[:2]
    with torch.no_grad():
        outputs = zip(CLASSES, levels, model(x), model.features(x), strict=True)
        for classes, y, logits, features in outputs:
            found = geometry(x, features, y)
            figures[f"{classes} classes"] = {
                "accuracy": (logits.argmax(1) == y).float().mean().item(),
                "distortion": found["distortion"],
                "all pairs": geometry(x, features, None)["distortion"],
                **({"pairs": found["pairs"], "embedding": embedding(features, 0)} if drawn else {}),
            }
    return figures

"""The paper's torus with its label hierarchy: figure 4."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.images import Part, Uses
from benchmarks.paper.geometry import embedding, geometry
from benchmarks.probes import accuracy
from benchmarks.results import Figures, Found, Key
from benchmarks.study import Lab, Study, quickly
from benchmarks.style import BLACK, BLUE, COLOURS, new_figure, save, umap_of
from benchmarks.tables import Column, grouped, page, table, with_keys
from benchmarks.training import adam, cosine, descend_whole
from isoreg import datasets
from isoreg.lil import StackedLIL

CLASSES = (2, 4, 8)
_NEW = 1000  # seed of the points that no network is trained on
# Beta by name. The first variant runs with all seeds, the other with seed 0 only.
VARIANTS = {"isometry, beta 100 (text)": 100.0, "cross-entropy": 0.0}
_REGIONS = "cylinders"
_KIND: dict[str, Any] = {"gradients": "own", "reference": "inputs", "heads": "shared", "width": 20}
"""Choices that the paper leaves open. The alternatives were run once, and those runs are kept."""


@dataclass(frozen=True)
class Settings:
    """The paper's data. Epochs and learning rate, which falls as a cosine, are not in its text."""

    epochs: int = 3000
    points: int = 1600
    learning_rate: float = 0.01


def keys(lab: Lab[Settings]) -> Iterator[Key]:
    """All seeds of the first variant, then seed 0 of the others."""
    first, *others = VARIANTS
    for seed, name in [(s, first) for s in range(lab.seeds)] + [(0, name) for name in others]:
        yield {"seed": seed, "variant": name}


def determines(key: Key, settings: Settings) -> dict[str, Any]:
    """All settings, and the beta and the open choices of the variant."""
    variant = {"beta": VARIANTS[key["variant"]], "regions": _REGIONS, **_KIND}
    return {**asdict(settings), "variant": variant}


def measure(key: Key, lab: Lab[Settings]) -> Figures:
    """Train stacked locally isometric layers and measure accuracy and geometry at every level."""
    beta, seed, points = VARIANTS[key["variant"]], key["seed"], lab.settings.points
    x, levels = datasets.torus(points, regions=_REGIONS)
    torch.manual_seed(seed)
    model = StackedLIL(3, CLASSES, **_KIND)
    rate = lab.settings.learning_rate
    descend_whole(
        lambda: model.loss(x, levels, beta=beta),
        adam(model, rate),
        lab.settings.epochs,
        rate=cosine(rate),
        after=lab.tick,
    )
    new_x, new_levels = datasets.torus(points, regions=_REGIONS, seed=_NEW)
    figures: Figures = {}
    with torch.no_grad():
        outputs = zip(CLASSES, model(x), model.features(x), levels, strict=True)
        new_logits = model(new_x)
    for level, (classes, logits, features, y) in enumerate(outputs):
        within = geometry(x, features, y)
        figures[f"{classes} classes"] = {
            "accuracy": accuracy(logits.argmax(1), y),
            "accuracy on new points": accuracy(new_logits[level].argmax(1), new_levels[level]),
            "distortion": within["distortion"],
            "all pairs": geometry(x, features, None)["distortion"],
            **(
                {"pairs": within["pairs"], "embedding": embedding(features, 0)} if seed == 0 else {}
            ),
        }
    return figures


COLUMNS = (
    Column("accuracy %", "accuracy"),
    Column("new points %", "accuracy on new points"),
    Column("r", "distortion/correlation", 3),
    Column("stress", "distortion/stress", 3),
)


def tables(results: Found) -> str:
    """A Markdown table: accuracy and distances of every variant at every level."""
    settings, runs = results["settings"], grouped(results["runs"], "variant")
    rows = []
    for variant in runs:
        for classes in CLASSES:
            names = (variant if classes == CLASSES[0] else "", classes)
            rows.append((names, [figures[f"{classes} classes"] for figures in runs[variant]]))
    return page(
        "# Torus with a label hierarchy",
        f"{settings['points']:,} points, {settings['epochs']:,} epochs, learning rate from "
        f"{settings['learning_rate']:g} to 0 along a cosine; mean ± standard deviation "
        "over seeds, or one seed. Accuracy on the training points and on as many new ones; r and "
        "stress of the distances within each class of the level, against the input's.",
        table(("training", "classes"), rows, COLUMNS),
    )


def draw(results: Found, path: Path) -> None:
    """Draw the torus, and for each variant the UMAP and the distances of every level."""
    first = grouped(with_keys(results, seed=0), "variant")
    runs = {name: first[name][0] for name in VARIANTS if name in first}
    x, levels = datasets.torus(results["settings"]["points"])
    colours = [COLOURS[int(label)] for label in levels[-1]]
    figure = new_figure(11, 2.6 * 2 * len(runs))
    panels: Any = figure.subfigures(1, 2, width_ratios=[1.2, 3])
    left, right = panels
    axes = right.subplots(2 * len(runs), len(CLASSES))
    space: Any = left.add_subplot(projection="3d")
    space.scatter(*x.T, c=colours, s=4)
    space.set_box_aspect((1, 1, 0.4))
    space.set(title="input, coloured by its 8 classes", xlabel="x", ylabel="y", zlabel="z")
    for row, (name, figures) in enumerate(runs.items()):
        for column, classes in enumerate(CLASSES):
            level = figures[f"{classes} classes"]
            title = f"{name}\n{classes} classes, accuracy {level['accuracy']:.3f}"
            umap_of(axes[2 * row, column], level["embedding"], colours, title, 9, s=3)
            axis = axes[2 * row + 1, column]
            inputs, features = level["pairs"]
            axis.scatter(inputs, features, s=2, alpha=0.4, color=BLUE, linewidths=0)
            end = 1.05 * max(inputs)
            axis.plot([0, end], [0, end], color=BLACK, linewidth=0.8)
            axis.set(xlabel="input distance within a class", ylabel="feature distance")
            d = level["distortion"]
            axis.set_title(f"r = {d['correlation']:.3f}, stress = {d['stress']:.3f}", fontsize=9)
    save(figure, path, dpi=150)


STUDY = Study(
    "torus",
    quickly(Settings(), points=100, epochs=20),
    keys,
    measure,
    tables,
    draw,
    shows="the paper's figure 4",
    time="40 minutes on one core",
    seeds=3,
    determines=determines,
    frozen=lambda key: key["variant"] not in VARIANTS,
    uses=Uses((Part("torus", seeds=(0,)),), (), (Part("torus", seeds=(_NEW,)),)),
    without_control="the table shows the paper's own experiment at the paper's beta",
)

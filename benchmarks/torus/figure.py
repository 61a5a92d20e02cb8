"""The paper's figure 4: the representation of each level, and what became of the distances."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from benchmarks.torus.experiment import CLASSES, DRAWN, VARIANTS
from isoreg import datasets

# the eight of Okabe and Ito, which colour-blind readers can tell apart
_COLOURS = (
    *("#0072B2", "#E69F00", "#009E73", "#CC79A7"),
    *("#56B4E9", "#D55E00", "#000000", "#F0E442"),
)


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw the torus, and for isometry and cross-entropy each level's UMAP and distances."""
    names = list(VARIANTS)[:DRAWN]
    runs = {
        run["key"]["variant"]: run["figures"]
        for run in results["runs"]
        if run["key"]["seed"] == 0 and run["key"]["variant"] in names
    }
    x, levels = datasets.torus(results["settings"]["points"])
    colours = [_COLOURS[int(label)] for label in levels[-1]]
    figure = Figure(figsize=(11, 2.6 * 2 * len(runs)), layout="constrained")
    parts: Any = figure.subfigures(1, 2, width_ratios=[1.2, 3])
    left, right = parts
    axes = right.subplots(2 * len(runs), len(CLASSES))
    space: Any = left.add_subplot(projection="3d")
    space.scatter(*x.T, c=colours, s=4)
    space.set_box_aspect((1, 1, 0.4))
    space.set(title="input, coloured by its 8 classes", xlabel="x", ylabel="y", zlabel="z")
    for row, (name, figures) in enumerate(runs.items()):
        for column, classes in enumerate(CLASSES):
            found = figures[f"{classes} classes"]
            axis = axes[2 * row, column]
            first, second = torch.tensor(found["embedding"]).T
            axis.scatter(first, second, c=colours, s=3)
            axis.set(xticks=[], yticks=[], xlabel="UMAP 1", ylabel="UMAP 2")
            title = f"{name}\n{classes} classes, accuracy {found['accuracy']:.3f}"
            axis.set_title(title, fontsize=9)
            axis = axes[2 * row + 1, column]
            inputs, features = found["pairs"]
            axis.scatter(inputs, features, s=2, alpha=0.4, color="#0072B2", linewidths=0)
            end = 1.05 * max(inputs)
            axis.plot([0, end], [0, end], color="black", linewidth=0.8)
            axis.set(xlabel="input distance within a class", ylabel="feature distance")
            d = found["distortion"]
            axis.set_title(f"r = {d['correlation']:.3f}, stress = {d['stress']:.3f}", fontsize=9)
    figure.savefig(path, dpi=150)

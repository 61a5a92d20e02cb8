"""The paper's figures 1A, 2A and 2B: what each training does to the rings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.geometry import BIN_WIDTH
from isoreg.datasets import entangled_rings

_COLOURS = ("#0072B2", "#D55E00")  # blue and vermilion of Okabe and Ito


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw the rings, the UMAP of each representation and the distances within classes."""
    runs = {run["key"]["variant"]: run["figures"] for run in reversed(results["runs"])}
    runs = dict(reversed(runs.items()))
    x, y = entangled_rings(results["settings"]["points"])
    colours = [_COLOURS[int(label)] for label in y]
    figure = Figure(figsize=(3 * (1 + len(runs)), 5.8), layout="constrained")
    grid = figure.add_gridspec(2, 1 + len(runs))
    space: Any = figure.add_subplot(grid[:, 0], projection="3d")
    space.scatter(*x.T, c=colours, s=6)
    space.set_box_aspect((3, 2, 2))
    space.set(title="input", xlabel="x", ylabel="y", zlabel="z")
    for column, (variant, figures) in enumerate(runs.items(), start=1):
        axis = figure.add_subplot(grid[0, column])
        first, second = torch.tensor(figures["embedding"]).T
        axis.scatter(first, second, c=colours, s=6)
        axis.set(xticks=[], yticks=[], xlabel="UMAP 1", ylabel="UMAP 2")
        axis.set_title(f"{variant}\naccuracy {figures['accuracy']:.3f}", fontsize=10)
        _histograms(figure.add_subplot(grid[1, column]), figures)
    figure.savefig(path, dpi=150)


def _histograms(axis: Axes, figures: dict[str, Any]) -> None:
    edges = [BIN_WIDTH * k for k in range(len(figures["input histogram"]) + 1)]
    features, inputs = figures["feature histogram"], figures["input histogram"]
    axis.stairs(features, edges, fill=True, color="#009E73", alpha=0.6, label="last hidden layer")
    axis.stairs(inputs, edges, color="black", label="input")
    last = max(k for k, pair in enumerate(zip(features, inputs, strict=True)) if any(pair))
    axis.set(yscale="log", xlim=(0, edges[last + 1] * 1.05), ylim=(0.7, None))
    axis.set(xlabel="distance within a class", ylabel="pairs")
    d = figures["distortion"]
    axis.set_title(f"r = {d['correlation']:.4f}, stress = {d['stress']:.4f}", fontsize=9)
    axis.legend(fontsize=7)

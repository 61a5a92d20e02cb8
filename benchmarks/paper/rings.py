"""The paper's entangled rings: figures 1A and 2."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own convention)

from benchmarks.paper.geometry import BIN_WIDTH, embedding, geometry
from benchmarks.probes import accuracy
from benchmarks.results import Figures, Found, Key
from benchmarks.study import Lab, Study, quickly
from benchmarks.style import BLACK, BLUE, GREEN, VERMILION, new_figure, save, umap_of
from benchmarks.tables import Column, count, grouped, page, seeds_of, table
from benchmarks.training import adam, descend_whole
from isoreg import isometry_penalty
from isoreg.datasets import entangled_rings
from isoreg.lil import LocallyIsometricLayer

# By name: beta, and whether the penalty compares only pairs of equal label.
VARIANTS = {
    "cross-entropy": (0.0, True),
    "isometry within classes": (1.0, True),
    "global isometry": (1.0, False),
}


@dataclass(frozen=True)
class Settings:
    """The paper's settings: 10,000 full-batch epochs of Adam. The last two are not in the paper."""

    width: int = 20
    depth: int = 4
    epochs: int = 10_000
    points: int = 400
    learning_rate: float = 1e-3


def keys(lab: Lab[Settings]) -> Iterator[Key]:
    """Seed by seed."""
    for seed in range(lab.seeds):
        for name in VARIANTS:
            yield {"seed": seed, "variant": name}


def determines(key: Key, settings: Settings) -> dict[str, Any]:
    """All settings, and the entry of `VARIANTS` itself."""
    return {**asdict(settings), "variant": VARIANTS[key["variant"]]}


def measure(key: Key, lab: Lab[Settings]) -> Figures:
    """Train on the rings and measure how far the features keep their distances."""
    settings, (beta, within) = lab.settings, VARIANTS[key["variant"]]
    x, y = entangled_rings(settings.points)
    torch.manual_seed(key["seed"])
    lil = LocallyIsometricLayer(3, width=settings.width, depth=settings.depth)
    head = nn.Linear(settings.width, 2)

    def loss() -> Tensor:
        features = lil(x)
        penalty = isometry_penalty(x, features, y if within else None) if beta else 0.0
        return F.cross_entropy(head(features), y) + beta * penalty

    optimizers = adam([*lil.parameters(), *head.parameters()], settings.learning_rate)
    descend_whole(loss, optimizers, settings.epochs, after=lab.tick)
    features = lil(x).detach()
    return {
        "accuracy": accuracy(head(features).argmax(1), y),
        **geometry(x, features, y),
        "all pairs": geometry(x, features, None)["distortion"],
        "gradients": gradients(lil, head, x, y),
        "embedding": embedding(features, key["seed"]),
    }


def gradients(lil: nn.Module, head: nn.Module, x: Tensor, y: Tensor) -> dict[str, float]:
    """Measure the paper's bound on the gradient of the loss, |dL/dx| <= K |dL/dPhi|.

    K is 1 for an isometry of the whole space. Each figure is the largest over the points:
    ``constant`` of the ratio |dL/dx| / |dL/dPhi|, ``Jacobian`` of the singular values of dPhi/dx,
    ``along`` of its gain along the ring, where the penalty compares pairs, and ``across`` of its
    gain in the two directions across the ring, where it compares none.
    """
    x = x.clone().requires_grad_()
    features = lil(x)
    loss = F.cross_entropy(head(features), y, reduction="sum")
    by_input, by_features = torch.autograd.grad(loss, [x, features])
    ratio = by_input.norm(dim=1) / by_features.norm(dim=1).clamp_min(1e-30)
    jacobians = torch.func.vmap(torch.func.jacrev(lil))(x.detach())
    along, across = _frames(x.detach(), y)
    return {
        "constant": ratio.max().item(),
        "Jacobian": torch.linalg.matrix_norm(jacobians, 2).max().item(),
        "along": (jacobians @ along).norm(dim=1).max().item(),
        "across": torch.linalg.matrix_norm(jacobians @ across, 2).max().item(),
    }


def _frames(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Unit tangents (n, 3, 1) and unit normals (n, 3, 2) of the rings at the points."""
    tangents = torch.empty_like(x)
    for k in (0, 1):
        ring = x[y == k]
        tangents[y == k] = F.normalize(ring.roll(-1, 0) - ring.roll(1, 0), dim=1)
    full = torch.linalg.svd(tangents[:, None]).Vh  # rows: the tangent, then two normals
    return full[:, :1].mT, full[:, 1:].mT


DISTANCES = (
    Column("accuracy %", "accuracy"),
    Column("Pearson r", "distortion/correlation", 5),
    Column("stress", "distortion/stress", 4),
    Column("largest ratio", "distortion/expansion", 3),
    Column("smallest ratio", "distortion/contraction", 3),
    Column("stress of all pairs", "all pairs/stress", 3),
)
GRADIENTS = (
    Column("largest ratio", "gradients/constant", 2),
    Column("largest singular value", "gradients/Jacobian", 2),
    Column("along", "gradients/along", 2),
    Column("across", "gradients/across", 2),
)


def tables(results: Found) -> str:
    """Two Markdown tables: distances, and the bound on the loss's gradient."""
    settings = results["settings"]
    by_variant = dict(sorted(grouped(results["runs"], "variant").items()))
    return page(
        "# Entangled rings",
        f"{settings['points']} points, {settings['epochs']:,} epochs, "
        f"{count(seeds_of(results), 'seed')}; mean ± "
        "standard deviation over seeds. Distances within each ring; 'stress of all pairs' "
        "also counts those between the rings.",
        table("training", by_variant, DISTANCES),
        "## The bound on the gradient of the loss",
        "The paper: for an isometric representation |dL/dx| is at most |dL/dPhi| (K = 1). "
        "Measured: the largest ratio of the two over the points, the largest singular value "
        "of dPhi/dx, and its gain along the ring and across it.",
        table("training", by_variant, GRADIENTS),
    )


def draw(results: Found, path: Path) -> None:
    """Draw the rings, the UMAP of each representation and the distances within classes."""
    runs = {name: figures[0] for name, figures in grouped(results["runs"], "variant").items()}
    x, y = entangled_rings(results["settings"]["points"])
    colours = [(BLUE, VERMILION)[int(label)] for label in y]
    figure = new_figure(3 * (1 + len(runs)), 5.8)
    grid = figure.add_gridspec(2, 1 + len(runs))
    space: Any = figure.add_subplot(grid[:, 0], projection="3d")
    space.scatter(*x.T, c=colours, s=6)
    space.set_box_aspect((3, 2, 2))
    space.set(title="input", xlabel="x", ylabel="y", zlabel="z")
    for column, (variant, figures) in enumerate(runs.items(), start=1):
        axis, title = figure.add_subplot(grid[0, column]), f"accuracy {figures['accuracy']:.3f}"
        umap_of(axis, figures["embedding"], colours, f"{variant}\n{title}", 10, s=6)
        _histograms(figure.add_subplot(grid[1, column]), figures)
    save(figure, path, dpi=150)


def _histograms(axis: Axes, figures: Figures) -> None:
    edges = [BIN_WIDTH * k for k in range(len(figures["input histogram"]) + 1)]
    features, inputs = figures["feature histogram"], figures["input histogram"]
    axis.stairs(features, edges, fill=True, color=GREEN, alpha=0.6, label="last hidden layer")
    axis.stairs(inputs, edges, color=BLACK, label="input")
    last = max(k for k, pair in enumerate(zip(features, inputs, strict=True)) if any(pair))
    axis.set(yscale="log", xlim=(0, edges[last + 1] * 1.05), ylim=(0.7, None))
    axis.set(xlabel="distance within a class", ylabel="pairs")
    d = figures["distortion"]
    axis.set_title(f"r = {d['correlation']:.4f}, stress = {d['stress']:.4f}", fontsize=9)
    axis.legend(fontsize=7)


STUDY = Study(
    "rings",
    quickly(Settings(), points=80, epochs=60),
    keys,
    measure,
    tables,
    draw,
    shows="the paper's figures 1A and 2",
    time="10 minutes on one core",
    seeds=3,
    determines=determines,
    without_control="the table shows the paper's own experiment at the paper's beta",
)

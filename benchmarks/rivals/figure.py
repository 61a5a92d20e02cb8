"""Robust accuracy over the cost of training."""

from __future__ import annotations

from pathlib import Path
from statistics import mean, stdev
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.objectives import METHODS

# family: its colour and marker, and the methods in it
FAMILIES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "no local term": (
        "#666666",
        "o",
        ("cross-entropy", "weight-decay", "label-smoothing", "noise"),
    ),
    "distances of a batch": (
        "#009E73",
        "D",
        ("isometry", "isometry-every-layer", "relational-distillation"),
    ),
    "constrained weights": ("#E69F00", "s", ("spectral-norm", "orthogonal", "parseval")),
    "input gradients": (
        "#0072B2",
        "^",
        ("jacobian", "input-gradient", "first-order-margin"),
    ),
    "adversarial images": ("#D55E00", "v", ("fgsm", "pgd", "trades")),
}


def draw(
    tested: dict[str, list[dict[str, Any]]],
    cost: dict[str, Any],
    settings: dict[str, Any],
    path: Path,
) -> None:
    """One panel a radius: worst case over time, a point a method, bars of a standard deviation."""
    radii = settings["eps"][:2]
    figure = Figure(figsize=(6.2 * len(radii), 5.6), layout="constrained")
    for column, (axis, eps) in enumerate(
        zip(figure.subplots(1, len(radii), squeeze=False)[0], radii, strict=True)
    ):
        _panel(axis, tested, cost["ratio"], column)
        axis.set_title(f"L-inf radius {eps:g}")
        axis.set(xlabel="time of a training step, as a ratio to cross-entropy's", xscale="log")
        axis.set(ylabel="test images that survive every attack (%)")
        ticks = [1, 2, 3, 4, 6, 8]
        axis.set_xticks(ticks, [f"{tick}" for tick in ticks], minor=False)
        axis.set_xticks([], minor=True)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    figure.savefig(path, dpi=150)


def _panel(
    axis: Axes, tested: dict[str, list[dict[str, Any]]], ratio: dict[str, float], column: int
) -> None:
    for family, (colour, marker, methods) in FAMILIES.items():
        shown = [method for method in methods if method in tested]
        values = [
            [100 * run["Linf"]["worst case"][column] for run in tested[method]] for method in shown
        ]
        axis.errorbar(
            [ratio[method] for method in shown],
            [mean(found) for found in values],
            yerr=[stdev(found) if len(found) > 1 else 0.0 for found in values],
            fmt=marker,
            color=colour,
            label=family,
            capsize=2,
            markersize=6,
        )
        for method, found in zip(shown, values, strict=True):
            name = METHODS[method].title if method in METHODS else method
            axis.annotate(
                name,
                (ratio[method], mean(found)),
                xytext=(6, 4),
                textcoords="offset points",
                fontsize=8,
                color=colour,
            )

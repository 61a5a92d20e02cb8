"""Worst-case accuracy over the cost of training."""

from __future__ import annotations

from pathlib import Path
from statistics import mean, stdev
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.robust.measured import by_training, costs
from benchmarks.robust.plans import CHEAP, RECIPES, title_of
from benchmarks.robust.training import TITLES

# Okabe and Ito's colours, and markers for those who see none
_LOOKS = {
    "cross-entropy": ("#000000", "X"),
    "first-order-margin": ("#D55E00", "o"),
    "fgsm": ("#0072B2", "s"),
    "pgd": ("#56B4E9", "D"),
    "trades": ("#009E73", "^"),
    "jacobian": ("#CC79A7", "v"),
    "input-gradient": ("#E69F00", "P"),
}


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw a row for each network whose cost is measured, and a column for each radius."""
    settings = results["settings"]
    panels = [("Linf", f"{eps:g}") for eps in settings["linf"]]
    panels += [("L2", f"{eps:g}") for eps in settings["l2"]]
    timed = [run["key"]["network"] for run in results["runs"] if run["key"]["phase"] == "cost"]
    networks = list(dict.fromkeys(timed))
    if not networks:
        return
    size = (3 * len(panels), 3.4 * len(networks) + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(networks), len(panels), squeeze=False, sharex=True)
    for row, name in zip(grid, networks, strict=True):
        points = _points(results, name)
        for axis, (norm, eps) in zip(row, panels, strict=True):
            _panel(axis, points, norm, eps)
            label = "L-inf" if norm == "Linf" else f"{norm} (seed 0)"
            axis.set_title(f"{TITLES[name]}\n{label}, eps {eps}", fontsize=10)
        row[0].set_ylabel("worst-case accuracy (%)")
    grid[0][0].set_xlim(0, 1.05 * max(axis.dataLim.x1 for axis in grid.flat))
    figure.supxlabel("cost (trainings by cross-entropy, 5 epochs)", fontsize=10)
    handles, labels = grid[0][0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), fontsize=9)
    figure.savefig(path, dpi=150)


def _points(
    results: dict[str, Any], name: str
) -> dict[str, list[tuple[float, list[dict[str, Any]]]]]:
    """Of each method its budgets: cost, and figures of the seeds."""
    cost, measured = costs(results, name), by_training(results, name)
    figures = {title: [run["figures"] for run in runs] for title, runs in measured.items()}
    found = {}
    for method in RECIPES:
        title = title_of(method)
        titles = [t for t in figures if t in (title, f"{title}{CHEAP}")]
        if method == "cross-entropy":
            titles += [t for t in figures if t.startswith(f"{title}, 5")]
        found[method] = sorted(
            ((cost[t], figures[t]) for t in titles if t in cost), key=lambda point: point[0]
        )
    return found


def _panel(
    axis: Axes,
    points: dict[str, list[tuple[float, list[dict[str, Any]]]]],
    norm: str,
    eps: str,
) -> None:
    for method, budgets in points.items():
        costs, centre, width = [], [], []
        for cost, figures in budgets:
            measured = [found[norm]["shares"]["worst case"] for found in figures if norm in found]
            values = [100 * shares[eps] for shares in measured if eps in shares]
            if not values:
                continue
            costs.append(cost)
            centre.append(mean(values))
            width.append(stdev(values) if len(values) > 1 else 0.0)
        if costs:
            color, marker = _LOOKS[method]
            label = title_of(method)
            axis.errorbar(
                costs, centre, width, color=color, marker=marker, label=label, capsize=2, lw=1
            )
    axis.set_ylim(0, 100)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)

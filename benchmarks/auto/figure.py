"""What each weight brings and costs, on validation images."""

from __future__ import annotations

from pathlib import Path
from statistics import mean, stdev
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

_BLUE, _VERMILION = "#0072B2", "#D55E00"  # of Okabe and Ito
_NAMES = {"mnist": "MNIST, even or odd", "cifar10": "CIFAR-10 (JPEG), animal or vehicle"}
_ROWS = {"few-shot": "ten classes, ten\nexamples each (%)", "coarse": "coarse labels (%)"}

Groups = dict[str, list[dict[str, Any]]]


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw both accuracies over beta: numbers as a line, "auto" where its beta ended."""
    tasks = list(dict.fromkeys(run["key"]["task"] for run in results["runs"]))
    figure = Figure(figsize=(3.6 * len(tasks), 4.4), layout="constrained")
    grid = figure.subplots(2, len(tasks), squeeze=False, sharex="col")
    for column, task in enumerate(tasks):
        groups: Groups = {}
        for run in results["runs"]:
            if run["key"]["task"] == task:
                groups.setdefault(run["key"]["beta"], []).append(run["figures"])
        seeds = max(map(len, groups.values()))
        for row, (name, label) in enumerate(_ROWS.items()):
            _panel(grid[row, column], groups, name)
            if column == 0:
                grid[row, 0].set_ylabel(label)
        title = f"{_NAMES[task]}, {seeds} seed{'s' if seeds > 1 else ''}"
        grid[0, column].set_title(title, fontsize=10)
        grid[1, column].set_xlabel("beta (squares: at the end of training)")
    grid[0, 0].legend(fontsize=8, loc="best")
    figure.savefig(path, dpi=150)


def _panel(axis: Axes, groups: Groups, name: str) -> None:
    points: dict[str, list[tuple[str, float, float, float]]] = {"number": [], "auto": []}
    for weight, figures in groups.items():
        values = [100 * figure["validation"][name] for figure in figures]
        error = stdev(values) if len(values) > 1 else 0.0
        if weight == "0":
            axis.axhline(mean(values), color="black", linestyle=":", label="beta 0")
            continue
        kind = "auto" if weight.startswith("auto") else "number"
        beta = mean(figure["betas"][-1] for figure in figures)
        points[kind].append((weight.removeprefix("auto "), beta, mean(values), error))
    for kind, colour, style, label in (
        ("number", _BLUE, "o-", "beta, a number"),
        ("auto", _VERMILION, "s", "auto, with its share"),
    ):
        if points[kind]:
            names, x, y, error = zip(*points[kind], strict=True)
            axis.errorbar(
                x, y, yerr=error, fmt=style, color=colour, markersize=4, linewidth=1, label=label
            )
            for text, a, b in zip(names, x, y, strict=True):
                if kind == "auto":
                    axis.annotate(
                        text, (a, b), (3, 5), textcoords="offset points", fontsize=7, color=colour
                    )
    axis.set_xscale("log")
    axis.margins(x=0.12, y=0.15)

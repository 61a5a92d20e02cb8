"""What each weight costs and brings, on validation images."""

from __future__ import annotations

from pathlib import Path
from statistics import mean, stdev
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

_BLUE, _VERMILION = "#0072B2", "#D55E00"  # of Okabe and Ito
_NAMES = {"mnist": "MNIST, even or odd", "cifar10": "CIFAR-10 (JPEG), animal or vehicle"}


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw coarse accuracy against few-shot accuracy: numbers as a line, shares as squares."""
    tasks = list(dict.fromkeys(run["key"]["task"] for run in results["runs"]))
    figure = Figure(figsize=(3.6 * len(tasks), 3.2), layout="constrained")
    axes = figure.subplots(1, len(tasks), squeeze=False)[0]
    for axis, task in zip(axes, tasks, strict=True):
        _panel(axis, [run for run in results["runs"] if run["key"]["task"] == task])
        axis.set_title(_NAMES[task], fontsize=10)
        axis.set_xlabel("accuracy on the coarse labels (%)")
    axes[0].set_ylabel("ten classes, ten examples each (%)")
    axes[0].legend(fontsize=8, loc="best")
    figure.savefig(path, dpi=150)


def _panel(axis: Axes, runs: list[dict[str, Any]]) -> None:
    groups: dict[str, list[dict[str, float]]] = {}
    for run in runs:
        groups.setdefault(run["key"]["beta"], []).append(run["figures"]["validation"])
    for auto, colour, marker, label in (
        (False, _BLUE, "o", "beta, a number"),
        (True, _VERMILION, "s", "auto, a share"),
    ):
        chosen = {w: f for w, f in groups.items() if w.startswith("auto") == auto}
        x, y = (
            [100 * mean(f[k] for f in fs) for fs in chosen.values()] for k in ("coarse", "few-shot")
        )
        error = [
            [100 * stdev(f[k] for f in fs) if len(fs) > 1 else 0.0 for fs in chosen.values()]
            for k in ("coarse", "few-shot")
        ]
        axis.errorbar(
            x, y, xerr=error[0], yerr=error[1],
            color=colour, marker=marker, markersize=4, linewidth=1, elinewidth=0.7, label=label,
        )  # fmt: skip
        for a, b, weight in zip(x, y, chosen, strict=True):
            axis.annotate(
                weight.removeprefix("auto "), (a, b), xytext=(4, 4 if auto else -9),
                textcoords="offset points", fontsize=7, color=colour,
            )  # fmt: skip

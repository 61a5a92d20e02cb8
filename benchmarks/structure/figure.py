"""Pictures: features by the labels that training never saw, and what they cost in accuracy."""

from __future__ import annotations

from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.structure.curves import finish

_OKABE_ITO = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#D55E00", "#0072B2", "#CC79A7")
_MARKERS = "osD^vP*X<>hdp8"
SHOT = "10 a class"


def draw_digits(results: dict[str, Any], path: Path) -> None:
    """UMAP of some networks' features, and every method's fine over its coarse accuracy."""
    tasks = (run["key"]["task"] for run in results["runs"])
    task = next(task for task in tasks if task != "none")
    runs = [
        run for run in results["runs"] if run["key"]["task"] == task and "width" not in run["key"]
    ]
    drawn = [run for run in runs if "picture" in run["figures"]]
    figure = Figure(figsize=(11, 8.5), layout="constrained")
    rows = figure.add_gridspec(2, 1, height_ratios=[1, 1.3])
    above, below = (figure.add_subfigure(rows[row]) for row in range(2))
    axes = above.subplots(1, max(1, len(drawn)), squeeze=False)[0]
    for axis, run in zip(axes, drawn, strict=False):
        _umap(axis, run)
    colors = colormaps["tab10"]
    handles = [
        Line2D([], [], marker="o", linestyle="", color=colors(digit), label=str(digit))
        for digit in range(10)
    ]
    above.legend(handles=handles, loc="outside upper center", ncols=10, title="digit, on seed 0")
    _trade(below.subplots(), runs, task)
    figure.savefig(path, dpi=130)


def _umap(axis: Axes, run: dict[str, Any]) -> None:
    points, labels = run["figures"]["picture"]["points"], run["figures"]["picture"]["labels"]
    colors = colormaps["tab10"]
    first, second = zip(*points, strict=True)
    axis.scatter(first, second, c=[colors(y) for y in labels], s=4, linewidths=0)
    for digit in sorted(set(labels)):  # numbers beside colours, for those who see few colours
        own = [point for point, label in zip(points, labels, strict=True) if label == digit]
        first, second = zip(*own, strict=True)
        middle = (median(first), median(second))
        box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.8, "linewidth": 0}
        axis.annotate(str(digit), middle, ha="center", va="center", fontsize=9, bbox=box)
    shown = 100 * mean(run["figures"]["few-shot"][SHOT]["accuracy"])
    title = f"{run['key']['method']}\n{shown:.0f} % from ten examples a digit"
    axis.set_title(title, fontsize=10)
    axis.set(xticks=[], yticks=[], xlabel="UMAP 1", ylabel="UMAP 2")


def _trade(axis: Axes, runs: list[dict[str, Any]], task: str) -> None:
    by_method: dict[str, list[tuple[float, float]]] = {}
    for run in runs:
        fine = 100 * mean(run["figures"]["few-shot"][SHOT]["accuracy"])
        coarse = 100 * run["figures"]["coarse"]
        by_method.setdefault(run["key"]["method"], []).append((coarse, fine))
    for index, (name, pairs) in enumerate(by_method.items()):
        coarse, fine = zip(*pairs, strict=True)
        axis.errorbar(
            mean(coarse),
            mean(fine),
            xerr=stdev(coarse) if len(coarse) > 1 else None,
            yerr=stdev(fine) if len(fine) > 1 else None,
            marker=_MARKERS[index % len(_MARKERS)],
            color=_OKABE_ITO[index % len(_OKABE_ITO)],
            markersize=8,
            linestyle="",
            label=name,
        )
    axis.set(
        xlabel=f"test accuracy of the task that was trained, {task} (%)",
        ylabel="ten digits from ten examples each (%)",
    )
    finish(axis)


def draw_search(results: dict[str, Any], path: Path) -> None:
    """Fine over coarse accuracy of every method as its strength grows."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    axis = figure.subplots()
    by_method: dict[str, list[tuple[float, float, float]]] = {}
    for run in results["runs"]:
        figures = run["figures"]
        point = (run["key"]["strength"], 100 * figures["coarse"], 100 * figures[SHOT])
        by_method.setdefault(run["key"]["method"], []).append(point)
    for index, (name, points) in enumerate(by_method.items()):
        _, coarse, fine = zip(*sorted(points), strict=True)
        marker = _MARKERS[index % len(_MARKERS)]
        color = _OKABE_ITO[index % len(_OKABE_ITO)]
        axis.plot(coarse, fine, marker=marker, color=color, label=name, linewidth=0.9)
        axis.plot(coarse[-1], fine[-1], marker=marker, color=color, markersize=11)
    axis.set(
        xlabel="even or odd: accuracy on validation images (%)",
        ylabel="ten digits from ten examples each (%)",
        title="Each line: growing strength; the large mark is the strongest",
    )
    finish(axis)
    figure.savefig(path, dpi=130)

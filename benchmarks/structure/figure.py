"""Figures of these studies: fine labels in features, their accuracy, and distances."""

from __future__ import annotations

from pathlib import Path
from statistics import mean, median
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from benchmarks import style
from benchmarks.results import Figures, Found, Run
from benchmarks.structure.trials import MANIFOLD
from benchmarks.style import (
    deviation,
    legend_below,
    legend_beside,
    line_of,
    new_figure,
    plain,
    save,
    umap_of,
)
from benchmarks.tables import grouped, runs_by, with_keys

_MARKERS = "osD^vP*X<>hdp8"
_DIGITS = colormaps["tab10"]
SHOT = "10 a class"
_TEN_DIGITS = "ten digits from ten examples each (%)"


def draw_digits(results: Found, path: Path) -> None:
    """Draw UMAP of some networks' features, and each method's fine over its coarse accuracy."""
    task = next(task for task in runs_by(results["runs"], "task") if task != "none")
    runs = [run for run in with_keys(results, task=task) if not {"width", "by"} & set(run["key"])]
    pictured = [run for run in runs if "picture" in run["figures"]]
    figure = new_figure(10, 9.5)
    rows = figure.add_gridspec(2, 1, height_ratios=[1, 1.3])
    above, below = (figure.add_subfigure(rows[row]) for row in range(2))
    axes = above.subplots(1, max(1, len(pictured)), squeeze=False)[0]
    for axis, run in zip(axes, pictured, strict=False):
        _umap(axis, run)
    handles = [
        Line2D([], [], marker="o", linestyle="", color=_DIGITS(digit), label=str(digit))
        for digit in range(10)
    ]
    above.legend(handles=handles, loc="outside upper center", ncols=10, title="digit, on seed 0")
    axis = below.subplots()
    for index, (name, figures) in enumerate(grouped(runs, "method").items()):
        coarse = [100 * f["coarse"] for f in figures]
        fine = [_accuracy(f, SHOT) for f in figures]
        look = {"xerr": deviation(coarse), "yerr": deviation(fine), **_look(index)}
        axis.errorbar(mean(coarse), mean(fine), **look, markersize=8, linestyle="", label=name)
    axis.set_xlabel(f"test accuracy of the task that was trained, {task} (%)")
    axis.set_ylabel(_TEN_DIGITS)
    plain(axis)
    legend_below(axis, 4)
    save(figure, path)


def _umap(axis: Axes, run: Run) -> None:
    points, labels = run["figures"]["picture"]["points"], run["figures"]["picture"]["labels"]
    accuracy = _accuracy(run["figures"], SHOT)
    title = f"{run['key']['method']}\n{accuracy:.0f} % from ten examples a digit"
    umap_of(axis, points, [_DIGITS(y) for y in labels], title, 10, s=4, linewidths=0)
    for digit in sorted(set(labels)):  # numbers, for readers who see few colours
        members = [point for point, label in zip(points, labels, strict=True) if label == digit]
        first, second = zip(*members, strict=True)
        middle = (median(first), median(second))
        box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.8, "linewidth": 0}
        axis.annotate(str(digit), middle, ha="center", va="center", fontsize=9, bbox=box)


def draw_search(results: Found, path: Path) -> None:
    """Draw fine over coarse accuracy of every method as its strength grows."""
    figure = new_figure(9, 7)
    axis = figure.subplots()
    for index, (name, runs) in enumerate(runs_by(results["runs"], "method").items()):
        runs = sorted(runs, key=lambda run: run["key"]["strength"])
        coarse, fine = (
            [100 * run["figures"][quantity] for run in runs] for quantity in ("coarse", SHOT)
        )
        axis.plot(coarse, fine, **_look(index), label=name, linewidth=0.9)
        axis.plot(coarse[-1], fine[-1], **_look(index), markersize=11)
    axis.set(
        xlabel="even or odd: accuracy on validation images (%)",
        ylabel=_TEN_DIGITS,
        title="Each line: growing strength; the large mark is the strongest",
    )
    plain(axis)
    legend_below(axis, 3)
    save(figure, path)


def _look(index: int) -> dict[str, Any]:
    marker, colour = _MARKERS[index % len(_MARKERS)], style.LINES[index % len(style.LINES)]
    return {"marker": marker, "color": colour}


_CONTROL = "its control: distances shuffled"
# the methods in the figure of photographs: colour, marker, line and title of each
PHOTOGRAPHS = {
    "contrastive": (style.GREY, "", "--", "what features are compared with"),
    "contrastive predicted by a head": (style.SKY, "v", "-", "the same predicted by a second head"),
    "isometry, contrastive": (style.GREEN, "o", "-", "isometry"),
    "control: contrastive, shuffled": (style.VERMILION, "X", "-", _CONTROL),
    "cross-entropy": (style.BLACK, "s", "-", "cross-entropy"),
}
_TITLES_OF_PAIRS = {
    f"isometry, {MANIFOLD}": "isometry",
    f"control: {MANIFOLD}, shuffled": _CONTROL,
    f"{MANIFOLD} predicted by a head": "what enters a second head",
}


def draw_photographs(results: Found, path: Path) -> None:
    """Draw accuracy on the ten classes over the number of known examples of each class."""
    figure = new_figure(8.5, 4.2)
    axis = figure.subplots()
    known = [examples for examples, _ in results["settings"]["examples"]]
    for name, (colour, marker, line, title) in PHOTOGRAPHS.items():
        figures = [run["figures"] for run in with_keys(results, method=name)]
        figures = [f for f in figures if "few-shot" in f]
        if figures:
            by_shot = [[_accuracy(f, f"{examples} a class") for f in figures] for examples in known]
            look = {"color": colour, "marker": marker, "ls": line, "label": title}
            line_of(axis, known, by_shot, **look)
    axis.set(xscale="log", xlabel="examples of each of the ten classes")
    axis.set_ylabel("accuracy on the ten classes (%)")
    axis.set_xticks(known, list(map(str, known)))
    axis.minorticks_off()
    plain(axis)
    legend_beside(axis)
    save(figure, path)


def draw_distances(results: Found, path: Path) -> None:
    """Draw distances by the features over those by the manifold, for the pairs that were kept."""
    runs = [run for run in results["runs"] if "pairs" in run["figures"]]
    figure = new_figure(3.1 * max(1, len(runs)), 3.6)
    axes = figure.subplots(1, max(1, len(runs)), squeeze=False, sharex=True, sharey=True)[0]
    for axis, run in zip(axes, runs, strict=False):
        by_reference, by_features = run["figures"]["pairs"]
        axis.axline((0, 0), slope=1, color=style.VERMILION, linewidth=1)
        axis.scatter(by_reference, by_features, s=7, color=style.SKY, alpha=0.8, linewidths=0)
        r, name = run["figures"][MANIFOLD]["r"], run["key"]["method"]
        axis.set_title(f"{_TITLES_OF_PAIRS.get(name, name)}\nr {r:.2f}", fontsize=11)
        axis.set_xlabel("distance by the reference")
        plain(axis)
    axes[0].set_ylabel("distance of the features")
    save(figure, path)


def _accuracy(figures: Figures, shot: str) -> float:
    draws: list[float] = figures["few-shot"][shot]["accuracy"]
    return 100 * mean(draws)

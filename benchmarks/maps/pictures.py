"""One picture for each data set: its test samples on every map, with the measured figures."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from benchmarks.maps.methods import METHODS, OURS, OURS_WITHOUT
from benchmarks.results import Found
from benchmarks.style import new_figure, save
from benchmarks.tables import with_keys

_COLUMNS, _SIDE = 5, 2.2
_LETTERS = 130  # as many as fit in a line of the legend
_OVERVIEW = ("PCA", "UMAP", "supervised UMAP", "t-SNE", OURS_WITHOUT, OURS)


def draw(results: Found, path: Path) -> None:
    """Draw each data set in a file of its own, and at ``path`` some methods on all data sets."""
    by_set = {
        name: runs
        for name in dict.fromkeys(run["key"]["data"] for run in results["runs"])
        if (runs := _with_maps(results, name))
    }
    for name, runs in by_set.items():
        _draw_set(name, runs, path.with_name(f"{path.stem}-{re.sub(r'[ ,]+', '-', name)}.png"))
    _draw_overview(by_set, path)


def _with_maps(results: Found, name: str) -> list[dict[str, Any]]:
    order = list(METHODS)
    runs = [run for run in with_keys(results, data=name) if "map" in run["figures"]]
    return sorted(runs, key=lambda run: order.index(run["key"]["method"]))


def _draw_set(name: str, runs: list[dict[str, Any]], path: Path) -> None:
    rows = -(-len(runs) // _COLUMNS)
    figure = new_figure(_SIDE * _COLUMNS, (_SIDE + 0.35) * rows + 0.7)
    axes = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    for axis in axes[len(runs) :]:
        axis.set_axis_off()
    for axis, run in zip(axes, runs, strict=False):
        figures = run["figures"]
        _scatter(axis, figures["map"])
        axis.set_title(
            f"{run['key']['method']}\n"
            f"kNN {100 * figures['kNN']:.0f} %, r within {figures['r within']:.2f}",
            fontsize=10,
            fontweight="bold" if run["key"]["method"] == OURS else "normal",
        )
    names = runs[0]["figures"]["map"]["names"]
    handles = [
        Line2D([], [], marker="o", linestyle="", color=_colour(k), label=label)
        for k, label in enumerate(names)
    ]
    title = f"{name}: new samples on each map"
    columns = min(5, max(1, _LETTERS // (5 + max(map(len, names)))))
    look = {
        "ncols": columns,
        "fontsize": 10,
        "frameon": False,
        "title": title,
        "title_fontsize": 12,
    }
    figure.legend(handles=handles, loc="outside upper center", **look)
    save(figure, path)


def _draw_overview(by_set: dict[str, list[dict[str, Any]]], path: Path) -> None:
    rows = max(1, len(by_set))
    figure = new_figure(2 * len(_OVERVIEW), 2 * rows + 0.4)
    axes = figure.subplots(rows, len(_OVERVIEW), squeeze=False)
    for axis in axes.ravel():
        _plain(axis)
        axis.spines[:].set_visible(False)
    for line, (name, runs) in zip(axes, by_set.items(), strict=False):
        line[0].set_ylabel(name)
        by_method = {run["key"]["method"]: run["figures"]["map"] for run in runs}
        for axis, method in zip(line, _OVERVIEW, strict=True):
            if method in by_method:
                _scatter(axis, by_method[method])
    for axis, method in zip(axes[0], _OVERVIEW, strict=True):
        axis.set_title(method, fontsize=10)
    save(figure, path)


def _scatter(axis: Axes, figures: dict[str, Any]) -> None:
    samples = np.loadtxt(figures["samples"].split(";"), ndmin=2)
    classes, points = samples[:, 0].astype(int), samples[:, 1:]
    if points.shape[1] == 1:  # LDA of two classes; a random height only keeps points apart
        height = np.random.default_rng(0).uniform(0, 0.3, len(points))
        points = np.column_stack([points[:, 0], height])
    size = float(np.clip(1500 / len(points), 3, 14))
    axis.scatter(
        points[:, 0], points[:, 1], c=[_colour(k) for k in classes], s=size, alpha=0.8, linewidths=0
    )
    axis.set_aspect("equal", adjustable="datalim")
    _plain(axis)
    axis.spines[:].set_alpha(0.4)


def _plain(axis: Axes) -> None:
    axis.set_xticks([])
    axis.set_yticks([])


def _colour(k: int) -> Any:
    return colormaps["tab10" if k < 10 else "tab20"](k)

"""Figures of the trainings and of the scales."""

from __future__ import annotations

from pathlib import Path
from statistics import mean, stdev
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's colours, and markers for those who see none
_LOOKS = {
    "plain": ("#000000", "X", "-"),
    "isometry, features": ("#D55E00", "o", "-"),
    "isometry, stages": ("#E69F00", "s", "-"),
    "its control: images shuffled": ("#CC79A7", "v", "-."),
    "plain, no Mixup": ("#000000", "P", ":"),
    "RobustLoss": ("#0072B2", "^", "--"),
    "FGSM training": ("#009E73", "D", "--"),
}
_NETWORKS = (("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"))


def draw_training(results: dict[str, Any], path: Path) -> None:
    """Accuracy over the attack's radius, and Pearson's r by layer: a column a network."""
    runs = [run for run in results["runs"] if run["key"]["phase"] == "test"]
    networks = list(dict.fromkeys(run["key"]["network"] for run in runs))
    if not networks:
        return
    figure = Figure(figsize=(4.2 * len(networks), 7.2), layout="constrained")
    grid = figure.subplots(2, len(networks), squeeze=False, sharey="row")
    radii = results["settings"]["radii"]
    for column, name in enumerate(networks):
        above, below = grid[0, column], grid[1, column]
        for method in dict.fromkeys(run["key"]["method"] for run in runs):
            found = [
                run["figures"]
                for run in runs
                if (run["key"]["network"], run["key"]["method"]) == (name, method)
            ]
            if found:
                shares = [f["attacked"]["shares"] for f in found]
                curves = [[100 * by[f"{radius}"] for radius in (0, *radii)] for by in shares]
                _line(above, method, range(len(radii) + 1), curves)
                layers = list(found[0]["distortion"])
                curves = [[f["distortion"][x]["correlation"] for x in layers] for f in found]
                _line(below, method, range(len(layers)), curves)
                below.set_xticks(range(len(layers)), layers, rotation=30, ha="right")
        above.set_title(name, fontsize=10)
        above.set_xticks(range(len(radii) + 1), ["clean", *(f"{r}/255" for r in radii)])
        above.set_xlabel("L-inf radius of the attack (pixels from 0 to 1)")
        below.set_xlabel("layer")
        for axis in (above, below):
            axis.grid(alpha=0.3)
            axis.spines[["top", "right"]].set_visible(False)
    grid[0, 0].set_ylabel("worst-case accuracy (%)")
    grid[1, 0].set_ylabel("Pearson's r within classes")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=9)
    figure.savefig(path, dpi=130)


def _line(axis: Axes, method: str, places: range, curves: list[list[float]]) -> None:
    colour, marker, style = _LOOKS.get(method, ("#CC79A7", "v", "-."))
    columns = list(zip(*curves, strict=True))
    errors = [stdev(column) if len(column) > 1 else 0.0 for column in columns]
    axis.errorbar(
        list(places),
        [mean(column) for column in columns],
        errors,
        color=colour,
        marker=marker,
        linestyle=style,
        label=method,
        markersize=5,
        linewidth=1.2,
        capsize=2,
    )


def draw_scale(results: dict[str, Any], path: Path) -> None:
    """For each unit, network by network: the weight, accuracy and Pearson's r."""
    runs = results["runs"]
    variants = [(where, scale) for where, scale, _ in results["settings"]["variants"]]
    names = [f"{where}, {scale}" if scale else where for where, scale in variants]
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    networks = dict.fromkeys(run["key"]["network"] for run in runs)
    for (colour, marker), name in zip(_NETWORKS, networks, strict=False):
        for axis, what in zip(axes, ("beta", "clean", "r"), strict=True):
            points = [
                (value, variants.index((run["key"]["where"], run["key"]["scale"])))
                for run in runs
                if run["key"]["network"] == name
                if (value := _value(run["figures"], what)) is not None
            ]
            if points:
                x, y = zip(*points, strict=True)
                axis.scatter(x, y, color=colour, marker=marker, s=28, label=name)
    axes[0].set_xscale("log")
    axes[0].set_yticks(range(len(names)), names)
    axes[0].invert_yaxis()
    labels = ("weight at the end of training", "accuracy (%)", "Pearson's r, features")
    for axis, label in zip(axes, labels, strict=True):
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    handles, texts = axes[1].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=4, fontsize=9)
    figure.savefig(path, dpi=130)


def _value(figures: dict[str, Any], what: str) -> float | None:
    if what == "clean":
        return 100 * float(figures["clean"])
    if what == "r":
        return float(figures["distortion"]["features"]["correlation"])
    return figures["beta"] and float(figures["beta"])

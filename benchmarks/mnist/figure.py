"""The paper's figure 3, with the standard attack beside the paper's."""

from __future__ import annotations

from pathlib import Path
from statistics import mean, stdev
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.results import figures_by

_PANELS = {
    "fgsm, combined loss": ("FGSM on cross-entropy + isometry\n(the paper's attack)", "eps"),
    "pgd, combined loss": ("10-step PGD on cross-entropy + isometry\n(the paper's text)", "step"),
    "pgd, combined loss, clean gradient": (
        "10 steps along the gradient at the clean image\n(the released code)",
        "step",
    ),
    "fgsm, standard": ("FGSM on cross-entropy", "eps"),
    "pgd, standard": ("10-step PGD on cross-entropy", "step"),
}


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw accuracy against attack size for every beta, one panel an attack."""
    settings = results["settings"]
    figure = Figure(figsize=(10, 6.2), layout="constrained")
    axes = figure.subplots(2, 3, sharey=True).ravel()
    for axis, (name, (title, size)) in zip(axes, _PANELS.items(), strict=False):
        _curves(axis, figures_by(results, "beta", name), settings["attack_sizes"])
        axis.set(xscale="log", xlabel=f"L-inf {size}")
        axis.set_title(title, fontsize=9)
    _worst_case(axes[5], results)
    axes[0].set_ylabel("accuracy (%)")
    axes[3].set_ylabel("accuracy (%)")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    figure.savefig(path, dpi=150)


def _worst_case(axis: Axes, results: dict[str, Any]) -> None:
    settings = results["settings"]
    at_eps = {e: figures_by(results, "beta", f"worst case at {e}") for e in settings["eps"]}
    curves = {
        beta: [
            list(values) for values in zip(*(at_eps[e][beta] for e in settings["eps"]), strict=True)
        ]
        for beta in next(iter(at_eps.values()))
    }
    _curves(axis, curves, settings["eps"])
    axis.set_xlabel("L-inf eps")
    axis.set_title(
        f"Standard attack: worst case of PGD-{settings['steps']}\n"
        "on cross-entropy and on the margin",
        fontsize=9,
    )


def _curves(axis: Axes, by_beta: dict[float, list[list[float]]], sizes: list[float]) -> None:
    """One line a beta, from dark to light, with a band of one standard deviation over seeds."""
    colors = mpl.colormaps["viridis"].resampled(len(by_beta) + 1)
    for index, (beta, curves) in enumerate(by_beta.items()):
        points = [[100 * value for value in values] for values in zip(*curves, strict=True)]
        centre = [mean(values) for values in points]
        width = [stdev(values) if len(values) > 1 else 0 for values in points]
        color = "black" if beta == 0 else colors(index)
        style = "--" if beta == 0 else "-"
        label = "beta 0 (plain)" if beta == 0 else f"beta {beta:g}"
        axis.plot(sizes, centre, style, color=color, label=label, marker="o", markersize=3)
        low = [c - w for c, w in zip(centre, width, strict=True)]
        high = [c + w for c, w in zip(centre, width, strict=True)]
        axis.fill_between(sizes, low, high, color=color, alpha=0.15, linewidth=0)
    axis.set_ylim(0, 100)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)

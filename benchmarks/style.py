"""The common look of all figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Pages are light or dark, so the background is transparent and the ink a grey that suits both.
INK = "#767676"
rcParams.update({"text.color": INK, "axes.labelcolor": INK, "axes.titlecolor": INK})
rcParams.update({"axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK, "grid.color": INK})
rcParams.update({"figure.facecolor": "none", "axes.facecolor": "none", "legend.framealpha": 0})

# The colours of Okabe and Ito, which colour-blind readers can tell apart, with INK for their black.
BLUE, VERMILION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, BLACK, YELLOW = "#E69F00", "#56B4E9", INK, "#F0E442"
GREY = "#A0A0A0"
LINES = (BLACK, ORANGE, SKY, GREEN, VERMILION, BLUE, PURPLE)
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION, BLACK, YELLOW)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure; width and height are in inches."""
    return Figure(figsize=(width, height), layout="constrained")


def plain(axis: Axes) -> None:
    """Give the axis a light grid, and remove its frame above and to the right."""
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)


def legend_below(axis: Axes, columns: int) -> None:
    """Put the legend below the panel, where there is room for letters of readable size."""
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=columns, fontsize=11)


def legend_beside(axis: Axes) -> None:
    """Put the legend to the right of the panel."""
    axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=11)


def deviation(values: Sequence[float]) -> float:
    """The sample standard deviation; 0 for a single value."""
    return stdev(values) if len(values) > 1 else 0.0


def line_of(
    axis: Axes, x: Sequence[float], samples: Sequence[Sequence[float]], **look: Any
) -> None:
    """Draw the mean of the samples at each x, with bars of one sample standard deviation."""
    means, bars = [mean(values) for values in samples], [deviation(values) for values in samples]
    axis.errorbar(list(x), means, bars, **{"capsize": 2, **look})


def umap_of(
    axis: Axes, points: Sequence[Sequence[float]], colours: Any, title: str, size: int, **look: Any
) -> None:
    """Draw one point per sample in a panel without ticks; ``size`` is the title's font size."""
    first, second = zip(*points, strict=True)
    axis.scatter(first, second, c=colours, **look)
    axis.set(xticks=[], yticks=[], xlabel="UMAP 1", ylabel="UMAP 2")
    axis.set_title(title, fontsize=size)


def save(figure: Figure, path: Path, dpi: int = 130) -> None:
    """Write the figure to a file."""
    figure.savefig(path, dpi=dpi)

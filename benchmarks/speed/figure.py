"""How many times faster than the plain version, by batch size, with numba and without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.speed.penalties import Case

WIDTH = 512
"""Feature dimensions of the cells that are drawn."""
# Okabe and Ito, and a marker each, so that colour is not needed
_STYLES = {1: ("#0072B2", "o"), 10: ("#D55E00", "s"), 100: ("#009E73", "^"), 1000: ("#CC79A7", "D")}
_TICKS = (0.5, 1, 2, 5, 10, 20, 50, 100)


def draw(results: dict[str, Any], path: Path) -> None:
    """One panel a number of layers."""
    cells = {
        Case(**run["key"]): run["figures"]["milliseconds"]
        for run in results["runs"]
        if "n" in run["key"]
    }
    cells = {c: t for c, t in cells.items() if c.d == WIDTH and not (c.uneven or c.clustered)}
    layers = sorted({case.layers for case in cells})
    figure = Figure(figsize=(4.6 * max(1, len(layers)), 4.2), layout="constrained")
    for index, count in enumerate(layers, start=1):
        axis = figure.add_subplot(1, len(layers), index)
        _panel(axis, {c: t for c, t in cells.items() if c.layers == count})
        axis.set_title("one layer" if count == 1 else f"{count} layers")
        if index == len(layers):
            figure.legend(*axis.get_legend_handles_labels(), loc="outside right upper")
    figure.savefig(path, dpi=150)


def _panel(axis: Axes, cells: dict[Case, dict[str, float]]) -> None:
    for classes, (colour, marker) in _STYLES.items():
        found = sorted((c.n, t) for c, t in cells.items() if c.c == classes)
        sizes = [n for n, _ in found]
        for way, style in (("isoreg", "-"), ("isoreg without numba", ":")):
            ratios = [times["plain"] / times[way] for _, times in found]
            word = "class" if classes == 1 else "classes"
            label = f"{classes:,} {word}" if way == "isoreg" else None
            axis.plot(sizes, ratios, style, color=colour, marker=marker, markersize=4, label=label)
    axis.plot([], [], ":", color="grey", label="without numba")
    axis.axhline(1, color="black", linewidth=0.8)
    axis.set(xscale="log", yscale="log", xlabel="samples in the batch")
    axis.set(ylabel=f"times faster than plain ({WIDTH} dimensions)")
    ticks = sorted({c.n for c in cells})
    axis.set_xticks(ticks, [str(n) for n in ticks])
    axis.set_yticks(_TICKS, [f"{tick:g}" for tick in _TICKS])
    axis.minorticks_off()
    axis.set_ylim(0.5, None)
    axis.grid(alpha=0.3)

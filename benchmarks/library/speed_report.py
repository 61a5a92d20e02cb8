"""The tables and the figure of the penalty's cost."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes

from benchmarks.library.speed_penalties import Case
from benchmarks.library.speed_steps import Step
from benchmarks.results import Figures, Found
from benchmarks.style import BLACK, BLUE, GREEN, PURPLE, VERMILION, new_figure, save
from benchmarks.tables import markdown_table, page

_HEADER = (
    *("batch", "plain, ms", "isoreg, ms", "ratio to plain", "without numba"),
    *("ratio to pytorch-metric-learning", "of the arithmetic bound"),
    *("peak memory, isoreg / plain, MB", "gradient error"),
)
_STEP_HEADER = (
    *("training step", "without a penalty, ms", "plain penalty, ms", "isoreg, ms"),
    *("plain's share", "isoreg's without numba", "isoreg's", "the whole step longer by"),
)
_ABOUT_STEPS = (
    "Share of a training step (forward, backward, Adam): value and gradients of the penalty in the "
    "layers' outputs, against a step without a penalty. The last column is the difference of whole "
    "steps, hooks included; where a step takes long it is mostly noise."
)
WIDTH = 512
"""Feature dimensions of the cells that are drawn."""
# Each number of classes has its own marker, so that the figure can be read without colour.
_STYLES = {1: (BLUE, "o"), 10: (VERMILION, "s"), 100: (GREEN, "^"), 1000: (PURPLE, "D")}
_TICKS = (0.5, 1, 2, 5, 10, 20, 50, 100)


def tables(results: Found) -> str:
    """A table with one row per cell, in the order of measurement, and one of training steps."""
    runs, settings = results["runs"], results["settings"]
    rows = [_row(Case(**run["key"]), run["figures"]) for run in runs if "n" in run["key"]]
    step_rows = [
        _step_row(Step(**run["key"]), run["figures"]) for run in runs if "network" in run["key"]
    ]
    return page(
        "# What the penalty costs",
        f"Value and gradients, {settings['threads']} thread(s), "
        f"{settings['device']}; N samples of 784 input and D feature dimensions, C classes, "
        "L layers. Medians of interleaved calls in one process. Ratios say how many times faster "
        "than the other isoreg is, and how many times faster than plain it is without numba.",
        markdown_table(_HEADER, rows),
        *([_ABOUT_STEPS, markdown_table(_STEP_HEADER, step_rows)] if step_rows else []),
    )


def _step_row(step: Step, figures: Figures) -> list[str]:
    times, shares = figures["milliseconds"], figures["share"]
    return [
        str(step),
        f"{times['step']:.1f}",
        *(f"{times['penalty'][name]:.2f}" for name in ("plain", "isoreg")),
        *(f"{100 * shares[name]:.1f} %" for name in ("plain", "isoreg without numba", "isoreg")),
        f"{100 * figures['share by difference']['isoreg']:.1f} %",
    ]


def _row(case: Case, figures: Figures) -> list[str]:
    times, memory = figures["milliseconds"], figures.get("peak megabytes")
    error = figures.get("gradient error")
    return [
        str(case),
        f"{times['plain']:.1f}",
        f"{times['isoreg']:.2f}",
        f"{figures['ratio']['plain']:.1f}",
        f"{times['plain'] / times['isoreg without numba']:.1f}",
        f"{figures['ratio']['pytorch-metric-learning']:.1f}",
        f"{100 * figures['share of the arithmetic bound']:.0f} %",
        f"{memory['isoreg']:.0f} / {memory['plain']:.0f}" if memory else "",
        f"{error:.0e}" if error is not None else "",
    ]


def draw(results: Found, path: Path) -> None:
    """Draw how many times faster than plain isoreg is, by batch size; one panel per layer count."""
    cells = {
        Case(**run["key"]): run["figures"]["milliseconds"]
        for run in results["runs"]
        if "n" in run["key"]
    }
    cells = {c: t for c, t in cells.items() if c.d == WIDTH and not (c.uneven or c.clustered)}
    layers = sorted({case.layers for case in cells})
    figure = new_figure(4.6 * max(1, len(layers)), 4.2)
    for index, count in enumerate(layers, start=1):
        axis = figure.add_subplot(1, len(layers), index)
        _panel(axis, {c: t for c, t in cells.items() if c.layers == count})
        axis.set_title("one layer" if count == 1 else f"{count} layers")
        if index == len(layers):
            figure.legend(*axis.get_legend_handles_labels(), loc="outside right upper")
    save(figure, path, dpi=150)


def _panel(axis: Axes, cells: dict[Case, dict[str, float]]) -> None:
    for classes, (colour, marker) in _STYLES.items():
        points = sorted((c.n, t) for c, t in cells.items() if c.c == classes)
        sizes = [n for n, _ in points]
        for name, style in (("isoreg", "-"), ("isoreg without numba", ":")):
            ratios = [times["plain"] / times[name] for _, times in points]
            word = "class" if classes == 1 else "classes"
            label = f"{classes:,} {word}" if name == "isoreg" else None
            axis.plot(sizes, ratios, style, color=colour, marker=marker, markersize=4, label=label)
    axis.plot([], [], ":", color="grey", label="without numba")
    axis.axhline(1, color=BLACK, linewidth=0.8)
    axis.set(xscale="log", yscale="log", xlabel="samples in the batch")
    axis.set(ylabel=f"times faster than plain ({WIDTH} dimensions)")
    ticks = sorted({c.n for c in cells})
    axis.set_xticks(ticks, [str(n) for n in ticks])
    axis.set_yticks(_TICKS, [f"{tick:g}" for tick in _TICKS])
    axis.minorticks_off()
    axis.set_ylim(0.5, None)
    axis.grid(alpha=0.3)

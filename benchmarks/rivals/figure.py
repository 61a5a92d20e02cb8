"""Robust accuracy over the cost of training."""

from __future__ import annotations

from pathlib import Path
from statistics import mean, stdev
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.objectives import METHODS

Point = tuple[float, float, str, str]
Box = tuple[float, float, float, float]
_FONT = 8
_OFFSETS = [
    *((dx, dy) for dy in (-3, 6, -13) for dx in (7, -7)),
    *((dx, dy) for dy in range(17, 130, 11) for dx in (7, -7)),
]
# family: its colour and marker, and the methods in it
FAMILIES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "no local term": (
        "#666666",
        "o",
        ("cross-entropy", "weight-decay", "label-smoothing", "noise"),
    ),
    "distances of a batch": (
        "#009E73",
        "D",
        ("isometry", "isometry-every-layer", "relational-distillation"),
    ),
    "constrained weights": ("#E69F00", "s", ("spectral-norm", "orthogonal", "parseval")),
    "input gradients": (
        "#0072B2",
        "^",
        ("jacobian", "input-gradient", "first-order-margin"),
    ),
    "adversarial images": ("#D55E00", "v", ("fgsm", "pgd", "trades")),
}


def draw(
    tested: dict[str, list[dict[str, Any]]],
    cost: dict[str, Any],
    settings: dict[str, Any],
    path: Path,
) -> None:
    """One panel a radius: worst case over time, a point a method, bars of a standard deviation."""
    radii = settings["eps"][:2]
    figure = Figure(figsize=(6.2 * len(radii), 5.8), layout="constrained")
    panels = figure.subplots(1, len(radii), squeeze=False)[0]
    points = []
    for column, (axis, eps) in enumerate(zip(panels, radii, strict=True)):
        points.append(_panel(axis, tested, cost["ratio"], column))
        axis.set_title(f"L-inf radius {eps:g}")
        axis.set(xlabel="time of a training step, as a ratio to cross-entropy's", xscale="log")
        axis.set(ylabel="test images that survive every attack (%)")
        axis.set_xlim(0.75, 1.6 * max(cost["ratio"].values()))
        axis.set_ylim(-5, 100)
        ticks = [1, 2, 3, 4, 6, 8]
        axis.set_xticks(ticks, [f"{tick}" for tick in ticks], minor=False)
        axis.set_xticks([], minor=True)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    figure.draw_without_rendering()  # fixes where the points are
    for axis, found in zip(panels, points, strict=True):
        _label(figure, axis, found)
    figure.savefig(path, dpi=150)


def _panel(
    axis: Axes, tested: dict[str, list[dict[str, Any]]], ratio: dict[str, float], column: int
) -> list[Point]:
    points: list[Point] = []
    for family, (colour, marker, methods) in FAMILIES.items():
        shown = [method for method in methods if method in tested]
        values = [
            [100 * run["Linf"]["worst case"][column] for run in tested[method]] for method in shown
        ]
        axis.errorbar(
            [ratio[method] for method in shown],
            [mean(found) for found in values],
            yerr=[stdev(found) if len(found) > 1 else 0.0 for found in values],
            fmt=marker,
            color=colour,
            label=family,
            capsize=2,
            markersize=6,
        )
        points += [
            (
                ratio[method],
                mean(found),
                METHODS[method].title if method in METHODS else method,
                colour,
            )
            for method, found in zip(shown, values, strict=True)
        ]
    return points


def _label(figure: Figure, axis: Axes, points: list[Point]) -> None:
    """Names beside the points, moved up or down until none covers another or a point."""
    scale = 72 / figure.dpi
    at = [scale * axis.transData.transform((x, y)) for x, y, _, _ in points]
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in at]
    order = sorted(range(len(points)), key=lambda index: (-points[index][0], points[index][1]))
    for index in order:
        (x, y), (_, _, name, colour) = at[index], points[index]
        width, height = 0.52 * _FONT * len(name), 1.15 * _FONT
        for dx, dy in _OFFSETS:
            left = x + dx - (width if dx < 0 else 0)
            box = (left, y + dy, left + width, y + dy + height)
            inside = box[0] > scale * axis.bbox.x0 and box[1] > scale * axis.bbox.y0
            if inside and not any(_overlap(box, other) for other in taken):
                break
        taken.append(box)
        far = abs(dy) > 2 * _FONT
        axis.annotate(
            name,
            points[index][:2],
            xytext=(dx, dy),
            textcoords="offset points",
            fontsize=_FONT,
            color=colour,
            ha="right" if dx < 0 else "left",
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6} if far else None,
        )


def _title(method: str) -> str:
    return METHODS[method].title if method in METHODS else method


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]

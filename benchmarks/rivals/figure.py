"""Robust accuracy over the cost of training."""

from __future__ import annotations

from pathlib import Path
from statistics import mean

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.methods import METHODS
from benchmarks.methods.registry import title_of
from benchmarks.results import Figures, Found
from benchmarks.rivals.report import costs_of
from benchmarks.style import BLUE, GREEN, INK, ORANGE, VERMILION, line_of, new_figure, plain, save
from benchmarks.tables import grouped, with_keys

Point = tuple[float, float, str, str]
Box = tuple[float, float, float, float]
_FONT = 10
_CROWD = 4  # from the second radius on, lower points overlap and get no names
_OFFSETS = [
    *((dx, dy) for dy in (-3, 6, -13) for dx in (7, -7)),
    *((dx, dy) for dy in range(17, 130, 11) for dx in (7, -7)),
]
# by family: colour and marker
FAMILIES: dict[str, tuple[str, str]] = {
    "no local term": (INK, "o"),
    "distances of a batch": (GREEN, "D"),
    "constrained weights": (ORANGE, "s"),
    "input gradients": (BLUE, "^"),
    "adversarial images": (VERMILION, "v"),
}


def draw(results: Found, path: Path) -> None:
    """Draw a panel for each radius: worst case over time, methods as points with deviations."""
    radii, costs = results["settings"]["eps"][:2], costs_of(results)
    ratio = {method: cost["ratio"] for method, cost in costs.items()}
    tested = grouped(with_keys(results, phase="test"), "method")
    figure = new_figure(6.2 * len(radii), 5.8)
    panels = figure.subplots(1, len(radii), squeeze=False)[0]
    points, ticks = [], [1, 2, 3, 4, 6, 8]
    for column, (axis, eps) in enumerate(zip(panels, radii, strict=True)):
        points.append(_panel(axis, tested, ratio, column))
        note = f" (without a name: below {_CROWD} %)" if column else ""
        axis.set(title=f"L-inf radius {eps:g}{note}", xscale="log", ylim=(-5, 100))
        axis.set(xlabel="time of a training step, as a ratio to cross-entropy's")
        axis.set(ylabel="test images that survive every attack (%)")
        axis.set_xlim(0.75, 1.6 * max(ratio.values()))
        axis.set_xticks(ticks, list(map(str, ticks)))
        axis.set_xticks([], minor=True)
        plain(axis)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    figure.draw_without_rendering()  # drawing fixes the positions of the points
    for axis, placed in zip(panels, points, strict=True):
        _label(figure, axis, placed)
    save(figure, path, dpi=150)


def _panel(
    axis: Axes, tested: dict[str, list[Figures]], ratio: dict[str, float], column: int
) -> list[Point]:
    points: list[Point] = []
    for family, (colour, marker) in FAMILIES.items():
        methods = [method for method in tested if family_of(method) == family]
        values = [[100 * run["Linf"]["worst case"][column] for run in tested[m]] for m in methods]
        times = [ratio[method] for method in methods]
        line_of(axis, times, values, fmt=marker, color=colour, label=family, markersize=6)
        for method, accuracies in zip(methods, values, strict=True):
            if column == 0 or mean(accuracies) > _CROWD:
                points.append((ratio[method], mean(accuracies), title_of(method), colour))
    return points


def family_of(method: str) -> str:
    """The family of a method, or the first family if no family of that name is drawn."""
    family = METHODS[method].family if method in METHODS else ""
    return family if family in FAMILIES else next(iter(FAMILIES))


def _label(figure: Figure, axis: Axes, points: list[Point]) -> None:
    """Names beside the points, moved up or down until none covers another or a point."""
    scale = 72 / figure.dpi
    at = [scale * axis.transData.transform((x, y)) for x, y, _, _ in points]
    boxes = [(x - 4, y - 4, x + 4, y + 4) for x, y in at]
    order = sorted(range(len(points)), key=lambda index: (-points[index][0], points[index][1]))
    for index in order:
        (x, y), (_, _, name, colour) = at[index], points[index]
        width, height = 0.52 * _FONT * len(name), 1.15 * _FONT
        for dx, dy in _OFFSETS:
            left = x + dx - (width if dx < 0 else 0)
            box = (left, y + dy, left + width, y + dy + height)
            inside = box[0] > scale * axis.bbox.x0 and box[1] > scale * axis.bbox.y0
            if inside and not any(_overlap(box, other) for other in boxes):
                break
        boxes.append(box)
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


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]

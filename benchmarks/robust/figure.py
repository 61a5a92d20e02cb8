"""Worst-case accuracy over the cost of training."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes

from benchmarks import style
from benchmarks.methods.registry import title_of
from benchmarks.results import Figures, Found
from benchmarks.robust.plans import CHEAP, RECIPES, TITLES
from benchmarks.robust.report import by_training, costs
from benchmarks.style import line_of, new_figure, plain, save
from benchmarks.tables import with_keys

# markers differ too, for readers who see no colours
_LOOKS = {
    "cross-entropy": (style.BLACK, "X"),
    "first-order-margin": (style.VERMILION, "o"),
    "fgsm": (style.BLUE, "s"),
    "pgd": (style.SKY, "D"),
    "trades": (style.GREEN, "^"),
    "jacobian": (style.PURPLE, "v"),
    "input-gradient": (style.ORANGE, "P"),
}
# for each method and budget: the cost, and the figures of the seeds
Points = dict[str, list[tuple[float, list[Figures]]]]


def draw(results: Found, path: Path) -> None:
    """Draw a row for each network whose cost is measured, and a column for each radius."""
    settings = results["settings"]
    panels = [("Linf", f"{eps:g}") for eps in settings["linf"]]
    panels += [("L2", f"{eps:g}") for eps in settings["l2"]]
    networks = list(dict.fromkeys(r["key"]["network"] for r in with_keys(results, phase="cost")))
    if not networks:
        return
    figure = new_figure(3 * len(panels), 3.4 * len(networks) + 0.5)
    grid = figure.subplots(len(networks), len(panels), squeeze=False, sharex=True)
    for row, name in zip(grid, networks, strict=True):
        points = _points(results, name)
        for axis, (norm, eps) in zip(row, panels, strict=True):
            _panel(axis, points, norm, eps)
            label = "L-inf" if norm == "Linf" else f"{norm} (seed 0)"
            axis.set_title(f"{TITLES[name]}\n{label}, eps {eps}", fontsize=10)
        row[0].set_ylabel("worst-case accuracy (%)")
    grid[0][0].set_xlim(0, 1.05 * max(axis.dataLim.x1 for axis in grid.flat))
    figure.supxlabel("cost (trainings by cross-entropy, 5 epochs)", fontsize=10)
    handles, labels = grid[0][0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), fontsize=9)
    save(figure, path, dpi=150)


def _points(results: Found, name: str) -> Points:
    cost, measured = costs(results, name), by_training(results, name)
    figures = {title: [run["figures"] for run in runs] for title, runs in measured.items()}
    points: Points = {}
    for method in RECIPES:
        title = title_of(method)
        titles = [t for t in figures if t in (title, f"{title}{CHEAP}")]
        if method == "cross-entropy":
            titles += [t for t in figures if t.startswith(f"{title}, 5")]
        priced = ((cost[t], figures[t]) for t in titles if t in cost)
        points[method] = sorted(priced, key=lambda point: point[0])
    return points


def _panel(axis: Axes, points: Points, norm: str, eps: str) -> None:
    for method, budgets in points.items():
        places, samples = [], []
        for cost, figures in budgets:
            shares = [f[norm]["shares"]["worst case"] for f in figures if norm in f]
            if values := [100 * by_radius[eps] for by_radius in shares if eps in by_radius]:
                places.append(cost)
                samples.append(values)
        if places:
            color, marker = _LOOKS[method]
            look = {"color": color, "marker": marker, "label": title_of(method), "lw": 1}
            line_of(axis, places, samples, **look)
    axis.set_ylim(0, 100)
    plain(axis)
